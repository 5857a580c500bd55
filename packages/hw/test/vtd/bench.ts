/** A unit with memory, a scheduler and recorded ends, driven as software drives it. */

import { PhysicalMemory } from '../../src/memory/physical-memory.ts';
import type { AtsInvalidation, PageGroupResponse, PageRequest } from '../../src/pci/transaction.ts';
import { Scheduler } from '../../src/scheduler.ts';
import * as reg from '../../src/vtd/registers.ts';
import type { VtdEvent } from '../../src/vtd/trace.ts';
import { VtdUnit, type VtdUnitOptions } from '../../src/vtd/unit.ts';

export const PAGE = 4096n;

/** Frames with a fixed use; tables of a test lie from `FREE` on. */
export const ROOT = 1n;
export const QUEUE = 2n;
export const STATUS = 6n;
export const PAGE_QUEUE = 8n;
export const INTERRUPT_TABLE = 12n;
export const FREE = 16n;

export type Fault = {
  reason: number;
  rid: number;
  /** -1: no PASID. */
  pasid: number;
  address: bigint;
  addressType: number;
  kind: 'read' | 'write' | 'page request';
  execute: boolean;
  privileged: boolean;
};

export type BenchOptions = { ramBytes?: number; reservedBytes?: number } & Partial<
  Omit<VtdUnitOptions, 'memory' | 'scheduler' | 'interrupts'>
>;

export class Bench {
  readonly memory: PhysicalMemory;
  readonly scheduler: Scheduler = new Scheduler();
  readonly unit: VtdUnit;
  readonly messages: { address: number; data: number }[] = [];
  readonly responses: PageGroupResponse[] = [];
  readonly invalidations: AtsInvalidation[] = [];
  readonly events: VtdEvent[] = [];
  /** How device-TLB invalidations end: at once, never, or late. */
  answer: (done: (completed: boolean) => void) => void = (done) => done(true);
  wide = true;
  private nextFrame = FREE;
  private tail = 0;
  private waits = 0;

  constructor(options: BenchOptions = {}) {
    const { ramBytes = 1 << 20, reservedBytes = 65536, ...rest } = options;
    this.memory = new PhysicalMemory({ ramBytes, reservedBytes });
    this.unit = new VtdUnit({
      memory: this.memory,
      scheduler: this.scheduler,
      port: {
        invalidate: (request, done) => {
          this.invalidations.push({ ...request });
          this.answer(done);
        },
        respond: (response) => this.responses.push({ ...response }),
      },
      interrupts: { deliver: (address, data) => this.messages.push({ address: address >>> 0, data }) },
      trace: { enabled: true, emit: (event) => this.events.push(event) },
      ...rest,
    });
  }

  frame(): bigint {
    return this.nextFrame++;
  }

  get64(address: bigint): bigint {
    return this.memory.load(address, 8);
  }

  put64(address: bigint, value: bigint): void {
    this.memory.store(address, 8, value);
  }

  read32(offset: number): number {
    return Number(this.unit.registers.read(offset, 4));
  }

  read64(offset: number): bigint {
    return this.unit.registers.read(offset, 8);
  }

  write32(offset: number, value: number): void {
    this.unit.registers.write(offset, 4, BigInt(value >>> 0));
  }

  write64(offset: number, value: bigint): void {
    this.unit.registers.write(offset, 8, value);
  }

  /** Lets everything that is scheduled happen. */
  run(): void {
    for (let i = 0; i < 100_000; i++) if (!this.scheduler.runNext()) return;
    throw new Error('the unit does not come to rest');
  }

  /** Sets bits of GCMD on top of what GSTS says. */
  command(bits: number): void {
    this.write32(reg.REG_GCMD, this.read32(reg.REG_GSTS) | bits);
    this.run();
  }

  setRoot(mode: number, root: bigint = ROOT * PAGE): void {
    this.write64(reg.REG_RTADDR, root | BigInt(mode << 10));
    this.command(reg.GCMD_SRTP);
  }

  /** Queue of 4 pages, events unmasked with vectors 0x31 (fault), 0x32 (invalidation), 0x33 (page request). */
  enable(mode: number): void {
    [reg.REG_FECTL, reg.REG_IECTL, reg.REG_PECTL].forEach((base, i) => {
      this.write32(base + 4, 0x31 + i);
      this.write32(base + 8, 0xfee00000);
      this.write32(base, 0);
    });
    this.write64(reg.REG_IQA, (QUEUE * PAGE) | (this.wide ? 0x800n : 0n) | 2n);
    this.write64(reg.REG_PQA, (PAGE_QUEUE * PAGE) | 1n);
    this.setRoot(mode);
    this.command(reg.GCMD_QIE);
    this.command(reg.GCMD_TE);
  }

  /** Puts descriptors in the queue, each as two or four 64-bit words, without running. */
  post(...descriptors: bigint[][]): void {
    const size = this.wide ? 32 : 16;
    for (const words of descriptors) {
      for (let i = 0; i < size / 8; i++) this.put64(QUEUE * PAGE + BigInt(this.tail + 8 * i), words[i] ?? 0n);
      this.tail = (this.tail + size) % (4 * 4096);
    }
    this.write64(reg.REG_IQT, BigInt(this.tail));
  }

  /** Posts descriptors and a wait; true when the wait's status has been written. */
  submit(...descriptors: bigint[][]): boolean {
    const data = BigInt(++this.waits);
    this.put64(STATUS * PAGE, 0n);
    this.post(...descriptors, [5n | (1n << 5n) | (data << 32n), STATUS * PAGE]);
    this.run();
    return this.get64(STATUS * PAGE) === data;
  }

  /** Reads and clears the fault recording registers, in the order of recording. */
  faults(): Fault[] {
    const found: Fault[] = [];
    const count = this.unit.features.faultRecords;
    let index = (this.read32(reg.REG_FSTS) & reg.FSTS_FRI) >> 8;
    for (let seen = 0; seen < count; seen++, index = (index + 1) % count) {
      const at = reg.REG_FRCD + 16 * index;
      const low = this.read64(at);
      const high = this.read64(at + 8);
      if (high >> 63n === 0n) break;
      const bit = (n: bigint): boolean => ((high >> n) & 1n) === 1n;
      found.push({
        reason: Number((high >> 32n) & 0xffn),
        rid: Number(high & 0xffffn),
        pasid: bit(31n) ? Number((high >> 40n) & 0xfffffn) : -1,
        address: low,
        addressType: Number((high >> 60n) & 3n),
        kind: bit(28n) ? 'page request' : bit(62n) ? 'read' : 'write',
        execute: bit(30n),
        privileged: bit(29n),
      });
      this.write32(at + 12, 1 << 31);
    }
    this.write32(reg.REG_FSTS, reg.FSTS_PFO);
    return found;
  }

  /** An untranslated request for the page of a byte address. Gives the completion status. */
  dma(rid: number, pasid: number, access: number, address: bigint, addressType = 0): number {
    const page = address >> 12n;
    return this.unit.translate(rid, pasid, access, addressType, Number(page >> 27n), Number(page & 0x7ffffffn));
  }

  /** A translation request; `unit.ats` holds the completion. */
  atsRequest(rid: number, pasid: number, access: number, address: bigint): number {
    const page = address >> 12n;
    return this.unit.requestTranslation(rid, pasid, access, Number(page >> 27n), Number(page & 0x7ffffffn));
  }

  pageRequest(request: Partial<PageRequest> & { address?: bigint }): void {
    const { address = 0n, ...rest } = request;
    const page = address >> 12n;
    this.unit.requestPage({
      rid: RID,
      pasid: -1,
      access: 1,
      last: true,
      group: 0,
      pageHigh: Number(page >> 27n),
      pageLow: Number(page & 0x7ffffffn),
      ...rest,
    });
  }

  /** Puts a legacy context entry in place; gives its address. */
  legacyContext(rid: number, low: bigint, high: bigint): bigint {
    const table = this.contextTable(ROOT * PAGE + 16n * BigInt(rid >> 8));
    const at = table + 16n * BigInt(rid & 0xff);
    this.put64(at, low);
    this.put64(at + 8n, high);
    return at;
  }

  /** Puts a scalable-mode context entry in place, with a directory of its own when `low` names none; gives its address. */
  context(rid: number, low: bigint, high = 0n): bigint {
    const table = this.contextTable(ROOT * PAGE + 16n * BigInt(rid >> 8) + ((rid & 0x80) !== 0 ? 8n : 0n));
    const at = table + 32n * BigInt(rid & 0x7f);
    this.put64(at, low >> 12n === 0n ? low | (this.frame() * PAGE) : low);
    this.put64(at + 8n, high);
    return at;
  }

  /** Puts a PASID entry in place, with its table when there is none; gives its address. */
  pasidEntry(context: bigint, pasid: number, words: bigint[]): bigint {
    const directory = this.get64(context) & ~0xfffn;
    const slot = directory + 8n * BigInt(pasid >> 6);
    if (this.get64(slot) === 0n) this.put64(slot, (this.frame() * PAGE) | 1n);
    const at = (this.get64(slot) & ~0xfffn) + 64n * BigInt(pasid & 63);
    for (let i = 0; i < 8; i++) this.put64(at + BigInt(8 * i), words[i] ?? 0n);
    return at;
  }

  /** Maps a page in a tree of tables from `root` on, `levels` of them; missing tables are made with `table` flags. */
  map(root: bigint, levels: number, address: bigint, leaf: bigint, table: bigint, leafLevel = 0): bigint {
    let at = root;
    for (let level = levels - 1; level > leafLevel; level--) {
      const slot = at + 8n * ((address >> BigInt(12 + 9 * level)) & 511n);
      if (this.get64(slot) === 0n) this.put64(slot, (this.frame() * PAGE) | table);
      at = this.get64(slot) & 0x000ffffffffff000n;
    }
    const slot = at + 8n * ((address >> BigInt(12 + 9 * leafLevel)) & 511n);
    this.put64(slot, leaf);
    return slot;
  }

  private contextTable(slot: bigint): bigint {
    if (this.get64(slot) === 0n) this.put64(slot, (this.frame() * PAGE) | 1n);
    return this.get64(slot) & ~0xfffn;
  }
}

export const RID = 0x0108;
