/** A small machine for tests of the fabric: RAM, a scheduler, a translation agent that is a plain map. */

import { PhysicalMemory } from '../../src/memory/physical-memory.ts';
import { ECAM_SIZE, PciFabric, type PciFabricOptions } from '../../src/pci/fabric.ts';
import type { PciFunction } from '../../src/pci/function.ts';
import type { PciEvent } from '../../src/pci/trace.ts';
import {
  ACCESS_EXECUTE,
  ACCESS_READ,
  ACCESS_WRITE,
  AT_TRANSLATED,
  COMPLETION_ABORT,
  COMPLETION_SUCCESS,
  type PageRequest,
  type TranslationAgent,
  type TranslationCompletion,
} from '../../src/pci/transaction.ts';
import { Scheduler } from '../../src/scheduler.ts';
import { Trace } from '../../src/trace.ts';

export const ECAM_BASE = 0xe000_0000;

type Mapping = { pfn: number; access: number };

/** Translates by (rid, pasid, page); translated requests pass. Records page requests and interrupts. */
export class TableAgent implements TranslationAgent {
  pfn = 0;
  readonly ats: TranslationCompletion = {
    pfn: 0,
    sizeLg2: 12,
    access: 0,
    global: false,
    noSnoop: false,
    untranslatedOnly: false,
  };
  readonly mappings = new Map<string, Mapping>();
  readonly pageRequests: PageRequest[] = [];
  readonly interrupts: { rid: number; address: number; data: number }[] = [];
  readonly translations: { rid: number; pasid: number; access: number; addressType: number; page: number }[] = [];
  translationRequests = 0;
  global = false;
  untranslatedOnly = false;

  map(rid: number, pasid: number, page: number, pfn: number, access = ACCESS_READ | ACCESS_WRITE): void {
    this.mappings.set(`${rid}/${pasid}/${page}`, { pfn, access });
  }

  unmap(rid: number, pasid: number, page: number): void {
    this.mappings.delete(`${rid}/${pasid}/${page}`);
  }

  translate(rid: number, pasid: number, access: number, addressType: number, high: number, low: number): number {
    const page = high * 2 ** 27 + low;
    this.translations.push({ rid, pasid, access, addressType, page });
    if (addressType === AT_TRANSLATED) {
      this.pfn = page;
      return COMPLETION_SUCCESS;
    }
    const mapping = this.mappings.get(`${rid}/${pasid}/${page}`);
    const need = access & (ACCESS_READ | ACCESS_WRITE | ACCESS_EXECUTE);
    if (mapping === undefined || (mapping.access & need) !== need) return COMPLETION_ABORT;
    this.pfn = mapping.pfn;
    return COMPLETION_SUCCESS;
  }

  requestTranslation(rid: number, pasid: number, access: number, high: number, low: number): number {
    this.translationRequests++;
    const mapping = this.mappings.get(`${rid}/${pasid}/${high * 2 ** 27 + low}`);
    this.ats.pfn = mapping?.pfn ?? 0;
    this.ats.access = (mapping?.access ?? 0) & access;
    this.ats.global = this.global;
    this.ats.untranslatedOnly = this.untranslatedOnly;
    return COMPLETION_SUCCESS;
  }

  requestPage(request: PageRequest): void {
    this.pageRequests.push({ ...request });
  }

  writeInterrupt(rid: number, address: number, _addressHigh: number, data: number): void {
    this.interrupts.push({ rid, address: address >>> 0, data });
  }
}

export function machine(options: Partial<PciFabricOptions> = {}) {
  const memory = new PhysicalMemory({ ramBytes: 4 << 20, reservedBytes: 1 << 20 });
  const scheduler = new Scheduler();
  const delivered: { address: number; data: number }[] = [];
  const events: PciEvent[] = [];
  const trace = new Trace<PciEvent>(scheduler);
  trace.listen((event) => events.push(event));
  const fabric = new PciFabric({
    memory,
    scheduler,
    interrupts: { deliver: (address, data) => delivered.push({ address: address >>> 0, data }) },
    trace,
    ...options,
  });
  memory.mapMmio(ECAM_BASE / 4096, ECAM_SIZE / 4096, fabric.ecam);
  const agent = new TableAgent();
  return { memory, scheduler, fabric, agent, delivered, events, named };

  /** Events of one name, in order. */
  function named<Name extends PciEvent['name']>(name: Name): Extract<PciEvent, { name: Name }>[] {
    return events.filter((event): event is Extract<PciEvent, { name: Name }> => event.name === name);
  }
}

/** Configuration access as software has it: loads and stores in the ECAM range. */
export class Config {
  private readonly memory: PhysicalMemory;
  private readonly base: number;

  constructor(memory: PhysicalMemory, rid: number) {
    this.memory = memory;
    this.base = ECAM_BASE + rid * 4096;
  }

  read(offset: number, width: 1 | 2 | 4 = 4): number {
    return Number(this.memory.load(this.base + offset, width));
  }

  write(offset: number, width: 1 | 2 | 4, value: number): void {
    this.memory.store(this.base + offset, width, value >>> 0);
  }

  /** Sets Memory Space Enable and Bus Master Enable. */
  enable(): void {
    this.write(0x04, 2, 0x6);
  }

  /** Offsets of the standard capabilities by id. @throws when the chain does not end */
  standard(): Map<number, number> {
    const found = new Map<number, number>();
    if ((this.read(0x06, 2) & 0x10) === 0) return found;
    for (let at = this.read(0x34, 1); at !== 0; at = this.read(at + 1, 1)) {
      if (at < 0x40 || at % 4 !== 0 || found.size > 48) throw new Error(`capability chain at ${at}`);
      found.set(this.read(at, 1), at);
    }
    return found;
  }

  /** Offsets of the extended capabilities by id. @throws when the chain does not end */
  extended(): Map<number, number> {
    const found = new Map<number, number>();
    for (let at = 0x100; at !== 0; at = this.read(at) >>> 20) {
      if (at < 0x100 || at % 4 !== 0 || found.size > 900) throw new Error(`extended capability chain at ${at}`);
      const header = this.read(at);
      if (header === 0) break;
      found.set(header & 0xffff, at);
    }
    return found;
  }

  ats(on: boolean): void {
    this.write(this.extended().get(0x0f)! + 6, 2, on ? 0x8000 : 0);
  }

  /** PASID Enable, execute and privileged. */
  pasid(control = 7): void {
    this.write(this.extended().get(0x1b)! + 6, 2, control);
  }

  pri(allocation: number): void {
    const at = this.extended().get(0x13)!;
    this.write(at + 0x0c, 4, allocation);
    this.write(at + 4, 2, 1);
  }
}

/** Everything on: memory, bus master, PASID, ATS and PRI where the function has them. */
export function enableAll(memory: PhysicalMemory, fn: PciFunction): Config {
  const config = new Config(memory, fn.rid);
  config.enable();
  const extended = config.extended();
  if (extended.has(0x1b)) config.pasid();
  if (extended.has(0x0f)) config.ats(true);
  if (extended.has(0x13)) config.pri(32);
  return config;
}
