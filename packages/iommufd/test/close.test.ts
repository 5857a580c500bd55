import { requesterId, TEST_COMMAND, U64_MAX } from '@iommukit/hw';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createAccess } from '../src/access.ts';
import { ViommuClient } from '../src/clients/viommu-client.ts';
import { bindDevice } from '../src/device.ts';
import { iommufdContextOf } from '../src/iommufd-file.ts';
import { fakeViommuData, HW_QUEUE_TYPE, VIOMMU_HWPT_TYPE, VIOMMU_TYPE } from './support/fake-viommu.ts';
import { FakeDriver, fakeDevice } from './support/fakes.ts';
import { VtdHost } from './support/vtd-host.ts';

const GVA = 0x7000_0000_1000n;
const ROOT = 0x10000n;
const PASID = 5;
const PAGES = 32n;
const PAGE = 4096n;
const EVENT_TYPE = 1;
/** Where the accelerator writes: 8 pages. */
const TARGET = 0x1_8000n;

/** Two functions, each below a port of its own. */
function machine(): VtdHost {
  return new VtdHost({
    plug(host) {
      for (const bus of [1, 2]) {
        host.plugPort(requesterId(0, bus, 0), bus);
        host.plug(host.testFunction(), requesterId(bus, 0, 0));
      }
    },
  });
}

/** Frames in use when everything of a host is gone that a process brought. */
function idleFrames(): number {
  const host = machine();
  const second = host.bind(host.machine.add(requesterId(2, 0, 0)));
  host.inKernel(() => [host.device, second].map((device) => device.unbind()));
  host.system.exit();
  return host.machine.frames.allocated;
}

/**
 * An open file with an object of every type, and a tombstone: behind VT-d one function whose page requests wait, read
 * and unread, and one that writes to memory all the time; behind another IOMMU a device in a vIOMMU, with events, a
 * hardware queue, pages that the process maps, and an access that has pages pinned.
 */
function everything() {
  const host = machine();
  const { client, system, device: faulting, tester } = host;
  const viommus = new ViommuClient(system, client.fd);
  const { kernel } = host.machine;
  const context = iommufdContextOf(system.file(client.fd));
  const va = host.memory(Number(PAGES));
  const ioasId = client.ioasAlloc();
  client.ioasMap({ ioasId, userVa: va, length: PAGES * PAGE, iova: 0n });
  for (let page = 0n; page < 4n; page++) host.fill(va + ROOT + page * PAGE, 0);

  const { id: faultId, fd: faultFd } = client.faultQueueAlloc();
  const vtdParent = client.hwptAllocPaging({ deviceId: faulting.id, ioasId, nestParent: true, pasid: true });
  const stage1 = { parentId: vtdParent, pageTable: ROOT, addressWidth: 48, pasid: true, faultId };
  const nested = client.hwptAllocVtdS1({ deviceId: faulting.id, ...stage1 });
  host.inKernel(() => faulting.attach(nested, PASID));
  const report = (group: number): void => {
    const request = { pasid: PASID, access: 1, group, last: true, address: GVA };
    host.inKernel(() => faulting.device.faults.report(request));
  };
  report(1);
  client.readFaults(faultFd);
  report(2);
  tester.start(TEST_COMMAND.read, GVA, 1, { pasid: PASID, addressing: 'cached', requestPages: true });
  host.machine.settle();

  const writer = host.machine.add(requesterId(2, 0, 0));
  const writing = host.bind(writer);
  host.inKernel(() => writing.attach(ioasId));
  const write = (): void => writer.start(TEST_COMMAND.write, TARGET, 32768);
  write();

  const driver = new FakeDriver(kernel);
  const bindFake = (rid: number) => host.inKernel(() => bindDevice(context, fakeDevice(driver, rid)));
  const virtual = bindFake(0x900);
  const deviceId = virtual.id;
  const parentId = client.hwptAllocPaging({ deviceId, ioasId, nestParent: true });
  const data = new Uint8Array(fakeViommuData.size);
  const viommuId = viommus.viommuAlloc({ deviceId, parentId, type: VIOMMU_TYPE, data });
  const { mmapOffset: offset, mmapLength: length } = fakeViommuData.read(data);
  const window = system.mmap({ fd: client.fd, offset, length });
  host.process.memory!.store(window, 4, 1n);
  viommus.vdeviceAlloc(viommuId, deviceId, 0x99n);
  const gone = bindFake(0x901);
  viommus.vdeviceAlloc(viommuId, gone.id, 0x9an);
  host.inKernel(() => gone.unbind());
  const inVm = client.hwptAllocNested({
    deviceId,
    parentId: viommuId,
    type: VIOMMU_HWPT_TYPE,
    data: new Uint8Array(8),
  });
  host.inKernel(() => virtual.attach(inVm));
  const { fd: eventFd } = viommus.veventqAlloc(viommuId, EVENT_TYPE, 1);
  const { core } = driver.viommu!.made[0]!;
  for (const byte of [1, 2]) host.inKernel(() => core.reportEvent(EVENT_TYPE, Uint8Array.of(byte)));
  for (const index of [0, 1]) {
    viommus.hwQueueAlloc({ viommuId, type: HW_QUEUE_TYPE, index, iova: BigInt(index) * 0x800n, length: 0x800n });
  }

  let pinned = true;
  const access = createAccess(context, {
    needsPinPages: true,
    unmap() {
      if (pinned) access.unpinPages(0x3000n, 0x2000n);
      pinned = false;
    },
  });
  access.attach(ioasId);
  access.pinPages(0x3000n, 0x2000n, true);
  const ends = [
    () => system.close(client.fd),
    () => system.close(faultFd),
    () => system.close(eventFd),
    () => system.munmap(window, length),
    () => host.inKernel(() => faulting.unbind()),
    () => host.inKernel(() => writing.unbind()),
    () => host.inKernel(() => virtual.unbind()),
    () => host.inKernel(() => access.close()),
  ];
  return { host, context, driver, writer, write, va, ends };
}

/** Ids in the order in which the objects of a context end, and what each used. */
function watch(context: ReturnType<typeof everything>['context']): { id: number; uses: number[] }[] {
  const ended: { id: number; uses: number[] }[] = [];
  for (const object of context.objects.all()) {
    const destroy = object.destroy.bind(object);
    object.destroy = () => {
      ended.push({ id: object.id, uses: object.uses.map(({ id }) => id) });
      destroy();
    };
  }
  return ended;
}

describe('with everything live and DMA running', () => {
  const before = idleFrames();

  test('there is an object of every type', () => {
    const { context, host, writer } = everything();
    const types = new Set(context.objects.all().map(({ type }) => type));
    expect([...types].sort()).toEqual([
      'access',
      'device',
      'fault',
      'hw-queue',
      'hwpt-nested',
      'hwpt-paging',
      'ioas',
      'vdevice',
      'veventq',
      'viommu',
    ]);
    expect(context.objects.size).toBe(context.objects.all().length + 1);
    expect([writer.busy, host.tester.busy]).toEqual([true, true]);
  });

  test('F17 in whatever order files, mappings, devices and drivers go, objects end leaf first and nothing is left', () => {
    const order = fc.shuffledSubarray([0, 1, 2, 3, 4, 5, 6, 7], { minLength: 8, maxLength: 8 });
    fc.assert(
      fc.property(
        order,
        fc.array(fc.nat(3000), { minLength: 8, maxLength: 8 }),
        fc.boolean(),
        (indexes, spans, exits) => {
          const { host, context, driver, writer, write, ends } = everything();
          const ended = watch(context);
          const objects = context.objects.all().length;
          indexes.forEach((index, step) => {
            expect(context.objects.size).toBeGreaterThan(0);
            ends[index]!();
            host.machine.settle(spans[step]!);
            if (!writer.busy) write();
          });
          // What still used an object went before it.
          expect(ended.length).toBe(objects);
          const at = new Map(ended.map(({ id }, place) => [id, place]));
          for (const { id, uses } of ended) for (const used of uses) expect(at.get(id)!).toBeLessThan(at.get(used)!);
          expect([
            context.objects.size,
            host.processes.counts.pinned,
            host.process.credentials.user.lockedPages,
          ]).toEqual([0, 0, 0]);
          expect([...driver.live, ...driver.viommu!.live, ...driver.routes]).toEqual([]);
          // DMA has come to its end and reaches nothing.
          expect([writer.wait(), host.tester.wait()]).toEqual([true, true]);
          expect([writer.write(TARGET, 1), host.tester.read(GVA, { pasid: PASID })]).toEqual([false, null]);
          if (exits) {
            host.system.exit();
            expect(host.machine.frames.allocated).toBe(before);
          }
        },
      ),
      { numRuns: 12 },
    );
  });

  test('F17 a process that is killed leaves what its devices hold, and that goes with them', () => {
    const { host, context, driver, writer, write, va, ends } = everything();
    const ended = watch(context);
    host.system.exit();
    expect([ended.length, context.objects.all().length > 0]).toEqual([0, true]);
    // The device still has its pages, and only these.
    expect([writer.wait(), writer.result]).toEqual([true, 0]);
    expect(host.processes.counts.pinned).toBe(Number(PAGES));
    expect(() => host.byteAt(va)).toThrow('EFAULT');
    for (const end of ends.slice(4)) {
      if (!writer.busy) write();
      end();
    }
    expect([context.objects.size, host.processes.counts.pinned]).toEqual([0, 0]);
    expect([...driver.live, ...driver.viommu!.live]).toEqual([]);
    writer.wait();
    expect(host.machine.frames.allocated).toBe(before);
  });

  test('F17 memory that is unmapped under all of it is refused where hardware reads it, and nothing else changes', () => {
    const { host, context } = everything();
    const { client } = host;
    const ioasId = context.objects.all().find(({ type }) => type === 'ioas')!.id;
    expect(() => client.ioasUnmap(ioasId, 0, PAGES * PAGE)).toThrow('EBUSY');
    expect(() => client.ioasUnmap(ioasId, 0, U64_MAX - 1n)).toThrow('EBUSY');
    expect(host.processes.counts.pinned).toBe(Number(PAGES));
  });
});
