/** What the VMM asks of the host kernel to run guest code (Linux: KVM). */

import type { CpuBus, GuestCpu, InterruptSource } from '@iommukit/hw';

export type MemorySlot = {
  /** Guest physical address of the first byte, page-aligned. */
  readonly gpa: number;
  /** Whole pages. */
  readonly bytes: number;
  /** Address of the first byte in the VMM process, page-aligned. */
  readonly hva: bigint;
};

export type Hypervisor = {
  /** Backs guest memory with the process's. @throws {SysError} EINVAL misaligned; EEXIST overlap; EFAULT not the process's memory */
  addSlot(slot: MemorySlot): void;
  /** A virtual CPU over the slots there are. What is neither memory of a slot nor its local state goes to `bus`. */
  createVcpu(bus: CpuBus, interrupts: InterruptSource): GuestCpu;
  /** From now on ENQCMD with `guestPasid` carries `hostPasid`. */
  mapPasid(guestPasid: number, hostPasid: number): void;
  /** From now on ENQCMD with `guestPasid` leaves the guest. */
  unmapPasid(guestPasid: number): void;
};
