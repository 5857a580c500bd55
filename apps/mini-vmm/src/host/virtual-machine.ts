/**
 * The host kernel's part of running a guest (Linux: KVM): guest memory slots over the VMM process's own memory, a
 * virtual CPU, and the VM's PASID translation table.
 *
 * The VM lives as long as its process. Slots hold no pins. A page of a slot is in the CPU's memory map while the process
 * has it mapped; when the process's mapping changes the page leaves the map, and the guest's next access to it asks the
 * process for it again.
 */

import {
  type AccessWidth,
  type CpuBus,
  hex,
  type InterruptSource,
  PAGE_SIZE,
  type PhysicalMemory,
  WasmCpu,
} from '@iommukit/hw';
import { type AddressSpace, PfnRuns, SysError } from '@iommukit/iommu-core';
import type { Hypervisor, MemorySlot } from '../vmm/hypervisor.ts';
import type { VmPasidTable } from './pasid-table.ts';

/** Pages that are asked of the process at a time when a slot is filled. */
const FILL_PAGES = 4096;

export type VirtualMachineOptions = {
  memory: PhysicalMemory;
  /** The VMM process's. */
  addressSpace: AddressSpace;
  table: VmPasidTable;
};

export class VirtualMachine implements Hypervisor {
  readonly table: VmPasidTable;
  private readonly memory: PhysicalMemory;
  private readonly addressSpace: AddressSpace;
  private readonly slots: MemorySlot[] = [];
  private readonly vcpus: WasmCpu[] = [];
  private readonly runs = new PfnRuns();

  constructor({ memory, addressSpace, table }: VirtualMachineOptions) {
    this.memory = memory;
    this.addressSpace = addressSpace;
    this.table = table;
    addressSpace.addNotifier({
      invalidate: (start, last) => this.invalidate(start, last),
      release: () => this.destroy(),
    });
  }

  addSlot(slot: MemorySlot): void {
    const call = 'KVM_SET_USER_MEMORY_REGION';
    if (slot.bytes <= 0 || (slot.gpa | slot.bytes) % PAGE_SIZE !== 0 || slot.hva % BigInt(PAGE_SIZE) !== 0n) {
      throw new SysError('EINVAL', call, `${slot.bytes} bytes at ${hex(slot.gpa)} are not whole pages`);
    }
    if (this.slots.some((other) => slot.gpa < other.gpa + other.bytes && other.gpa < slot.gpa + slot.bytes)) {
      throw new SysError('EEXIST', call, `${slot.bytes} bytes at ${hex(slot.gpa)} overlap another slot`);
    }
    this.fill(slot, 0, slot.bytes / PAGE_SIZE);
    this.slots.push(slot);
  }

  createVcpu(bus: CpuBus, interrupts: InterruptSource): WasmCpu {
    const guestFrames = Math.max(...this.slots.map(({ gpa, bytes }) => (gpa + bytes) / PAGE_SIZE));
    const vcpu = new WasmCpu({ memory: this.memory, bus: this.withSlots(bus), interrupts, guestFrames });
    vcpu.setPasidTable(this.table.entries);
    this.vcpus.push(vcpu);
    for (const slot of this.slots) this.fill(slot, 0, slot.bytes / PAGE_SIZE);
    return vcpu;
  }

  mapPasid(guestPasid: number, hostPasid: number, authority: number): void {
    this.table.mapPasid(guestPasid, hostPasid, authority);
  }

  unmapPasid(guestPasid: number): void {
    this.table.unmapPasid(guestPasid);
  }

  followPasids(authority: number): void {
    this.table.followPasids(authority);
  }

  /** Puts pages [first, first + pages) of a slot into every CPU's memory map. @throws {SysError} EFAULT */
  private fill(slot: MemorySlot, first: number, pages: number): void {
    for (let done = 0; done < pages; ) {
      const count = Math.min(FILL_PAGES, pages - done);
      const at = (first + done) * PAGE_SIZE;
      this.runs.clear();
      const found = this.addressSpace.pin(slot.hva + BigInt(at), count, true, this.runs);
      this.addressSpace.unpin(this.runs, false);
      if (found < count)
        throw new SysError('EFAULT', 'KVM_SET_USER_MEMORY_REGION', `no memory at ${hex(slot.gpa + at)}`);
      let gfn = (slot.gpa + at) / PAGE_SIZE;
      for (let run = 0; run < this.runs.count; run++) {
        const length = this.runs.lengths[run]!;
        const start = this.runs.starts[run]!;
        const pfns = Int32Array.from({ length }, (_, index) => start + index);
        for (const vcpu of this.vcpus) vcpu.mapMemory(gfn, pfns, true);
        gfn += length;
      }
      done += count;
    }
  }

  /** The process is gone, and the VM with it: its CPUs never run again. */
  private destroy(): void {
    for (const vcpu of this.vcpus.splice(0)) vcpu.dispose();
    this.slots.length = 0;
    this.table.release();
  }

  private invalidate(start: bigint, last: bigint): void {
    for (const slot of this.slots) {
      const end = slot.hva + BigInt(slot.bytes) - 1n;
      if (last < slot.hva || start > end) continue;
      const from = start > slot.hva ? Number(start - slot.hva) : 0;
      const to = last < end ? Number(last - slot.hva) : slot.bytes - 1;
      const first = Math.floor(from / PAGE_SIZE);
      const pages = Math.floor(to / PAGE_SIZE) - first + 1;
      for (const vcpu of this.vcpus) vcpu.unmapMemory(slot.gpa / PAGE_SIZE + first, pages);
    }
  }

  /** `bus`, but for addresses in a slot whose page has left the memory map: it comes back, and the access is done there. */
  private withSlots(bus: CpuBus): CpuBus {
    return {
      readMmio: (gpa, width) => {
        const hpa = this.faultIn(gpa);
        return hpa === null ? bus.readMmio(gpa, width) : this.memory.load(hpa, width);
      },
      writeMmio: (gpa, width: AccessWidth, value) => {
        const hpa = this.faultIn(gpa);
        if (hpa === null) bus.writeMmio(gpa, width, value);
        else this.memory.store(hpa, width, value);
      },
      store64: (gpa, data) => {
        const hpa = this.faultIn(gpa);
        if (hpa === null) bus.store64(gpa, data);
        else this.memory.store64(hpa, data);
      },
      enqueue64: (gpa, data) => bus.enqueue64(gpa, data),
      readPort: (port, width) => bus.readPort(port, width),
      writePort: (port, width, value) => bus.writePort(port, width, value),
    };
  }

  /** Host physical address behind `gpa` when it lies in a slot and the process still has memory there; else null. */
  private faultIn(gpa: bigint): bigint | null {
    const slot = this.slots.find(({ gpa: first, bytes }) => gpa >= BigInt(first) && gpa < BigInt(first + bytes));
    if (slot === undefined) return null;
    const page = Math.floor((Number(gpa) - slot.gpa) / PAGE_SIZE);
    try {
      this.fill(slot, page, 1);
    } catch (error) {
      if (error instanceof SysError) return null;
      throw error;
    }
    return BigInt(this.runs.at(0)) * BigInt(PAGE_SIZE) + (gpa % BigInt(PAGE_SIZE));
  }
}
