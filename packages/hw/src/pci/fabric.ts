/**
 * The PCI Express hierarchy of one segment and its root complex (PCI Express Base Specification 6.0): which function
 * is where, configuration access (ECAM, section 7.2.2), address decoding of BARs, and messages between functions and
 * the translation agent.
 *
 * Functions on bus 0 are part of the root complex; those on other buses lie below a root port. Messages to functions
 * arrive `messageLatency` nanoseconds after they were sent, in order.
 */

import type { AccessWidth, MmioHandler } from '../memory/mmio.ts';
import type { PhysicalMemory } from '../memory/physical-memory.ts';
import type { Scheduler } from '../scheduler.ts';
import { noTrace, type TraceSink } from '../trace.ts';
import { addressHigh, addressLow, joinU64 } from '../u64.ts';
import { BarDecoder } from './bar.ts';
import type { PciFunction } from './function.ts';
import { IdentityAgent } from './identity-agent.ts';
import { RootPort } from './root-port.ts';
import type { PciEvent } from './trace.ts';
import {
  type AtsInvalidation,
  type DownstreamPort,
  formatRid,
  type InterruptSink,
  type PageGroupResponse,
  type TranslationAgent,
} from './transaction.ts';

/** Bytes of the ECAM range: 256 buses of 1 MiB. */
export const ECAM_SIZE: number = 256 << 20;

export type PciFabricOptions = {
  memory: PhysicalMemory;
  scheduler: Scheduler;
  /** Where interrupt messages go while there is no other translation agent. */
  interrupts: InterruptSink;
  trace?: TraceSink<PciEvent>;
  /** Nanoseconds from sending an invalidation or a response to its effect, the completion's way back included. */
  messageLatency?: number;
  /**
   * Nanoseconds after which an invalidation without completion has failed. The specification allows a minute; the
   * default of 100 ms keeps it shorter than what drivers wait.
   */
  invalidationTimeout?: number;
};

export class PciFabric implements DownstreamPort {
  readonly memory: PhysicalMemory;
  readonly decoder: BarDecoder;
  readonly trace: TraceSink<PciEvent>;
  /** Configuration space of every function, 4 KiB each by requester id. The machine maps it. */
  readonly ecam: MmioHandler;
  /** What translates upstream requests now. */
  agent: TranslationAgent;
  private readonly scheduler: Scheduler;
  private readonly identity: IdentityAgent;
  private readonly messageLatency: number;
  private readonly invalidationTimeout: number;
  private readonly functions = new Map<number, PciFunction>();

  constructor(options: PciFabricOptions) {
    const { memory, scheduler, interrupts, trace = noTrace } = options;
    this.memory = memory;
    this.scheduler = scheduler;
    this.trace = trace;
    this.decoder = new BarDecoder(memory);
    this.identity = new IdentityAgent(interrupts);
    this.agent = this.identity;
    this.messageLatency = options.messageLatency ?? 400;
    this.invalidationTimeout = options.invalidationTimeout ?? 100_000_000;
    this.ecam = {
      read: (offset, width) => this.readConfig(offset, width),
      write: (offset, width, value) => this.writeConfig(offset, width, value),
    };
  }

  /** Puts a translation agent at the root of the hierarchy; null for the pass-through. */
  setAgent(agent: TranslationAgent | null): void {
    this.agent = agent ?? this.identity;
  }

  /**
   * Plugs a function in at requester id `rid`.
   * @throws {RangeError} when the place is taken, its bus is neither 0 nor below a root port, or the buses below it are
   * below another port
   */
  plug<T extends PciFunction>(fn: T, rid: number): T {
    const bus = rid >> 8;
    const port = this.portAbove(bus);
    if (!(rid >= 0 && rid <= 0xffff)) throw new RangeError(`no requester id: ${rid}`);
    if (this.functions.has(rid)) throw new RangeError(`${formatRid(rid)} is taken`);
    if (bus !== 0 && port === null) throw new RangeError(`no root port above ${formatRid(rid)}`);
    if (bus !== 0 && fn instanceof RootPort) throw new RangeError(`root port at ${formatRid(rid)}, not on bus 0`);
    if (fn instanceof RootPort) this.checkBuses(fn);
    this.functions.set(rid, fn);
    fn.plugged(this, rid, port);
    const siblings: PciFunction[] = [];
    for (let i = 0; i < 8; i++) {
      const sibling = this.functions.get((rid & ~7) | i);
      if (sibling !== undefined && sibling.physicalFunction === null) siblings.push(sibling);
    }
    if (siblings.length > 1) for (const sibling of siblings) sibling.markMultiFunction();
    return fn;
  }

  /** Makes a VF of `pf` appear at `rid`. False when the place is taken or does not exist. */
  plugVirtual(vf: PciFunction, rid: number, pf: PciFunction): boolean {
    if (rid > 0xffff || this.functions.has(rid)) return false;
    this.functions.set(rid, vf);
    vf.plugged(this, rid, pf.port);
    return true;
  }

  /** Takes a function out: it answers nothing any more, and what it had outstanding is lost. */
  unplug(fn: PciFunction): void {
    if (fn.fabric !== this) return;
    this.functions.delete(fn.rid);
    fn.unplugged();
  }

  functionAt(rid: number): PciFunction | null {
    return this.functions.get(rid) ?? null;
  }

  /** A hot reset of every function below `port`. */
  resetBelow(port: RootPort): void {
    for (const fn of [...this.functions.values()]) if (fn.fabric !== null && fn.port === port) fn.reset();
  }

  invalidate(request: AtsInvalidation, done: (completed: boolean) => void): void {
    const copy = { ...request };
    this.scheduler.schedule(this.messageLatency, () => {
      const fn = this.functions.get(copy.rid);
      if (fn?.ats?.enabled && fn.answersInvalidations) {
        fn.ats.cache.invalidate(copy);
        this.finishInvalidation(copy, true, done);
        return;
      }
      const rest = Math.max(0, this.invalidationTimeout - this.messageLatency);
      this.scheduler.schedule(rest, () => this.finishInvalidation(copy, false, done));
    });
  }

  respond(response: PageGroupResponse): void {
    const copy = { ...response };
    this.scheduler.schedule(this.messageLatency, () => {
      const fn = this.functions.get(copy.rid);
      if (fn == null) return;
      if (this.trace.enabled) this.trace.emit({ name: 'page_response', ...copy });
      fn.pri?.respond(fn, copy);
    });
  }

  private finishInvalidation(request: AtsInvalidation, completed: boolean, done: (completed: boolean) => void): void {
    if (this.trace.enabled) {
      const { rid, pasid, global, sizeLg2 } = request;
      const iova = joinU64(addressLow(request.pageLow), addressHigh(request.pageLow, request.pageHigh));
      this.trace.emit({ name: 'ats_invalidate', rid, pasid, global, iova, sizeLg2, completed });
    }
    done(completed);
  }

  /** @throws {RangeError} a bus below `port` is below another one */
  private checkBuses({ secondary, subordinate }: RootPort): void {
    for (let bus = secondary; bus <= subordinate; bus++) {
      const other = this.portAbove(bus);
      if (other !== null) throw new RangeError(`bus ${bus} is below the root port at ${formatRid(other.rid)}`);
    }
  }

  private portAbove(bus: number): RootPort | null {
    if (bus === 0) return null;
    for (const fn of this.functions.values()) {
      if (fn instanceof RootPort && bus >= fn.secondary && bus <= fn.subordinate) return fn;
    }
    return null;
  }

  private readConfig(offset: number, width: AccessWidth): bigint {
    const config = this.functions.get(Math.floor(offset / 4096))?.config;
    if (config === undefined) return (1n << BigInt(8 * width)) - 1n;
    const register = offset & 0xfff;
    if (width !== 8) return BigInt(config.read(register, width));
    return BigInt(config.read(register, 4)) | (BigInt(config.read(register + 4, 4)) << 32n);
  }

  private writeConfig(offset: number, width: AccessWidth, value: bigint): void {
    const config = this.functions.get(Math.floor(offset / 4096))?.config;
    if (config === undefined) return;
    const register = offset & 0xfff;
    config.write(register, width === 8 ? 4 : width, Number(value & 0xffffffffn));
    if (width === 8) config.write(register + 4, 4, Number(value >> 32n));
  }
}
