/** A test function as its driver sees it: commands through BAR 0, results from its registers. */

import {
  AT_UNTRANSLATED,
  COMPLETION_SUCCESS,
  high32,
  low32,
  NO_PASID,
  TEST_COMMAND,
  TEST_REGISTER,
  TEST_STATUS_BUSY,
} from '@iommukit/hw';
import type { Device } from '../../src/index.ts';
import type { Host } from './host.ts';

export type DmaOptions = {
  pasid?: number;
  /** `translated` sends ADDRESS as it is; `cached` asks for translations and uses them; default untranslated. */
  addressing?: 'cached' | 'translated';
  privileged?: boolean;
  /** Ask for a page that is denied, and try again when the answer is success. */
  requestPages?: boolean;
};

export class TestDevice {
  readonly host: Host;
  readonly device: Device;
  private readonly bar: bigint;
  private scratch: number | null = null;

  constructor(host: Host, device: Device) {
    this.host = host;
    this.device = device;
    this.bar = device.pci.resource(0)!.address;
  }

  /** The byte at `iova`, or null when the read was refused. */
  read(iova: bigint, options: DmaOptions = {}): number | null {
    this.start(TEST_COMMAND.read, iova, 1, options);
    this.wait();
    return this.result === 0 ? this.bufferByte : null;
  }

  /** Writes one byte; true when it arrived. */
  write(iova: bigint, byte: number, options: DmaOptions = {}): boolean {
    this.host.memory.store(this.bar + BigInt(TEST_REGISTER.buffer), 1, byte);
    this.start(TEST_COMMAND.write, iova, 1, options);
    this.wait();
    return this.result === 0;
  }

  /** Raises an MSI-X vector and lets it arrive. */
  raise(vector: number): void {
    this.store(TEST_REGISTER.vector, vector);
    this.store(TEST_REGISTER.command, TEST_COMMAND.interrupt);
    this.host.settle();
  }

  /**
   * One byte read with `pasid` at this very instant, as an engine of the function that is busy all the time issues it.
   * Null when it was refused.
   */
  probe(iova: bigint, pasid: number): number | null {
    const { memory } = this.host;
    this.scratch ??= memory.reserve(64);
    const { upstream } = this.host.fabric.functionAt(this.device.rid)!;
    const status = upstream.read(AT_UNTRANSLATED, pasid, 0, low32(iova), high32(iova), 1, this.scratch);
    return status === COMPLETION_SUCCESS ? memory.bytes[this.scratch]! : null;
  }

  /** Starts an operation and does not wait for its end. */
  start(operation: number, iova: bigint, length: number, options: DmaOptions = {}): void {
    const { pasid = NO_PASID, addressing, privileged = false, requestPages = false } = options;
    this.store(TEST_REGISTER.pasid, pasid === NO_PASID ? 0 : pasid);
    this.host.memory.store(this.bar + BigInt(TEST_REGISTER.address), 8, iova);
    this.store(TEST_REGISTER.length, length);
    this.store(TEST_REGISTER.bufferOffset, 0);
    this.store(
      TEST_REGISTER.command,
      operation |
        (addressing === undefined ? 0 : TEST_COMMAND[addressing]) |
        (pasid === NO_PASID ? 0 : TEST_COMMAND.withPasid) |
        (privileged ? TEST_COMMAND.privileged : 0) |
        (requestPages ? TEST_COMMAND.pageRequestOnDenial : 0),
    );
  }

  /** Lets time pass until the operation is over. False when it still is not. */
  wait(span = 50_000_000): boolean {
    const { scheduler, kernel } = this.host;
    const end = scheduler.now + span;
    kernel.runWork();
    while (this.busy && scheduler.nextDue <= end) {
      scheduler.runNext();
      kernel.runWork();
    }
    return !this.busy;
  }

  store(register: number, value: number): void {
    this.host.memory.store(this.bar + BigInt(register), 4, value >>> 0);
  }

  load(register: number): number {
    return Number(this.host.memory.load(this.bar + BigInt(register), 4));
  }

  get busy(): boolean {
    return (this.load(TEST_REGISTER.status) & TEST_STATUS_BUSY) !== 0;
  }

  get result(): number {
    return this.load(TEST_REGISTER.result);
  }

  get bufferByte(): number {
    return Number(this.host.memory.load(this.bar + BigInt(TEST_REGISTER.buffer), 1));
  }

  /** Code of the last page-group response; 0xffffffff before the first. */
  get response(): number {
    return this.load(TEST_REGISTER.response);
  }

  get requests(): number {
    return this.load(TEST_REGISTER.requests);
  }
}
