import { describe, expect, test } from 'vitest';
import { MEMORY } from '../support/host.ts';
import { errno, FakeIoasidHost, IoasidHost, PAGE } from '../support/ioasid-host.ts';

/** Lets the n-th failpoint of `body` fail, for every n, and compares; then lets it pass. @returns failpoints passed */
function sweep(host: FakeIoasidHost, name: string, body: () => unknown): number {
  const { failpoints } = host.kernel;
  const before = host.snapshot();
  for (let nth = 1; ; nth++) {
    failpoints.arm(nth);
    const code = errno(body);
    const { hit } = failpoints;
    failpoints.arm(0);
    if (hit === null) {
      expect([name, code]).toEqual([name, null]);
      expect(host.snapshot()).not.toEqual(before);
      return nth - 1;
    }
    expect([name, nth, hit, code]).toEqual([name, nth, hit, 'ENOMEM']);
    expect([name, hit, host.snapshot()]).toEqual([name, hit, before]);
  }
}

describe('what fails has changed nothing', () => {
  test('version 1: every step from bind to a table of the user’s at two PASIDs and an allowed one', () => {
    const host = new FakeIoasidHost('v1');
    const { client, context } = host;
    const passed: { [name: string]: number } = {};
    const step = <T>(name: string, body: () => T): T => {
      let result: T | undefined;
      passed[name] = sweep(host, name, () => (result = body()));
      return result!;
    };
    const device = step('bind', () => host.bind());
    const other = host.bind();
    step('register', () => client.registerMemory(MEMORY, 16n * PAGE));
    const gpa = step('alloc', () => client.alloc());
    step('attach', () => host.attach(device, gpa));
    step('join', () => host.attach(other, gpa));
    step('map', () => client.map({ ioasid: gpa, iova: 0, vaddr: MEMORY, size: 8n * PAGE }));
    const soft = step('create nesting', () => client.createNesting(gpa));
    step('attach to a child', () => host.attach(device, soft));
    step('open a window', () => client.map({ ioasid: soft, iova: 0x4_0000, vaddr: 4n * PAGE, size: 8n * PAGE }));
    step('map below a window', () =>
      client.map({ ioasid: gpa, iova: 8n * PAGE, vaddr: MEMORY + 8n * PAGE, size: 2n * PAGE }),
    );
    const hard = client.createNesting(gpa);
    for (const pasid of [3, 4]) host.attach(device, hard, pasid);
    step('allow', () => other.allow(context.get(hard, 'test'), 5));
    step('bind page table', () => client.bindPageTable({ ioasid: hard, address: 0x1000, faults: true }));
    step('bind another', () => client.bindPageTable({ ioasid: hard, address: 0x2000 }));
    step('attach to it', () => host.attach(other, hard));
    step('unbind page table', () => client.unbindPageTable(hard));
    step('back to the parent', () => host.detach(other, hard));
    for (const name of ['attach', 'map', 'open a window', 'bind page table', 'register']) {
      expect([name, passed[name]! >= 3]).toEqual([name, true]);
    }
    host.system.exit();
    for (const bound of [device, other]) host.kernel.call('driver', () => bound.unbind());
    expect([host.node.iommufd.objects, host.space.pinnedPages, host.user.lockedPages, host.driver.live]).toEqual([
      0,
      0,
      0,
      [],
    ]);
  });

  test('version 2: an attach that makes the tables of two levels and pins what is mapped', () => {
    const host = new FakeIoasidHost('v2');
    const { client } = host;
    const device = host.bind();
    const gpa = client.alloc();
    client.map({ ioasid: gpa, iova: 0, vaddr: MEMORY, size: 8n * PAGE });
    client.map({ ioasid: gpa, iova: 16n * PAGE, vaddr: MEMORY + 16n * PAGE, size: 8n * PAGE });
    let user = 0;
    sweep(host, 'alloc', () => (user = client.alloc({ parent: gpa, pageTable: { address: 0 }, faults: true })));
    expect(sweep(host, 'attach', () => host.attach(device, user, 7))).toBeGreaterThan(8);
    const soft = client.alloc({ parent: gpa });
    client.map({ ioasid: soft, iova: 0, vaddr: 4n * PAGE, size: 16n * PAGE });
    expect(sweep(host, 'attach to a shadow', () => host.attach(device, soft))).toBeGreaterThan(5);
    const below = client.alloc({ parent: soft });
    sweep(host, 'move below', () => host.attach(device, below));
  });

  test('on VT-d the DMA, the pins and the frames are as before as well', () => {
    const host = new IoasidHost();
    const { client, machine } = host;
    const [device, other] = [host.bind(0), host.bind(1)];
    const gpa = client.alloc();
    for (const bound of [device, other]) bound.attach(gpa);
    const va = host.memory(32);
    client.map({ ioasid: gpa, iova: 0, vaddr: va, size: 32n * PAGE });
    for (let page = 16n; page < 24n; page++) host.fill(va + page * PAGE, 0);
    host.stage1Map(va, 0x10000n, 0x7000_0000n, 0x3000n);
    const child = client.createNesting(gpa);
    const state = (): unknown => [
      [device, other].map((bound) =>
        [undefined, 5].map((pasid) => [0x3000n, 0x9000n, 0x7000_0000n].map((at) => bound.read(at, pasid))),
      ),
      host.pins,
      machine.frames.allocated,
      host.context.iommufd.objects.all().map(({ id, users }) => [id, users]),
    ];
    const steps: [string, () => unknown, bigint, number | null][] = [
      ['attach', () => device.attach(child), 0x3000n, null],
      ['attach at a PASID', () => device.attach(child, 5), 0x3000n, null],
      ['window', () => client.map({ ioasid: child, iova: 0x9000, vaddr: 0x2000, size: PAGE }), 0x9000n, 3],
      ['close', () => client.unmap(child, 0x9000, PAGE), 0x9000n, null],
      ['bind', () => client.bindPageTable({ ioasid: child, address: 0x10000, faults: true }), 0x7000_0000n, 4],
      ['unbind', () => client.unbindPageTable(child), 0x7000_0000n, null],
      ['detach', () => device.detach(child), 0x3000n, 4],
    ];
    for (const [name, body, iova, byte] of steps) {
      const before = state();
      for (let nth = 1; ; nth++) {
        machine.kernel.failpoints.arm(nth);
        const code = errno(body);
        const { hit } = machine.kernel.failpoints;
        machine.kernel.failpoints.arm(0);
        if (hit === null) break;
        expect([name, hit, code, state()]).toEqual([name, hit, 'ENOMEM', before]);
      }
      expect([name, device.read(iova)]).toEqual([name, byte]);
    }
  });
});
