/**
 * The registers of a DSA as software sees them: reset values, and what a write changes. The tables behave alike: what
 * is not writable now keeps its value. Commands, and whatever hardware reports, are the device's.
 */

import { fieldGet, fieldPrep } from '../bits.ts';
import type { AccessWidth, MmioHandler } from '../memory/mmio.ts';
import { joinU64 } from '../u64.ts';
import {
  CMDSTS_ACTIVE,
  DSA_REGISTER,
  DSA_TABLE_UNIT,
  DSA_VERSION_1,
  ENGCAP_LO_ENGINES,
  GENCAP_LO_BLOCK_ON_FAULT,
  GENCAP_LO_CACHE_CONTROL,
  GENCAP_LO_COMMAND_CAPABILITIES,
  GENCAP_LO_CONFIGURABLE,
  GENCAP_LO_DESTINATION_READBACK,
  GENCAP_LO_MAX_BATCH_LG2,
  GENCAP_LO_MAX_TRANSFER_LG2,
  GENCAP_LO_OVERLAPPING_COPY,
  GENCFG_READ_BUFFER_LIMIT,
  GENCFG_USER_INTERRUPTS,
  GENCTRL_HALT,
  GENCTRL_SOFTWARE_ERROR,
  GENSTS_STATE,
  GRPCAP_LO_GROUPS,
  GRPCAP_LO_READ_BUFFER_CONTROL,
  GRPCAP_LO_READ_BUFFER_LIMIT,
  GRPCAP_LO_READ_BUFFERS,
  GRPCFG_ENGINES,
  GRPCFG_FLAGS,
  GRPCFG_SIZE,
  GRPFLAGS_LO_BUFFERS_ALLOWED,
  GRPFLAGS_LO_BUFFERS_RESERVED,
  GRPFLAGS_LO_TC_A,
  GRPFLAGS_LO_TC_B,
  GRPFLAGS_LO_USE_LIMIT,
  MSIX_PERMISSION_IGNORE,
  MSIX_PERMISSION_PASID,
  MSIX_PERMISSION_PASID_ENABLE,
  MSIX_PERMISSION_SIZE,
  DSA_QUEUE_STATE as QUEUE_STATE,
  DSA_STATE as STATE,
  SWERROR0_OVERFLOW,
  SWERROR0_VALID,
  TABLE_OFFSETS_HI_MSIX_PERMISSIONS,
  TABLE_OFFSETS_LO_GRPCFG,
  TABLE_OFFSETS_LO_WQCFG,
  WQCAP_HI_DEDICATED,
  WQCAP_HI_OCCUPANCY,
  WQCAP_HI_PRIORITY,
  WQCAP_HI_SHARED,
  WQCAP_LO_QUEUES,
  WQCAP_LO_TOTAL_SIZE,
  WQCFG_SIZE,
  WQCFG0_SIZE,
  WQCFG1_THRESHOLD,
  WQCFG2_BLOCK_ON_FAULT,
  WQCFG2_DEDICATED,
  WQCFG2_PASID,
  WQCFG2_PASID_ENABLE,
  WQCFG2_PRIORITY,
  WQCFG2_PRIVILEGED,
  WQCFG3_MAX_BATCH_LG2,
  WQCFG3_MAX_TRANSFER_LG2,
  WQCFG6_STATE,
} from './registers.ts';

/** What a device has; every field shows in a capability register. */
export type DsaFeatures = {
  /** Work queues, 1..16. */
  queues: number;
  /** Entries of all work queues together, up to 65535. */
  totalSize: number;
  /** 1..8. */
  groups: number;
  /** 1..32. */
  engines: number;
  readBuffers: number;
  /** log2 of the largest transfer, up to 31. */
  maxTransferLg2: number;
  /** log2 of the most descriptors in a batch, up to 15. */
  maxBatchLg2: number;
  blockOnFault: boolean;
  /** Bit n: operation n. */
  operations: bigint;
  /** Bit n: command n. */
  commands: number;
  /** MSI-X vectors. */
  vectors: number;
};

const END = 0x900;

export class RegisterFile implements MmioHandler {
  readonly features: DsaFeatures;
  private readonly words = new Int32Array(END / 4);
  private readonly onCommand: (value: number) => void;

  constructor(features: DsaFeatures, onCommand: (value: number) => void) {
    this.features = features;
    this.onCommand = onCommand;
    this.reset();
  }

  /** Values after reset: all configuration gone, every queue and the device disabled. */
  reset(): void {
    const { features } = this;
    this.words.fill(0);
    this.set(DSA_REGISTER.version, DSA_VERSION_1);
    this.set(
      DSA_REGISTER.gencap,
      (features.blockOnFault ? GENCAP_LO_BLOCK_ON_FAULT : 0) |
        GENCAP_LO_OVERLAPPING_COPY |
        GENCAP_LO_CACHE_CONTROL |
        GENCAP_LO_COMMAND_CAPABILITIES |
        GENCAP_LO_DESTINATION_READBACK |
        fieldPrep(GENCAP_LO_MAX_TRANSFER_LG2, features.maxTransferLg2) |
        fieldPrep(GENCAP_LO_MAX_BATCH_LG2, features.maxBatchLg2) |
        GENCAP_LO_CONFIGURABLE,
    );
    this.set(
      DSA_REGISTER.wqcap,
      fieldPrep(WQCAP_LO_TOTAL_SIZE, features.totalSize) | fieldPrep(WQCAP_LO_QUEUES, features.queues),
    );
    this.set(DSA_REGISTER.wqcap + 4, WQCAP_HI_SHARED | WQCAP_HI_DEDICATED | WQCAP_HI_PRIORITY | WQCAP_HI_OCCUPANCY);
    this.set(
      DSA_REGISTER.grpcap,
      fieldPrep(GRPCAP_LO_GROUPS, features.groups) |
        fieldPrep(GRPCAP_LO_READ_BUFFERS, features.readBuffers) |
        GRPCAP_LO_READ_BUFFER_CONTROL |
        GRPCAP_LO_READ_BUFFER_LIMIT,
    );
    this.set(DSA_REGISTER.engcap, fieldPrep(ENGCAP_LO_ENGINES, features.engines));
    this.set(DSA_REGISTER.opcap, Number(BigInt.asIntN(32, features.operations)));
    this.set(DSA_REGISTER.opcap + 4, Number(BigInt.asIntN(32, features.operations >> 32n)));
    this.set(
      DSA_REGISTER.tableOffsets,
      fieldPrep(TABLE_OFFSETS_LO_GRPCFG, DSA_REGISTER.grpcfg / DSA_TABLE_UNIT) |
        fieldPrep(TABLE_OFFSETS_LO_WQCFG, DSA_REGISTER.wqcfg / DSA_TABLE_UNIT),
    );
    this.set(
      DSA_REGISTER.tableOffsets + 4,
      fieldPrep(TABLE_OFFSETS_HI_MSIX_PERMISSIONS, DSA_REGISTER.msixPermissions / DSA_TABLE_UNIT),
    );
    this.set(DSA_REGISTER.cmdcap, features.commands);
  }

  /** One of the STATE_ values. */
  get state(): number {
    return fieldGet(GENSTS_STATE, this.get(DSA_REGISTER.gensts));
  }

  /** The 32-bit register at `offset`; 0 where there is none. */
  get(offset: number): number {
    return this.words[offset >> 2] ?? 0;
  }

  set(offset: number, value: number): void {
    this.words[offset >> 2] = value;
  }

  read(offset: number, width: AccessWidth): bigint {
    const low = this.get(offset);
    if (width === 8) return joinU64(low, this.get(offset + 4));
    return BigInt.asUintN(8 * width, BigInt(low >>> (8 * (offset & 3))));
  }

  /** A 32-bit or 64-bit write; narrower ones change nothing. */
  write(offset: number, width: AccessWidth, value: bigint): void {
    if (width < 4) return;
    this.writeWord(offset, Number(BigInt.asIntN(32, value)));
    if (width === 8) this.writeWord(offset + 4, Number(BigInt.asIntN(32, value >> 32n)));
  }

  private writeWord(offset: number, value: number): void {
    switch (offset) {
      case DSA_REGISTER.cmd:
        if ((this.get(DSA_REGISTER.cmdsts) & CMDSTS_ACTIVE) === 0) this.set(offset, value);
        this.onCommand(value);
        return;
      case DSA_REGISTER.intcause:
        this.set(offset, this.get(offset) & ~value);
        return;
      case DSA_REGISTER.swerror:
        this.clearSoftwareError(value);
        return;
      default: {
        const mask = this.writable(offset);
        this.set(offset, (this.get(offset) & ~mask) | (value & mask));
      }
    }
  }

  /** Clearing VALID empties the register for the next error. */
  private clearSoftwareError(value: number): void {
    const at = DSA_REGISTER.swerror;
    if ((value & SWERROR0_VALID) !== 0) this.words.fill(0, at >> 2, (at >> 2) + 8);
    else this.set(at, this.get(at) & ~(value & SWERROR0_OVERFLOW));
  }

  /** Bits of the register at `offset` that take what is written now. */
  private writable(offset: number): number {
    const { features } = this;
    const disabled = this.state === STATE.disabled;
    if (offset === DSA_REGISTER.genctrl) return GENCTRL_SOFTWARE_ERROR | GENCTRL_HALT;
    if (offset === DSA_REGISTER.gencfg) return disabled ? GENCFG_READ_BUFFER_LIMIT | GENCFG_USER_INTERRUPTS : 0;
    const group = offset - DSA_REGISTER.grpcfg;
    if (group >= 0 && group < features.groups * GRPCFG_SIZE) {
      return disabled ? this.groupWritable(group % GRPCFG_SIZE) : 0;
    }
    const queue = offset - DSA_REGISTER.wqcfg;
    if (queue >= 0 && queue < features.queues * WQCFG_SIZE) {
      const at = DSA_REGISTER.wqcfg + queue - (queue % WQCFG_SIZE) + 24;
      return queueWritable(queue % WQCFG_SIZE, disabled, fieldGet(WQCFG6_STATE, this.get(at)) === QUEUE_STATE.disabled);
    }
    const permission = offset - DSA_REGISTER.msixPermissions;
    if (permission >= 0 && permission < features.vectors * MSIX_PERMISSION_SIZE) {
      return permission % MSIX_PERMISSION_SIZE === 0
        ? MSIX_PERMISSION_IGNORE | MSIX_PERMISSION_PASID_ENABLE | MSIX_PERMISSION_PASID
        : 0;
    }
    return 0;
  }

  private groupWritable(offset: number): number {
    if (offset === 0) return lowBits(this.features.queues);
    if (offset === GRPCFG_ENGINES) return lowBits(this.features.engines);
    if (offset !== GRPCFG_FLAGS) return 0;
    return (
      GRPFLAGS_LO_TC_A |
      GRPFLAGS_LO_TC_B |
      GRPFLAGS_LO_USE_LIMIT |
      GRPFLAGS_LO_BUFFERS_RESERVED |
      GRPFLAGS_LO_BUFFERS_ALLOWED
    );
  }
}

function lowBits(count: number): number {
  return count >= 32 ? -1 : (1 << count) - 1;
}

/** The size is fixed while the device is enabled, the threshold never, the rest while the queue is enabled. */
function queueWritable(offset: number, deviceDisabled: boolean, queueDisabled: boolean): number {
  switch (offset) {
    case 0:
      return deviceDisabled ? WQCFG0_SIZE : 0;
    case 4:
      return WQCFG1_THRESHOLD;
    case 8:
      return queueDisabled
        ? WQCFG2_DEDICATED |
            WQCFG2_BLOCK_ON_FAULT |
            WQCFG2_PRIORITY |
            WQCFG2_PASID |
            WQCFG2_PASID_ENABLE |
            WQCFG2_PRIVILEGED
        : 0;
    case 12:
      return queueDisabled ? WQCFG3_MAX_TRANSFER_LG2 | WQCFG3_MAX_BATCH_LG2 : 0;
    default:
      return 0;
  }
}
