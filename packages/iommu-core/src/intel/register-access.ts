/** The registers of one unit, through physical memory as any driver reaches them. */

import { type AccessWidth, REG_GCMD, REG_GSTS } from '@iommukit/hw';
import type { Kernel, MsiMessage } from '../kernel.ts';

/** Bits of the status register that are not one-shot commands: what every command must repeat. */
const PERSISTENT = 0x96ffffff;

export class RegisterAccess {
  private readonly kernel: Kernel;
  private readonly base: bigint;

  constructor(kernel: Kernel, base: bigint) {
    this.kernel = kernel;
    this.base = base;
  }

  read32(offset: number): number {
    return Number(this.load(offset, 4));
  }

  read64(offset: number): bigint {
    return this.load(offset, 8);
  }

  write32(offset: number, value: number): void {
    this.kernel.memory.store(this.base + BigInt(offset), 4, value >>> 0);
  }

  write64(offset: number, value: bigint): void {
    this.kernel.memory.store(this.base + BigInt(offset), 8, value);
  }

  /** Gives one command and waits for the status to follow. @throws {SysError} ETIMEDOUT */
  command(bit: number, on: boolean): void {
    const status = this.read32(REG_GSTS) & PERSISTENT;
    this.write32(REG_GCMD, on ? status | bit : status & ~bit);
    this.kernel.relax('iommu_command', () => ((this.read32(REG_GSTS) & bit) !== 0) === on);
  }

  /** Sets the message of an event whose control register is at `control`, and unmasks it. */
  setEvent(control: number, message: MsiMessage): void {
    this.write32(control + 4, message.data);
    this.write32(control + 8, Number(message.address & 0xffffffffn));
    this.write32(control + 12, Number(message.address >> 32n));
    this.write32(control, 0);
  }

  private load(offset: number, width: AccessWidth): bigint {
    return this.kernel.memory.load(this.base + BigInt(offset), width);
  }
}
