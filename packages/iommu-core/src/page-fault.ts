/**
 * Delivery of page requests from drivers to the owners of attachments (Linux: drivers/iommu/io-pgfault.c).
 *
 * A driver reports requests one at a time. They wait until the last of their group, then the group goes to the fault
 * handler of the domain it hit, and is answered exactly once: by the handler's side, or by the core when there is no
 * handler, when it fails, or when the device or the attachment goes away.
 */

import { NO_PASID, PRG_INVALID_REQUEST, PRG_RESPONSE_FAILURE } from '@iommukit/hw';
import type { AttachHandle } from './attach-handle.ts';
import type { Device } from './device.ts';
import { SysError } from './errno.ts';

/** One page request. */
export type PageFault = {
  /** NO_PASID or a PASID. */
  readonly pasid: number;
  /** ACCESS_ bits. */
  readonly access: number;
  /** Page request group index. */
  readonly group: number;
  /** Last of its group. */
  readonly last: boolean;
  /** Page-aligned I/O virtual address. */
  readonly address: bigint;
};

/** All requests of one page request group, in order of arrival; the last is the one that closed the group. */
export class FaultGroup {
  readonly device: Device;
  /** The attachment that the requests hit. */
  readonly handle: AttachHandle;
  readonly faults: readonly PageFault[];
  private readonly queue: FaultGroups;

  constructor(device: Device, handle: AttachHandle, faults: readonly PageFault[], queue: FaultGroups) {
    this.device = device;
    this.handle = handle;
    this.faults = faults;
    this.queue = queue;
    queue.pending.add(this);
  }

  /** True until somebody has answered. */
  get isPending(): boolean {
    return this.queue.pending.has(this);
  }

  /** Answers the group with a PRG_ code. False, and nothing happens, when it has been answered before. */
  respond(code: number): boolean {
    const { pending, answering } = this.queue;
    if (!pending.delete(this)) return false;
    const last = this.faults[this.faults.length - 1]!;
    answering.add(this);
    try {
      this.device.driver.pageResponse(this.device, last, code);
    } finally {
      answering.delete(this);
    }
    return true;
  }
}

/** Groups of one device: delivered and not answered, and those whose answer is on its way to the hardware. */
type FaultGroups = { readonly pending: Set<FaultGroup>; readonly answering: Set<FaultGroup> };

/** Page faults of one device whose driver takes page requests (Linux: struct iommu_fault_param). */
export class FaultReports {
  private readonly device: Device;
  private partial: PageFault[] = [];
  private readonly groups: FaultGroups = { pending: new Set(), answering: new Set() };

  constructor(device: Device) {
    this.device = device;
  }

  /** Groups delivered and not yet answered. */
  get pendingGroups(): number {
    return this.groups.pending.size;
  }

  /** Requests whose group has not been closed. */
  get partialFaults(): number {
    return this.partial.length;
  }

  /** True while a request with `pasid` waits for the rest of its group, or its group for an answer to reach the hardware. */
  names(pasid: number): boolean {
    const waits = (fault: PageFault): boolean => fault.pasid === pasid;
    const { pending, answering } = this.groups;
    return this.partial.some(waits) || [...pending, ...answering].some(({ faults }) => faults.some(waits));
  }

  /**
   * Takes one page request from the driver. A group that nobody handles is answered INVALID when its last request
   * comes; a device has nothing to do with an answer before.
   * @throws {SysError} EINVAL when no attachment with a fault handler is behind the request; ENOMEM when a request
   * that is not the last cannot be kept
   */
  report(fault: PageFault): void {
    const handle = this.findHandle(fault.pasid);
    const handler = handle?.domain.faultHandler ?? null;
    if (handle === null || handler === null) {
      this.takePartial(fault.group);
      if (fault.last) this.device.driver.pageResponse(this.device, fault, PRG_INVALID_REQUEST);
      throw new SysError('EINVAL', 'iommu_report_device_fault', `nobody handles faults of PASID ${fault.pasid}`);
    }
    const { kernel } = this.device;
    if (!fault.last) {
      kernel.checkpoint('iopf_partial');
      this.partial.push(fault);
      return;
    }
    const faults = this.takePartial(fault.group);
    faults.push(fault);
    if (kernel.failpoints.shouldFail('iopf_group')) {
      this.device.driver.pageResponse(this.device, fault, PRG_RESPONSE_FAILURE);
      return;
    }
    const group = new FaultGroup(this.device, handle, faults, this.groups);
    try {
      handler(group);
    } catch (error) {
      group.respond(PRG_RESPONSE_FAILURE);
      if (!(error instanceof SysError)) throw error;
    }
  }

  /** Forgets requests whose group was never closed: after the hardware lost some (queue overflow). */
  discardPartial(): void {
    this.partial = [];
  }

  /**
   * The attachment `handle` at `pasid` (NO_PASID or a PASID) is gone: every group of it that is still pending is
   * answered INVALID, and requests of groups never closed are forgotten.
   */
  dismiss(handle: AttachHandle, pasid: number): void {
    this.partial = this.partial.filter((fault) => fault.pasid !== pasid);
    for (const group of this.groups.pending) if (group.handle === handle) group.respond(PRG_INVALID_REQUEST);
  }

  /** Drops partial groups and answers everything pending INVALID: the device takes no more page requests. */
  close(): void {
    this.discardPartial();
    for (const group of this.groups.pending) group.respond(PRG_INVALID_REQUEST);
  }

  /** Earlier requests of a group, in order; the PASID is not compared, as a group index is the device's. */
  private takePartial(group: number): PageFault[] {
    const taken = this.partial.filter((fault) => fault.group === group);
    this.partial = this.partial.filter((fault) => fault.group !== group);
    return taken;
  }

  /**
   * The attachment that a request with `pasid` hits: the PASID's own, else one that takes all PASIDs. That is also a
   * nested table without PASID where the user's memory has the PASID table.
   */
  private findHandle(pasid: number): AttachHandle | null {
    const { group } = this.device;
    const { ridHandle, ridScope } = group;
    if (pasid === NO_PASID) return ridHandle;
    const own = group.pasidHandles.get(pasid);
    if (own !== undefined) return own;
    const isUsers = ridHandle?.domain.kind === 'nested' && this.device.capable('user-pasid-table');
    return ridScope === 'all-pasids' || isUsers ? ridHandle : null;
  }
}
