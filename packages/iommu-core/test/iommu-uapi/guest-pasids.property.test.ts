import { fc } from '@fast-check/vitest';
import { PRG_RESPONSE_FAILURE, requesterId, TEST_COMMAND, TEST_REGISTER } from '@iommukit/hw';
import { expect, test } from 'vitest';
import {
  cacheInvalidate,
  type DeviceFault,
  detachGroup,
  INVALID_IOASID,
  type PagingDomain,
  Processes,
} from '../../src/index.ts';
import { IOMMU_FAULT_PAGE_REQ } from '../../src/iommu-uapi/layout.ts';
import type { GuestTable } from '../support/domains.ts';
import { refusal } from '../support/fake-driver.ts';
import type { Machine } from '../support/machine.ts';
import type { TestDevice } from '../support/test-device.ts';
import { GuestPasidModel, type Leaf } from './guest-pasid-model.ts';
import {
  bindData,
  FIRST_DATA_GFN,
  GUEST_FRAMES,
  GVA,
  invalidateInfo,
  machineWith,
  pageResponse,
  Vm,
} from './support.ts';

const DEVICES = 2;
const VMS = 2;
const TABLES = 2;
const IDS = [1, 2, 3];
/** Data frames that tables map at GVA; the next is where devices write. */
const DATA = 4;
const WRITE_GFN = FIRST_DATA_GFN + DATA;
/** Devices write here, at this offset of a page that is absent until a page request is answered. */
const WRITE_GVA = GVA + 4096n;
const WRITE_OFFSET = 8;

type Engine = {
  test: TestDevice;
  /** Which VM has it, and by which second stage. */
  vm: number | null;
  parent: PagingDomain | null;
  readonly requests: Extract<DeviceFault, { type: 2 }>[];
};

type Guest = { readonly serial: number; readonly vm: Vm; readonly tables: GuestTable[]; readonly leaves: Leaf[] };

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

class World {
  readonly machine: Machine;
  readonly processes: Processes;
  readonly engines: Engine[];
  readonly guests: (Guest | null)[] = new Array<Guest | null>(VMS).fill(null);
  readonly model = new GuestPasidModel();
  readonly seen = {
    binds: 0,
    refused: 0,
    inFlight: 0,
    freedBound: 0,
    exitedBound: 0,
    stale: 0,
    answered: 0,
    failed: 0,
  };
  private readonly baseline: number;
  private serial = 0;

  constructor() {
    const { machine, devices } = machineWith(DEVICES, { ramBytes: 4 << 20 });
    this.machine = machine;
    this.processes = new Processes(machine.kernel);
    this.baseline = machine.frames.allocated;
    this.engines = devices.map((device) => ({ test: device, vm: null, parent: null, requests: [] }));
    for (const engine of this.engines) this.listen(engine);
  }

  private get core() {
    return this.machine.core;
  }

  listen(engine: Engine): void {
    this.core.deviceFaults.register(engine.test.device, (fault) => {
      if (fault.type === IOMMU_FAULT_PAGE_REQ) engine.requests.push(fault);
    });
  }

  guest(index: number): Guest {
    const present = this.guests[index] ?? null;
    if (present !== null) return present;
    const vm = new Vm(this.machine, this.processes);
    const serial = this.serial++;
    for (let k = 0; k < DATA; k++) vm.fill(FIRST_DATA_GFN + k, serial * DATA + k + 1);
    vm.fill(WRITE_GFN, 0);
    const tables = Array.from({ length: TABLES }, () => vm.table(FIRST_DATA_GFN));
    const guest = { serial, vm, tables, leaves: tables.map(() => serial * DATA + 1) };
    this.guests[index] = guest;
    return guest;
  }

  key({ device }: Step, id: number): string {
    return `${device}/${id}`;
  }

  take(chosen: Step): void {
    const taken = chosen.aimed ? this.aim(chosen) : chosen;
    this[taken.kind](taken, this.engines[taken.device]!, this.guest(taken.vm));
    this.machine.kernel.runWork();
    this.check();
  }

  /** The same step, where it meets something: the VM that has the device, and a PASID that is bound or can be. */
  private aim(chosen: Step): Step {
    const vm = this.engines[chosen.device]!.vm ?? chosen.vm;
    const bound = IDS.filter((id) => this.model.binds.has(`${chosen.device}/${id}`));
    const free = IDS.filter((id) => !bound.includes(id) && (this.model.owners.get(id) ?? vm) === vm);
    const ids = chosen.kind === 'bind' || chosen.kind === 'alloc' ? free : bound;
    const id = ids.length === 0 ? chosen.id : ids[chosen.id % ids.length]!;
    const aimed = { ...chosen, vm, id, gpasid: chosen.gpasid === 0 ? 0 : id };
    if (chosen.kind !== 'bind') return aimed;
    const engine = this.engines[chosen.device]!;
    if (engine.vm === null) this.give(aimed, engine, this.guest(vm));
    if (!this.model.owners.has(id)) this.alloc(aimed, engine, this.guest(vm));
    return aimed;
  }

  /** The guest's view of `body` and everything of the host's that it could change when it is refused. */
  refusedWithout(expected: string | null, body: () => void): void {
    const before = expected === null ? null : this.snapshot();
    expect(refusal(body)).toBe(expected);
    if (before === null) return;
    this.seen.refused++;
    expect(this.snapshot()).toEqual(before);
  }

  snapshot(): unknown {
    const { ioasids, guestPasids } = this.core;
    return {
      frames: this.machine.frames.allocated,
      domainIds: this.machine.driver.unit.domainIds.used,
      size: guestPasids.size,
      ids: IDS.map((id) => [ioasids.referencesTo(id), ioasids.spidOf(id)]),
      handles: this.engines.map(({ test }) =>
        [...test.device.group.pasidHandles].map(([pasid, { domain }]) => [pasid, domain.id]),
      ),
    };
  }

  alloc({ vm, id }: Step, _engine: Engine, guest: Guest): void {
    const got = this.core.ioasids.alloc(guest.vm.set, id, id);
    expect(got).toBe(this.model.owners.has(id) ? INVALID_IOASID : id);
    if (got === id) this.model.owners.set(id, vm);
  }

  bind(taken: Step, engine: Engine, guest: Guest): void {
    const { id, vm, table, gpasid, fail } = taken;
    const key = this.key(taken, id);
    if (engine.vm !== null && engine.vm !== vm) return;
    const data = bindData(id, guest.tables[table]!.root, gpasid === 0 ? {} : { flags: 1n, gpasid: BigInt(gpasid) });
    const bind = (): void => this.core.guestPasids.bind(engine.test.device, guest.vm.mm, data);
    const expected = this.model.refusesBind(key, id, vm, gpasid, engine.vm !== null);
    const { failpoints } = this.machine.kernel;
    failpoints.arm(fail);
    const before = this.snapshot();
    const outcome = refusal(bind);
    const hit = failpoints.hit;
    failpoints.arm(0);
    if (hit !== null) {
      this.seen.failed++;
      expect(outcome).toBe('ENOMEM');
      expect(this.snapshot()).toEqual(before);
      return;
    }
    expect(outcome).toBe(expected);
    if (expected !== null) {
      this.seen.refused++;
      expect(this.snapshot()).toEqual(before);
      return;
    }
    this.seen.binds++;
    this.model.binds.set(key, { vm, table });
    this.model.visible.set(key, new Set([guest.leaves[table]!]));
    if (gpasid !== 0) this.model.spids.set(id, gpasid);
  }

  unbind(taken: Step, engine: Engine, guest: Guest): void {
    const { id, vm } = taken;
    const key = this.key(taken, id);
    const expected = this.model.refusesUnbind(key, id, vm);
    if (expected === null && engine.test.busy) this.seen.inFlight++;
    this.refusedWithout(expected, () => this.core.guestPasids.unbind(engine.test.device, guest.vm.mm, id));
    if (expected === null) this.model.remove(key, id);
  }

  flush(taken: Step, { test }: Engine): void {
    const { id } = taken;
    const key = this.key(taken, id);
    const bound = this.model.binds.get(key);
    this.refusedWithout(bound === undefined ? 'ENOENT' : null, () =>
      cacheInvalidate(this.core.guestPasids, test.device, invalidateInfo(id)),
    );
    if (bound !== undefined) this.model.visible.set(key, new Set([this.guest(bound.vm).leaves[bound.table]!]));
  }

  /** The guest changes a leaf, and says nothing. */
  edit({ vm, table, leaf }: Step, _engine: Engine, guest: Guest): void {
    const byte = leaf === DATA ? null : guest.serial * DATA + leaf + 1;
    guest.tables[table]!.set(GVA, FIRST_DATA_GFN + leaf, byte === null ? 0n : 7n);
    guest.leaves[table] = byte;
    for (const [key, bound] of this.model.binds) {
      if (bound.vm === vm && bound.table === table) this.model.visible.get(key)!.add(byte);
    }
  }

  /** DMA of the kind that goes through the device's own cache, where the device is free for it. */
  read(taken: Step, { test }: Engine): void {
    if (test.busy) return;
    const byte = test.read(GVA, { pasid: taken.id, addressing: 'cached' });
    this.checkByte(this.key(taken, taken.id), byte);
  }

  /** A write to an absent page begins, and is left under way. */
  start(taken: Step, engine: Engine): void {
    const bound = this.model.binds.get(this.key(taken, taken.id));
    const { test } = engine;
    if (test.busy || bound === undefined) return;
    const guest = this.guest(bound.vm);
    guest.tables[bound.table]!.set(WRITE_GVA, 0, 0n);
    this.flush(taken, engine);
    test.store(TEST_REGISTER.buffer, guest.serial + 1);
    const dma = { pasid: taken.id, addressing: 'cached', requestPages: true } as const;
    test.start(TEST_COMMAND.write, WRITE_GVA + BigInt(WRITE_OFFSET), 1, dma);
    this.machine.scheduler.advance(taken.span);
  }

  /** The guest resolves the oldest page request that it knows of, whether anybody still waits or not. */
  answer({ device, code }: Step, { test, requests }: Engine): void {
    this.machine.settle(100_000);
    const newest = requests.at(-1);
    const request = requests.shift();
    if (request === undefined || newest === undefined) return;
    const bound = this.model.binds.get(`${device}/${request.pasid}`);
    if (bound !== undefined) this.guest(bound.vm).tables[bound.table]!.set(WRITE_GVA, WRITE_GFN);
    const { deviceFaults } = this.core;
    // A device has one under way at a time; nothing but its numbers tells it from those before.
    const named = request.pasid === newest.pasid && request.grpid === newest.grpid;
    const waits = named && deviceFaults.pending(test.device) > 0;
    const response = pageResponse(request.pasid, request.grpid, { code });
    expect(refusal(() => deviceFaults.pageResponse(test.device, response))).toBe(waits ? null : 'EINVAL');
    if (!waits) return;
    this.seen.answered++;
    expect(test.wait()).toBe(true);
    expect(test.result === 0).toBe(code === 0);
    if (code === 2) expect(test.response).toBe(PRG_RESPONSE_FAILURE);
  }

  /** The owner frees an id, and does something more before the work for it runs. */
  free(taken: Step, engine: Engine, guest: Guest): void {
    const { id, vm, after } = taken;
    const { ioasids, guestPasids } = this.core;
    const key = this.key(taken, id);
    const owned = this.model.owners.get(id) === vm;
    const shared = this.model.bindsOf(id).length > 0;
    const bound = this.model.binds.has(key);
    let kept = false;
    this.machine.kernel.call('ioasid_free', () => {
      ioasids.free(guest.vm.set, id);
      if (!owned) return;
      if (shared) this.seen.freedBound++;
      const { device } = engine.test;
      const data = bindData(id, guest.tables[0]!.root);
      if (after === 'bind') {
        expect(refusal(() => guestPasids.bind(device, guest.vm.mm, data))).toBe(shared ? 'EBUSY' : 'ENOENT');
      } else if (after === 'unbind' && shared) {
        expect(refusal(() => guestPasids.unbind(device, guest.vm.mm, id))).toBe(bound ? null : 'EBUSY');
      } else if (after === 'flush' && bound) {
        cacheInvalidate(guestPasids, device, invalidateInfo(id));
      } else if (after === 'alloc') {
        kept = ioasids.alloc(guest.vm.set, id, id) === id;
        expect(kept).toBe(!shared);
      }
    });
    if (owned && !kept) this.model.forget(id);
  }

  /** The process ends, and its file after or before it. */
  exit({ vm, device }: Step, _engine: Engine, guest: Guest): void {
    const { ioasids } = this.core;
    if ([...this.model.binds.values()].some((bound) => bound.vm === vm)) this.seen.exitedBound++;
    const exit = (): void => {
      guest.vm.process.exit();
      const left = this.engines.flatMap(({ test }) => IDS.map((id) => this.core.guestPasids.find(test.device, id)));
      expect(left.filter((bind) => bind?.mm === guest.vm.mm)).toHaveLength(0);
    };
    const steps = [exit, (): void => ioasids.freeAllInSet(guest.vm.set)];
    this.machine.kernel.call('exit', () => {
      for (const run of device === 0 ? steps : steps.reverse()) run();
    });
    for (const [id, owner] of [...this.model.owners]) if (owner === vm) this.model.forget(id);
    ioasids.freeSet(guest.vm.set);
    for (const engine of this.engines) if (engine.vm === vm) this.leave(engine);
    this.machine.frames.free(guest.vm.base, GUEST_FRAMES);
    this.guests[vm] = null;
  }

  /** The device goes to a VM, from wherever it is. */
  give({ vm, device }: Step, engine: Engine, guest: Guest): void {
    this.core.guestPasids.release(engine.test.device);
    this.dropBinds(device);
    this.leave(engine);
    engine.vm = vm;
    engine.parent = guest.vm.take(engine.test);
  }

  /** The device is taken out while everything is as it is, and put back. */
  replug({ device }: Step, engine: Engine): void {
    if (engine.test.busy && this.model.binds.size > 0) this.seen.inFlight++;
    this.core.removeDevice(engine.test.device);
    this.dropBinds(device);
    engine.parent?.free();
    engine.parent = null;
    engine.vm = null;
    engine.requests.length = 0;
    expect(engine.test.wait()).toBe(true);
    engine.test = this.machine.add(requesterId(device + 1, 0, 0));
    this.listen(engine);
  }

  settle({ span }: Step): void {
    this.machine.settle(span);
  }

  private dropBinds(device: number): void {
    for (const key of [...this.model.binds.keys()]) {
      const [on, id] = key.split('/').map(Number) as [number, number];
      if (on === device) this.model.remove(key, id);
    }
  }

  private leave(engine: Engine): void {
    if (engine.parent === null) return;
    detachGroup(engine.test.device.group);
    engine.parent.free();
    engine.parent = null;
    engine.vm = null;
  }

  private checkByte(key: string, byte: Leaf): void {
    const visible = this.model.visible.get(key) ?? new Set([null]);
    if (!visible.has(byte)) throw new Error(`${key} gives ${byte}, not one of ${[...visible]}`);
    const bound = this.model.binds.get(key);
    if (bound !== undefined && byte !== this.guest(bound.vm).leaves[bound.table]) this.seen.stale++;
  }

  private check(): void {
    const { ioasids, guestPasids, pasids } = this.core;
    const { model } = this;
    const { unit } = this.machine.driver;
    const wrong: string[] = [];
    const compare = (what: string, actual: unknown, expected: unknown): void => {
      if (actual !== expected) wrong.push(`${what} is ${actual}, not ${expected}`);
    };
    this.engines.forEach(({ test: { device }, test }, index) => {
      for (const id of IDS) {
        const key = `${index}/${id}`;
        const bound = model.binds.has(key);
        compare(`entry of ${key}`, unit.devices.get(device.rid)!.pasidTable.tag(id) !== null, bound);
        compare(`route of ${key}`, device.group.pasidHandles.has(id), bound);
        compare(`authorisation of ${key}`, device.authorizedPasids.has(id), bound);
        compare(`bind of ${key}`, guestPasids.find(device, id) !== null, bound);
        if (!bound) compare(`page request of ${key}`, device.faults.names(id), false);
        this.checkByte(key, test.probe(GVA, id));
      }
    });
    for (const id of IDS) {
      const spid = model.spids.get(id);
      const references = model.owners.has(id) ? 1 + model.bindsOf(id).length + (spid === undefined ? 0 : 1) : 0;
      compare(`references of ${id}`, ioasids.referencesTo(id), references);
      compare(`SPID of ${id}`, ioasids.spidOf(id), spid ?? INVALID_IOASID);
    }
    compare('binds', guestPasids.size, model.binds.size);
    const parents = this.engines.filter(({ parent }) => parent !== null).length;
    compare('domains', unit.domainIds.used, model.binds.size + parents);
    compare('PASIDs', pasids.size, model.owners.size);
    compare('parked PASIDs', pasids.parked.length, 0);
    this.checkMemory(compare);
    expect(wrong).toEqual([]);
  }

  /** No device has written into a VM that it was not bound for. */
  private checkMemory(compare: (what: string, actual: unknown, expected: unknown) => void): void {
    const { bytes } = this.machine.memory;
    for (const guest of this.guests) {
      if (guest === null) continue;
      const byte = (gfn: number): number => bytes[((guest.vm.base + gfn) << 12) + WRITE_OFFSET]!;
      for (let k = 0; k < DATA; k++) {
        compare(`data ${k} of VM ${guest.serial}`, byte(FIRST_DATA_GFN + k), guest.serial * DATA + k + 1);
      }
      const written = byte(WRITE_GFN);
      if (written !== 0) compare(`what is written to VM ${guest.serial}`, written, guest.serial + 1);
    }
  }

  end(): void {
    for (let vm = 0; vm < VMS; vm++) {
      const guest = this.guests[vm] ?? null;
      if (guest !== null) this.exit({ vm, device: vm } as Step, this.engines[0]!, guest);
    }
    this.machine.kernel.runWork();
    for (const { test } of this.engines) expect(test.wait()).toBe(true);
    this.check();
    expect(this.core.pasids.size).toBe(0);
    expect(this.machine.frames.allocated).toBe(this.baseline);
  }
}

const step = fc.record({
  kind: fc.oneof(
    { weight: 3, arbitrary: fc.constantFrom('bind', 'bind', 'bind', 'alloc') },
    { weight: 4, arbitrary: fc.constantFrom('edit', 'read', 'start', 'start', 'answer', 'flush', 'unbind') },
    { weight: 1, arbitrary: fc.constantFrom('free', 'free', 'give', 'exit', 'replug', 'settle') },
  ),
  aimed: fc.oneof({ weight: 3, arbitrary: fc.constant(true) }, { weight: 1, arbitrary: fc.constant(false) }),
  device: fc.nat(DEVICES - 1),
  vm: fc.nat(VMS - 1),
  id: fc.constantFrom(...IDS),
  table: fc.nat(TABLES - 1),
  leaf: fc.nat(DATA),
  gpasid: fc.nat(2),
  code: fc.nat(2),
  /** A failpoint of a bind, counted; most binds pass fewer. */
  fail: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.integer({ min: 1, max: 6 }) }),
  after: fc.constantFrom('nothing', 'bind', 'unbind', 'flush', 'alloc'),
  span: fc.nat(3000),
});

test('X2 X4 X5 X6 whatever two VMs bind, change, flush, free and leave on two devices, DMA reaches what is bound', () => {
  const totals = { binds: 0, refused: 0, inFlight: 0, freedBound: 0, exitedBound: 0, stale: 0, answered: 0, failed: 0 };
  const property = fc.property(fc.array(step, { minLength: 30, maxLength: 70 }), (steps) => {
    const world = new World();
    for (let device = 0; device < DEVICES; device++) {
      world.take({ kind: 'give', device, vm: device } as Step);
    }
    for (const taken of steps) world.take(taken);
    world.end();
    for (const key of Object.keys(totals) as (keyof typeof totals)[]) totals[key] += world.seen[key];
  });
  fc.assert(property, { numRuns: 25, endOnFailure: true });
  // The sequences reach what they are for.
  expect(totals.binds).toBeGreaterThan(60);
  expect(totals.refused).toBeGreaterThan(80);
  expect(totals.failed).toBeGreaterThan(10);
  expect(totals.freedBound).toBeGreaterThan(4);
  expect(totals.exitedBound).toBeGreaterThan(8);
  expect(totals.inFlight).toBeGreaterThan(2);
  expect(totals.answered).toBeGreaterThan(2);
  expect(totals.stale).toBeGreaterThan(30);
});
