export {
  IOMMU_SVA_VTD_GPASID_EAFE,
  IOMMU_SVA_VTD_GPASID_SRE,
  IOMMU_SVA_VTD_GPASID_WPE,
} from '@iommukit/iommu-core';
export { type IrqTarget, type PasidOption, VfioDeviceClient } from './client.ts';
export {
  type ContainerMapRequest,
  type GuestInvalidation,
  type GuestPasidRequest,
  VfioContainerClient,
} from './container/client.ts';
export type { ContainerInfo, NestingInfo } from './container/container-info.ts';
export type { DmaFault } from './container/dma-faults.ts';
export { DMA_FAULT_RING_LENGTH } from './container/fault-ring.ts';
export type { NestingCore } from './container/guest-tables.ts';
export { type BindRequest, VfioDeviceFile } from './device-file.ts';
export type {
  DeviceInfo,
  DeviceInterrupts,
  DeviceUser,
  IrqData,
  IrqInfo,
  IrqRequest,
  RegionInfo,
} from './device-user.ts';
export type { DmaBinding } from './dma-binding.ts';
export { VfioGroupClient } from './group/client.ts';
export type { VfioGroup } from './group/group.ts';
export type { InfoCapability } from './info-capability.ts';
export { Mdev, type MdevBackend, type MdevParent, type MdevType } from './mdev/mdev.ts';
export { MdevBus, type MdevBusOptions } from './mdev/mdev-bus.ts';
export { MdevDma, type MdevDmaOptions } from './mdev/mdev-dma.ts';
export { TestFunctionParent, type TestFunctionParentOptions } from './mdev/test-function-parent.ts';
export type { IommufdBinding, OfferedDevice } from './offered-device.ts';
export type { BarRange } from './pci/bar-region.ts';
export type { BarAccess, MsixTableAccess, PciUser } from './pci/pci-user.ts';
export {
  VFIO_API_VERSION,
  VFIO_CHECK_EXTENSION,
  VFIO_DMA_CC_IOMMU,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_DMA_UNMAP_FLAG_ALL,
  VFIO_GET_API_VERSION,
  VFIO_GROUP_FLAGS_CONTAINER_SET,
  VFIO_GROUP_FLAGS_VIABLE,
  VFIO_GROUP_GET_DEVICE_FD,
  VFIO_GROUP_GET_STATUS,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_GROUP_UNSET_CONTAINER,
  VFIO_IOMMU_GET_INFO,
  VFIO_IOMMU_INFO_CAPS,
  VFIO_IOMMU_INFO_PGSIZES,
  VFIO_IOMMU_MAP_DMA,
  VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
  VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
  VFIO_IOMMU_UNMAP_DMA,
  VFIO_SET_IOMMU,
  VFIO_TYPE1_IOMMU,
  VFIO_TYPE1_NESTING_IOMMU,
  VFIO_TYPE1v2_IOMMU,
  VFIO_UNMAP_ALL,
  vfioDmaAvail,
  vfioGroupStatus,
  vfioIommuType1DmaMap,
  vfioIommuType1DmaUnmap,
  vfioIommuType1Info,
  vfioIovaRange,
  vfioIovaRangeHead,
} from './uapi/container.ts';
export {
  IOASID_ATTACH_USER_PASID,
  VFIO_ATTACH_IOASID,
  VFIO_BIND_IOASID_FD,
  VFIO_BIND_IOASID_FLAG_TOKEN,
  VFIO_DETACH_IOASID,
  VFIO_DEVICE_ALLOW_IOASID,
  VFIO_DEVICE_DISALLOW_IOASID,
  VFIO_UNBIND_IOASID_FD,
  vfioIoasidAllow,
  vfioIoasidAttach,
  vfioIoasidBind,
} from './uapi/ioasid.ts';
export {
  IOMMU_NESTING_FEAT_BIND_PGTBL,
  IOMMU_NESTING_FEAT_CACHE_INVLD,
  IOMMU_NESTING_FEAT_SYSWIDE_PASID,
  iommuNestingInfo,
  VFIO_DEVICE_PAGE_RESPONSE,
  VFIO_IOMMU_BIND_GPASID,
  VFIO_IOMMU_CACHE_INVALIDATE,
  VFIO_IOMMU_TYPE1_INFO_CAP_NESTING,
  VFIO_IOMMU_UNBIND_GPASID,
  VFIO_IRQ_SUBTYPE_DMA_FAULT,
  VFIO_IRQ_TYPE_NESTED,
  VFIO_REGION_INFO_CAP_DMA_FAULT,
  VFIO_REGION_SUBTYPE_NESTED_DMA_FAULT,
  VFIO_REGION_TYPE_NESTED,
  vfioIommuNestingHead,
  vfioRegionDmaFault,
  vfioRegionFaultVersion,
} from './uapi/nesting.ts';
export {
  VFIO_DEVICE_ATTACH_IOMMUFD_PT,
  VFIO_DEVICE_ATTACH_PASID,
  VFIO_DEVICE_BIND_FLAG_TOKEN,
  VFIO_DEVICE_BIND_IOMMUFD,
  VFIO_DEVICE_DETACH_IOMMUFD_PT,
  VFIO_DEVICE_DETACH_PASID,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_RESET,
  VFIO_DEVICE_SET_IRQS,
  VFIO_IRQ_INFO_AUTOMASKED,
  VFIO_IRQ_INFO_CAP_TYPE,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_INFO_FLAG_CAPS,
  VFIO_IRQ_INFO_MASKABLE,
  VFIO_IRQ_INFO_NORESIZE,
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_BAR0_REGION_INDEX,
  VFIO_PCI_BAR5_REGION_INDEX,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_ERR_IRQ_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_NUM_REGIONS,
  VFIO_PCI_OFFSET_SHIFT,
  VFIO_PCI_REQ_IRQ_INDEX,
  VFIO_PCI_ROM_REGION_INDEX,
  VFIO_PCI_VGA_REGION_INDEX,
  VFIO_REGION_INFO_CAP_MSIX_MAPPABLE,
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_CAP_TYPE,
  VFIO_REGION_INFO_FLAG_CAPS,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
  vfioDeviceAttach,
  vfioDeviceBind,
  vfioDeviceDetach,
  vfioDeviceInfo,
  vfioInfoCapHeader,
  vfioIrqInfo,
  vfioIrqInfoCaps,
  vfioIrqSet,
  vfioRegionInfo,
  vfioRegionSparseMmap,
  vfioRegionSparseMmapArea,
} from './uapi/vfio.ts';
export { Vfio, VfioDevice, type VfioDeviceOptions, type VfioOptions } from './vfio-device.ts';
