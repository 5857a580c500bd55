export { attachGroup, detachGroup, type RidScope, replaceGroup } from './attach.ts';
export type { AttachHandle } from './attach-handle.ts';
export { authorizePasid, deauthorizePasid, routePasid, unroutePasid } from './authorization.ts';
export { Device } from './device.ts';
export { claimDmaOwner, releaseDmaOwner, unuseDefaultDomain, useDefaultDomain } from './dma-ownership.ts';
export {
  type DirtyTracking,
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
export { GlobalPasids, type PasidRange, type PasidReferrer } from './global-pasids.ts';
export { IommuGroup } from './group.ts';
export { Host, type HostOptions } from './host.ts';
export type { FaultRecord } from './intel/fault-log.ts';
export { IntelIommu } from './intel/intel-iommu.ts';
export type { IntelUnitOptions } from './intel/unit.ts';
export { ApicInterrupts, type ProcessorApic } from './interrupts.ts';
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
  type UserData,
} from './iommu-driver.ts';
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
export { MemoryFile } from './process/memory-file.ts';
export { PageCounts } from './process/page-counts.ts';
export { Process, Processes, type ProcessOptions } from './process/process.ts';
export { type MapOptions, ProcessMemory } from './process/process-memory.ts';
export type { Backing, BackingMapper, Region } from './process/region.ts';
export { resetDevice } from './reset-recovery.ts';
export { type Fields, type FieldType, type Struct, type StructValues, struct } from './struct.ts';
export { Sva, type SvaHandle } from './sva.ts';
export type { IommuEvent } from './trace.ts';
export { clearUser, copyFromUser, copyToUser, isUserZero } from './user-memory.ts';
