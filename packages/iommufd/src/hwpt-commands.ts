/** The commands on devices and hardware page tables: HWPT_ALLOC, HWPT_INVALIDATE and GET_HW_INFO. */

import { hex } from '@iommukit/hw';
import { type InvalidateResult, SysError, type UserArray, type UserData } from '@iommukit/iommu-core';
import { BoundDevice } from './bound-device.ts';
import type { IommufdContext } from './context.ts';
import { FaultQueue } from './fault-queue.ts';
import { allocNested, allocNestedOnViommu, allocPaging, type Hwpt, HwptNested, HwptPaging } from './hwpt.ts';
import { Ioas } from './ioas/ioas.ts';
import { IommufdObject } from './object-table.ts';
import {
  INVALIDATE_COUNT_MAX,
  INVALIDATE_ENTRY_MAX,
  IOMMU_HW_CAP_DIRTY_TRACKING,
  IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED,
  IOMMU_HW_INFO_FLAG_INPUT_TYPE,
  IOMMU_HW_INFO_TYPE_NONE,
  IOMMU_HWPT_DATA_NONE,
  IOMMU_HWPT_FAULT_ID_VALID,
} from './uapi/iommufd.ts';
import { Viommu } from './viommu.ts';

export type HwptAllocOptions = {
  /** IOMMU_HWPT_ alloc bits. */
  flags: number;
  deviceId: number;
  /** An IOAS for a paging table, a nest parent or a vIOMMU for a nested one. */
  ptId: number;
  data: UserData;
  /** Used with IOMMU_HWPT_FAULT_ID_VALID only. */
  faultId: number;
};

/**
 * @throws {SysError} EINVAL data type and length disagree, no object `ptId` or of another type, and more; ENOENT no
 * device, no fault queue; EOPNOTSUPP flags or data type; and what filling and the driver throw
 */
export function hwptAlloc(context: IommufdContext, options: HwptAllocOptions): Hwpt {
  const call = 'IOMMU_HWPT_ALLOC';
  const { flags, data, ptId } = options;
  if ((data.type === IOMMU_HWPT_DATA_NONE) !== (data.length === 0)) {
    throw new SysError('EINVAL', call, `${data.length} bytes of data of type ${data.type}`);
  }
  const { objects } = context;
  const { device } = objects.get(options.deviceId, BoundDevice);
  const table = findTable(context, ptId, call);
  let hwpt: Hwpt;
  if (table instanceof Ioas) hwpt = allocPaging(context, table, device, flags, data);
  else if (table instanceof HwptPaging) hwpt = allocNested(context, table, device, flags, data);
  else if (table instanceof Viommu) hwpt = allocNestedOnViommu(context, table, device, flags, data);
  else throw new SysError('EINVAL', call, `a ${table.type} carries no page table`);
  if ((flags & IOMMU_HWPT_FAULT_ID_VALID) === 0) return hwpt;
  try {
    hwpt.setFaultQueue(objects.get(options.faultId, FaultQueue));
  } catch (error) {
    objects.destroy(hwpt.id);
    throw error;
  }
  return hwpt;
}

/** Entries fetched from the caller at a time. */
const BATCH = 256;

/**
 * Invalidates what hardware cached of a nested table's stage 1, or, by the guest's numbers, of what is in a vIOMMU. No
 * entry is a probe of the data type.
 * @returns entries carried out; when not all, `failure` says why
 */
export function hwptInvalidate(context: IommufdContext, hwptId: number, entries: UserArray): InvalidateResult {
  let result: InvalidateResult;
  try {
    checkEntries(entries);
    result = carryOut(context.objects.get(hwptId, IommufdObject), entries);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    result = { handled: 0, failure: error };
  }
  const { trace, id } = context;
  if (result.handled > 0 && trace.enabled) {
    trace.emit({ name: 'hwpt_invalidate', context: id, hwpt: hwptId, entries: result.handled });
  }
  return result;
}

/** @throws {SysError} EINVAL nothing that is invalidated; EOPNOTSUPP it has no invalidation */
function carryOut(target: IommufdObject, entries: UserArray): InvalidateResult {
  const call = 'IOMMU_HWPT_INVALIDATE';
  if (target instanceof Viommu) {
    if (target.ops.invalidate === null) throw new SysError('EOPNOTSUPP', call, `vIOMMU ${target.id} has none`);
    return target.ops.invalidate(entries);
  }
  if (!(target instanceof HwptNested)) {
    throw new SysError('EINVAL', call, `a ${target.type} is not invalidated by its user`);
  }
  const { domain } = target;
  if (domain.invalidate === null) throw new SysError('EOPNOTSUPP', call, `${target.id} has none of its own`);
  let handled = 0;
  do {
    const { bytes, count, fault } = fetchEntries(entries, handled);
    const entryLength = entries.count === 0 ? 0 : entries.entryLength;
    const result = domain.invalidate(entries.type, bytes, entryLength, count);
    handled += result.handled;
    const failure = result.failure ?? fault;
    if (failure !== null) return { handled, failure };
  } while (handled < entries.count);
  return { handled, failure: null };
}

/** The next batch of entries; when the caller's memory ends inside it, those before and the fault. */
function fetchEntries(
  { entryLength, count: total, read }: UserArray,
  first: number,
): { bytes: Uint8Array; count: number; fault: SysError | null } {
  const wanted = Math.min(BATCH, total - first);
  if (wanted === 0) return { bytes: new Uint8Array(), count: 0, fault: null };
  try {
    return { bytes: read(first, wanted), count: wanted, fault: null };
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    const bytes = new Uint8Array(wanted * entryLength);
    let count = 0;
    for (; count < wanted; count++) {
      try {
        bytes.set(read(first + count, 1), count * entryLength);
      } catch {
        break;
      }
    }
    return { bytes: bytes.subarray(0, count * entryLength), count, fault: error };
  }
}

export type HwInfoResult = {
  type: number;
  data: Uint8Array;
  /** IOMMU_HW_CAP_ bits. */
  capabilities: number;
  /** 0 without PASIDs. */
  maxPasidLog2: number;
};

/** @throws {SysError} EOPNOTSUPP flags, or a type that the device's IOMMU does not have; ENOENT no device; ENOMEM */
export function getHwInfo(context: IommufdContext, deviceId: number, flags: number, inputType: number): HwInfoResult {
  if ((flags & ~IOMMU_HW_INFO_FLAG_INPUT_TYPE) !== 0) {
    throw new SysError('EOPNOTSUPP', 'IOMMU_GET_HW_INFO', `flags ${hex(flags)}`);
  }
  const { device, pasids } = context.objects.get(deviceId, BoundDevice);
  const asked = (flags & IOMMU_HW_INFO_FLAG_INPUT_TYPE) !== 0 ? inputType : IOMMU_HW_INFO_TYPE_NONE;
  const { type, data } = device.hwInfo(asked);
  let capabilities = 0;
  let maxPasidLog2 = 0;
  if (device.capable('dirty-tracking')) capabilities |= IOMMU_HW_CAP_DIRTY_TRACKING;
  if (pasids.count > 0) {
    maxPasidLog2 = Math.floor(Math.log2(pasids.count));
    // Execute and privileged are bits 1 and 2 of the PCI capability and of the interface alike.
    capabilities |= pasids.features;
  }
  if (!device.capable('pci-ats')) capabilities |= IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED;
  return { type, data, capabilities, maxPasidLog2 };
}

/** Unlike elsewhere, an id that names nothing is EINVAL. */
function findTable(context: IommufdContext, id: number, call: string): IommufdObject {
  try {
    return context.objects.get(id, IommufdObject);
  } catch {
    throw new SysError('EINVAL', call, `no object has id ${id}`);
  }
}

function checkEntries({ entryLength, count }: UserArray): void {
  if (count === 0) return;
  if (entryLength === 0 || entryLength > INVALIDATE_ENTRY_MAX || count > INVALIDATE_COUNT_MAX) {
    throw new SysError('EINVAL', 'IOMMU_HWPT_INVALIDATE', `${count} entries of ${entryLength} bytes`);
  }
}
