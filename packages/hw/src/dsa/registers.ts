/**
 * Registers of an Intel Data Streaming Accelerator in BAR 0, and the portals in BAR 2 (Intel Data Streaming
 * Accelerator Architecture Specification, order number 341204, revision 1.0; DSA 1.0 devices). Offsets and fields are
 * those of Linux drivers/dma/idxd/registers.h, meanings of CMDSTS errors those that accel-config prints.
 *
 * Fields are masks over one 32-bit half, for fieldGet and fieldPrep. Of a 64-bit register `_LO_` is bits 31..0 and
 * `_HI_` bits 63..32.
 *
 * From reset to a work queue that takes descriptors, as the Linux driver does it:
 *
 *   1. PCI: memory decode and bus master on; PASID, ATS and PRI (allocation > 0) enabled before the device is.
 *   2. CMD = reset device; poll CMDSTS until `active` is 0. Every command is followed by that, or by its interrupt.
 *   3. TABLE_OFFSETS gives the places of GRPCFG, WQCFG and the MSI-X permissions, in units of 256 bytes.
 *   4. WQCFG of the queue: size, threshold (shared), mode, block on fault, priority (not 0), PASID and PASID enable
 *      (dedicated; a shared queue needs PASID enable alone), largest transfer and batch (log2, 0 means one).
 *   5. GRPCFG of one group: bit of the queue, bit of at least one engine, read buffers allowed (not 0) in the flags.
 *   6. CMD = enable device, then CMD = enable work queue, operand: its index. CMDSTS.error must be 0 each time.
 *   7. For completion interrupts: MSI-X entry and its permission (PASID); for unprivileged ones GENCFG.user interrupts,
 *      before step 6. A handle is an MSI-X index; vector 0 is that of commands and errors.
 */

import { genmask } from '../bits.ts';

export const DSA_VENDOR_ID = 0x8086;
export const DSA_DEVICE_ID = 0x0b25;

/** Bytes of BAR 0. */
export const DSA_BAR_SIZE = 0x10000;
/** Bytes of the portals of one work queue in BAR 2: four pages. */
export const DSA_PORTALS_SIZE = 0x4000;

/** Offsets in BAR 0. The tables lie where TABLE_OFFSETS says; these are this model's places. */
export const DSA_REGISTER = {
  version: 0x00,
  gencap: 0x10,
  wqcap: 0x20,
  grpcap: 0x30,
  engcap: 0x38,
  opcap: 0x40,
  tableOffsets: 0x60,
  gencfg: 0x80,
  genctrl: 0x88,
  gensts: 0x90,
  intcause: 0x98,
  cmd: 0xa0,
  cmdsts: 0xa8,
  cmdcap: 0xb0,
  swerror: 0xc0,
  grpcfg: 0x400,
  wqcfg: 0x600,
  msixPermissions: 0x800,
  msixTable: 0x2000,
  msixPending: 0x3000,
} as const;

/** Unit of TABLE_OFFSETS. */
export const DSA_TABLE_UNIT = 0x100;
/** VERSION of a DSA 1.0 device. */
export const DSA_VERSION_1 = 0x100;

export const GENCAP_LO_BLOCK_ON_FAULT: number = 1 << 0;
export const GENCAP_LO_OVERLAPPING_COPY: number = 1 << 1;
export const GENCAP_LO_CACHE_CONTROL: number = 1 << 2;
export const GENCAP_LO_COMMAND_CAPABILITIES: number = 1 << 4;
export const GENCAP_LO_DESTINATION_READBACK: number = 1 << 8;
export const GENCAP_LO_MAX_TRANSFER_LG2: number = genmask(20, 16);
export const GENCAP_LO_MAX_BATCH_LG2: number = genmask(24, 21);
export const GENCAP_LO_CONFIGURABLE: number = 1 << 31;

export const WQCAP_LO_TOTAL_SIZE: number = genmask(15, 0);
export const WQCAP_LO_QUEUES: number = genmask(23, 16);
/** log2 of the bytes of one WQCFG entry, minus 5. */
export const WQCAP_LO_ENTRY_LG2: number = genmask(27, 24);
export const WQCAP_HI_SHARED: number = 1 << 16;
export const WQCAP_HI_DEDICATED: number = 1 << 17;
export const WQCAP_HI_PRIORITY: number = 1 << 19;
export const WQCAP_HI_OCCUPANCY: number = 1 << 20;

export const GRPCAP_LO_GROUPS: number = genmask(7, 0);
export const GRPCAP_LO_READ_BUFFERS: number = genmask(15, 8);
export const GRPCAP_LO_READ_BUFFER_CONTROL: number = 1 << 16;
export const GRPCAP_LO_READ_BUFFER_LIMIT: number = 1 << 17;

export const ENGCAP_LO_ENGINES: number = genmask(7, 0);

/** TABLE_OFFSETS, first register; the interrupt-message storage and the performance monitor are absent (0). */
export const TABLE_OFFSETS_LO_GRPCFG: number = genmask(15, 0);
export const TABLE_OFFSETS_LO_WQCFG: number = genmask(31, 16);
export const TABLE_OFFSETS_HI_MSIX_PERMISSIONS: number = genmask(15, 0);

export const GENCFG_READ_BUFFER_LIMIT: number = genmask(7, 0);
/** Descriptors without privilege may request interrupts. */
export const GENCFG_USER_INTERRUPTS: number = 1 << 12;

export const GENCTRL_SOFTWARE_ERROR: number = 1 << 0;
export const GENCTRL_HALT: number = 1 << 1;

export const GENSTS_STATE: number = genmask(1, 0);
export const GENSTS_RESET_TYPE: number = genmask(3, 2);
/** Values of GENSTS.state. */
export const DSA_STATE = {
  disabled: 0,
  enabled: 1,
  draining: 2,
  halted: 3,
} as const;
/** GENSTS.reset_type of a halt that a function-level reset ends. */
export const DSA_RESET_TYPE_FLR = 1;

/** INTCAUSE: written 1 to clear. */
export const INTCAUSE_SOFTWARE_ERROR: number = 1 << 0;
export const INTCAUSE_COMMAND: number = 1 << 1;
export const INTCAUSE_HALT: number = 1 << 4;

export const CMD_OPERAND: number = genmask(19, 0);
export const CMD_CODE: number = genmask(24, 20);
export const CMD_RESERVED: number = genmask(30, 25);
export const CMD_INTERRUPT: number = 1 << 31;

export const CMDSTS_ERROR: number = genmask(7, 0);
export const CMDSTS_RESULT: number = genmask(23, 8);
export const CMDSTS_ACTIVE: number = 1 << 31;

/**
 * CMD codes. Operands: none; a queue's index (enable); 16 queues' bits with the number of the sixteen in bits 19..16
 * (disable, drain, abort, reset); a PASID; an interrupt table index, bit 16 for the interrupt-message storage.
 */
export const DSA_COMMAND = {
  enableDevice: 1,
  disableDevice: 2,
  drainAll: 3,
  abortAll: 4,
  resetDevice: 5,
  enableQueue: 6,
  disableQueues: 7,
  drainQueues: 8,
  abortQueues: 9,
  resetQueues: 10,
  drainPasid: 11,
  abortPasid: 12,
  requestInterruptHandle: 13,
  releaseInterruptHandle: 14,
} as const;

/** CMDSTS.error. */
export const DSA_COMMAND_ERROR = {
  none: 0,
  invalidCommand: 0x01,
  invalidQueue: 0x02,
  hardware: 0x03,
  reservedField: 0x04,
  deviceNotDisabled: 0x10,
  configuration: 0x11,
  busMaster: 0x12,
  pageRequestAllocation: 0x13,
  queueSizes: 0x14,
  groupIncomplete: 0x15,
  groupQueues: 0x16,
  groupEngines: 0x17,
  groupReadBuffers: 0x18,
  deviceNotEnabled: 0x20,
  queueNotDisabled: 0x21,
  queueSize: 0x22,
  queuePriority: 0x23,
  queueMode: 0x24,
  blockOnFault: 0x25,
  pasidEnable: 0x26,
  maxBatch: 0x27,
  maxTransfer: 0x28,
  privileged: 0x2a,
  notEnabled: 0x31,
  queueNotEnabled: 0x32,
  interruptIndex: 0x41,
  noHandle: 0x42,
  handleNotGranted: 0x43,
} as const;

/** SWERROR, 32 bytes by 32-bit word. VALID and OVERFLOW are written 1 to clear. */
export const SWERROR0_VALID: number = 1 << 0;
export const SWERROR0_OVERFLOW: number = 1 << 1;
export const SWERROR0_DESCRIPTOR_VALID: number = 1 << 2;
export const SWERROR0_QUEUE_VALID: number = 1 << 3;
export const SWERROR0_BATCH: number = 1 << 4;
/** The faulting access was a write. */
export const SWERROR0_WRITE: number = 1 << 5;
export const SWERROR0_PRIVILEGED: number = 1 << 6;
export const SWERROR0_ERROR: number = genmask(15, 8);
export const SWERROR0_QUEUE: number = genmask(23, 16);
export const SWERROR1_OPERATION: number = genmask(7, 0);
export const SWERROR1_PASID: number = genmask(27, 8);
/** Word 2: index in the batch; word 3: invalid flags; words 4 and 5: fault address. */
export const SWERROR2_BATCH_INDEX: number = genmask(15, 0);
/** SWERROR codes besides DSA_STATUS: bus mastering was turned off under an enabled device; CMD while one is active. */
export const SWERROR_PCI_CONFIGURATION = 0x51;
export const SWERROR_COMMAND = 0x52;

/** Bytes of a GRPCFG entry: 256 bits of queues, 64 bits of engines at 0x20, 64 bits of flags at 0x28. */
export const GRPCFG_SIZE = 0x40;
export const GRPCFG_ENGINES = 0x20;
export const GRPCFG_FLAGS = 0x28;
export const GRPFLAGS_LO_TC_A: number = genmask(2, 0);
export const GRPFLAGS_LO_TC_B: number = genmask(5, 3);
export const GRPFLAGS_LO_USE_LIMIT: number = 1 << 7;
export const GRPFLAGS_LO_BUFFERS_RESERVED: number = genmask(15, 8);
export const GRPFLAGS_LO_BUFFERS_ALLOWED: number = genmask(27, 20);

/** Bytes of a WQCFG entry; fields by 32-bit word. */
export const WQCFG_SIZE = 0x20;
export const WQCFG0_SIZE: number = genmask(15, 0);
export const WQCFG1_THRESHOLD: number = genmask(15, 0);
export const WQCFG2_DEDICATED: number = 1 << 0;
export const WQCFG2_BLOCK_ON_FAULT: number = 1 << 1;
export const WQCFG2_PRIORITY: number = genmask(7, 4);
export const WQCFG2_PASID: number = genmask(27, 8);
export const WQCFG2_PASID_ENABLE: number = 1 << 28;
export const WQCFG2_PRIVILEGED: number = 1 << 29;
export const WQCFG3_MAX_TRANSFER_LG2: number = genmask(4, 0);
export const WQCFG3_MAX_BATCH_LG2: number = genmask(8, 5);
export const WQCFG6_OCCUPANCY: number = genmask(15, 0);
export const WQCFG6_STATE: number = genmask(31, 30);
/** Values of WQCFG6_STATE. */
export const DSA_QUEUE_STATE = {
  disabled: 0,
  enabled: 1,
} as const;

/** Bytes of an MSI-X permission entry, of which the first four are defined. */
export const MSIX_PERMISSION_SIZE = 8;
/** The descriptor's PASID is not compared. */
export const MSIX_PERMISSION_IGNORE: number = 1 << 2;
export const MSIX_PERMISSION_PASID_ENABLE: number = 1 << 3;
export const MSIX_PERMISSION_PASID: number = genmask(31, 12);

/** Page within a queue's portals. The last two take interrupt handles of the interrupt-message storage. */
export const DSA_PORTAL = {
  unlimited: 0,
  limited: 1,
  unlimitedIms: 2,
  limitedIms: 3,
} as const;
