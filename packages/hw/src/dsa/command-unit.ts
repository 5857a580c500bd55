/**
 * The command register: one command at a time, which takes its time, may wait for work to end, and tells its outcome in
 * CMDSTS and by an interrupt (Intel Data Streaming Accelerator Architecture Specification, order number 341204,
 * revision 1.0).
 */

import { fieldGet, fieldPrep } from '../bits.ts';
import type { ScheduledEvent, Scheduler } from '../scheduler.ts';
import { checkDevice, checkQueue } from './configuration.ts';
import type { DsaFunction } from './dsa-function.ts';
import type { RegisterFile } from './register-file.ts';
import {
  CMD_CODE,
  CMD_INTERRUPT,
  CMD_OPERAND,
  CMD_RESERVED,
  CMDSTS_ACTIVE,
  CMDSTS_ERROR,
  CMDSTS_RESULT,
  DSA_COMMAND as COMMAND,
  DSA_REGISTER,
  DSA_COMMAND_ERROR as ERROR,
  INTCAUSE_COMMAND,
  DSA_STATE as STATE,
  SWERROR_COMMAND,
} from './registers.ts';
import type { Work, WorkQueue } from './work-queue.ts';

const COMMAND_NS = 200;
/** Operand bits: queues of one sixteen, and which sixteen. */
const OPERAND_QUEUES = 0xffff;
const OPERAND_SIXTEEN = 0xf0000;
const OPERAND_INDEX = 0xffff;
const OPERAND_MESSAGE_STORAGE = 0xf0000;

/** What a command waits for. */
type Wait = {
  /** Work that has to end first. */
  readonly concerns: (work: Work) => boolean;
  readonly then: () => void;
};

export class CommandUnit {
  private readonly device: DsaFunction;
  private readonly registers: RegisterFile;
  private readonly scheduler: Scheduler;
  private command = 0;
  private event: ScheduledEvent | null = null;
  private wait: Wait | null = null;
  /** MSI-X table indices whose handles software has requested. A handle is the index. */
  private readonly granted = new Set<number>();

  constructor(device: DsaFunction, registers: RegisterFile, scheduler: Scheduler) {
    this.device = device;
    this.registers = registers;
    this.scheduler = scheduler;
  }

  /** Handles have to be requested before they may be used. */
  get handlesAreRequested(): boolean {
    return (this.registers.features.commands & (1 << COMMAND.requestInterruptHandle)) !== 0;
  }

  isGranted(handle: number): boolean {
    return this.granted.has(handle);
  }

  /** A write to CMD. */
  submit(value: number): void {
    const { registers } = this;
    if ((registers.get(DSA_REGISTER.cmdsts) & CMDSTS_ACTIVE) !== 0) {
      this.device.softwareError(SWERROR_COMMAND, null);
      return;
    }
    registers.set(DSA_REGISTER.cmdsts, CMDSTS_ACTIVE);
    this.command = value;
    this.event = this.scheduler.schedule(COMMAND_NS, () => {
      this.event = null;
      this.execute();
    });
  }

  /** Some work has ended. */
  poll(): void {
    const { wait } = this;
    if (wait === null || this.device.hasWork(wait.concerns)) return;
    this.wait = null;
    wait.then();
  }

  /** The command under way ends without a trace. */
  reset(): void {
    if (this.event !== null) this.scheduler.cancel(this.event);
    this.event = null;
    this.wait = null;
    this.granted.clear();
    this.registers.set(DSA_REGISTER.cmdsts, 0);
  }

  /** The device has stopped: the command under way fails. */
  fail(): void {
    if (this.wait !== null) {
      this.wait = null;
      this.complete(ERROR.hardware);
    }
  }

  private complete(error: number, result = 0): void {
    const { device, registers, command } = this;
    const operand = fieldGet(CMD_OPERAND, command);
    device.noteCommand(fieldGet(CMD_CODE, command), operand, error);
    registers.set(DSA_REGISTER.cmdsts, fieldPrep(CMDSTS_ERROR, error) | fieldPrep(CMDSTS_RESULT, result));
    if ((command & CMD_INTERRUPT) !== 0) device.raiseCause(INTCAUSE_COMMAND);
  }

  private execute(): void {
    const { registers, command } = this;
    const code = fieldGet(CMD_CODE, command);
    const operand = fieldGet(CMD_OPERAND, command);
    if (code === 0 || (registers.features.commands & (1 << code)) === 0) this.complete(ERROR.invalidCommand);
    else if ((command & CMD_RESERVED) !== 0 || (code <= COMMAND.resetDevice && operand !== 0)) {
      this.complete(ERROR.reservedField);
    } else if (registers.state === STATE.halted && code !== COMMAND.resetDevice) this.complete(ERROR.hardware);
    else this.dispatch(code, operand);
  }

  private dispatch(code: number, operand: number): void {
    const { device, registers } = this;
    switch (code) {
      case COMMAND.enableDevice:
        this.enableDevice();
        return;
      case COMMAND.resetDevice:
        if (registers.state === STATE.halted) this.complete(ERROR.hardware);
        else {
          this.granted.clear();
          device.resetDevice();
          this.complete(ERROR.none);
        }
        return;
      case COMMAND.requestInterruptHandle:
      case COMMAND.releaseInterruptHandle:
        this.interruptHandle(code, operand);
        return;
      case COMMAND.enableQueue:
        this.enableQueue(operand);
        return;
    }
    if (registers.state !== STATE.enabled) this.complete(ERROR.notEnabled);
    else if (code >= COMMAND.disableQueues && code <= COMMAND.resetQueues) this.onQueues(code, operand);
    else this.onDevice(code, operand);
  }

  private enableDevice(): void {
    const { device, registers } = this;
    if (registers.state !== STATE.disabled) {
      this.complete(ERROR.deviceNotDisabled);
      return;
    }
    const error = checkDevice(device, registers, device.queues);
    if (error === ERROR.none) device.enable();
    this.complete(error);
  }

  private enableQueue(index: number): void {
    const { device, registers } = this;
    const queue = device.queues[index];
    if (queue === undefined) this.complete(ERROR.invalidQueue);
    else if (registers.state !== STATE.enabled) this.complete(ERROR.deviceNotEnabled);
    else {
      const error = checkQueue(device, registers, queue);
      if (error === ERROR.none) queue.setEnabled(true);
      this.complete(error);
    }
  }

  private onDevice(code: number, operand: number): void {
    const { device } = this;
    const all = () => true;
    const samePasid = (work: Work) => work.pasid === operand;
    switch (code) {
      case COMMAND.disableDevice:
        device.setState(STATE.draining);
        this.waitFor(all, () => {
          device.disable();
          this.complete(ERROR.none);
        });
        return;
      case COMMAND.drainAll:
        this.drain(all);
        return;
      case COMMAND.abortAll:
        device.abort(all);
        this.complete(ERROR.none);
        return;
      case COMMAND.drainPasid:
        this.drain(samePasid);
        return;
      default:
        device.abort(samePasid);
        this.complete(ERROR.none);
    }
  }

  private onQueues(code: number, operand: number): void {
    const { device } = this;
    const bits = operand & OPERAND_QUEUES;
    if ((operand & OPERAND_SIXTEEN) !== 0 || bits >>> device.queues.length !== 0) {
      this.complete(ERROR.invalidQueue);
      return;
    }
    const chosen = device.queues.filter((queue) => (bits & (1 << queue.index)) !== 0);
    if (chosen.some((queue) => !queue.enabled)) {
      this.complete(ERROR.queueNotEnabled);
      return;
    }
    const concerned = (work: Work) => (bits & (1 << work.queue.index)) !== 0;
    switch (code) {
      case COMMAND.disableQueues:
        for (const queue of chosen) queue.accepting = false;
        this.waitFor(concerned, () => this.disabled(chosen));
        return;
      case COMMAND.drainQueues:
        this.drain(concerned);
        return;
      case COMMAND.abortQueues:
        device.abort(concerned);
        this.complete(ERROR.none);
        return;
      default:
        device.abort(concerned);
        for (const queue of chosen) queue.resetConfiguration();
        this.complete(ERROR.none);
    }
  }

  private disabled(queues: readonly WorkQueue[]): void {
    for (const queue of queues) queue.setEnabled(false);
    this.complete(ERROR.none);
  }

  /** Completes when the work of `concerns` that is there now has ended; what comes meanwhile is not waited for. */
  private drain(concerns: (work: Work) => boolean): void {
    const { nextSequence } = this.device;
    this.waitFor(
      (work) => work.sequence < nextSequence && concerns(work),
      () => this.complete(ERROR.none),
    );
  }

  private waitFor(concerns: (work: Work) => boolean, then: () => void): void {
    this.wait = { concerns, then };
    this.poll();
  }

  private interruptHandle(code: number, operand: number): void {
    const index = operand & OPERAND_INDEX;
    const request = code === COMMAND.requestInterruptHandle;
    if ((operand & OPERAND_MESSAGE_STORAGE) !== 0 || index >= this.registers.features.vectors) {
      this.complete(request ? ERROR.interruptIndex : ERROR.handleNotGranted);
    } else if (request) {
      if (this.granted.has(index)) this.complete(ERROR.noHandle);
      else {
        this.granted.add(index);
        this.complete(ERROR.none, index);
      }
    } else this.complete(this.granted.delete(index) ? ERROR.none : ERROR.handleNotGranted);
  }
}
