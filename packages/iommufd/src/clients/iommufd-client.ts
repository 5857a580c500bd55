/**
 * /dev/iommu for programs written in TypeScript: each method is one system call on an open descriptor, and runs the
 * same code as the ioctl of its name. Ids are object ids, lengths bytes.
 */

import { toU64, type U64, U64_MAX } from '@iommukit/hw';
import type { Fields, InvalidateResult, Struct, StructValues, UserData } from '@iommukit/iommu-core';
import { arrayMemory } from '../dirty-bitmap.ts';
import { hwptGetDirtyBitmap, hwptSetDirtyTracking } from '../dirty-tracking.ts';
import { openFaultQueue } from '../fault-queue.ts';
import { NO_USER_DATA } from '../hwpt.ts';
import { getHwInfo, type HwInfoResult, hwptAlloc, hwptInvalidate } from '../hwpt-commands.ts';
import { AllowedRanges } from '../ioas/allowed-ranges.ts';
import { ioasChangeProcess } from '../ioas/change-process.ts';
import { Ioas } from '../ioas/ioas.ts';
import {
  type IoasMapOptions,
  ioasAlloc,
  ioasCopy,
  ioasIovaRanges,
  ioasMap,
  ioasMapFile,
  ioasMapRegistered,
  ioasUnmap,
} from '../ioas/ioas-commands.ts';
import type { IovaRange } from '../ioas/reserved.ts';
import type { IommufdCaller } from '../ioctl/command.ts';
import { hugePagesOption, rlimitModeOption } from '../options.ts';
import * as uapi from '../uapi/iommufd.ts';
import { ContextClient } from './context-client.ts';
import type {
  CopyRequest,
  DirtyRequest,
  FaultRecord,
  HwptRequest,
  InvalidateRequest,
  MapAccess,
  MapFileRequest,
  MapRequest,
  NestedRequest,
  PagingRequest,
  VtdInvalidation,
  VtdStage1Request,
} from './requests.ts';

export class IommufdClient extends ContextClient {
  /** @throws {SysError} ENOENT, EBUSY */
  destroy(id: number): void {
    this.call('IOMMU_DESTROY', ({ context }) => context.objects.destroy(id));
  }

  /** @throws {SysError} ENOMEM */
  ioasAlloc(): number {
    return this.call('IOMMU_IOAS_ALLOC', ({ context }) => ioasAlloc(context, 0).id);
  }

  /** @throws {SysError} ENOENT */
  ioasIovaRanges(ioasId: number): { ranges: IovaRange[]; alignment: number } {
    return this.call('IOMMU_IOAS_IOVA_RANGES', ({ context }) => ioasIovaRanges(context, ioasId));
  }

  /** @returns the I/O virtual address. @throws {SysError} as `ioasMap` */
  ioasMap(request: MapRequest): bigint {
    const options = mapOptions(request);
    return this.call('IOMMU_IOAS_MAP', ({ context, process }) => ioasMap(context, process, options));
  }

  /** Maps a memfd or a dma-buf. @returns the I/O virtual address. @throws {SysError} as `ioasMapFile` */
  ioasMapFile(request: MapFileRequest): bigint {
    const { ioasId, fd, start = 0, length, iova } = request;
    const flags = mapFlags(request, iova);
    const range = { start: toU64(start), length: toU64(length), iova: toU64(iova ?? 0) };
    return this.call('IOMMU_IOAS_MAP_FILE', ({ context, process, descriptors }) =>
      ioasMapFile(context, process, { ioasId, flags, ...range, file: () => descriptors.get(fd) }),
    );
  }

  /**
   * Restricts where maps without a fixed address go; no ranges lifts the restriction.
   * @throws {SysError} ENOENT; EINVAL ranges of less than two addresses or that meet; EADDRINUSE a reserved one is met
   */
  ioasAllowIovas(ioasId: number, ranges: readonly { start: U64; last: U64 }[]): void {
    this.call('IOMMU_IOAS_ALLOW_IOVAS', ({ context }) => {
      const { table } = context.objects.get(ioasId, Ioas);
      const allowed = new AllowedRanges(context.kernel);
      for (const { start, last } of ranges) allowed.add({ start: toU64(start), last: toU64(last) });
      table.space.allow(allowed.joined());
    });
  }

  /** This process pays for what is mapped from now on. @throws {SysError} EINVAL something else than files is mapped; ENOMEM */
  ioasChangeProcess(): void {
    this.call('IOMMU_IOAS_CHANGE_PROCESS', ({ context, process }) => ioasChangeProcess(context, process));
  }

  /**
   * Pins and charges memory once, before it is mapped anywhere: this project's own extension, without an ioctl.
   * @throws {SysError} as `RegisteredMemory.register`
   */
  registerMemory(userVa: U64, length: U64): void {
    this.call('register_memory', ({ context, process }) => {
      context.registered.register(process, toU64(userVa), toU64(length));
    });
  }

  /** Takes one registration back. @throws {SysError} EBUSY it is mapped somewhere; ENOENT there is no such one */
  unregisterMemory(userVa: U64, length: U64): void {
    this.call('unregister_memory', ({ context, process }) => {
      context.registered.unregister(process.addressSpace, toU64(userVa), toU64(length));
    });
  }

  /**
   * Maps registered memory, as it was pinned when it was registered: this project's own extension, without an ioctl.
   * @returns the I/O virtual address. @throws {SysError} as `ioasMapRegistered`
   */
  ioasMapRegistered(request: MapRequest): bigint {
    const options = mapOptions(request);
    return this.call('ioas_map_registered', ({ context, process }) => ioasMapRegistered(context, process, options));
  }

  /** @returns the I/O virtual address in the destination. @throws {SysError} as `ioasCopy` */
  ioasCopy(request: CopyRequest): bigint {
    const { srcIoasId, dstIoasId, dstIova } = request;
    const options = {
      flags: mapFlags(request, dstIova),
      srcIoasId,
      dstIoasId,
      srcIova: toU64(request.srcIova),
      length: toU64(request.length),
      dstIova: toU64(dstIova ?? 0),
    };
    return this.call('IOMMU_IOAS_COPY', ({ context }) => ioasCopy(context, options));
  }

  /** @returns bytes unmapped. @throws {SysError} as `ioasUnmap` */
  ioasUnmap(ioasId: number, iova: U64, length: U64): bigint {
    return this.call('IOMMU_IOAS_UNMAP', ({ context }) => ioasUnmap(context, ioasId, toU64(iova), toU64(length)));
  }

  /** Unmaps everything. @returns bytes unmapped. @throws {SysError} ENOENT no such IOAS */
  ioasUnmapAll(ioasId: number): bigint {
    return this.ioasUnmap(ioasId, 0n, U64_MAX);
  }

  /** A hardware page table that shows an IOAS. @returns its id. @throws {SysError} as `hwptAlloc` */
  hwptAllocPaging(request: PagingRequest): number {
    let flags = hwptFlags(request);
    if (request.nestParent === true) flags |= uapi.IOMMU_HWPT_ALLOC_NEST_PARENT;
    if (request.dirtyTracking === true) flags |= uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING;
    return this.hwptAlloc(request, request.ioasId, flags, NO_USER_DATA);
  }

  /** A nested table: VT-d first stage at a guest address. @returns its id. @throws {SysError} as `hwptAlloc` */
  hwptAllocVtdS1(request: VtdStage1Request): number {
    const { pageTable, addressWidth, stage1Flags = 0 } = request;
    const bytes = encode(uapi.iommuHwptVtdS1, {
      flags: BigInt(stage1Flags),
      pgtblAddr: toU64(pageTable),
      addrWidth: addressWidth,
      reserved: 0,
    });
    const data = { type: uapi.IOMMU_HWPT_DATA_VTD_S1, length: bytes.length, read: () => bytes };
    return this.hwptAlloc(request, request.parentId, hwptFlags(request), data);
  }

  /** A nested table of any type, on a nest parent or through a vIOMMU. @returns its id. @throws {SysError} as `hwptAlloc` */
  hwptAllocNested(request: NestedRequest): number {
    const { parentId, type, data } = request;
    return this.hwptAlloc(request, parentId, hwptFlags(request), { type, length: data.length, read: () => data });
  }

  /** Whether pinned pages are charged to the user or to the address space alone. */
  rlimitMode(): 'user' | 'mm' {
    return this.option(({ context, process }) => (rlimitModeOption(context, process).get() === 1n ? 'mm' : 'user'));
  }

  /** @throws {SysError} EPERM no CAP_SYS_RESOURCE; EBUSY there are objects */
  setRlimitMode(mode: 'user' | 'mm'): void {
    this.option(({ context, process }) => rlimitModeOption(context, process).set(mode === 'mm' ? 1n : 0n));
  }

  /** Whether hardware page tables of an IOAS use large pages. @throws {SysError} ENOENT */
  hugePages(ioasId: number): boolean {
    return this.option(({ context }) => hugePagesOption(context, ioasId).get() === 1n);
  }

  /** @throws {SysError} ENOENT; EINVAL there are mappings in a table; EADDRINUSE mappings are not of whole pages */
  setHugePages(ioasId: number, on: boolean): void {
    this.option(({ context }) => hugePagesOption(context, ioasId).set(on ? 1n : 0n));
  }

  /** Begins or ends the recording of what devices write through a table. @throws {SysError} as `hwptSetDirtyTracking` */
  hwptSetDirtyTracking(hwptId: number, enable: boolean): void {
    const flags = enable ? uapi.IOMMU_HWPT_DIRTY_TRACKING_ENABLE : 0;
    this.call('IOMMU_HWPT_SET_DIRTY_TRACKING', ({ context }) => hwptSetDirtyTracking(context, hwptId, flags));
  }

  /** Adds what was written since the last read to a bitmap. @throws {SysError} as `hwptGetDirtyBitmap` */
  hwptGetDirtyBitmap({ hwptId, iova, length, pageSize = 4096, bitmap, keep = false }: DirtyRequest): void {
    const request = {
      hwptId,
      flags: keep ? uapi.IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR : 0,
      iova: toU64(iova),
      length: toU64(length),
      pageSize: toU64(pageSize),
      data: 0n,
      memory: arrayMemory(bitmap),
    };
    this.call('IOMMU_HWPT_GET_DIRTY_BITMAP', ({ context }) => hwptGetDirtyBitmap(context, request));
  }

  /** @throws {SysError} ENOENT, EOPNOTSUPP */
  hwInfo(deviceId: number): HwInfoResult {
    return this.call('IOMMU_GET_HW_INFO', ({ context }) => getHwInfo(context, deviceId, 0, 0));
  }

  /** Invalidates what is cached of a VT-d first stage, in order. @throws {SysError} as HWPT_INVALIDATE */
  hwptInvalidateVtdS1(hwptId: number, invalidations: readonly VtdInvalidation[]): void {
    const layout = uapi.iommuHwptVtdS1Invalidate;
    const bytes = new Uint8Array(invalidations.length * layout.size);
    invalidations.forEach(({ address, pages, leaf }, index) => {
      const flags = leaf === true ? uapi.IOMMU_VTD_INV_FLAGS_LEAF : 0;
      layout.write({ addr: toU64(address), npages: toU64(pages), flags, reserved: 0 }, bytes, index * layout.size);
    });
    const type = uapi.IOMMU_HWPT_INVALIDATE_DATA_VTD_S1;
    const { failure } = this.hwptInvalidate({ hwptId, type, entries: bytes, entryLength: layout.size });
    if (failure !== null) throw failure;
  }

  /**
   * Invalidates what is cached of a nested table, or of what is in a vIOMMU, in order. No bytes are a probe of the type.
   * @returns entries carried out, and why not all were, if so
   */
  hwptInvalidate({ hwptId, type, entries, entryLength }: InvalidateRequest): InvalidateResult {
    return this.call('IOMMU_HWPT_INVALIDATE', ({ context }) => {
      return hwptInvalidate(context, hwptId, {
        type,
        entryLength,
        count: entryLength === 0 ? 0 : Math.floor(entries.length / entryLength),
        read: (first, count) => entries.subarray(first * entryLength, (first + count) * entryLength),
      });
    });
  }

  /** A fault queue and its descriptor. @throws {SysError} ENOMEM, EMFILE */
  faultQueueAlloc(): { readonly id: number; readonly fd: number } {
    return this.call('IOMMU_FAULT_QUEUE_ALLOC', ({ context, descriptors }) => openFaultQueue(context, descriptors, 0));
  }

  /** Page requests of whole groups, at most `room`; none when none wait. @throws {SysError} EINVAL the first group is larger */
  readFaults(fd: number, room = 512): FaultRecord[] {
    const layout = uapi.iommuHwptPgfault;
    const bytes = new Uint8Array(room * layout.size);
    const filled = this.system.read(fd, bytes);
    const records: FaultRecord[] = [];
    for (let at = 0; at < filled; at += layout.size) records.push(decodeFault(layout.read(bytes, at)));
    return records;
  }

  /** Answers a group of page requests. @throws {SysError} EINVAL no group waits under the cookie */
  respondFault(fd: number, cookie: number, success: boolean): void {
    const code = success ? uapi.IOMMUFD_PAGE_RESP_SUCCESS : uapi.IOMMUFD_PAGE_RESP_INVALID;
    this.system.write(fd, encode(uapi.iommuHwptPageResponse, { cookie, code }));
  }

  private hwptAlloc(request: HwptRequest, ptId: number, flags: number, data: UserData): number {
    const { deviceId, faultId = 0 } = request;
    return this.call('IOMMU_HWPT_ALLOC', ({ context }) => {
      return hwptAlloc(context, { flags, deviceId, ptId, data, faultId }).id;
    });
  }

  private option<T>(body: (caller: IommufdCaller) => T): T {
    return this.call('IOMMU_OPTION', body);
  }
}

function mapOptions(request: MapRequest): IoasMapOptions {
  const { ioasId, userVa, length, iova } = request;
  return {
    ioasId,
    flags: mapFlags(request, iova),
    userVa: toU64(userVa),
    length: toU64(length),
    iova: toU64(iova ?? 0),
  };
}

function mapFlags({ readable = true, writable = true }: MapAccess, iova: U64 | undefined): number {
  let flags = iova === undefined ? 0 : uapi.IOMMU_IOAS_MAP_FIXED_IOVA;
  if (writable) flags |= uapi.IOMMU_IOAS_MAP_WRITEABLE;
  if (readable) flags |= uapi.IOMMU_IOAS_MAP_READABLE;
  return flags;
}

function hwptFlags({ pasid = false, faultId }: HwptRequest): number {
  return (pasid ? uapi.IOMMU_HWPT_ALLOC_PASID : 0) | (faultId === undefined ? 0 : uapi.IOMMU_HWPT_FAULT_ID_VALID);
}

function encode<F extends Fields>(layout: Struct<F>, values: StructValues<F>): Uint8Array {
  const bytes = new Uint8Array(layout.size);
  layout.write(values, bytes);
  return bytes;
}

function decodeFault(record: ReturnType<typeof uapi.iommuHwptPgfault.read>): FaultRecord {
  return {
    deviceId: record.devId,
    pasid: (record.flags & uapi.IOMMU_PGFAULT_FLAGS_PASID_VALID) === 0 ? null : record.pasid,
    group: record.grpid,
    last: (record.flags & uapi.IOMMU_PGFAULT_FLAGS_LAST_PAGE) !== 0,
    access: record.perm,
    address: record.addr,
    cookie: record.cookie,
  };
}
