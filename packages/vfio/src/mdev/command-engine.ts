/**
 * The commands of all mediated devices on the one function that carries them out: first come, first served, one at a
 * time, each tagged with a PASID. Part of the driver of the function, which it reaches through its registers and hears
 * of by an interrupt.
 *
 * What a command may do is decided when its turn comes, so that no queued command holds a PASID. A command that others
 * wait for has a limited time to end: page requests are its user's to answer, and the function is not his alone.
 */

import { type ScheduledEvent, TEST_COMMAND, TEST_REGISTER, TEST_STATUS_BUSY } from '@iommukit/hw';
import { type Device, type MsiMessage, resetDevice, SysError } from '@iommukit/iommu-core';
import type { MdevDma } from './mdev-dma.ts';

/** RESULT of a command that a reset of the function ended. */
const RESULT_ABORTED = 33;

/** Nanoseconds of virtual time that a command may go on when it has been told to end. */
const DRAIN_TIME = 1_000_000;
/** Nanoseconds of virtual time that a command may go on, from when another begins to wait for it, before it is told to end. */
const PATIENCE = 10_000_000;
/** The function's after a reset. */
const VECTOR = 0;

/** What the function is to do. Data goes through its buffer, from the start. */
export type HardwareCommand = {
  /** TEST_COMMAND operation, read or write, and flags. */
  readonly command: number;
  /** Of the parent. */
  readonly pasid: number;
  readonly addressLow: number;
  readonly addressHigh: number;
  /** Bytes to move. */
  readonly length: number;
  /** What a write moves. */
  readonly data: Uint8Array | null;
};

export type CommandResult = {
  /** As RESULT of the function, or RESULT_ABORTED. */
  readonly status: number;
  /** Bytes moved. */
  readonly bytes: number;
  /** Address of the first byte not moved. */
  readonly faultLow: number;
  readonly faultHigh: number;
  /** What a read moved. */
  readonly data: Uint8Array | null;
};

/** One command of a mediated device. */
export type Job = {
  readonly dma: MdevDma;
  /** The command, when its turn has come; or the result, when hardware has nothing to do. */
  prepare(): HardwareCommand | number;
  complete(result: CommandResult): void;
};

type Flight = { job: Job | null; readonly dma: MdevDma; readonly command: HardwareCommand };

export class CommandEngine {
  private readonly device: Device;
  private readonly registers: bigint;
  private readonly message: MsiMessage;
  private readonly waiting: Job[] = [];
  private flight: Flight | null = null;
  /** When the flight is told to end. Set while there is a flight that others wait for, until it is told. */
  private deadline: ScheduledEvent | null = null;
  private resetting = false;

  /** Turns the function's memory, its DMA and its interrupt on. @throws {SysError} ENODEV it has no BAR or no MSI-X; ENOSPC, ENOMEM */
  constructor(device: Device) {
    const { pci } = device;
    const resource = pci.resource(0);
    if (resource === null || pci.msix === null) {
      throw new SysError('ENODEV', 'mdev_parent_probe', `${device.name} has no registers or no interrupts`);
    }
    this.device = device;
    this.registers = resource.address;
    this.message = device.allocateMsi(() => device.kernel.queueWork(() => this.poll()));
    pci.setMemoryDecode(true);
    pci.msix.setEnabled(true);
    pci.msix.program(VECTOR, this.message);
    pci.setBusMaster(true);
  }

  /** What the function says that it is. */
  get identity(): number {
    return this.read(TEST_REGISTER.identity);
  }

  /** True while a command with `pasid` is under way. */
  names(pasid: number): boolean {
    return this.flight?.command.pasid === pasid;
  }

  /** Carries a command out when its turn comes, at once if the function is free. */
  submit(job: Job): void {
    this.waiting.push(job);
    this.next();
  }

  /** Takes a command back; on return it is not under way, and it is never completed. Never fails. */
  withdraw(job: Job): void {
    const place = this.waiting.indexOf(job);
    if (place >= 0) this.waiting.splice(place, 1);
    if (this.waiting.length === 0) this.cancelDeadline();
    if (this.flight?.job !== job) return;
    this.flight.job = null;
    this.land(this.flight);
  }

  /** On return no command of `dma` with `pasid` is under way. Never fails. */
  quiesce(dma: MdevDma, pasid: number): void {
    const { flight } = this;
    if (flight?.dma === dma && flight.command.pasid === pasid) this.land(flight);
  }

  /** Turns off what the constructor turned on. No command is under way. */
  free(): void {
    const { pci } = this.device;
    pci.setBusMaster(false);
    pci.msix!.setEnabled(false);
    this.device.freeMsi(this.message);
  }

  private next(): void {
    while (this.flight === null) {
      const job = this.waiting.shift();
      if (job === undefined) return;
      const command = job.prepare();
      if (typeof command === 'number') {
        job.complete({ status: command, bytes: 0, faultLow: 0, faultHigh: 0, data: null });
        continue;
      }
      this.flight = { job, dma: job.dma, command };
      this.start(command);
    }
    if (this.waiting.length > 0) this.setDeadline(this.flight);
  }

  private setDeadline(flight: Flight): void {
    if (this.deadline !== null) return;
    const { kernel } = this.device;
    const deadline = kernel.scheduler.schedule(PATIENCE, () => {
      kernel.queueWork(() => {
        if (this.deadline === deadline) this.land(flight);
      });
    });
    this.deadline = deadline;
  }

  private cancelDeadline(): void {
    if (this.deadline !== null) this.device.kernel.scheduler.cancel(this.deadline);
    this.deadline = null;
  }

  private start({ command, pasid, addressLow, addressHigh, length, data }: HardwareCommand): void {
    if (data !== null) this.device.kernel.memory.write(this.registers + BigInt(TEST_REGISTER.buffer), data);
    this.write(TEST_REGISTER.pasid, pasid);
    this.write(TEST_REGISTER.address, addressLow);
    this.write(TEST_REGISTER.address + 4, addressHigh);
    this.write(TEST_REGISTER.length, length);
    this.write(TEST_REGISTER.bufferOffset, 0);
    this.write(TEST_REGISTER.command, command | TEST_COMMAND.withPasid | TEST_COMMAND.interruptWhenDone);
  }

  /** Takes the result of a command that is over. */
  private poll(): void {
    const { flight } = this;
    if (flight === null || this.resetting || (this.read(TEST_REGISTER.status) & TEST_STATUS_BUSY) !== 0) return;
    const bytes = this.read(TEST_REGISTER.bytes);
    const result = {
      status: this.read(TEST_REGISTER.result),
      bytes,
      faultLow: this.read(TEST_REGISTER.fault),
      faultHigh: this.read(TEST_REGISTER.fault + 4),
      data: flight.command.data === null ? this.readBuffer(bytes) : null,
    };
    this.end(flight, result);
  }

  /** Waits for the command; one that does not end, because nobody answers its page request, is ended by a reset. */
  private land(flight: Flight): void {
    const { device } = this;
    this.cancelDeadline();
    try {
      device.kernel.relax('mdev_drain', () => this.isOver(flight), DRAIN_TIME);
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      // Nobody else has a command under way, and what is attached is attached again.
      this.resetting = true;
      resetDevice(device);
      this.resetting = false;
      this.end(flight, { status: RESULT_ABORTED, bytes: 0, faultLow: 0, faultHigh: 0, data: null });
    }
  }

  /** The interrupt of a command that is over may not have been handled yet. */
  private isOver(flight: Flight): boolean {
    if (this.flight === flight) this.poll();
    return this.flight !== flight;
  }

  private end(flight: Flight, result: CommandResult): void {
    this.flight = null;
    this.cancelDeadline();
    flight.job?.complete(result);
    this.next();
  }

  private read(register: number): number {
    return Number(this.device.kernel.memory.load(this.registers + BigInt(register), 4)) | 0;
  }

  private write(register: number, value: number): void {
    this.device.kernel.memory.store(this.registers + BigInt(register), 4, BigInt.asUintN(32, BigInt(value)));
  }

  private readBuffer(bytes: number): Uint8Array {
    const data = new Uint8Array(bytes);
    this.device.kernel.memory.read(this.registers + BigInt(TEST_REGISTER.buffer), data);
    return data;
  }
}
