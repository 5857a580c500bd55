/**
 * /dev/ioasid as an allocator of PASIDs for user space (drivers/misc/ioasid_user.c of the IOASID series, version 4,
 * February 2021): a process asks for ids of the set of its address space, and gives them back.
 *
 * The set says who asked for an id, not who may use it: what a device may send is decided by who holds its file.
 */

import { hex } from '@iommukit/hw';
import {
  type AddressSpace,
  copyFromUser,
  copyToUser,
  INVALID_IOASID,
  IOASID_SET_TYPE_MM,
  type IoasidSet,
  type Ioasids,
  type Kernel,
  type Process,
  SysError,
} from '@iommukit/iommu-core';
import type { DeviceNodes } from '../files/device-nodes.ts';
import type { Caller, File } from '../files/file.ts';
import * as uapi from './allocation-uapi.ts';

/** Bits of a PASID. */
const IOASID_BITS = 20;

export type IoasidAllocationOptions = {
  kernel: Kernel;
  ioasids: Ioasids;
  /** `/dev/ioasid` by default. */
  path?: string;
  /** Ids that each process may have; 0, as in the series, for all that are available when it opens the file. */
  quota?: number;
};

/** /dev/ioasid of one kernel: which address spaces have it open, and their sets. */
export class IoasidAllocationNode {
  readonly path: string;
  readonly kernel: Kernel;
  readonly ioasids: Ioasids;
  private readonly quota: number;
  private readonly open: Map<AddressSpace, IoasidAllocationFile> = new Map();
  /** Sets of files that are closed, some of whose ids are still referenced. */
  private readonly lingering = new Map<AddressSpace, IoasidSet>();

  constructor({ kernel, ioasids, path = '/dev/ioasid', quota = 0 }: IoasidAllocationOptions) {
    this.path = path;
    this.kernel = kernel;
    this.ioasids = ioasids;
    this.quota = quota;
  }

  /**
   * @throws {SysError} EBUSY the address space has the file open, or a set of another maker; ENOSPC the quota is not
   * available; ENOMEM
   */
  openFor({ addressSpace }: Process): IoasidAllocationFile {
    const call = 'ioasid_fops_open';
    this.reap();
    const lingering = this.lingering.get(addressSpace);
    if (this.open.has(addressSpace) || (lingering === undefined && this.ioasids.findMmSet(addressSpace) !== null)) {
      throw new SysError('EBUSY', call, `address space ${addressSpace.id} has a set of IOASIDs`);
    }
    this.kernel.checkpoint(call);
    const { quota } = this;
    const set = lingering ?? this.ioasids.allocSet({ token: addressSpace, quota, type: IOASID_SET_TYPE_MM });
    this.lingering.delete(addressSpace);
    const file = new IoasidAllocationFile(this, set, addressSpace);
    this.open.set(addressSpace, file);
    return file;
  }

  /** The file of an address space is closed: its ids are freed, and its set when nothing refers to them. Never fails. */
  closed(addressSpace: AddressSpace, set: IoasidSet): void {
    this.open.delete(addressSpace);
    this.ioasids.freeAllInSet(set);
    this.lingering.set(addressSpace, set);
    this.reap();
  }

  /** Frees the sets of closed files whose last id has gone. Never fails. */
  reap(): void {
    for (const [addressSpace, set] of this.lingering) {
      if (set.count > 0) continue;
      this.lingering.delete(addressSpace);
      this.ioasids.freeSet(set);
    }
  }
}

/** One open /dev/ioasid, of one address space. */
export class IoasidAllocationFile implements File {
  readonly name: string;
  readonly kernel: Kernel;
  private readonly node: IoasidAllocationNode;
  private readonly set: IoasidSet;
  private readonly owner: AddressSpace;

  constructor(node: IoasidAllocationNode, set: IoasidSet, owner: AddressSpace) {
    this.name = node.path;
    this.kernel = node.kernel;
    this.node = node;
    this.set = set;
    this.owner = owner;
  }

  /** Bits of the largest id. @throws {SysError} EPERM not the process that opened the file */
  bits(caller: Process): number {
    this.checkOwner('IOASID_GET_INFO', caller);
    return IOASID_BITS;
  }

  /** @throws {SysError} EPERM not the process that opened the file; EINVAL a bad range, or none is free in it; EAGAIN, ENOMEM */
  alloc(caller: Process, min: number, max: number): number {
    const call = 'IOASID_REQUEST_ALLOC';
    this.checkOwner(call, caller);
    if (min > max || max >= 2 ** IOASID_BITS) throw new SysError('EINVAL', call, `range ${hex(min)}..${hex(max)}`);
    const id = this.node.ioasids.alloc(this.set, min, max);
    if (id === INVALID_IOASID) throw new SysError('EINVAL', call, `no IOASID is free in ${hex(min)}..${hex(max)}`);
    return id;
  }

  /** Frees an id; one that is not in the set is ignored. @throws {SysError} EPERM not the process that opened the file */
  free(caller: Process, id: number): void {
    this.checkOwner('IOASID_REQUEST_FREE', caller);
    this.node.ioasids.free(this.set, id);
  }

  ioctl({ process }: Caller, request: number, argument: bigint): number {
    const { addressSpace } = process;
    switch (request >>> 0) {
      case uapi.IOASID_GET_API_VERSION:
        this.checkOwner('IOASID_GET_API_VERSION', process);
        return uapi.IOASID_API_VERSION;
      case uapi.IOASID_GET_ALLOCATION_INFO: {
        const ioasidBits = this.bits(process);
        const layout = uapi.ioasidAllocationInfo;
        const bytes = copyFromUser(addressSpace, argument, layout.size);
        const values = layout.read(bytes);
        checkHead('IOASID_GET_INFO', values, layout.size);
        layout.write({ ...values, ioasidBits }, bytes);
        copyToUser(addressSpace, argument, bytes);
        return 0;
      }
      case uapi.IOASID_REQUEST_ALLOC: {
        this.checkOwner('IOASID_REQUEST_ALLOC', process);
        const layout = uapi.ioasidAllocRequest;
        const values = layout.read(copyFromUser(addressSpace, argument, layout.size));
        checkHead('IOASID_REQUEST_ALLOC', values, layout.size);
        return this.alloc(process, values.min, values.max);
      }
      case uapi.IOASID_REQUEST_FREE: {
        this.checkOwner('IOASID_REQUEST_FREE', process);
        const id = new DataView(copyFromUser(addressSpace, argument, 4).buffer).getInt32(0, true);
        if (id < 0) throw new SysError('EINVAL', 'IOASID_REQUEST_FREE', `IOASID ${id}`);
        this.free(process, id);
        return 0;
      }
      default:
        throw new SysError('ENOTTY', 'ioctl', `${this.name} has no request ${hex(request >>> 0)}`);
    }
  }

  release(): void {
    this.node.closed(this.owner, this.set);
  }

  private checkOwner(call: string, { addressSpace, name }: Process): void {
    if (addressSpace === this.owner) return;
    throw new SysError('EPERM', call, `${name} did not open ${this.name}`);
  }
}

/** Makes /dev/ioasid openable as an allocator. @throws {SysError} EEXIST */
export function registerIoasidAllocation(nodes: DeviceNodes, options: IoasidAllocationOptions): IoasidAllocationNode {
  const node = new IoasidAllocationNode(options);
  nodes.register(node.path, ({ process }) => node.openFor(process));
  return node;
}

function checkHead(call: string, { argsz, flags }: { argsz: number; flags: number }, size: number): void {
  if (argsz < size || flags !== 0) throw new SysError('EINVAL', call, `argsz ${argsz}, flags ${hex(flags)}`);
}
