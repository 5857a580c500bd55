/** The fault ring of a device in a container, as its user sees it through the device's file. */

import {
  IOMMU_FAULT_DMA_UNRECOV,
  IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE,
  IOMMU_FAULT_PAGE_REQUEST_PASID_VALID,
  IOMMU_FAULT_UNRECOV_PASID_VALID,
  iommuFaultEvent,
  iommuFaultPrm,
  SysError,
} from '@iommukit/iommu-core';
import type { DeviceInfo, IrqInfo, RegionInfo } from '../device-user.ts';
import type { InfoCapability } from '../info-capability.ts';
import {
  VFIO_IRQ_SUBTYPE_DMA_FAULT,
  VFIO_IRQ_TYPE_NESTED,
  VFIO_REGION_SUBTYPE_NESTED_DMA_FAULT,
  VFIO_REGION_TYPE_NESTED,
  vfioRegionDmaFault,
} from '../uapi/nesting.ts';
import {
  VFIO_IRQ_INFO_CAP_TYPE,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_NUM_REGIONS,
  VFIO_REGION_INFO_CAP_TYPE,
} from '../uapi/vfio.ts';

/** A record of the ring. Accesses are IOMMU_FAULT_PERM_ bits; a PASID of null is none. */
export type DmaFault =
  | {
      readonly kind: 'page-request';
      readonly pasid: number | null;
      readonly group: number;
      /** Last of its group, which can be answered now. */
      readonly last: boolean;
      readonly access: number;
      readonly address: bigint;
    }
  | {
      readonly kind: 'unrecoverable';
      readonly pasid: number | null;
      /** IOMMU_FAULT_REASON_. */
      readonly reason: number;
      readonly access: number;
      readonly address: bigint;
    };

/** What of a device's file the ring is reached by. */
type DeviceAccess = {
  info(): DeviceInfo;
  regionInfo(index: number): RegionInfo;
  irqInfo(index: number): IrqInfo;
  read(region: number, offset: number, into: Uint8Array): number;
  write(region: number, offset: number, from: Uint8Array): number;
};

/** Index of the fault region. @throws {SysError} ENODEV the device has none */
export function dmaFaultRegion(device: DeviceAccess): number {
  for (let index = VFIO_PCI_NUM_REGIONS; index < device.info().regions; index++) {
    const { capabilities = [] } = device.regionInfo(index);
    const type = VFIO_REGION_TYPE_NESTED;
    if (isOfType(capabilities, VFIO_REGION_INFO_CAP_TYPE, type, VFIO_REGION_SUBTYPE_NESTED_DMA_FAULT)) return index;
  }
  throw new SysError('ENODEV', 'vfio_dma_fault', 'the device has no fault region');
}

/** Index of the interrupt that tells of new records. @throws {SysError} ENODEV the device has none */
export function dmaFaultIrq(device: DeviceAccess): number {
  for (let index = VFIO_PCI_NUM_IRQS; index < device.info().irqs; index++) {
    const { capabilities = [] } = device.irqInfo(index);
    if (isOfType(capabilities, VFIO_IRQ_INFO_CAP_TYPE, VFIO_IRQ_TYPE_NESTED, VFIO_IRQ_SUBTYPE_DMA_FAULT)) return index;
  }
  throw new SysError('ENODEV', 'vfio_dma_fault', 'the device has no fault interrupt');
}

/** Takes every record out of the ring, oldest first. @throws {SysError} ENODEV the device has no fault region */
export function readDmaFaults(device: DeviceAccess): DmaFault[] {
  const region = dmaFaultRegion(device);
  const header = new Uint8Array(vfioRegionDmaFault.size);
  device.read(region, 0, header);
  const { tail, entrySize, nbEntries, offset, head } = vfioRegionDmaFault.read(header);
  const faults: DmaFault[] = [];
  const record = new Uint8Array(entrySize);
  for (let at = tail; at !== head; at = (at + 1) % nbEntries) {
    device.read(region, offset + at * entrySize, record);
    faults.push(decode(record));
  }
  if (head !== tail) {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, head, true);
    device.write(region, vfioRegionDmaFault.offset('tail'), bytes);
  }
  return faults;
}

function isOfType(capabilities: readonly InfoCapability[], id: number, type: number, subtype: number): boolean {
  const data = capabilities.find((capability) => capability.id === id)?.data;
  if (data === undefined) return false;
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  return view.getUint32(0, true) === type && view.getUint32(4, true) === subtype;
}

function decode(record: Uint8Array): DmaFault {
  const event = iommuFaultEvent.read(record);
  if (event.type === IOMMU_FAULT_DMA_UNRECOV) {
    const { flags, pasid, reason, perm: access, addr: address } = event;
    const hasPasid = (flags & IOMMU_FAULT_UNRECOV_PASID_VALID) !== 0;
    return { kind: 'unrecoverable', pasid: hasPasid ? pasid : null, reason, access, address };
  }
  const { flags, pasid, grpid: group, perm: access, addr: address } = iommuFaultPrm.read(record);
  const hasPasid = (flags & IOMMU_FAULT_PAGE_REQUEST_PASID_VALID) !== 0;
  const last = (flags & IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE) !== 0;
  return { kind: 'page-request', pasid: hasPasid ? pasid : null, group, last, access, address };
}
