export {
  clearUser,
  copyFromUser,
  copyToUser,
  type ErrnoCode,
  type Fields,
  type FieldType,
  isUserZero,
  type Struct,
  type StructValues,
  SysError,
  struct,
} from '@iommukit/iommu-core';
export { Access, type AccessOps, type Copier, createAccess } from './access.ts';
export { BoundDevice, type UserPasids } from './bound-device.ts';
export { IommufdClient } from './clients/iommufd-client.ts';
export type {
  CopyRequest,
  DirtyRequest,
  FaultRecord,
  HwptRequest,
  InvalidateRequest,
  MapAccess,
  MapFileRequest,
  MapRequest,
  NestedRequest,
  PagingRequest,
  VtdInvalidation,
  VtdStage1Request,
} from './clients/requests.ts';
export { Type1Client, type Type1MapRequest } from './clients/type1-client.ts';
export { type HwQueueRequest, type VeventRecord, ViommuClient, type ViommuRequest } from './clients/viommu-client.ts';
export { IommufdContext, type IommufdOptions } from './context.ts';
export { bindDevice, IommufdDevice } from './device.ts';
export { type ContextDump, dumpContext, formatDump, type ObjectDump, type PagesDump } from './dump.ts';
export { DeviceNodes } from './files/device-nodes.ts';
export { DmaBuf, type DmaBufOptions } from './files/dma-buf.ts';
export { EventFd } from './files/eventfd.ts';
export { FdTable } from './files/fd-table.ts';
export {
  type Caller,
  type Descriptors,
  type File,
  type Mapping,
  POLLERR,
  POLLHUP,
  POLLIN,
  POLLOUT,
} from './files/file.ts';
export { MemFd } from './files/memfd.ts';
export { type MmapOptions, SystemCalls, type SystemCallsOptions } from './files/system-calls.ts';
export { allocPaging, HwptPaging } from './hwpt.ts';
export type { HwInfoResult } from './hwpt-commands.ts';
export type { Ioas } from './ioas/ioas.ts';
export { type IoasMapOptions, ioasAlloc, ioasIovaRanges, ioasMap, ioasUnmap } from './ioas/ioas-commands.ts';
export type { IovaRange } from './ioas/reserved.ts';
export { type Command, command, type IommufdCaller, type Outcome } from './ioctl/command.ts';
export {
  IommufdFile,
  IommufdNode,
  iommufdContextOf,
  iommufdFileOf,
  registerIommufd,
} from './iommufd-file.ts';
export { bindMediatedDevice, MediatedDevice, type MediatedDma } from './mediated-device.ts';
export type { DetailValue, ObjectDetails, ObjectType } from './object-table.ts';
export type { IommufdEvent } from './trace.ts';
export { type Type1Capability, type Type1Info, type1Capabilities, type1Info } from './type1/info.ts';
export { type1EnsureIoas } from './type1/type1.ts';
export {
  INVALIDATE_COUNT_MAX,
  INVALIDATE_ENTRY_MAX,
  IOMMU_DESTROY,
  IOMMU_FAULT_QUEUE_ALLOC,
  IOMMU_GET_HW_INFO,
  IOMMU_HW_CAP_DIRTY_TRACKING,
  IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED,
  IOMMU_HW_CAP_PCI_PASID_EXEC,
  IOMMU_HW_CAP_PCI_PASID_PRIV,
  IOMMU_HW_INFO_FLAG_INPUT_TYPE,
  IOMMU_HW_INFO_TYPE_INTEL_VTD,
  IOMMU_HW_INFO_TYPE_NONE,
  IOMMU_HWPT_ALLOC,
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
  IOMMU_HWPT_ALLOC_NEST_PARENT,
  IOMMU_HWPT_ALLOC_PASID,
  IOMMU_HWPT_DATA_NONE,
  IOMMU_HWPT_DATA_VTD_S1,
  IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
  IOMMU_HWPT_FAULT_ID_VALID,
  IOMMU_HWPT_GET_DIRTY_BITMAP,
  IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
  IOMMU_HWPT_INVALIDATE,
  IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
  IOMMU_HWPT_SET_DIRTY_TRACKING,
  IOMMU_IOAS_ALLOC,
  IOMMU_IOAS_ALLOW_IOVAS,
  IOMMU_IOAS_CHANGE_PROCESS,
  IOMMU_IOAS_COPY,
  IOMMU_IOAS_IOVA_RANGES,
  IOMMU_IOAS_MAP,
  IOMMU_IOAS_MAP_FILE,
  IOMMU_IOAS_MAP_FIXED_IOVA,
  IOMMU_IOAS_MAP_READABLE,
  IOMMU_IOAS_MAP_WRITEABLE,
  IOMMU_IOAS_UNMAP,
  IOMMU_OPTION,
  IOMMU_OPTION_HUGE_PAGES,
  IOMMU_OPTION_OP_GET,
  IOMMU_OPTION_OP_SET,
  IOMMU_OPTION_RLIMIT_MODE,
  IOMMU_PGFAULT_FLAGS_LAST_PAGE,
  IOMMU_PGFAULT_FLAGS_PASID_VALID,
  IOMMU_PGFAULT_PERM_EXEC,
  IOMMU_PGFAULT_PERM_PRIV,
  IOMMU_PGFAULT_PERM_READ,
  IOMMU_PGFAULT_PERM_WRITE,
  IOMMU_VFIO_IOAS,
  IOMMU_VFIO_IOAS_CLEAR,
  IOMMU_VFIO_IOAS_GET,
  IOMMU_VFIO_IOAS_SET,
  IOMMU_VTD_INV_FLAGS_LEAF,
  IOMMU_VTD_S1_EAFE,
  IOMMU_VTD_S1_SRE,
  IOMMU_VTD_S1_WPE,
  IOMMUFD_PAGE_RESP_INVALID,
  IOMMUFD_PAGE_RESP_SUCCESS,
  iommuDestroy,
  iommuFaultAlloc,
  iommuHwInfo,
  iommuHwInfoVtd,
  iommuHwptAlloc,
  iommuHwptGetDirtyBitmap,
  iommuHwptInvalidate,
  iommuHwptPageResponse,
  iommuHwptPgfault,
  iommuHwptSetDirtyTracking,
  iommuHwptVtdS1,
  iommuHwptVtdS1Invalidate,
  iommuIoasAlloc,
  iommuIoasAllowIovas,
  iommuIoasChangeProcess,
  iommuIoasCopy,
  iommuIoasIovaRanges,
  iommuIoasMap,
  iommuIoasMapFile,
  iommuIoasUnmap,
  iommuIovaRange,
  iommuOption,
  iommuVfioIoas,
} from './uapi/iommufd.ts';
export { IOMMUFD_CMD_BASE } from './uapi/request.ts';
export {
  VFIO_API_VERSION,
  VFIO_CHECK_EXTENSION,
  VFIO_DMA_CC_IOMMU,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_VADDR,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_DMA_UNMAP_FLAG_ALL,
  VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
  VFIO_GET_API_VERSION,
  VFIO_IOMMU_GET_INFO,
  VFIO_IOMMU_INFO_CAPS,
  VFIO_IOMMU_INFO_PGSIZES,
  VFIO_IOMMU_MAP_DMA,
  VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
  VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
  VFIO_IOMMU_UNMAP_DMA,
  VFIO_NOIOMMU_IOMMU,
  VFIO_SET_IOMMU,
  VFIO_TYPE1_IOMMU,
  VFIO_TYPE1_NESTING_IOMMU,
  VFIO_TYPE1v2_IOMMU,
  VFIO_UNMAP_ALL,
  vfioDmaAvail,
  vfioInfoCapHeader,
  vfioIommuType1DmaMap,
  vfioIommuType1DmaUnmap,
  vfioIommuType1Info,
  vfioIovaRange,
  vfioIovaRangeHead,
} from './uapi/type1.ts';
export {
  IOMMU_HW_QUEUE_ALLOC,
  IOMMU_HW_QUEUE_TYPE_DEFAULT,
  IOMMU_VDEVICE_ALLOC,
  IOMMU_VEVENTQ_ALLOC,
  IOMMU_VEVENTQ_FLAG_LOST_EVENTS,
  IOMMU_VEVENTQ_TYPE_DEFAULT,
  IOMMU_VIOMMU_ALLOC,
  IOMMU_VIOMMU_TYPE_DEFAULT,
  iommufdVeventHeader,
  iommuHwQueueAlloc,
  iommuVdeviceAlloc,
  iommuVeventqAlloc,
  iommuViommuAlloc,
  VEVENTQ_DEPTH_MAX,
} from './uapi/viommu.ts';
