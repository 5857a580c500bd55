/** A machine with a DSA behind a table of translations, and a small driver for it. */

import { DsaFunction, type DsaOptions } from '../../src/dsa/dsa-function.ts';
import { DSA_COMMAND as COMMAND, DSA_REGISTER as REG } from '../../src/dsa/registers.ts';
import type { DsaEvent } from '../../src/dsa/trace.ts';
import { ACCESS_READ, ACCESS_WRITE, NO_PASID, PRG_SUCCESS } from '../../src/pci/transaction.ts';
import { Trace } from '../../src/trace.ts';
import { Config, enableAll, machine, type TableAgent } from '../pci/support.ts';

export const RID = 0x28;
export const BAR0 = 0xd000_0000;
export const BAR2 = 0xd010_0000;
export const PASID = 5;
/** Page of completion records in every address space that `mapRecords` made; frame RECORD_PFN. */
export const RECORD_PAGE = 0x80;
export const RECORD_PFN = 0x180;
export const RECORD = RECORD_PAGE * 4096;

export type QueueOptions = {
  size?: number;
  threshold?: number;
  dedicated?: boolean;
  blockOnFault?: boolean;
  priority?: number;
  pasid?: number;
  pasidEnable?: boolean;
  privileged?: boolean;
  maxTransferLg2?: number;
  maxBatchLg2?: number;
};

export type Descriptor = {
  operation: number;
  flags?: number;
  pasid?: number;
  privileged?: boolean;
  record?: number | bigint;
  source?: number | bigint;
  destination?: number | bigint;
  size?: number;
  handle?: number;
  /** Words 10 to 15. */
  rest?: number[];
};

export const VALID = 0x04;
const REQUEST = 0x08;

/** The 64 bytes of a descriptor, with a record at RECORD unless told otherwise. */
export function encode(descriptor: Descriptor): Uint8Array {
  const { operation, flags = VALID | REQUEST, pasid = 0, privileged = false, record = RECORD } = descriptor;
  const bytes = new Uint8Array(64);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, (pasid | (privileged ? 0x8000_0000 : 0)) >>> 0, true);
  view.setUint32(4, ((operation << 24) | flags) >>> 0, true);
  view.setBigUint64(8, BigInt(record), true);
  view.setBigUint64(16, BigInt(descriptor.source ?? 0), true);
  view.setBigUint64(24, BigInt(descriptor.destination ?? 0), true);
  view.setUint32(32, descriptor.size ?? 0, true);
  view.setUint16(36, descriptor.handle ?? 0, true);
  (descriptor.rest ?? []).forEach((word, index) => view.setInt32(40 + 4 * index, word | 0, true));
  return bytes;
}

type CompletionRecord = {
  status: number;
  result: number;
  completed: number;
  fault: bigint;
  detail: number;
};

export type DsaMachine = ReturnType<typeof dsaMachine>;

export function dsaMachine(options: Partial<DsaOptions> = {}) {
  const test = machine();
  const { memory, scheduler, fabric, agent } = test;
  fabric.setAgent(agent);
  const trace = new Trace<DsaEvent>(scheduler);
  const dsaEvents: DsaEvent[] = [];
  trace.listen((event) => dsaEvents.push(event));
  const dsa = fabric.plug(new DsaFunction({ memory, scheduler, trace, ...options }), RID);
  const config = new Config(memory, RID);
  const self = {
    ...test,
    dsa,
    config,
    dsaEvents,
    bring,
    read,
    write,
    read64,
    command,
    configureQueue,
    configureGroup,
    start,
    post,
    enqueue,
    submit,
    record,
    clearRecord,
    mapRecords,
    settle,
    writeMsix,
    completions,
  };
  bring();
  return self;

  /** Firmware and PCI core: BARs, memory decode, bus master, PASID, ATS and PRI. */
  function bring() {
    config.write(0x10, 4, BAR0);
    config.write(0x18, 4, BAR2);
    enableAll(memory, dsa);
  }
  function read(register: number): number {
    return Number(memory.load(BAR0 + register, 4));
  }
  function read64(register: number): bigint {
    return memory.load(BAR0 + register, 8);
  }
  function write(register: number, value: number): void {
    memory.store(BAR0 + register, 4, value >>> 0);
  }
  /** Runs a command until it is no longer active, or `limit` nanoseconds are over. Gives CMDSTS. */
  function command(code: number, operand = 0, limit = 1_000_000): number {
    write(REG.cmd, (code << 20) | operand);
    const end = scheduler.now + limit;
    while (read(REG.cmdsts) >>> 31 !== 0 && scheduler.nextDue <= end) scheduler.runNext();
    return read(REG.cmdsts);
  }
  function configureQueue(index: number, queue: QueueOptions = {}) {
    const { dedicated = true, pasidEnable = true, pasid = dedicated ? PASID : 0 } = queue;
    const at = REG.wqcfg + index * 0x20;
    write(at, queue.size ?? 16);
    write(at + 4, queue.threshold ?? 0);
    write(
      at + 8,
      (dedicated ? 1 : 0) |
        ((queue.blockOnFault ?? true) ? 2 : 0) |
        ((queue.priority ?? 10) << 4) |
        (pasid << 8) |
        (pasidEnable ? 1 << 28 : 0) |
        (queue.privileged ? 1 << 29 : 0),
    );
    write(at + 12, (queue.maxTransferLg2 ?? 31) | ((queue.maxBatchLg2 ?? 10) << 5));
  }
  function configureGroup(index: number, queues: number, engines: number, flags = 96 << 20) {
    const at = REG.grpcfg + index * 0x40;
    write(at, queues);
    write(at + 0x20, engines);
    write(at + 0x28, flags);
  }
  /** One group of `engines` engines with the queues as given, device and queues enabled. */
  function start(queues: QueueOptions[], engines = 1) {
    queues.forEach((queue, index) => configureQueue(index, queue));
    configureGroup(0, (1 << queues.length) - 1, (1 << engines) - 1);
    if (command(COMMAND.enableDevice) !== 0) throw new Error(`enable device: ${read(REG.cmdsts)}`);
    queues.forEach((_, index) => {
      if (command(COMMAND.enableQueue, index) !== 0) throw new Error(`enable queue: ${read(REG.cmdsts)}`);
    });
    return self;
  }
  /** MOVDIR64B to the limited portal. */
  function post(queue: number, descriptor: Descriptor, portal = 1): void {
    memory.store64(BAR2 + queue * 0x4000 + portal * 0x1000, encode(descriptor));
  }
  /** ENQCMD. True: accepted. */
  function enqueue(queue: number, descriptor: Descriptor, portal = 1): boolean {
    return memory.enqueue64(BAR2 + queue * 0x4000 + portal * 0x1000, encode(descriptor));
  }
  function record(at = RECORD_PFN * 4096): CompletionRecord {
    const view = new DataView(memory.bytes.buffer, at, 32);
    return {
      status: view.getUint8(0),
      result: view.getUint8(1),
      completed: view.getUint32(4, true),
      fault: view.getBigUint64(8, true),
      detail: view.getUint32(16, true),
    };
  }
  function clearRecord(): void {
    memory.bytes.fill(0, RECORD_PFN * 4096, (RECORD_PFN + 1) * 4096);
  }
  /** Makes the page of completion records writable in an address space. */
  function mapRecords(...pasids: number[]) {
    for (const pasid of pasids) agent.map(RID, pasid, RECORD_PAGE, RECORD_PFN);
    return self;
  }
  /** Runs until nothing is due any more. @throws when it does not end */
  function settle(limit = 100_000): void {
    for (let i = 0; i < limit; i++) if (!scheduler.runNext()) return;
    throw new Error('events without end');
  }
  /** Posts to queue 0 and runs to the end; gives the completion record. */
  function submit(descriptor: Descriptor): CompletionRecord {
    clearRecord();
    post(0, descriptor);
    settle();
    return record();
  }
  /** Unmasks vector `vector`, with data 0x40 + vector, for descriptors of `pasid`. */
  function writeMsix(vector: number, pasid = NO_PASID) {
    config.write(config.standard().get(0x11)! + 2, 2, 0x8000);
    memory.store(BAR0 + REG.msixTable + vector * 16, 8, 0xfee0_0000);
    memory.store(BAR0 + REG.msixTable + vector * 16 + 8, 8, 0x40 + vector);
    write(REG.msixPermissions + vector * 8, pasid === NO_PASID ? 0 : (pasid << 12) | 8);
  }
  function completions() {
    return dsaEvents.filter((event) => event.name === 'dsa_complete');
  }
}

/**
 * Answers every page request that has come in, after putting the page there with `fill`; gives how many there were.
 * `fill` gives the frame, or null for a page that does not exist.
 */
export function answer(test: DsaMachine, fill: (page: number, write: boolean) => number | null, refuse = 1): number {
  const { agent, fabric } = test;
  const requests = (agent as TableAgent).pageRequests.splice(0);
  for (const { rid, pasid, group, pageHigh, pageLow, access } of requests) {
    const page = pageHigh * 2 ** 27 + pageLow;
    const pfn = fill(page, (access & ACCESS_WRITE) !== 0);
    if (pfn !== null) agent.map(rid, pasid, page, pfn, ACCESS_READ | ACCESS_WRITE);
    fabric.respond({ rid, pasid, group, code: pfn === null ? refuse : PRG_SUCCESS });
  }
  return requests.length;
}
