/**
 * One mediated device of a test function: a function as its user sees it, whose registers are emulated and whose commands
 * the parent carries out. It has the parent's registers (packages/hw, devices/test-function.ts) with a buffer of its
 * own, and these differences:
 *
 *   COMMAND  operations 0 none, 1 read, 2 write and 6 interrupt; flags 4 (through the translation cache), 6, 10 and 11.
 *            The rest is refused: translated addresses, and what shows host addresses or is privileged, above all.
 *   PASID    names one of the user's own PASIDs; only a device that has any can set flag 6. Without flag 6 a command
 *            reaches what is attached without PASID.
 *   RESULT   32, refused, also when nothing is attached there; 33 when a reset of the parent ended the command: it was
 *            to end, or others waited for it, and it did not end
 *
 * CONTROL, GRANTED, RESPONSE, FRAME and REQUESTS read as zero. While bus mastering is off commands end with status 1
 * (unsupported request), and interrupts are lost.
 */

import {
  type AccessWidth,
  COMPLETION_SUCCESS,
  COMPLETION_UNSUPPORTED_REQUEST,
  ExpressCapability,
  type MmioHandler,
  MsixCapability,
  NO_PASID,
  TEST_BAR_SIZE,
  TEST_BUFFER_SIZE,
  TEST_COMMAND,
  TEST_REGISTER,
  TEST_RESULT_REFUSED,
  TEST_STATUS_BUSY,
} from '@iommukit/hw';
import type { PciDevice } from '@iommukit/iommu-core';
import type { CommandEngine, CommandResult, HardwareCommand, Job } from './command-engine.ts';
import { EmulatedFunction } from './emulated-user.ts';
import type { MdevDma } from './mdev-dma.ts';

const VECTORS = 8;
const REGISTER_BYTES = 0x54;
const PASID_MASK = 0xfffff;
/** Flags that go on to the parent. */
const PASSED = TEST_COMMAND.cached | TEST_COMMAND.pageRequestOnDenial;
const OFFERED = 0xf | PASSED | TEST_COMMAND.withPasid | TEST_COMMAND.interruptWhenDone;

export class MediatedFunction extends EmulatedFunction implements Job {
  readonly dma: MdevDma;
  private readonly engine: CommandEngine;
  private readonly registers = new Int32Array(REGISTER_BYTES / 4);
  private readonly buffer = new Uint8Array(TEST_BUFFER_SIZE);

  constructor(engine: CommandEngine, dma: MdevDma, { vendorId, deviceId, classCode }: PciDevice) {
    super({ vendorId, deviceId, classCode, subsystemVendorId: vendorId, subsystemId: 1 });
    this.engine = engine;
    this.dma = dma;
    this.addBar(0, { size: TEST_BAR_SIZE, handler: this.handler() });
    this.add(new ExpressCapability());
    this.add(
      new MsixCapability({
        vectors: VECTORS,
        bar: 0,
        tableOffset: TEST_REGISTER.msixTable,
        pendingOffset: TEST_REGISTER.msixPending,
      }),
    );
    this.resetRegisters();
  }

  resetRegisters(): void {
    this.stop();
    this.registers.fill(0);
    this.buffer.fill(0);
    this.set(TEST_REGISTER.identity, this.engine.identity);
  }

  stop(): void {
    this.engine.withdraw(this);
  }

  prepare(): HardwareCommand | number {
    const command = this.get(TEST_REGISTER.command);
    const operation = command & 0xf;
    if ((command & ~OFFERED) !== 0) return TEST_RESULT_REFUSED;
    if (operation === TEST_COMMAND.interrupt) this.raise();
    if (operation === 0 || operation === TEST_COMMAND.interrupt) return COMPLETION_SUCCESS;
    if (operation !== TEST_COMMAND.read && operation !== TEST_COMMAND.write) return TEST_RESULT_REFUSED;
    const start = this.get(TEST_REGISTER.bufferOffset) >>> 0;
    const length = this.get(TEST_REGISTER.length) >>> 0;
    if (start + length > TEST_BUFFER_SIZE) return TEST_RESULT_REFUSED;
    const pasid = this.dma.physical(
      (command & TEST_COMMAND.withPasid) === 0 ? NO_PASID : this.get(TEST_REGISTER.pasid),
    );
    if (pasid === null) return TEST_RESULT_REFUSED;
    if (!this.busMaster) return COMPLETION_UNSUPPORTED_REQUEST;
    return {
      command: operation | (command & PASSED),
      pasid,
      addressLow: this.get(TEST_REGISTER.address),
      addressHigh: this.get(TEST_REGISTER.address + 4),
      length,
      data: operation === TEST_COMMAND.write ? this.buffer.slice(start, start + length) : null,
    };
  }

  complete({ status, bytes, faultLow, faultHigh, data }: CommandResult): void {
    this.set(TEST_REGISTER.result, status);
    this.set(TEST_REGISTER.bytes, bytes);
    if (status !== COMPLETION_SUCCESS) {
      this.set(TEST_REGISTER.fault, faultLow);
      this.set(TEST_REGISTER.fault + 4, faultHigh);
    }
    if (data !== null) this.buffer.set(data, this.get(TEST_REGISTER.bufferOffset));
    this.set(TEST_REGISTER.status, 0);
    if ((this.get(TEST_REGISTER.command) & TEST_COMMAND.interruptWhenDone) !== 0) this.raise();
  }

  protected override onReset(): void {
    this.resetRegisters();
  }

  private raise(): void {
    if (this.busMaster) this.onInterrupt(this.get(TEST_REGISTER.vector));
  }

  private get(register: number): number {
    return this.registers[register >> 2]!;
  }

  private set(register: number, value: number): void {
    this.registers[register >> 2] = value;
  }

  private writeRegister(register: number, value: number): void {
    if (this.get(TEST_REGISTER.status) !== 0) return;
    switch (register) {
      case TEST_REGISTER.command:
        this.set(register, value);
        this.set(TEST_REGISTER.status, TEST_STATUS_BUSY);
        this.engine.submit(this);
        return;
      case TEST_REGISTER.pasid:
        if (this.dma.maxPasids > 0) this.set(register, value & PASID_MASK);
        return;
      case TEST_REGISTER.address:
      case TEST_REGISTER.address + 4:
      case TEST_REGISTER.length:
      case TEST_REGISTER.bufferOffset:
      case TEST_REGISTER.vector:
        this.set(register, value);
    }
  }

  private handler(): MmioHandler {
    return {
      read: (offset, width) => this.load(offset, width),
      write: (offset, width, value) => this.store(offset, width, value),
    };
  }

  private load(offset: number, width: AccessWidth): bigint {
    let value = 0n;
    for (let i = width - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.byteAt(offset + i));
    return value;
  }

  private byteAt(offset: number): number {
    if (offset >= TEST_REGISTER.buffer) return this.buffer[offset - TEST_REGISTER.buffer] ?? 0;
    return ((this.registers[offset >> 2] ?? 0) >>> (8 * (offset & 3))) & 0xff;
  }

  private store(offset: number, width: AccessWidth, value: bigint): void {
    if (offset >= TEST_REGISTER.buffer) {
      const at = offset - TEST_REGISTER.buffer;
      for (let i = 0; i < width; i++) this.buffer[at + i] = Number((value >> BigInt(8 * i)) & 0xffn);
    } else if (width === 8) {
      this.writeRegister(offset, Number(value & 0xffffffffn));
      this.writeRegister(offset + 4, Number(value >> 32n));
    } else if (width === 4) this.writeRegister(offset, Number(value));
  }
}
