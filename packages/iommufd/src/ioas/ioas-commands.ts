/** The commands on I/O address spaces: making one, mapping, copying, unmapping (Linux: drivers/iommu/iommufd/ioas.c). */

import { hex, PAGE_SIZE, U64_MAX } from '@iommukit/hw';
import { IOMMU_CACHE, IOMMU_READ, IOMMU_WRITE, type Process, SysError } from '@iommukit/iommu-core';
import type { IommufdContext } from '../context.ts';
import { DmaBuf } from '../files/dma-buf.ts';
import type { File } from '../files/file.ts';
import { IOMMU_IOAS_MAP_FIXED_IOVA, IOMMU_IOAS_MAP_READABLE, IOMMU_IOAS_MAP_WRITEABLE } from '../uapi/iommufd.ts';
import { payerOf } from './accounting.ts';
import type { Area, PagesSlice } from './area.ts';
import { Ioas } from './ioas.ts';
import { DmaBufSource, FileSource, type PageSource, UserSource } from './page-source.ts';
import { Pages, type PagesOptions } from './pages.ts';
import type { IovaRange } from './reserved.ts';

const MAP_FLAGS = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE;

/** @throws {SysError} EOPNOTSUPP flags; ENOMEM */
export function ioasAlloc(context: IommufdContext, flags: number): Ioas {
  if (flags !== 0) throw new SysError('EOPNOTSUPP', 'IOMMU_IOAS_ALLOC', `flags ${hex(flags)}`);
  return context.objects.create((id) => new Ioas(id, context));
}

/** What can be mapped: the addresses that are not reserved, and the alignment in bytes. @throws {SysError} ENOENT */
export function ioasIovaRanges(context: IommufdContext, ioasId: number): { ranges: IovaRange[]; alignment: number } {
  const { table } = context.objects.get(ioasId, Ioas);
  return { ranges: table.space.holes(), alignment: table.iovaAlignment };
}

export type IoasMapOptions = {
  ioasId: number;
  /** IOMMU_IOAS_MAP_ bits. */
  flags: number;
  /** Address in the caller's memory. */
  userVa: bigint;
  length: bigint;
  /** Used with IOMMU_IOAS_MAP_FIXED_IOVA only. */
  iova: bigint;
};

/**
 * Maps the caller's memory. @returns the I/O virtual address
 * @throws {SysError} EOPNOTSUPP flags; EOVERFLOW; EINVAL; ENOENT; EEXIST; ENOSPC; EFAULT; ENOMEM
 */
export function ioasMap(context: IommufdContext, caller: Process, options: IoasMapOptions): bigint {
  const call = 'IOMMU_IOAS_MAP';
  const { flags, userVa, length } = options;
  checkMapFlags(call, flags, [options.iova, length]);
  const ioas = context.objects.get(options.ioasId, Ioas);
  const slice = makePages(context, caller, call, {
    userVa,
    length,
    writable: (flags & IOMMU_IOAS_MAP_WRITEABLE) !== 0,
  });
  return mapSlices(ioas, [slice], length, fixedIova(flags, options.iova), flags);
}

export type UserRange = { userVa: bigint; length: bigint; writable: boolean };

/**
 * A pin group of the caller's memory, with one reference, as the slice that is all of it.
 * @throws {SysError} EOVERFLOW; EINVAL length; ENOMEM
 */
export function makePages(context: IommufdContext, caller: Process, call: string, range: UserRange): PagesSlice {
  const { userVa, length, writable } = range;
  if (userVa + length > U64_MAX) throw new SysError('EOVERFLOW', call, `${hex(length)} bytes from ${hex(userVa)}`);
  const start = pageStart(userVa);
  const source = (): PageSource => new UserSource(caller.addressSpace, start);
  return slice(context, caller, call, { startByte: userVa - start, length, writable, source });
}

export type IoasMapFileOptions = Omit<IoasMapOptions, 'userVa'> & {
  /** Gives the file. @throws {SysError} EBADF */
  file: () => File;
  /** Byte offset into the file. */
  start: bigint;
};

/**
 * Maps a file of memory, or a dma-buf. Whether a file is memory, and long enough, shows when it is pinned.
 * @returns the I/O virtual address
 * @throws {SysError} EOPNOTSUPP flags; EOVERFLOW; EINVAL, also a dma-buf that is too short; ENOENT; EBADF; ENODEV a
 * dma-buf that is revoked; EEXIST; ENOSPC; ENOMEM
 */
export function ioasMapFile(context: IommufdContext, caller: Process, options: IoasMapFileOptions): bigint {
  const call = 'IOMMU_IOAS_MAP_FILE';
  const { flags, start, length } = options;
  checkMapFlags(call, flags, [options.iova, length]);
  const ioas = context.objects.get(options.ioasId, Ioas);
  if (length === 0n) throw new SysError('EINVAL', call, 'length 0');
  if (start + length - 1n > U64_MAX) throw new SysError('EOVERFLOW', call, `${hex(length)} bytes from ${hex(start)}`);
  const file = options.file();
  const first = pageStart(start);
  if (file instanceof DmaBuf && BigInt(file.size) <= start + length - 1n) {
    throw new SysError('EINVAL', call, `${hex(length)} bytes from ${hex(start)} of ${hex(file.size)}`);
  }
  const whole = slice(context, caller, call, {
    startByte: start - first,
    length,
    writable: (flags & IOMMU_IOAS_MAP_WRITEABLE) !== 0,
    source: (onRevoke) =>
      file instanceof DmaBuf ? new DmaBufSource(file, first, onRevoke) : new FileSource(file.pages ?? null, first),
  });
  return mapSlices(ioas, [whole], length, fixedIova(flags, options.iova), flags);
}

type SliceOptions = Pick<PagesOptions, 'source' | 'writable'> & { startByte: bigint; length: bigint };

/** A new pin group as the slice that is all of it. @throws {SysError} EINVAL length; ENOMEM; and what `source` throws */
function slice(context: IommufdContext, caller: Process, call: string, options: SliceOptions): PagesSlice {
  const { startByte, length, source, writable } = options;
  if (length === 0n || length > U64_MAX - 4096n) throw new SysError('EINVAL', call, `length ${hex(length)}`);
  context.kernel.checkpoint('iopt_pages');
  const pages = new Pages({
    kernel: context.kernel,
    context: context.id,
    id: context.nextPagesId(),
    payer: payerOf(caller),
    accounting: caller.credentials.has('CAP_IPC_LOCK') ? 'none' : context.accounting,
    trace: context.trace,
    source,
    writable,
  });
  return { pages, startByte, length };
}

/** The begin of the page of `address`. */
function pageStart(address: bigint): bigint {
  return address & ~BigInt(PAGE_SIZE - 1);
}

/**
 * Maps memory that the caller has registered: the pages as they were pinned then, on the same pin groups, so nothing is
 * pinned or charged again. @returns the I/O virtual address
 * @throws {SysError} ENOENT a part is not registered; and as `ioasMap`
 */
export function ioasMapRegistered(context: IommufdContext, caller: Process, options: IoasMapOptions): bigint {
  const { flags, userVa, length, iova } = options;
  checkMapFlags('ioas_map_registered', flags, [iova, length]);
  const ioas = context.objects.get(options.ioasId, Ioas);
  const slices = context.registered.slices(caller.addressSpace, userVa, length);
  return mapSlices(ioas, slices, length, fixedIova(flags, iova), flags);
}

export type IoasCopyOptions = {
  /** IOMMU_IOAS_MAP_ bits. */
  flags: number;
  dstIoasId: number;
  srcIoasId: number;
  length: bigint;
  /** Used with IOMMU_IOAS_MAP_FIXED_IOVA only. */
  dstIova: bigint;
  srcIova: bigint;
};

/**
 * Maps what is mapped in one IOAS in another as well, on the same pin groups. @returns the address in the destination
 * @throws {SysError} EOPNOTSUPP flags; EOVERFLOW; EINVAL; ENOENT an IOAS, or a hole in the source; EPERM write access
 * to read-only pages; EEXIST; ENOSPC; EFAULT; ENOMEM
 */
export function ioasCopy(context: IommufdContext, options: IoasCopyOptions): bigint {
  const { flags, length, srcIova, dstIova } = options;
  checkMapFlags('IOMMU_IOAS_COPY', flags, [length, srcIova, dstIova]);
  const slices = context.objects.get(options.srcIoasId, Ioas).table.slices(srcIova, length);
  let destination: Ioas;
  try {
    destination = context.objects.get(options.dstIoasId, Ioas);
  } catch (error) {
    for (const { pages } of slices) pages.put();
    throw error;
  }
  return mapSlices(destination, slices, length, fixedIova(flags, dstIova), flags);
}

/**
 * Unmaps the areas in a range; (0, 2^64 - 1) is everything. @returns bytes unmapped
 * @throws {SysError} ENOENT the IOAS, nothing there, or an area that is only partly in the range, when those before it
 * stay unmapped; EOVERFLOW; EINVAL length 0
 */
export function ioasUnmap(context: IommufdContext, ioasId: number, iova: bigint, length: bigint): bigint {
  const ioas = context.objects.get(ioasId, Ioas);
  const gone = (area: Area): void => ioas.traceArea('ioas_unmap', area);
  if (iova === 0n && length === U64_MAX) return ioas.table.unmapAll(gone);
  if (iova === U64_MAX || length === U64_MAX) {
    throw new SysError('EOVERFLOW', 'IOMMU_IOAS_UNMAP', `${hex(length)} bytes from ${hex(iova)}`);
  }
  const unmapped = ioas.table.unmap(iova, length, gone);
  if (unmapped === 0n) throw new SysError('ENOENT', 'IOMMU_IOAS_UNMAP', `nothing is mapped at ${hex(iova)}`);
  return unmapped;
}

function checkMapFlags(call: string, flags: number, values: readonly bigint[]): void {
  if ((flags & ~MAP_FLAGS) !== 0) throw new SysError('EOPNOTSUPP', call, `flags ${hex(flags)}`);
  if (values.includes(U64_MAX)) throw new SysError('EOVERFLOW', call, `an address or length is ${hex(U64_MAX)}`);
  if ((flags & (IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE)) === 0) {
    throw new SysError('EINVAL', call, 'neither readable nor writable');
  }
}

function fixedIova(flags: number, iova: bigint): bigint | null {
  return (flags & IOMMU_IOAS_MAP_FIXED_IOVA) === 0 ? null : iova;
}

/** Maps slices, whose references it takes over, also when it fails. */
function mapSlices(ioas: Ioas, slices: PagesSlice[], length: bigint, iova: bigint | null, flags: number): bigint {
  let prot = IOMMU_CACHE;
  if ((flags & IOMMU_IOAS_MAP_WRITEABLE) !== 0) prot |= IOMMU_WRITE;
  if ((flags & IOMMU_IOAS_MAP_READABLE) !== 0) prot |= IOMMU_READ;
  try {
    const areas = ioas.table.map(slices, length, iova, prot);
    for (const area of areas) ioas.traceArea('ioas_map', area);
    return areas[0]!.iova;
  } catch (error) {
    for (const { pages } of slices) pages.put();
    throw error;
  }
}
