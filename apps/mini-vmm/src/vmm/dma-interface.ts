/**
 * What the VMM needs of the host for its device's DMA, whichever of the kernel's interfaces gives it: guest memory as
 * the device's second stage, and guest first-stage tables nested on it at guest PASIDs.
 */

import type { SystemCalls } from '@iommukit/iommufd';
import type { VfioDeviceClient } from '@iommukit/vfio';
import type { PasidTable } from './hypervisor.ts';
import type { Stage1Object } from './trace.ts';

/** What of the host's VT-d unit and the device decides what the guest can be shown. */
export type HostUnit = {
  /** Extended capability register. */
  readonly ecap: bigint;
  /** Width of the PASIDs that the device can issue, in bits. */
  readonly pasidBits: number;
};

/** A guest's first-stage page table, as a PASID entry names it. */
export type GuestTable = {
  /** Guest physical address of the root. */
  readonly root: bigint;
  /** Bits of an address: 48 or 57. */
  readonly addressWidth: number;
  readonly supervisorRequests: boolean;
  readonly extendedAccessed: boolean;
  readonly writeProtect: boolean;
};

/** A page request of the device, as the host tells of it. */
export type HostPageRequest = {
  readonly group: number;
  readonly last: boolean;
  /** hw's ACCESS_ bits. */
  readonly access: number;
  readonly address: bigint;
  /** Names the group in its answer. */
  readonly cookie: number;
};

/** A guest's table nested on guest memory. */
export type Stage1 = {
  /** The PASID that ENQCMD sends for the guest's; NO_PASID when there is none. */
  readonly hostPasid: number;
  readonly object: Stage1Object;
  /** `pages` 4 KiB pages from `address`; 2^64 - 1 pages from 0 is everything. @throws {SysError} */
  invalidate(address: bigint, pages: bigint, leaf: boolean): void;
  /** Page requests that have come since the last call, whole groups, whichever PASID they carry. */
  readPageRequests(): HostPageRequest[];
  /** Answers a group. @throws {SysError} EINVAL the host waits for no answer any more */
  respond(cookie: number, success: boolean): void;
  /**
   * Blocks what the table was for, and gives it up: ENQCMD with the guest's PASID leaves the guest, and the host answers
   * what the guest has not. Never fails.
   */
  destroy(): void;
};

export type DmaInterface = {
  /** The device's configuration space, BARs and interrupts. */
  readonly vfio: VfioDeviceClient;
  readonly unit: HostUnit;
  /**
   * Requests without PASID reach guest physical addresses, in place of `old`, which is used up on success; without a
   * moment of neither where the interface can do that. On failure `old` is to be destroyed. @throws {SysError}
   */
  reachMemory(old: Stage1 | null): void;
  /**
   * Requests with a guest PASID, and what ENQCMD sends for it, or with NO_PASID requests without one, reach guest
   * addresses of `table`, in place of `old` as in `reachMemory`. The hypervisor's table has the pair on return.
   * @throws {SysError} EINVAL a table that the host cannot nest; EOPNOTSUPP none can be nested there; and what attaching
   * refuses with
   */
  nest(pasid: number, table: GuestTable, old: Stage1 | null): Stage1;
  /** Blocks requests without PASID. Never fails. */
  block(): void;
  /** Gives everything back. */
  close(): void;
};

/** How a program can get at a device. */
export type DeviceNames = {
  /** The device's own node. */
  readonly path: string;
  /** The node of its group, and its name there. */
  readonly groupPath: string;
  readonly name: string;
};

export type DmaOptions = {
  system: SystemCalls;
  hypervisor: PasidTable;
  device: DeviceNames;
  /** Guest memory, which is at guest physical address 0, in the VMM process. */
  memory: { readonly address: bigint; readonly bytes: number };
};
