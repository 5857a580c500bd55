/**
 * /dev/ioasid for programs written in TypeScript: each method is one system call on an open descriptor, and runs the
 * same code as the command of its name. Methods of one version of the proposal give ENOTTY on a file of the other.
 */

import { toU64, type U64 } from '@iommukit/hw';
import type { SystemCalls } from '../files/system-calls.ts';
import * as commands from './commands.ts';
import { setFaultEventfd } from './faults.ts';
import type { IoasidDeviceInfo, IoasidInfo } from './info.ts';
import { ioasidFileOf } from './ioasid-file.ts';
import type { IoasidCaller } from './ioctl.ts';
import * as uapi from './uapi.ts';
import type { UserTable } from './user-table.ts';

export type IoasidMapRequest = {
  ioasid: number;
  iova: U64;
  /** Address in the caller's memory; of a child, in its parent. */
  vaddr: U64;
  /** Bytes, whole pages. */
  size: U64;
  /** Both by default. */
  readable?: boolean;
  writable?: boolean;
};

/** A table in its user's memory. */
export type IoasidTable = {
  /** Where it lies in the parent's address space. */
  address: U64;
  /** IOASID_FORMAT_ value; Intel VT-d for page tables and Arm SMMUv3 for PASID tables by default. */
  format?: number;
  /** IOMMU_VTD_S1_ bits for that format; none by default. */
  vendorFlags?: number;
};

export type IoasidPageTable = IoasidTable & {
  /** Bits of an address: 48 or 57; 48 by default. */
  addressWidth?: number;
};

export type IoasidPasidTable = IoasidTable & { pasidBits: number };

export type IoasidBindRequest = {
  ioasid: number;
  /** Read page requests of the table from the file; false by default. */
  faults?: boolean;
};

/** A kernel-managed root by default. */
export type IoasidAllocRequest = {
  parent?: number;
  pageTable?: IoasidPageTable;
  pasidTable?: IoasidPasidTable;
  /** The address space is the caller's own. */
  shared?: boolean;
  enforceSnoop?: boolean;
  faults?: boolean;
};

export type IoasidInvalidateRequest = {
  ioasid: number;
  /** What has changed; everything by default. */
  range?: { address: U64; size: U64 };
  /** Only the last level of the table has changed. */
  leaf?: boolean;
  /** One address space of a PASID table. */
  pasid?: number;
  /** Cookie of one device (version 2). */
  cookie?: U64;
};

/** A page request, as read from the file. */
export type IoasidFault = {
  readonly ioasid: number;
  /** Of the device, as chosen when it was bound. */
  readonly cookie: bigint;
  /** As its user attached it; null without PASID. */
  readonly pasid: number | null;
  readonly group: number;
  readonly last: boolean;
  /** IOMMU_PGFAULT_PERM_ bits. */
  readonly access: number;
  readonly address: bigint;
  /** Names the group in its answer, with the IOASID. */
  readonly token: number;
};

export class IoasidClient {
  readonly system: SystemCalls;
  readonly fd: number;
  private readonly caller: IoasidCaller;

  /** `fd` is a descriptor of /dev/ioasid. @throws {SysError} EBADF, EBADFD */
  constructor(system: SystemCalls, fd: number) {
    this.system = system;
    this.fd = fd;
    this.caller = ioasidFileOf(system.file(fd)).on(system.caller);
  }

  /** `extension` is an IOASID_EXT_ value. */
  checkExtension(extension: number): boolean {
    return this.call('IOASID_CHECK_EXTENSION', ({ context }) => commands.checkExtension(context, extension));
  }

  /**
   * Version 1: pins and charges memory once; from then on only such memory can be mapped.
   * @throws {SysError} as RegisteredMemory.register
   */
  registerMemory(vaddr: U64, size: U64): void {
    this.call('IOASID_REGISTER_MEMORY', ({ context, process }) => {
      commands.registerMemory(context, process, toU64(vaddr), toU64(size));
    });
  }

  /** Version 1. @throws {SysError} EBUSY it is mapped somewhere; ENOENT */
  unregisterMemory(vaddr: U64, size: U64): void {
    this.call('IOASID_UNREGISTER_MEMORY', ({ context, process }) => {
      commands.unregisterMemory(context, process, toU64(vaddr), toU64(size));
    });
  }

  /** A new IOASID; only version 2 takes a request. @throws {SysError} as `allocPlain` and `allocFormatted` */
  alloc(request?: IoasidAllocRequest): number {
    return this.call('IOASID_ALLOC', ({ context, process }) => {
      if (request === undefined && context.rules === 'v1') return commands.allocPlain(context).handle;
      const { parent, pageTable, pasidTable, shared, enforceSnoop, faults } = request ?? {};
      const table = pageTable === undefined ? pasidTable && pasidTableOf(pasidTable) : pageTableOf(pageTable);
      return commands.allocFormatted(context, process, {
        parent: parent ?? null,
        table: table ?? null,
        shared: shared ?? false,
        enforceSnoop: enforceSnoop ?? false,
        faults: faults ?? false,
      }).handle;
    });
  }

  /** Blocks its devices, or takes them back to its parent, and frees it. @throws {SysError} ENOENT; EBUSY it has children */
  free(ioasid: number): void {
    this.call('IOASID_FREE', ({ context }) => context.free(ioasid));
  }

  /** Version 1. @throws {SysError} as `getInfo` */
  info(ioasid: number): IoasidInfo {
    return this.call('IOASID_GET_INFO', ({ context }) => commands.getInfo(context, ioasid));
  }

  /** Version 2: of the device that was bound with a cookie. @throws {SysError} ENOENT, ENOMEM */
  deviceInfo(cookie: U64): IoasidDeviceInfo {
    return this.call('IOMMU_DEVICE_GET_INFO', ({ context }) => commands.getDeviceInfo(context, toU64(cookie)));
  }

  /** @throws {SysError} as `mapDma` */
  map(request: IoasidMapRequest): void {
    const { ioasid, readable = true, writable = true } = request;
    const [iova, vaddr, size] = [toU64(request.iova), toU64(request.vaddr), toU64(request.size)];
    this.call('IOASID_MAP_DMA', ({ context, process }) => {
      commands.mapDma(context, process, { ioasid, vaddr, iova, size, readable, writable });
    });
  }

  /** @returns bytes unmapped. @throws {SysError} as `unmapDma` */
  unmap(ioasid: number, iova: U64, size: U64): bigint {
    const range = { iova: toU64(iova), size: toU64(size) };
    return this.call('IOASID_UNMAP_DMA', ({ context }) => commands.unmapDma(context, ioasid, range));
  }

  /** @returns bytes unmapped. @throws {SysError} as `unmapDma` */
  unmapAll(ioasid: number): bigint {
    return this.call('IOASID_UNMAP_DMA', ({ context }) => commands.unmapDma(context, ioasid, null));
  }

  /** Version 1: a child. @throws {SysError} as `createNesting` */
  createNesting(parent: number): number {
    return this.call('IOASID_CREATE_NESTING', ({ context }) => commands.createNesting(context, parent).handle);
  }

  /** Version 1; also in place of a table that is bound. @throws {SysError} as `bindTable` */
  bindPageTable(request: IoasidBindRequest & IoasidPageTable): void {
    this.bind('IOASID_BIND_PGTABLE', request, pageTableOf(request));
  }

  /** Version 1. @throws {SysError} as `unbindTable` */
  unbindPageTable(ioasid: number): void {
    this.call('IOASID_UNBIND_PGTABLE', ({ context }) => commands.unbindTable(context, ioasid, 'page-table'));
  }

  /** Version 1. @throws {SysError} as `bindTable` */
  bindPasidTable(request: IoasidBindRequest & IoasidPasidTable): void {
    this.bind('IOASID_BIND_PASID_TABLE', request, pasidTableOf(request));
  }

  /** Version 1. @throws {SysError} as `unbindTable` */
  unbindPasidTable(ioasid: number): void {
    this.call('IOASID_UNBIND_PASID_TABLE', ({ context }) => commands.unbindTable(context, ioasid, 'pasid-table'));
  }

  /** @throws {SysError} as `invalidateCache` */
  invalidate({ ioasid, range, leaf, pasid, cookie }: IoasidInvalidateRequest): void {
    const what = {
      range: range === undefined ? null : { address: toU64(range.address), size: toU64(range.size) },
      leaf: leaf ?? false,
      pasid: pasid ?? null,
    };
    this.call('IOASID_INVALIDATE_CACHE', ({ context }) => {
      commands.invalidateCache(context, ioasid, what, cookie === undefined ? null : toU64(cookie));
    });
  }

  /** Has an eventfd signalled for each group of page requests; null for none. @throws {SysError} EBADF, EINVAL */
  setFaultEventfd(fd: number | null): void {
    this.call('IOASID_SET_FAULT_EVENTFD', ({ context, descriptors }) =>
      setFaultEventfd(context, descriptors, fd ?? -1),
    );
  }

  /** Page requests of whole groups, at most `room`; none when none wait. @throws {SysError} EINVAL the first group is larger */
  readFaults(room = 512): IoasidFault[] {
    const layout = uapi.ioasidFault;
    const bytes = new Uint8Array(room * layout.size);
    const filled = this.system.read(this.fd, bytes);
    const faults: IoasidFault[] = [];
    for (let at = 0; at < filled; at += layout.size) faults.push(decodeFault(layout.read(bytes, at)));
    return faults;
  }

  /** Answers a group of page requests. @throws {SysError} EINVAL it waits for no answer */
  respondFault({ ioasid, token }: Pick<IoasidFault, 'ioasid' | 'token'>, success: boolean): void {
    const bytes = new Uint8Array(uapi.ioasidFaultResponse.size);
    const code = success ? uapi.IOASID_FAULT_SUCCESS : uapi.IOASID_FAULT_INVALID;
    uapi.ioasidFaultResponse.write({ ioasid, token, code, reserved: 0 }, bytes);
    this.system.write(this.fd, bytes);
  }

  private bind(call: string, { ioasid, faults = false }: IoasidBindRequest, table: UserTable): void {
    this.call(call, ({ context }) => commands.bindTable(context, ioasid, table, faults));
  }

  private call<T>(name: string, body: (caller: IoasidCaller) => T): T {
    return this.caller.context.kernel.call(name, () => body(this.caller));
  }
}

function pageTableOf(request: IoasidPageTable): UserTable {
  const { format = uapi.IOASID_FORMAT_INTEL_VTD, address, addressWidth = 48, vendorFlags = 0 } = request;
  return { kind: 'page-table', format, address: toU64(address), width: addressWidth, vendorFlags };
}

function pasidTableOf(request: IoasidPasidTable): UserTable {
  const { format = uapi.IOASID_FORMAT_ARM_SMMUV3, address, pasidBits, vendorFlags = 0 } = request;
  return { kind: 'pasid-table', format, address: toU64(address), width: pasidBits, vendorFlags };
}

function decodeFault(record: ReturnType<typeof uapi.ioasidFault.read>): IoasidFault {
  const { ioasid, cookie, group, token } = record;
  return {
    ioasid,
    cookie,
    pasid: (record.flags & uapi.IOASID_FAULT_PASID_VALID) === 0 ? null : record.pasid,
    group,
    last: (record.flags & uapi.IOASID_FAULT_LAST_PAGE) !== 0,
    access: record.perm,
    address: record.addr,
    token,
  };
}
