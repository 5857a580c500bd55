import { fc } from '@fast-check/vitest';
import {
  ACCESS_READ,
  ACCESS_WRITE,
  high32,
  low32,
  pageHigh,
  pageLow,
  requesterId,
  TEST_COMMAND,
  TEST_REGISTER,
} from '@iommukit/hw';
import { expect, test } from 'vitest';
import {
  attachDevicePasid,
  authorizePasid,
  deauthorizePasid,
  detachDevicePasid,
  type PagingDomain,
  type Process,
  Processes,
  type SvaHandle,
} from '../../src/index.ts';
import { mapPage, pagingDomain } from '../support/domains.ts';
import { refusal } from '../support/fake-driver.ts';
import { Machine } from '../support/machine.ts';
import type { TestDevice } from '../support/test-device.ts';

const DEVICES = 2;
const PROCESSES = 2;
const PAGES = 3;
const READ_WRITE = ACCESS_READ | ACCESS_WRITE;
/** What the pages of the user's own domain hold; no process writes it. */
const FOREIGN_BYTE = 0xfd;

type Client = { readonly process: Process; readonly va: bigint; readonly byte: number };
type Engine = {
  readonly test: TestDevice;
  readonly domain: PagingDomain;
  readonly handles: Map<Client, SvaHandle[]>;
  /** PASIDs that a user has attached, and authorised without attaching, on this device. */
  readonly attached: Set<number>;
  readonly authorized: Set<number>;
  /** The write under way: for whom, where. */
  job: { readonly client: Client; readonly va: bigint; readonly pasid: number } | null;
};

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** Two devices and some processes whose memory is all at the same address, so that a mix-up is seen by its bytes. */
class World {
  readonly machine: Machine;
  readonly engines: Engine[];
  readonly clients: (Client | null)[] = new Array<Client | null>(PROCESSES).fill(null);
  readonly processes: Processes;
  /** Page request groups reported to the driver and answered by it, by `rid/pasid`. */
  private readonly reported = new Map<string, number>();
  private readonly answered = new Map<string, number>();
  private nextByte = 1;
  frees = 0;
  reused = 0;
  /** Times that a device was at work when one of its binds was given back. */
  inFlight = 0;

  constructor() {
    this.machine = new Machine({
      plug: (self) => {
        for (let bus = 1; bus <= DEVICES; bus++) {
          self.plugPort(requesterId(0, bus, 0), bus);
          self.plug(self.testFunction(), requesterId(bus, 0, 0));
        }
      },
    });
    this.processes = new Processes(this.machine.kernel);
    this.engines = Array.from({ length: DEVICES }, (_, index) => {
      const device = this.machine.add(requesterId(index + 1, 0, 0));
      const domain = pagingDomain(device);
      return {
        test: device,
        domain,
        handles: new Map(),
        attached: new Set<number>(),
        authorized: new Set<number>(),
        job: null,
      };
    });
    this.machine.trace.listen((event) => {
      if (event.name === 'prq_report' && event.last) count(this.reported, `${event.rid}/${event.pasid}`);
      if (event.name === 'page_response') count(this.answered, `${event.rid}/${event.pasid}`);
    });
    this.watch();
  }

  client(index: number): Client {
    const present = this.clients[index] ?? null;
    if (present !== null) return present;
    const process = this.processes.spawn();
    const va = process.memory!.map({ length: PAGES * 4096, protection: READ_WRITE });
    const client = { process, va, byte: this.nextByte++ };
    this.clients[index] = client;
    return client;
  }

  take({ kind, device, process, page, pasid, span }: Step): void {
    const engine = this.engines[device]!;
    const client = this.client(process);
    switch (kind) {
      case 'bind':
      case 'unbind':
        this[kind](engine, client);
        break;
      case 'start':
        this.start(engine, client, page);
        break;
      case 'rush':
        this.rush(engine, client, page, span);
        break;
      case 'exit':
        client.process.exit();
        if (this.engines.every(({ handles }) => (handles.get(client) ?? []).length === 0)) this.clients[process] = null;
        break;
      case 'wait':
        // Requests reach the driver's queue, and its work is queued, but nothing of it runs.
        this.machine.scheduler.advance(span);
        break;
      case 'settle':
        this.machine.settle();
        break;
      default:
        this[kind](engine, pasid);
    }
  }

  /** The page of the user's own domain is where the processes have theirs. */
  attach(engine: Engine, pasid: number): void {
    const { va } = this.client(0);
    if (engine.domain.iovaToPhys(va) === null) mapPage(engine.domain, va, this.machine.frame(FOREIGN_BYTE));
    const outcome = refusal(() => attachDevicePasid(engine.test.device, pasid, { domain: engine.domain }));
    if (outcome === null) engine.attached.add(pasid);
    else expect(outcome).toBe('EBUSY');
  }

  detach(engine: Engine, pasid: number): void {
    if (engine.attached.delete(pasid)) detachDevicePasid(engine.test.device, pasid);
  }

  authorize(engine: Engine, pasid: number): void {
    const outcome = refusal(() => authorizePasid(engine.test.device, pasid));
    if (outcome === null) engine.authorized.add(pasid);
    else expect(outcome).toBe('EBUSY');
  }

  deauthorize(engine: Engine, pasid: number): void {
    if (engine.authorized.delete(pasid)) deauthorizePasid(engine.test.device, pasid);
  }

  bind(engine: Engine, client: Client): void {
    const handles = engine.handles.get(client) ?? [];
    let handle: SvaHandle | null = null;
    const outcome = refusal(() => {
      handle = this.machine.core.sva.bind(engine.test.device, client.process.addressSpace);
    });
    // The process is gone; or a user has its PASID on this device.
    if (client.process.hasExited) expect(outcome).toBe('ENODEV');
    else expect([null, 'EBUSY']).toContain(outcome);
    if (handle !== null) engine.handles.set(client, [...handles, handle]);
  }

  /** The driver of the device gives one bind back, and then waits for what the device was doing. */
  unbind(engine: Engine, client: Client): void {
    const handles = engine.handles.get(client) ?? [];
    const handle = handles.pop();
    if (handle === undefined) return;
    if (engine.job?.client === client && engine.test.busy) this.inFlight++;
    // Inside kernel work no other work runs: what interrupts have queued cannot help.
    this.machine.kernel.queueWork(() => this.machine.core.sva.unbind(handle));
    this.machine.kernel.runWork();
    if (handles.length === 0 && engine.job?.client === client) this.finish(engine);
  }

  /** A short life: everything that `client` has bound goes `span` nanoseconds after a device has started to write. */
  rush(engine: Engine, client: Client, page: number, span: number): void {
    this.bind(engine, client);
    this.start(engine, client, page);
    this.machine.scheduler.advance(span);
    for (const other of this.engines) while ((other.handles.get(client) ?? []).length > 0) this.unbind(other, client);
  }

  /** Starts a write and lets it be under way. */
  start(engine: Engine, client: Client, page: number): void {
    const handle = engine.handles.get(client)?.[0];
    if (handle === undefined) return;
    this.finish(engine);
    const va = client.va + BigInt(page * 4096);
    const { test, pasid } = { test: engine.test, pasid: handle.pasid };
    engine.job = { client, va, pasid };
    test.store(TEST_REGISTER.buffer, client.byte);
    test.start(TEST_COMMAND.write, va, 1, { pasid, addressing: 'cached', requestPages: true });
  }

  finish(engine: Engine): void {
    const { job, test } = engine;
    if (job === null) return;
    expect(test.wait()).toBe(true);
    engine.job = null;
    if (test.result === 0 && !job.client.process.hasExited) expect(byteAt(job.client, job.va)).toBe(job.client.byte);
  }

  /** Every page of every process holds only what was written for it. */
  checkMemory(): void {
    for (const client of this.clients) {
      if (client === null || client.process.hasExited) continue;
      for (let page = 0; page < PAGES; page++) {
        expect([0, client.byte]).toContain(byteAt(client, client.va + BigInt(page * 4096)));
      }
    }
  }

  end(): void {
    for (const engine of this.engines) {
      for (const [client, handles] of engine.handles) while (handles.length > 0) this.unbind(engine, client);
      this.finish(engine);
    }
    this.checkMemory();
    expect(this.machine.core.pasids.size).toBe(0);
  }

  /** Looks at a PASID whenever it becomes free, and when it is given out. */
  private watch(): void {
    const { pasids } = this.machine.core;
    const free = pasids.free.bind(pasids);
    const allocate = pasids.allocate.bind(pasids);
    const freed = new Set<number>();
    pasids.free = (pasid) => {
      this.frees++;
      this.checkUnnamed(pasid);
      freed.add(pasid);
      free(pasid);
    };
    pasids.allocate = (range) => {
      const pasid = allocate(range);
      this.checkUnnamed(pasid);
      if (freed.has(pasid)) this.reused++;
      return pasid;
    };
  }

  private checkUnnamed(pasid: number): void {
    for (const { test, attached, authorized, job } of this.engines) {
      const { device } = test;
      const key = `${device.rid}/${pasid}`;
      expect({ key, unanswered: (this.reported.get(key) ?? 0) - (this.answered.get(key) ?? 0) }).toEqual({
        key,
        unanswered: 0,
      });
      if (job?.pasid === pasid)
        expect({ key, sent: test.requests }).toEqual({ key, sent: this.reportedBy(device.rid) });
      // On a device of which the PASID's address space has made no use a user may have it.
      if (attached.has(pasid)) continue;
      const own = this.machine.driver.unit.devices.get(device.rid)!;
      expect({
        key,
        entry: own.pasidTable.tag(pasid),
        route: device.group.pasidHandles.has(pasid),
        authorized: device.authorizedPasids.has(pasid),
        cached: this.isCached(test, pasid),
      }).toEqual({ key, entry: null, route: false, authorized: authorized.has(pasid), cached: false });
    }
  }

  /** Whether the unit or the device still translates any page of the processes with the PASID. */
  private isCached(test: TestDevice, pasid: number): boolean {
    const { cache } = this.machine.fabric.functionAt(test.device.rid)!.ats!;
    const { va } = this.client(0);
    for (let page = 0; page < PAGES; page++) {
      const [lo, hi] = [low32(va) + page * 4096, high32(va)];
      if (cache.lookup(pasid, ACCESS_READ, pageHigh(hi), pageLow(lo, hi))) return true;
      if (test.probe(va + BigInt(page * 4096), pasid) !== null) return true;
    }
    return false;
  }

  private reportedBy(rid: number): number {
    let sum = 0;
    for (const [key, groups] of this.reported) if (key.startsWith(`${rid}/`)) sum += groups;
    return sum;
  }
}

function count(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

function byteAt({ process }: Client, va: bigint): number {
  const byte = new Uint8Array(1);
  process.memory!.read(va, byte);
  return byte[0]!;
}

const KINDS = ['attach', 'detach', 'authorize', 'deauthorize', 'exit', 'wait', 'settle', 'rush', 'rush'] as const;

const step = fc.record({
  kind: fc.oneof(
    { weight: 2, arbitrary: fc.constantFrom('bind', 'start', 'unbind') },
    { weight: 1, arbitrary: fc.constantFrom(...KINDS) },
  ),
  device: fc.nat(DEVICES - 1),
  process: fc.nat(PROCESSES - 1),
  page: fc.nat(PAGES - 1),
  pasid: fc.integer({ min: 1, max: 3 }),
  span: fc.nat(4000),
});

test('X4 a PASID is not reused while an entry, a cache, a route, an authorisation or a page request still names it', () => {
  const totals = { frees: 0, reused: 0, inFlight: 0 };
  const property = fc.property(fc.array(step, { minLength: 30, maxLength: 60 }), (steps) => {
    const world = new World();
    for (const taken of steps) world.take(taken);
    world.end();
    for (const key of ['frees', 'reused', 'inFlight'] as const) totals[key] += world[key];
  });
  fc.assert(property, { numRuns: 40, endOnFailure: true });
  // The sequences free PASIDs that devices are using, and use them again.
  expect(totals.frees).toBeGreaterThan(80);
  expect(totals.reused).toBeGreaterThan(40);
  expect(totals.inFlight).toBeGreaterThan(50);
});
