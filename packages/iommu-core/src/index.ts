export { attachGroup, detachGroup, type RidScope, replaceGroup } from './attach.ts';
export type { AttachHandle } from './attach-handle.ts';
export { authorizePasid, deauthorizePasid, routePasid, unroutePasid } from './authorization.ts';
export { AuxDomains } from './aux-domains.ts';
export { Device, type DmaMaster } from './device.ts';
export { claimDmaOwner, releaseDmaOwner, unuseDefaultDomain, useDefaultDomain } from './dma-ownership.ts';
export {
  type DirtyTracking,
  type DirtyVisitor,
  type Domain,
  type DomainBase,
  type DomainKind,
  type InvalidateResult,
  IOMMU_CACHE,
  IOMMU_MMIO,
  IOMMU_NOEXEC,
  IOMMU_PRIV,
  IOMMU_READ,
  IOMMU_WRITE,
  type NestedDomain,
  type PagingDomain,
  type StaticDomain,
  type SvaDomain,
} from './domain.ts';
export { type ErrnoCode, SysError } from './errno.ts';
export { Failpoints } from './failpoint.ts';
export {
  type DeviceFeature,
  disableFeature,
  enableFeature,
  type FeatureOps,
  type FeatureOptions,
  featureEnabled,
  hasFeature,
} from './features.ts';
export { GlobalPasids, type PasidRange, type PasidReferrer } from './global-pasids.ts';
export { IommuGroup } from './group.ts';
export { Host, type HostOptions } from './host.ts';
export type { FaultRecord } from './intel/fault-log.ts';
export { IntelIommu } from './intel/intel-iommu.ts';
export type { IntelUnitOptions } from './intel/unit.ts';
export { ApicInterrupts, type ProcessorApic } from './interrupts.ts';
export { INVALID_IOASID, type IoasidState } from './ioasid/ioasid.ts';
export { IoasidCgroup } from './ioasid/ioasid-cgroup.ts';
export { IOASID_SET_TYPE_MM, IOASID_SET_TYPE_NULL, IoasidSet } from './ioasid/ioasid-set.ts';
export type { IoasidSetOptions } from './ioasid/ioasid-sets.ts';
export { Ioasids } from './ioasid/ioasids.ts';
export {
  IOASID_PRIO_CPU,
  IOASID_PRIO_DEVICE,
  IOASID_PRIO_IOMMU,
  IOASID_PRIO_LAST,
  type IoasidEvent,
  type IoasidNotifier,
} from './ioasid/notifier-chain.ts';
export { type DefaultDomainKind, IommuCore, type IommuCoreOptions } from './iommu-core.ts';
export {
  ALLOC_DIRTY_TRACKING,
  ALLOC_NEST_PARENT,
  ALLOC_PASID,
  type AttachScope,
  type Capability,
  type HwInfo,
  type IommuDriver,
  type ReservedRegion,
} from './iommu-driver.ts';
export { cacheInvalidate, cacheInvalidateUser } from './iommu-uapi/cache-invalidate.ts';
export {
  type DeviceFault,
  type DeviceFaultHandler,
  DeviceFaults,
  encodeDeviceFault,
} from './iommu-uapi/device-faults.ts';
export { type GuestPasid, GuestPasids } from './iommu-uapi/guest-pasids.ts';
export {
  type GpasidBindData,
  IOMMU_CACHE_INV_TYPE_DEV_IOTLB,
  IOMMU_CACHE_INV_TYPE_IOTLB,
  IOMMU_CACHE_INV_TYPE_NR,
  IOMMU_CACHE_INV_TYPE_PASID,
  IOMMU_CACHE_INVALIDATE_INFO_VERSION_1,
  IOMMU_FAULT_DMA_UNRECOV,
  IOMMU_FAULT_PAGE_REQ,
  IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE,
  IOMMU_FAULT_PAGE_REQUEST_PASID_VALID,
  IOMMU_FAULT_PAGE_REQUEST_PRIV_DATA,
  IOMMU_FAULT_PAGE_RESPONSE_NEEDS_PASID,
  IOMMU_FAULT_PERM_EXEC,
  IOMMU_FAULT_PERM_PRIV,
  IOMMU_FAULT_PERM_READ,
  IOMMU_FAULT_PERM_WRITE,
  IOMMU_FAULT_REASON_ACCESS,
  IOMMU_FAULT_REASON_BAD_PASID_ENTRY,
  IOMMU_FAULT_REASON_OOR_ADDRESS,
  IOMMU_FAULT_REASON_PASID_FETCH,
  IOMMU_FAULT_REASON_PASID_INVALID,
  IOMMU_FAULT_REASON_PERMISSION,
  IOMMU_FAULT_REASON_PTE_FETCH,
  IOMMU_FAULT_REASON_UNKNOWN,
  IOMMU_FAULT_REASON_WALK_EABT,
  IOMMU_FAULT_SIZE,
  IOMMU_FAULT_UNRECOV_ADDR_VALID,
  IOMMU_FAULT_UNRECOV_FETCH_ADDR_VALID,
  IOMMU_FAULT_UNRECOV_PASID_VALID,
  IOMMU_GPASID_BIND_VERSION_1,
  IOMMU_INV_ADDR_FLAGS_ARCHID,
  IOMMU_INV_ADDR_FLAGS_LEAF,
  IOMMU_INV_ADDR_FLAGS_PASID,
  IOMMU_INV_GRANU_ADDR,
  IOMMU_INV_GRANU_DOMAIN,
  IOMMU_INV_GRANU_NR,
  IOMMU_INV_GRANU_PASID,
  IOMMU_INV_PASID_FLAGS_ARCHID,
  IOMMU_INV_PASID_FLAGS_PASID,
  IOMMU_PAGE_RESP_FAILURE,
  IOMMU_PAGE_RESP_INVALID,
  IOMMU_PAGE_RESP_PASID_VALID,
  IOMMU_PAGE_RESP_SUCCESS,
  IOMMU_PAGE_RESP_VERSION_1,
  IOMMU_PASID_FORMAT_INTEL_VTD,
  IOMMU_PASID_FORMAT_LAST,
  IOMMU_SVA_GPASID_VAL,
  IOMMU_SVA_VTD_GPASID_CD,
  IOMMU_SVA_VTD_GPASID_EAFE,
  IOMMU_SVA_VTD_GPASID_EMTE,
  IOMMU_SVA_VTD_GPASID_LAST,
  IOMMU_SVA_VTD_GPASID_MTS_MASK,
  IOMMU_SVA_VTD_GPASID_PCD,
  IOMMU_SVA_VTD_GPASID_PWT,
  IOMMU_SVA_VTD_GPASID_SRE,
  IOMMU_SVA_VTD_GPASID_WPE,
  type IommuCacheInvalidateInfo,
  type IommuPageResponse,
  iommuCacheInvalidateInfo,
  iommuFaultEvent,
  iommuFaultPageRequest,
  iommuFaultPrm,
  iommuFaultUnrecoverable,
  iommuGpasidBindData,
  iommuGpasidBindDataVtd,
  iommuInvAddrInfo,
  iommuInvPasidInfo,
  iommuPageResponse,
} from './iommu-uapi/layout.ts';
export { copyStruct } from './iommu-uapi/user-struct.ts';
export { type InterruptController, Kernel, type KernelOptions, type MsiMessage } from './kernel.ts';
export { FaultGroup, FaultReports, type PageFault } from './page-fault.ts';
export { PageTableEditor } from './page-table/editor.ts';
export { attachDevicePasid, detachDevicePasid, replaceDevicePasid } from './pasid-attach.ts';
export { ConfigSpace } from './pci/config-space.ts';
export { MsixTable } from './pci/msix.ts';
export { type AddressWindow, PciBus, type PciBusOptions } from './pci/pci-bus.ts';
export { PciDevice, type PciResource } from './pci/pci-device.ts';
export { PASID_EXECUTE, PASID_PRIVILEGED } from './pci/registers.ts';
export { PfnRuns } from './pfn-runs.ts';
export type { AddressSpace, AddressSpaceNotifier } from './process/address-space.ts';
export {
  Credentials,
  DEFAULT_MEMLOCK,
  type ProcessCapability,
  type ResourceLimits,
  User,
} from './process/credentials.ts';
export { DeviceMemory } from './process/device-memory.ts';
export type { FilePages } from './process/file-pages.ts';
export { MemoryFile } from './process/memory-file.ts';
export { PageCounts } from './process/page-counts.ts';
export { Process, Processes, type ProcessOptions } from './process/process.ts';
export { type MapOptions, ProcessMemory } from './process/process-memory.ts';
export type { Backing, BackingMapper, Region } from './process/region.ts';
export { resetDevice } from './reset-recovery.ts';
export { type Fields, type FieldType, type Struct, type StructValues, struct } from './struct.ts';
export { Sva, type SvaHandle } from './sva.ts';
export type { IommuEvent } from './trace.ts';
export type { UnrecoverableFault, UnrecoverableReason } from './unrecoverable-fault.ts';
export {
  readUserArray,
  readUserData,
  type UserArray,
  type UserData,
  type UserReply,
  writeUserData,
} from './user-data.ts';
export { clearUser, copyFromUser, copyToUser, isUserZero } from './user-memory.ts';
export type {
  HwQueueCore,
  HwQueueOps,
  VdeviceCore,
  ViommuCore,
  ViommuDriver,
  ViommuOps,
} from './viommu.ts';
