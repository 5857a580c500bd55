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

/** The VM's table of PASIDs for ENQCMD. */
export type PasidTable = {
  /**
   * From now on ENQCMD with `guestPasid` carries `hostPasid`. `authority` is a descriptor of the file by which the device
   * was given that PASID: its VFIO device, or the /dev/ioasid that it is bound to.
   * @throws {SysError} EBADF; EINVAL the file has no device; EPERM it does not give the PASID
   */
  mapPasid(guestPasid: number, hostPasid: number, authority: number): void;
  /** From now on ENQCMD with `guestPasid` leaves the guest. */
  unmapPasid(guestPasid: number): void;
  /**
   * From now on the table follows the PASIDs of the process's set: one that is bound under a guest PASID is put in,
   * and taken out when it is unbound or freed. `authority` is a descriptor of the process's /dev/ioasid.
   * @throws {SysError} EBADF; EBADFD the file allocates no PASIDs; EPERM it does for another process; EBUSY the set has
   * PASIDs already; ENOMEM
   */
  followPasids(authority: number): void;
};

export type Hypervisor = PasidTable & {
  /** Backs guest memory with the process's. @throws {SysError} EINVAL misaligned; EEXIST overlap; EFAULT not the process's memory */
  addSlot(slot: MemorySlot): void;
  /** A virtual CPU over the slots there are. What is neither memory of a slot nor its local state goes to `bus`. */
  createVcpu(bus: CpuBus, interrupts: InterruptSource): GuestCpu;
};
