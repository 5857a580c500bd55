/**
 * The ioctls of /dev/ioasid: structures in the caller's memory, decoded, carried out and answered, after the command
 * table of the file's version of the proposal. What the commands do is in commands.ts.
 */

import { hex } from '@iommukit/hw';
import {
  copyFromUser,
  copyToUser,
  type Fields,
  type Process,
  type Struct,
  type StructValues,
  SysError,
} from '@iommukit/iommu-core';
import type { Caller } from '../files/file.ts';
import * as commands from './commands.ts';
import { setFaultEventfd } from './faults.ts';
import type { IoasidDeviceInfo, IoasidInfo, SpaceInfo } from './info.ts';
import type { IoasidContext } from './ioasid-context.ts';
import * as uapi from './uapi.ts';
import type { UserTable } from './user-table.ts';

/** Who calls, and on which file. */
export type IoasidCaller = Caller & { readonly context: IoasidContext };

/** Carries a command out. @returns the result of the call, >= 0 */
type Command = (caller: IoasidCaller, argument: bigint) => number;

const V1: ReadonlyMap<number, Command> = new Map<number, Command>([
  [uapi.IOASID_CHECK_EXTENSION, checkExtension],
  [uapi.IOASID_REGISTER_MEMORY, memory('IOASID_REGISTER_MEMORY', commands.registerMemory)],
  [uapi.IOASID_UNREGISTER_MEMORY, memory('IOASID_UNREGISTER_MEMORY', commands.unregisterMemory)],
  [uapi.IOASID_ALLOC, ({ context }) => commands.allocPlain(context).handle],
  [uapi.IOASID_FREE, free],
  [uapi.IOASID_GET_INFO, getInfo],
  [uapi.IOASID_MAP_DMA, mapDma],
  [uapi.IOASID_UNMAP_DMA, unmapDma],
  [uapi.IOASID_CREATE_NESTING, ({ context }, parent) => commands.createNesting(context, Number(parent)).handle],
  [uapi.IOASID_BIND_PGTABLE, bind('page-table')],
  [uapi.IOASID_UNBIND_PGTABLE, unbind('page-table')],
  [uapi.IOASID_BIND_PASID_TABLE, bind('pasid-table')],
  [uapi.IOASID_UNBIND_PASID_TABLE, unbind('pasid-table')],
  [uapi.IOASID_INVALIDATE_CACHE, invalidateCache],
  [uapi.IOASID_SET_FAULT_EVENTFD, faultEventfd],
]);

const V2: ReadonlyMap<number, Command> = new Map<number, Command>([
  [uapi.IOMMU_CHECK_EXTENSION, checkExtension],
  [uapi.IOMMU_DEVICE_GET_INFO, getDeviceInfo],
  [uapi.IOMMU_IOASID_ALLOC, alloc],
  [uapi.IOMMU_IOASID_FREE, free],
  [uapi.IOMMU_MAP_DMA, mapDma],
  [uapi.IOMMU_UNMAP_DMA, unmapDma],
  [uapi.IOMMU_INVALIDATE_CACHE, invalidateCache],
  [uapi.IOASID_SET_FAULT_EVENTFD, faultEventfd],
]);

/**
 * Carries out one ioctl. @returns 0, or the handle or truth value that the command gives
 * @throws {SysError} ENOTTY no such command; EFAULT its structure cannot be read or answered; EINVAL it is too short, or
 * has unknown flags; and the command's own
 */
export function ioasidIoctl(caller: IoasidCaller, request: number, argument: bigint): number {
  const command = (caller.context.rules === 'v1' ? V1 : V2).get(request >>> 0);
  if (command === undefined) throw new SysError('ENOTTY', 'ioctl', `no request ${hex(request >>> 0)} here`);
  return command(caller, argument);
}

function checkExtension({ context }: IoasidCaller, extension: bigint): number {
  return commands.checkExtension(context, Number(extension)) ? 1 : 0;
}

function free({ context }: IoasidCaller, ioasid: bigint): number {
  context.free(Number(ioasid));
  return 0;
}

function memory(
  call: string,
  run: (context: IoasidContext, caller: Process, vaddr: bigint, size: bigint) => void,
): Command {
  return ({ context, process }, argument) => {
    const { flags, vaddr, size } = fetch(call, process, argument, uapi.ioasidMemory);
    checkFlags(call, flags, 0);
    run(context, process, vaddr, size);
    return 0;
  };
}

function mapDma({ context, process }: IoasidCaller, argument: bigint): number {
  const call = 'IOASID_MAP_DMA';
  const { flags, reserved, ioasid, vaddr, iova, size } = fetch(call, process, argument, uapi.ioasidDmaMap);
  checkFlags(call, flags, uapi.IOASID_DMA_MAP_READ | uapi.IOASID_DMA_MAP_WRITE);
  checkFlags(call, reserved, 0);
  const readable = (flags & uapi.IOASID_DMA_MAP_READ) !== 0;
  const writable = (flags & uapi.IOASID_DMA_MAP_WRITE) !== 0;
  commands.mapDma(context, process, { ioasid, vaddr, iova, size, readable, writable });
  return 0;
}

function unmapDma({ context, process }: IoasidCaller, argument: bigint): number {
  const call = 'IOASID_UNMAP_DMA';
  const layout = uapi.ioasidDmaUnmap;
  const values = fetch(call, process, argument, layout);
  const { flags, reserved, ioasid, iova, size } = values;
  checkFlags(call, flags, uapi.IOASID_DMA_UNMAP_ALL);
  checkFlags(call, reserved, 0);
  const all = (flags & uapi.IOASID_DMA_UNMAP_ALL) !== 0;
  if (all && (iova !== 0n || size !== 0n)) throw new SysError('EINVAL', call, 'a range and all of it');
  store(process, argument, layout, values);
  values.size = commands.unmapDma(context, ioasid, all ? null : { iova, size });
  store(process, argument, layout, values);
  return 0;
}

function bind(kind: UserTable['kind']): Command {
  const call = kind === 'page-table' ? 'IOASID_BIND_PGTABLE' : 'IOASID_BIND_PASID_TABLE';
  return ({ context, process }, argument) => {
    const values = fetch(call, process, argument, uapi.ioasidTable);
    checkFlags(call, values.flags, uapi.IOASID_BIND_FAULTS);
    const faults = (values.flags & uapi.IOASID_BIND_FAULTS) !== 0;
    commands.bindTable(context, values.ioasid, tableOf(kind, values), faults);
    return 0;
  };
}

function unbind(kind: UserTable['kind']): Command {
  return ({ context }, ioasid) => {
    commands.unbindTable(context, Number(ioasid), kind);
    return 0;
  };
}

const ALLOC_FLAGS =
  uapi.IOASID_ALLOC_USER_PGTABLE |
  uapi.IOASID_ALLOC_USER_PASID_TABLE |
  uapi.IOASID_ALLOC_SHARED |
  uapi.IOASID_ALLOC_PARENT |
  uapi.IOASID_ALLOC_ENFORCE_SNOOP |
  uapi.IOASID_ALLOC_FAULTS;

function alloc({ context, process }: IoasidCaller, argument: bigint): number {
  const call = 'IOMMU_IOASID_ALLOC';
  const values = fetch(call, process, argument, uapi.ioasidTable);
  const { flags } = values;
  checkFlags(call, flags, ALLOC_FLAGS);
  const has = (flag: number): boolean => (flags & flag) !== 0;
  const pageTable = has(uapi.IOASID_ALLOC_USER_PGTABLE);
  const pasidTable = has(uapi.IOASID_ALLOC_USER_PASID_TABLE);
  if (pageTable && pasidTable) throw new SysError('EINVAL', call, 'a page table and a PASID table');
  return commands.allocFormatted(context, process, {
    parent: has(uapi.IOASID_ALLOC_PARENT) ? values.ioasid : null,
    table: pageTable || pasidTable ? tableOf(pageTable ? 'page-table' : 'pasid-table', values) : null,
    shared: has(uapi.IOASID_ALLOC_SHARED),
    enforceSnoop: has(uapi.IOASID_ALLOC_ENFORCE_SNOOP),
    faults: has(uapi.IOASID_ALLOC_FAULTS),
  }).handle;
}

function tableOf(kind: UserTable['kind'], values: StructOf<typeof uapi.ioasidTable>): UserTable {
  const { format, addr: address, width, vendorFlags } = values;
  return { kind, format, address, width, vendorFlags };
}

const INVALIDATE_FLAGS =
  uapi.IOASID_INVALIDATE_ADDR |
  uapi.IOASID_INVALIDATE_LEAF |
  uapi.IOASID_INVALIDATE_PASID |
  uapi.IOASID_INVALIDATE_COOKIE;

function invalidateCache({ context, process }: IoasidCaller, argument: bigint): number {
  const call = 'IOASID_INVALIDATE_CACHE';
  const { flags, ioasid, pasid, cookie, addr, size } = fetch(call, process, argument, uapi.ioasidInvalidate);
  checkFlags(call, flags, INVALIDATE_FLAGS);
  const what = {
    range: (flags & uapi.IOASID_INVALIDATE_ADDR) === 0 ? null : { address: addr, size },
    leaf: (flags & uapi.IOASID_INVALIDATE_LEAF) !== 0,
    pasid: (flags & uapi.IOASID_INVALIDATE_PASID) === 0 ? null : pasid,
  };
  commands.invalidateCache(context, ioasid, what, (flags & uapi.IOASID_INVALIDATE_COOKIE) === 0 ? null : cookie);
  return 0;
}

function faultEventfd({ context, descriptors }: IoasidCaller, argument: bigint): number {
  setFaultEventfd(context, descriptors, Number(BigInt.asIntN(32, argument)));
  return 0;
}

function getInfo({ context, process }: IoasidCaller, argument: bigint): number {
  const values = fetch('IOASID_GET_INFO', process, argument, uapi.ioasidInfo);
  const info: IoasidInfo = commands.getInfo(context, Number(values.id));
  return storeInfo('IOASID_GET_INFO', process, argument, values, info, info.children, info.reserved);
}

function getDeviceInfo({ context, process }: IoasidCaller, argument: bigint): number {
  const values = fetch('IOMMU_DEVICE_GET_INFO', process, argument, uapi.ioasidInfo);
  const info: IoasidDeviceInfo = commands.getDeviceInfo(context, values.id);
  return storeInfo('IOMMU_DEVICE_GET_INFO', process, argument, values, info, 0, info.permitted);
}

/** @throws {SysError} EFAULT; EMSGSIZE there are more ranges than room, when all else is answered */
function storeInfo(
  call: string,
  process: Process,
  argument: bigint,
  values: StructOf<typeof uapi.ioasidInfo>,
  info: SpaceInfo & Partial<Pick<IoasidDeviceInfo, 'pasids'>>,
  children: number,
  ranges: IoasidInfo['reserved'],
): number {
  const { addressSpace } = process;
  const { type, data } = info.vendor;
  copyToUser(addressSpace, values.vendorUptr, data.subarray(0, values.vendorLen));
  const { size } = uapi.ioasidRange;
  const bytes = new Uint8Array(Math.min(values.numRanges, ranges.length) * size);
  for (let at = 0; at < bytes.length; at += size) uapi.ioasidRange.write(ranges[at / size]!, bytes, at);
  copyToUser(addressSpace, values.rangesUptr, bytes);
  const room = values.numRanges;
  store(process, argument, uapi.ioasidInfo, {
    ...values,
    flags: infoFlags(info),
    pageSizes: info.pageSizes,
    formats: info.formats.reduce((bits, format) => bits | (1 << format), 0),
    maxPasidLog2: info.maxPasidLog2,
    children,
    vendorType: type,
    vendorLen: data.length,
    numRanges: ranges.length,
  });
  if (ranges.length <= room) return 0;
  throw new SysError('EMSGSIZE', call, `${ranges.length} ranges, room for ${room}`);
}

function infoFlags(info: SpaceInfo & Partial<Pick<IoasidDeviceInfo, 'pasids'>>): number {
  const flags: [boolean, number][] = [
    [info.mapping, uapi.IOASID_INFO_MAP_DMA],
    [info.hardwareNesting, uapi.IOASID_INFO_NESTING_HARDWARE],
    [info.softwareNesting, uapi.IOASID_INFO_NESTING_SOFTWARE],
    [info.pasidRouting === 'user-table', uapi.IOASID_INFO_USER_PASID_TABLE],
    [info.enforceSnoop, uapi.IOASID_INFO_ENFORCE_SNOOP],
    [info.pageFaults, uapi.IOASID_INFO_PAGE_FAULTS],
    [(info.pasids ?? null) !== null, uapi.IOASID_INFO_PASID],
    [info.pasids?.delegated ?? false, uapi.IOASID_INFO_PASID_DELEGATED],
    [info.pasids?.cpu ?? false, uapi.IOASID_INFO_PASID_CPU],
    [info.pasids?.cpuTranslated ?? false, uapi.IOASID_INFO_PASID_CPU_VIRT],
  ];
  return flags.reduce((bits, [holds, bit]) => (holds ? bits | bit : bits), 0);
}

type StructOf<S> = S extends Struct<infer F> ? StructValues<F> : never;

/** Reads a structure that says its own size. @throws {SysError} EFAULT; EINVAL it is too short */
function fetch<F extends Fields>(call: string, process: Process, argument: bigint, layout: Struct<F>): StructValues<F> {
  const { addressSpace } = process;
  const argsz = new DataView(copyFromUser(addressSpace, argument, 4).buffer).getUint32(0, true);
  if (argsz < layout.size) throw new SysError('EINVAL', call, `argsz ${argsz} is below ${layout.size}`);
  return layout.read(copyFromUser(addressSpace, argument, layout.size));
}

function store<F extends Fields>(process: Process, argument: bigint, layout: Struct<F>, values: StructValues<F>): void {
  const bytes = new Uint8Array(layout.size);
  layout.write(values, bytes);
  copyToUser(process.addressSpace, argument, bytes);
}

function checkFlags(call: string, flags: number, known: number): void {
  if ((flags & ~known) !== 0) throw new SysError('EINVAL', call, `flags ${hex(flags >>> 0)}`);
}
