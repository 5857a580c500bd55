/** A virtual machine as the kernel sees it: a process, its set of PASIDs, and its memory behind a device's nest parent. */

import { requesterId } from '@iommukit/hw';
import {
  type AddressSpace,
  ALLOC_NEST_PARENT,
  attachGroup,
  type GpasidBindData,
  IOASID_PRIO_LAST,
  IOASID_SET_TYPE_MM,
  type IoasidEvent,
  type IoasidSet,
  type IommuCacheInvalidateInfo,
  type IommuPageResponse,
  type PagingDomain,
  type Process,
  Processes,
} from '../../src/index.ts';
import { iommuCacheInvalidateInfo, iommuGpasidBindData } from '../../src/iommu-uapi/layout.ts';
import { GuestTable, mapPage, pagingDomain } from '../support/domains.ts';
import { Machine, type MachineOptions } from '../support/machine.ts';
import type { TestDevice } from '../support/test-device.ts';

export const GVA = 0x7f12_3456_7000n;
/** Frames of a guest; those from here on are data, and hold a byte of the guest's. */
export const GUEST_FRAMES = 64;
export const FIRST_DATA_GFN = 32;

/** A machine with `count` devices, each in a group of its own. */
export function machineWith(count: number, options: MachineOptions = {}): { machine: Machine; devices: TestDevice[] } {
  const machine = new Machine({
    ...options,
    plug: (host) => {
      for (let bus = 1; bus <= count; bus++) {
        host.plugPort(requesterId(0, bus, 0), bus);
        host.plug(host.testFunction(), requesterId(bus, 0, 0));
      }
    },
  });
  return {
    machine,
    devices: Array.from({ length: count }, (_, index) => machine.add(requesterId(index + 1, 0, 0))),
  };
}

export class Vm {
  readonly machine: Machine;
  readonly process: Process;
  readonly mm: AddressSpace;
  readonly set: IoasidSet;
  /** Host frame of guest frame 0. */
  readonly base: number;
  private nextTable = 1;

  constructor(machine: Machine, processes: Processes = new Processes(machine.kernel), quota = 16) {
    this.machine = machine;
    this.process = processes.spawn();
    this.mm = this.process.addressSpace;
    this.set = machine.core.ioasids.allocSet({ token: this.mm, quota, type: IOASID_SET_TYPE_MM });
    this.base = machine.frames.allocateRun(GUEST_FRAMES)!;
    for (let gfn = FIRST_DATA_GFN; gfn < GUEST_FRAMES; gfn++) this.fill(gfn, gfn);
  }

  /** Every byte of a guest frame. */
  fill(gfn: number, byte: number): void {
    const { base } = this;
    this.machine.memory.bytes.fill(byte, (base + gfn) << 12, (base + gfn + 1) << 12);
  }

  /** Gives the VM a device: DMA without PASID reaches its memory. */
  take(device: TestDevice, flags = ALLOC_NEST_PARENT): PagingDomain {
    const parent = pagingDomain(device, flags);
    for (let gfn = 0; gfn < GUEST_FRAMES; gfn++) mapPage(parent, BigInt(gfn) << 12n, this.base + gfn);
    attachGroup(device.device.group, { domain: parent });
    return parent;
  }

  /** A page table of the guest, with room for four tables; it maps `GVA` to `gfn`. */
  table(gfn?: number): GuestTable {
    const table = new GuestTable(this.machine.memory, this.base, this.nextTable);
    this.nextTable += 8;
    if (gfn !== undefined) table.set(GVA, gfn);
    return table;
  }

  pasid(min = 1, max = 100): number {
    return this.machine.core.ioasids.alloc(this.set, min, max);
  }

  /** What a user of the interface writes into his memory; gives where. */
  store(bytes: Uint8Array): bigint {
    const memory = this.process.memory!;
    const at = memory.map({ length: 4096, protection: 3 });
    memory.write(at, bytes);
    return at;
  }
}

export function bindData(hpasid: number, gpgd: bigint, changes: Partial<GpasidBindData> = {}): GpasidBindData {
  return {
    argsz: iommuGpasidBindData.size,
    version: 1,
    format: 1,
    addrWidth: 48,
    flags: 0n,
    gpgd,
    hpasid: BigInt(hpasid),
    gpasid: 0n,
    padding: 0n,
    vtdFlags: 0n,
    vtdPat: 0,
    vtdEmt: 0,
    ...changes,
  };
}

/** Of all pages of a PASID, unless changed. */
export function invalidateInfo(
  pasid: number,
  changes: Partial<IommuCacheInvalidateInfo> = {},
): IommuCacheInvalidateInfo {
  return {
    argsz: iommuCacheInvalidateInfo.size,
    version: 1,
    cache: 1,
    granularity: 1,
    padding0: 0,
    padding1: 0,
    padding2: 0,
    flags: 1,
    archid: 0,
    pasid: BigInt(pasid),
    addr: 0n,
    granuleSize: 0n,
    nbGranules: 0n,
    ...changes,
  };
}

export function pageResponse(
  pasid: number,
  grpid: number,
  changes: Partial<IommuPageResponse> = {},
): IommuPageResponse {
  return { argsz: 24, version: 1, flags: 1, pasid, grpid, code: 0, ...changes };
}

export function encode<V>(layout: { size: number; write(values: V, bytes: Uint8Array): void }, values: V): Uint8Array {
  const bytes = new Uint8Array(layout.size);
  layout.write(values, bytes);
  return bytes;
}

export const GPASID = 7n;

/** Two devices, a VM that has the first, and a page table with one page that `bind` binds. */
export function bindable(options: MachineOptions = {}) {
  const { machine, devices } = machineWith(2, options);
  const vm = new Vm(machine);
  const [device, second] = devices as [TestDevice, TestDevice];
  const parent = vm.take(device);
  const { guestPasids, ioasids } = machine.core;
  const table = vm.table(40);
  const pasid = vm.pasid();
  const bind = (changes: Partial<GpasidBindData> = {}, on: TestDevice = device): void =>
    guestPasids.bind(on.device, vm.mm, bindData(pasid, table.root, changes));
  return { machine, vm, device, second, parent, guestPasids, ioasids, table, pasid, bind };
}

export function withSpid(gpasid: bigint = GPASID): Partial<GpasidBindData> {
  return { flags: 1n, gpasid };
}

/** How many more watch an address space than when this was called. */
export function watchersOf(mm: AddressSpace): () => number {
  let watchers = 0;
  const { addNotifier, removeNotifier } = mm;
  mm.addNotifier = (notifier) => {
    watchers++;
    addNotifier.call(mm, notifier);
  };
  mm.removeNotifier = (notifier) => {
    watchers--;
    removeNotifier.call(mm, notifier);
  };
  return () => watchers;
}

/** `kind spid` of every event of a set. */
export function eventsOf(vm: Vm): string[] {
  const events: string[] = [];
  vm.machine.core.ioasids.registerNotifier(vm.set, {
    priority: IOASID_PRIO_LAST,
    notify: ({ kind, spid }: IoasidEvent) => events.push(`${kind} ${spid}`),
  });
  return events;
}
