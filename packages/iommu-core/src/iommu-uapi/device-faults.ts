/**
 * Fault reports of a device and the answers to them: one handler for each device, to which every fault comes as a struct
 * iommu_fault (Linux 5.17: iommu_register_device_fault_handler, iommu_report_device_fault and iommu_page_response,
 * drivers/iommu/iommu.c; its VT-d driver reported page requests only).
 *
 * A façade on fault groups, which come from attachments of guest PASIDs, and on a device's unrecoverable faults. Who is
 * to answer what is theirs: the handler's side has a group in hand only until the group has been answered by anybody.
 */

import { NO_PASID, PRG_INVALID_REQUEST, PRG_RESPONSE_FAILURE, PRG_SUCCESS } from '@iommukit/hw';
import type { Device } from '../device.ts';
import { SysError } from '../errno.ts';
import type { FaultGroup, PageFault } from '../page-fault.ts';
import type { UnrecoverableFault, UnrecoverableReason } from '../unrecoverable-fault.ts';
import * as uapi from './layout.ts';

/** A struct iommu_fault: `event` or `prm`, told apart by its type. */
export type DeviceFault =
  | {
      /** IOMMU_FAULT_DMA_UNRECOV. */
      readonly type: 1;
      /** IOMMU_FAULT_REASON_. */
      readonly reason: number;
      /** IOMMU_FAULT_UNRECOV_ bits. */
      readonly flags: number;
      readonly pasid: number;
      /** IOMMU_FAULT_PERM_ bits. */
      readonly perm: number;
      readonly addr: bigint;
    }
  | {
      /** IOMMU_FAULT_PAGE_REQ. */
      readonly type: 2;
      /** IOMMU_FAULT_PAGE_REQUEST_ and IOMMU_FAULT_PAGE_RESPONSE_ bits. */
      readonly flags: number;
      readonly pasid: number;
      readonly grpid: number;
      /** IOMMU_FAULT_PERM_ bits. */
      readonly perm: number;
      readonly addr: bigint;
    };

/**
 * Hears of a fault in kernel work, or inside a call that waits for the device's page requests. It may only note the
 * fact: it makes no call and waits for nothing. It refuses a fault by throwing a SysError: a page request's group is
 * then answered INVALID.
 */
export type DeviceFaultHandler = (fault: DeviceFault) => void;

/** Bytes of struct iommu_fault. */
export function encodeDeviceFault(fault: DeviceFault): Uint8Array {
  const bytes = new Uint8Array(uapi.IOMMU_FAULT_SIZE);
  if (fault.type === uapi.IOMMU_FAULT_DMA_UNRECOV) {
    uapi.iommuFaultEvent.write({ ...fault, padding: 0, fetchAddr: 0n }, bytes);
  } else {
    uapi.iommuFaultPrm.write({ ...fault, padding: 0, privateData0: 0n, privateData1: 0n }, bytes);
  }
  return bytes;
}

type Registration = {
  readonly handler: DeviceFaultHandler;
  /** Groups reported, some of which others may have answered. */
  groups: FaultGroup[];
};

export class DeviceFaults {
  private readonly registrations = new Map<Device, Registration>();

  /** Has `handler` told of the faults of `device`. @throws {SysError} EBUSY the device has a handler; ENOMEM */
  register(device: Device, handler: DeviceFaultHandler): void {
    const call = 'iommu_register_device_fault_handler';
    if (this.registrations.has(device)) throw new SysError('EBUSY', call, `${device.name} has a handler`);
    device.kernel.checkpoint('fault_param');
    this.registrations.set(device, { handler, groups: [] });
    device.onUnrecoverableFault = (fault) => this.reportUnrecoverable(device, fault);
  }

  /** Takes the handler away, if there is one. @throws {SysError} EBUSY page requests wait for an answer */
  unregister(device: Device): void {
    const pending = this.pending(device);
    if (pending > 0) {
      const call = 'iommu_unregister_device_fault_handler';
      throw new SysError('EBUSY', call, `${pending} page requests of ${device.name} wait for an answer`);
    }
    this.release(device);
  }

  /** The device is going away: its handler goes, pending or not. Never fails. */
  release(device: Device): void {
    if (this.registrations.delete(device)) device.onUnrecoverableFault = null;
  }

  /** Page request groups of `device` that its handler has been told of and nobody has answered. */
  pending(device: Device): number {
    return this.outstanding(device).length;
  }

  /**
   * Reports a group, request by request, and keeps it for `pageResponse`: a fault handler of domains. Without a
   * handler, or when that refuses one of the requests, the group is answered INVALID.
   */
  readonly deliver = (group: FaultGroup): void => {
    const registration = this.registrations.get(group.device);
    if (registration === undefined) {
      group.respond(PRG_INVALID_REQUEST);
      return;
    }
    registration.groups = [...this.outstanding(group.device), group];
    try {
      for (const fault of group.faults) registration.handler(pageRequest(fault));
    } catch (error) {
      group.respond(PRG_INVALID_REQUEST);
      if (!(error instanceof SysError)) throw error;
    }
  };

  /**
   * Answers the group that `response` names by index and PASID, which is all that tells it from earlier ones: a device
   * uses an index again once the group is answered. What is refused answers nothing.
   * @throws {SysError} ENODEV the device's page requests cannot be taken, so there is nothing to answer with; EINVAL no
   * handler, an unknown version, flag or code, or no such group waits
   */
  pageResponse(device: Device, response: uapi.IommuPageResponse): void {
    const call = 'iommu_page_response';
    if (!device.capable('page-requests')) {
      throw new SysError('ENODEV', call, `no page requests are taken from ${device.name}`);
    }
    if (!this.registrations.has(device)) throw new SysError('EINVAL', call, `${device.name} has no handler`);
    const { version, flags, pasid, grpid, code } = response;
    if (version !== uapi.IOMMU_PAGE_RESP_VERSION_1 || (flags & ~uapi.IOMMU_PAGE_RESP_PASID_VALID) !== 0) {
      throw new SysError('EINVAL', call, `version ${version}, flags 0x${flags.toString(16)}`);
    }
    // Linux passed any code on to the hardware, and its FAILURE, 2, as it was; the bus has 15 for that.
    const answer = ANSWERS[code];
    if (answer === undefined) throw new SysError('EINVAL', call, `code ${code}`);
    const given = (flags & uapi.IOMMU_PAGE_RESP_PASID_VALID) === 0 ? null : pasid;
    const group = this.outstanding(device).find(({ faults }) => {
      const last = faults[faults.length - 1]!;
      return last.group === grpid && (last.pasid === NO_PASID || last.pasid === given);
    });
    if (group === undefined) {
      throw new SysError('EINVAL', call, `group ${grpid} of PASID ${given} of ${device.name} does not wait`);
    }
    group.respond(answer);
  }

  private outstanding(device: Device): FaultGroup[] {
    return this.registrations.get(device)?.groups.filter((group) => group.isPending) ?? [];
  }

  private reportUnrecoverable(device: Device, { pasid, address, access, reason }: UnrecoverableFault): void {
    const hasPasid = pasid !== NO_PASID;
    try {
      this.registrations.get(device)!.handler({
        type: uapi.IOMMU_FAULT_DMA_UNRECOV,
        reason: REASONS[reason],
        flags: uapi.IOMMU_FAULT_UNRECOV_ADDR_VALID | (hasPasid ? uapi.IOMMU_FAULT_UNRECOV_PASID_VALID : 0),
        pasid: hasPasid ? pasid : 0,
        perm: access,
        addr: address,
      });
    } catch (error) {
      // There is nobody to tell that the report is lost.
      if (!(error instanceof SysError)) throw error;
    }
  }
}

/** Of a single request. Permission bits are ACCESS_ bits. */
function pageRequest({ pasid, group, access, address, last }: PageFault): DeviceFault {
  const pasidFlags = uapi.IOMMU_FAULT_PAGE_REQUEST_PASID_VALID | uapi.IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID;
  return {
    type: uapi.IOMMU_FAULT_PAGE_REQ,
    flags: (pasid === NO_PASID ? 0 : pasidFlags) | (last ? uapi.IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE : 0),
    pasid: pasid === NO_PASID ? 0 : pasid,
    grpid: group,
    perm: access,
    addr: address,
  };
}

/** PRG_ codes by IOMMU_PAGE_RESP_ code. */
const ANSWERS: readonly number[] = [PRG_SUCCESS, PRG_INVALID_REQUEST, PRG_RESPONSE_FAILURE];

const REASONS: Readonly<Record<UnrecoverableReason, number>> = {
  unknown: uapi.IOMMU_FAULT_REASON_UNKNOWN,
  'pasid-fetch': uapi.IOMMU_FAULT_REASON_PASID_FETCH,
  'bad-pasid-entry': uapi.IOMMU_FAULT_REASON_BAD_PASID_ENTRY,
  'pasid-invalid': uapi.IOMMU_FAULT_REASON_PASID_INVALID,
  'walk-abort': uapi.IOMMU_FAULT_REASON_WALK_EABT,
  'not-translated': uapi.IOMMU_FAULT_REASON_PTE_FETCH,
  permission: uapi.IOMMU_FAULT_REASON_PERMISSION,
  'out-of-range': uapi.IOMMU_FAULT_REASON_OOR_ADDRESS,
};
