/**
 * Faults that the unit records and nobody can resolve: read when the fault event is raised, traced, and cleared (Intel
 * VT-d specification, revision 4.1, sections 7.4 and 11.4.7.6).
 */

import {
  ACCESS_EXECUTE,
  ACCESS_PRIVILEGED,
  ACCESS_READ,
  ACCESS_WRITE,
  FRCD_SIZE,
  FRCD2_EXE,
  FRCD2_PP,
  FRCD2_PRIV,
  FRCD2_SID,
  FRCD3_F,
  FRCD3_FR,
  FRCD3_PV,
  FRCD3_T1,
  FSTS_PFO,
  fieldGet,
  NO_PASID,
  REG_FECTL,
  REG_FSTS,
  type TraceSink,
} from '@iommukit/hw';
import type { Kernel, MsiMessage } from '../kernel.ts';
import type { IommuEvent } from '../trace.ts';
import type { UnitCapabilities } from './capabilities.ts';
import type { RegisterAccess } from './register-access.ts';

/** A fault as the unit recorded it. */
export type FaultRecord = {
  readonly rid: number;
  /** NO_PASID or a PASID. */
  readonly pasid: number;
  /** Page of the access; for interrupt faults, the entry's index shifted up by 36. */
  readonly address: bigint;
  readonly reason: number;
  /** ACCESS_ bits. */
  readonly access: number;
};

export class FaultLog {
  /** Faults recorded so far, and how many times the unit had no room for more. */
  recorded = 0;
  overflows = 0;
  /** Hears of each fault; for tests and tools. */
  onFault: ((fault: FaultRecord) => void) | null = null;
  private readonly registers: RegisterAccess;
  private readonly capabilities: UnitCapabilities;
  private readonly trace: TraceSink<IommuEvent>;
  private readonly kernel: Kernel;
  private readonly report: (fault: FaultRecord) => void;
  private readonly message: MsiMessage;
  private next = 0;

  /** `report` hears of each fault, in kernel work. */
  constructor(
    kernel: Kernel,
    registers: RegisterAccess,
    capabilities: UnitCapabilities,
    trace: TraceSink<IommuEvent>,
    report: (fault: FaultRecord) => void,
  ) {
    this.kernel = kernel;
    this.report = report;
    this.registers = registers;
    this.capabilities = capabilities;
    this.trace = trace;
    this.message = kernel.interrupts.allocate(() => kernel.queueWork(() => this.drain()));
    registers.setEvent(REG_FECTL, this.message);
  }

  /** Reads, traces and clears every record. */
  drain(): void {
    const { faultRecordOffset, faultRecords } = this.capabilities;
    for (let read = 0; read < faultRecords; read++) {
      const at = faultRecordOffset + this.next * FRCD_SIZE;
      const word3 = this.registers.read32(at + 12);
      if ((word3 & FRCD3_F) === 0) break;
      const fault = decode(this.registers.read64(at), this.registers.read32(at + 8), word3);
      // The record is given back first, so that the unit has room for the next fault while this one is handled.
      this.registers.write32(at + 12, FRCD3_F);
      this.next = (this.next + 1) % faultRecords;
      this.take(fault);
    }
    if ((this.registers.read32(REG_FSTS) & FSTS_PFO) !== 0) {
      this.overflows++;
      this.registers.write32(REG_FSTS, FSTS_PFO);
    }
  }

  free(): void {
    this.kernel.interrupts.free(this.message);
  }

  private take(fault: FaultRecord): void {
    this.recorded++;
    this.onFault?.(fault);
    const { rid, pasid, address: iova, reason, access } = fault;
    if (this.trace.enabled) this.trace.emit({ name: 'io_page_fault', rid, pasid, iova, reason, access });
    this.report(fault);
  }
}

function decode(address: bigint, word2: number, word3: number): FaultRecord {
  return {
    rid: fieldGet(FRCD2_SID, word2),
    pasid: (word2 & FRCD2_PP) === 0 ? NO_PASID : fieldGet(FRCD3_PV, word3),
    address: address & ~0xfffn,
    reason: fieldGet(FRCD3_FR, word3),
    access:
      ((word3 & FRCD3_T1) === 0 ? ACCESS_WRITE : ACCESS_READ) |
      ((word2 & FRCD2_EXE) === 0 ? 0 : ACCESS_EXECUTE) |
      ((word2 & FRCD2_PRIV) === 0 ? 0 : ACCESS_PRIVILEGED),
  };
}
