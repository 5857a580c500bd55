import { PRG_INVALID_REQUEST, TEST_COMMAND } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import { detachGroup, INVALID_IOASID, IOASID_PRIO_CPU, Processes } from '../../src/index.ts';
import { refusal } from '../support/fake-driver.ts';
import type { Machine } from '../support/machine.ts';
import type { TestDevice } from '../support/test-device.ts';
import { bindable, bindData, eventsOf, GPASID, GVA, Vm, watchersOf, withSpid } from './support.ts';

describe('nothing is left', () => {
  /** Bound with a guest PASID on two devices, a page request under way on each. */
  function busy() {
    const state = bindable();
    const { machine, vm, device, second, pasid, bind } = state;
    vm.take(second);
    const watchers = watchersOf(vm.mm);
    for (const one of [device, second]) machine.core.deviceFaults.register(one.device, () => {});
    bind(withSpid());
    bind(withSpid(), second);
    expect(watchers()).toBe(1);
    for (const one of [device, second]) {
      one.start(TEST_COMMAND.read, GVA + 4096n, 1, { pasid, addressing: 'cached', requestPages: true });
    }
    return { ...state, watchers, events: eventsOf(vm) };
  }

  function expectNothing(machine: Machine, device: TestDevice, pasid: number): void {
    expect(device.device.group.pasidHandles.size).toBe(0);
    expect(device.device.authorizedPasids.size).toBe(0);
    expect(device.device.faults.pendingGroups).toBe(0);
    expect(device.wait()).toBe(true);
    expect([device.result, device.response]).not.toContain(0);
    expect(device.read(GVA, { pasid })).toBeNull();
    expect(machine.core.guestPasids.find(device.device, pasid)).toBeNull();
  }

  test('X6 when the process exits at any moment', () => {
    for (let delay = 0; delay <= 3000; delay += 300) {
      const { machine, vm, device, second, guestPasids, ioasids, pasid, events, watchers } = busy();
      machine.scheduler.advance(delay);
      vm.process.exit();
      for (const one of [device, second]) expectNothing(machine, one, pasid);
      expect([guestPasids.size, events, ioasids.referencesTo(pasid)]).toEqual([0, ['unbind 7'], 1]);
      expect(watchers()).toBe(0);
      ioasids.freeAllInSet(vm.set);
      ioasids.freeSet(vm.set);
      expect([machine.core.pasids.size, machine.core.pasids.parked]).toEqual([0, []]);
    }
  });

  test('X6 when a device goes; the other goes on', () => {
    const { machine, vm, device, second, guestPasids, ioasids, pasid, events, watchers } = busy();
    machine.scheduler.advance(1000);
    const { group } = device.device;
    machine.core.removeDevice(device.device);
    expect([group.pasidHandles.size, device.device.faults.pendingGroups]).toEqual([0, 0]);
    expect([guestPasids.size, events, ioasids.referencesTo(pasid), watchers()]).toEqual([1, [], 3, 1]);
    expect(machine.driver.unit.devices.size).toBe(1);
    second.wait(1_000_000);
    expect(machine.core.deviceFaults.pending(second.device)).toBe(1);
    machine.core.removeDevice(second.device);
    expect([guestPasids.size, events, ioasids.referencesTo(pasid), watchers()]).toEqual([0, ['unbind 7'], 1, 0]);
    vm.process.exit();
  });

  test('X5 of a bind that fails, at every step', () => {
    const { machine, vm, device, guestPasids, ioasids, table, pasid, bind } = bindable();
    const warm = vm.pasid();
    guestPasids.bind(device.device, vm.mm, bindData(warm, table.root));
    guestPasids.unbind(device.device, vm.mm, warm);
    const events = eventsOf(vm);
    const watchers = watchersOf(vm.mm);
    const snapshot = (): unknown => ({
      frames: machine.frames.allocated,
      domainIds: machine.driver.unit.domainIds.used,
      size: guestPasids.size,
      references: ioasids.referencesTo(pasid),
      spid: ioasids.spidOf(pasid),
      watchers: watchers(),
      handles: [...device.device.group.pasidHandles.keys()],
      authorized: [...device.device.authorizedPasids],
      dma: [device.read(GVA, { pasid }), device.read(40n << 12n)],
      events: [...events],
    });
    const { failpoints } = machine.kernel;
    const names: string[] = [];
    for (let nth = 1; ; nth++) {
      const before = snapshot();
      failpoints.arm(nth);
      const outcome = refusal(() => bind(withSpid()));
      const { hit } = failpoints;
      failpoints.arm(0);
      if (hit === null) break;
      names.push(hit);
      expect([hit, outcome]).toEqual([hit, 'ENOMEM']);
      expect([hit, snapshot()]).toEqual([hit, before]);
    }
    expect(names).toEqual(['gpasid_bind', 'nested_domain', 'domain_id', 'pasid_entry', 'ioasid_spid']);
    expect([device.read(GVA, { pasid }), events, watchers()]).toEqual([40, ['bind 7'], 1]);
    guestPasids.unbind(device.device, vm.mm, pasid);
    expect(watchers()).toBe(0);
  });
});

/** The ENQCMD table of a VM: from the guest's PASID to the host's, of which each entry holds a reference. */
class CpuTable {
  readonly entries = new Map<number, number>();
  readonly onRemove: () => void;
  private readonly vm: Vm;

  /** `listens` false leaves it to `drop` to take entries away. */
  constructor(vm: Vm, { listens, onRemove = () => {} }: { listens: boolean; onRemove?: () => void }) {
    this.vm = vm;
    this.onRemove = onRemove;
    const { ioasids } = vm.machine.core;
    ioasids.registerNotifier(vm.set, {
      priority: IOASID_PRIO_CPU,
      notify: ({ kind, id, spid }) => {
        if (kind === 'bind') {
          ioasids.get(vm.set, id);
          this.entries.set(spid, id);
        } else if (kind !== 'alloc' && listens) this.drop(spid);
      },
    });
  }

  drop(spid: number): void {
    const id = this.entries.get(spid);
    if (id === undefined) return;
    this.onRemove();
    this.entries.delete(spid);
    this.vm.machine.core.ioasids.put(this.vm.set, id);
  }

  /** The PASID that a command of the guest has; null: the processor leaves the guest. */
  translate(gpasid: bigint): number | null {
    return this.entries.get(Number(gpasid)) ?? null;
  }
}

describe('a PASID that is freed while it is bound', () => {
  test('B16 leaves in order: CPU, entry and caches, page requests, SPID, references, and then it is free', () => {
    for (let delay = 0; delay <= 2400; delay += 200) {
      const { machine, vm, device, second, ioasids, pasid, bind } = bindable();
      vm.take(second);
      const order: string[] = [];
      const { unit } = machine.driver;
      const present = (): boolean[] =>
        [device, second].map((one) => unit.devices.get(one.device.rid)!.pasidTable.tag(pasid) !== null);
      const cpu = new CpuTable(vm, {
        listens: true,
        onRemove: () => {
          expect(present()).toEqual([true, true]);
          order.push('cpu');
        },
      });
      for (const one of [device, second]) machine.core.deviceFaults.register(one.device, () => {});
      bind(withSpid());
      bind(withSpid(), second);
      for (const one of [device, second]) {
        one.start(TEST_COMMAND.write, GVA + 4096n, 1, { pasid, addressing: 'cached', requestPages: true });
      }
      machine.scheduler.advance(delay);
      machine.trace.listen((event) => {
        // What each entry holds, and the SPID, until the last of them is gone.
        if (event.name === 'prq_drain' || event.name === 'pasid_entry_clear')
          expect(ioasids.referencesTo(pasid)).toBe(3);
        if (event.name === 'prq_drain') {
          const one = event.rid === device.device.rid ? device : second;
          expect(present()[one === device ? 0 : 1]).toBe(false);
          expect(one.probe(GVA, pasid)).toBeNull();
          order.push(`flushed ${event.rid}`);
        }
        if (event.name === 'pasid_entry_clear') order.push(`drained ${event.rid}`);
        if (event.name === 'ioasid_notify') order.push(event.kind);
        if (event.name === 'ioasid_reclaim') order.push('reclaimed');
      });
      machine.kernel.call('ioasid_free', () => {
        ioasids.free(vm.set, pasid);
        // The handlers have run; what has to wait for hardware has not.
        expect([cpu.translate(GPASID), ...present()]).toEqual([null, true, true]);
        expect(ioasids.stateOf(pasid)).toBe('free_pending');
        expect(refusal(() => bind())).toBe('EBUSY');
        expect(ioasids.alloc(vm.set, pasid, pasid)).toBe(INVALID_IOASID);
        order.push('returned');
      });
      const [a, b] = [device.device.rid, second.device.rid];
      expect(order).toEqual(
        ['free', 'cpu', 'returned', `flushed ${a}`, `drained ${a}`, `flushed ${b}`, `drained ${b}`, 'unbind'].concat(
          'reclaimed',
        ),
      );
      for (const one of [device, second]) {
        expect(one.device.faults.pendingGroups).toBe(0);
        expect(one.wait()).toBe(true);
        expect(one.result).not.toBe(0);
        if (one.requests > 0) expect(one.response).toBe(PRG_INVALID_REQUEST);
      }
      expect(ioasids.alloc(vm.set, pasid, pasid)).toBe(pasid);
      expect(machine.core.guestPasids.size).toBe(0);
    }
  });

  test('B16 without a guest PASID the references go last too, of a free, an exit and an unbind', () => {
    for (const end of ['free', 'exit', 'unbind'] as const) {
      const { machine, vm, device, second, guestPasids, ioasids, pasid, bind } = bindable();
      vm.take(second);
      for (const one of [device, second]) machine.core.deviceFaults.register(one.device, () => {});
      bind();
      bind({}, second);
      const seen: [name: string, references: number][] = [];
      machine.trace.listen(({ name }) => {
        if (name === 'prq_drain' || name === 'pasid_entry_clear') seen.push([name, ioasids.referencesTo(pasid)]);
      });
      if (end === 'free') machine.kernel.call('ioasid_free', () => ioasids.free(vm.set, pasid));
      else if (end === 'exit') vm.process.exit();
      else for (const one of [device, second]) guestPasids.unbind(one.device, vm.mm, pasid);
      const counts = { free: [2, 2], exit: [3, 3], unbind: [3, 2] }[end];
      expect([end, seen]).toEqual([
        end,
        counts.flatMap((count) => [
          ['prq_drain', count],
          ['pasid_entry_clear', count],
        ]),
      ]);
      expect(ioasids.referencesTo(pasid)).toBe(end === 'free' ? 0 : 1);
    }
  });

  test('B16 an unbind between the event and its work is an ordinary one; the work then touches nothing', () => {
    const { machine, vm, device, second, guestPasids, ioasids, pasid, bind } = bindable();
    vm.take(second);
    const events = eventsOf(vm);
    for (const devices of [[device], [device, second], [second, device]]) {
      for (const one of devices) bind(withSpid(), one);
      const order: string[] = [];
      const stop = machine.trace.listen((event) => {
        if (event.name === 'pasid_entry_clear') order.push('cleared');
        if (event.name === 'ioasid_notify' && event.kind === 'unbind') order.push('unbind');
      });
      machine.kernel.call('test', () => {
        ioasids.free(vm.set, pasid);
        // The unbind waits for hardware, so the work of the event runs inside it.
        guestPasids.unbind(device.device, vm.mm, pasid);
        expect(ioasids.alloc(vm.set, pasid, pasid)).toBe(pasid);
        bind(withSpid());
      });
      stop();
      expect(order).toEqual([...devices.map(() => 'cleared'), 'unbind']);
      expect(events.splice(0)).toEqual(['bind 7', 'free 7', 'unbind 7', 'alloc 4294967295', 'bind 7']);
      expect([device.read(GVA, { pasid }), second.read(GVA, { pasid })]).toEqual([40, null]);
      guestPasids.unbind(device.device, vm.mm, pasid);
      events.length = 0;
    }
  });

  test('B17 a command that still carries it never reaches its next owner', () => {
    const { machine, vm, device, ioasids, pasid, bind } = bindable();
    const { guestPasids } = machine.core;
    const cpu = new CpuTable(vm, { listens: false });
    bind(withSpid());
    expect(device.read(GVA, { pasid: cpu.translate(GPASID)! })).toBe(40);
    device.start(TEST_COMMAND.write, GVA, 1, { pasid: cpu.translate(GPASID)! });
    machine.kernel.call('ioasid_free', () => ioasids.free(vm.set, pasid));
    expect(device.wait()).toBe(true);
    // The CPU has not let go: the command is sent, and blocked, and the PASID is nobody's.
    const next = new Vm(machine, new Processes(machine.kernel));
    expect(next.pasid(pasid, pasid)).toBe(INVALID_IOASID);
    expect(device.read(GVA, { pasid: cpu.translate(GPASID)! })).toBeNull();
    guestPasids.release(device.device);
    detachGroup(device.device.group);
    next.fill(40, 0xbb);
    next.take(device);
    expect(next.pasid(pasid, pasid)).toBe(INVALID_IOASID);
    expect(device.write(GVA, 1, { pasid: cpu.translate(GPASID)! })).toBe(false);
    cpu.drop(Number(GPASID));
    expect(next.pasid(pasid, pasid)).toBe(pasid);
    guestPasids.bind(device.device, next.mm, bindData(pasid, next.table(40).root));
    expect(cpu.translate(GPASID)).toBeNull();
    expect(device.read(GVA, { pasid })).toBe(0xbb);
  });
});
