/**
 * Configuration space registers that the kernel uses (PCI Express Base Specification 6.0, chapter 7; section 9.3 for
 * SR-IOV). Offsets of a capability's registers are relative to the capability.
 */

export const VENDOR_ID = 0x00;
export const DEVICE_ID = 0x02;
export const COMMAND = 0x04;
export const STATUS = 0x06;
export const CLASS_REVISION = 0x08;
export const HEADER_TYPE = 0x0e;
export const BAR0 = 0x10;
export const PRIMARY_BUS = 0x18;
export const SECONDARY_BUS = 0x19;
export const SUBORDINATE_BUS = 0x1a;
export const CAPABILITY_POINTER = 0x34;
export const EXTENDED_CAPABILITIES = 0x100;

export const COMMAND_MEMORY = 0x2;
export const COMMAND_BUS_MASTER = 0x4;
export const STATUS_CAPABILITIES = 0x10;
export const HEADER_TYPE_BRIDGE = 1;
export const HEADER_TYPE_MULTIFUNCTION = 0x80;

export const BAR_IO = 0x1;
export const BAR_TYPE_64 = 0x4;
export const BAR_TYPE_MASK = 0x6;
export const BAR_PREFETCHABLE = 0x8;

export const CAP_EXPRESS = 0x10;
export const CAP_MSIX = 0x11;
export const EXT_CAP_ACS = 0x0d;
export const EXT_CAP_ATS = 0x0f;
export const EXT_CAP_SRIOV = 0x10;
export const EXT_CAP_PRI = 0x13;
export const EXT_CAP_PASID = 0x1b;
export const EXT_CAP_DVSEC = 0x23;

export const EXPRESS_CAPABILITIES = 0x02;
export const EXPRESS_DEVICE_CAPABILITIES = 0x04;
export const EXPRESS_DEVICE_CONTROL = 0x08;
export const EXPRESS_FLR_CAPABLE = 0x10000000;
export const EXPRESS_INITIATE_FLR = 0x8000;
/** Value of the device/port type field, bits 7..4 of EXPRESS_CAPABILITIES. */
export const EXPRESS_TYPE_UPSTREAM = 5;

export const MSIX_CONTROL = 0x02;
export const MSIX_TABLE = 0x04;
export const MSIX_PENDING = 0x08;
export const MSIX_ENABLE = 0x8000;
export const MSIX_FUNCTION_MASK = 0x4000;
export const MSIX_SIZE_MASK = 0x7ff;
export const MSIX_ENTRY_BYTES = 16;

export const ACS_CONTROL = 0x06;
/** Source validation, request redirect, completion redirect, upstream forwarding: what isolates (Linux: REQ_ACS_FLAGS). */
export const ACS_ISOLATING = 0x1d;

export const ATS_CAPABILITY = 0x04;
export const ATS_CONTROL = 0x06;
export const ATS_ENABLE = 0x8000;

export const PRI_CONTROL = 0x04;
export const PRI_STATUS = 0x06;
export const PRI_CAPACITY = 0x08;
export const PRI_ALLOCATION = 0x0c;
export const PRI_ENABLE = 0x1;
export const PRI_STATUS_STOPPED = 0x100;

export const PASID_CAPABILITY = 0x04;
export const PASID_CONTROL = 0x06;
/** Bits 1 and 2 of both the capability and the control register; bit 0 of the control register enables. */
export const PASID_ENABLE = 0x1;
export const PASID_EXECUTE = 0x2;
export const PASID_PRIVILEGED = 0x4;

/** Vendor and id of a designated vendor-specific capability; those of Intel's Scalable I/O Virtualization. */
export const DVSEC_VENDOR = 0x04;
export const DVSEC_ID = 0x08;
export const VENDOR_INTEL = 0x8086;
export const DVSEC_ID_SIOV = 5;

export const SRIOV_CONTROL = 0x08;
export const SRIOV_TOTAL_VFS = 0x0e;
export const SRIOV_NUM_VFS = 0x10;
export const SRIOV_VF_OFFSET = 0x14;
export const SRIOV_VF_STRIDE = 0x16;
export const SRIOV_VF_DEVICE_ID = 0x1a;
export const SRIOV_VF_BAR0 = 0x24;
export const SRIOV_VF_ENABLE = 0x1;
export const SRIOV_VF_MEMORY = 0x8;
