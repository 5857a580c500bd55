import { SysError } from '@iommukit/iommu-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { IommufdDevice } from '../src/device.ts';
import { HW_QUEUE_TYPE, VIOMMU_HWPT_TYPE, VIOMMU_TYPE } from './support/fake-viommu.ts';
import { MEMORY } from './support/host.ts';
import { ViommuHost } from './support/viommu-host.ts';

const KINDS = [
  'hwpt',
  'viommu',
  'vdevice',
  'veventq',
  'hw queue',
  'nested',
  'fault queue',
  'bind',
  'unbind',
  'attach',
  'detach',
  'close',
  'report',
  'unmap',
  'destroy',
  'destroy',
] as const;

type Step = { kind: (typeof KINDS)[number]; a: number; b: number; c: number };

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom(...KINDS),
  a: fc.nat(30),
  b: fc.nat(30),
  c: fc.nat(3),
});

/** A random object of a type, or, now and then, of another; an id that names nothing when there is none. */
function pick(host: ViommuHost, type: string, at: number): number {
  const all = host.context.objects.all();
  const wanted = all.filter((object) => object.type === type);
  const from = at % 7 === 6 || wanted.length === 0 ? all : wanted;
  return from[at % from.length]?.id ?? 99;
}

class World {
  readonly host: ViommuHost = new ViommuHost();
  readonly devices: IommufdDevice[] = [this.host.device];
  /** Descriptors of queues, with their objects. */
  readonly files: { id: number; fd: number }[] = [];
  /** Ids of vDEVICEs that went with their devices. */
  readonly tombstones = new Set<number>();

  constructor() {
    const { client, ioasId } = this.host;
    client.ioasMap({ ioasId, userVa: MEMORY, length: 0x8000n, iova: 0x10_0000n });
  }

  run({ kind, a, b, c }: Step): void {
    const { host, devices, files } = this;
    const { client, viommus } = host;
    const deviceId = pick(host, 'device', a);
    const viommuId = pick(host, 'viommu', b);
    const iova = 0x10_0000n + BigInt(b % 9) * 0x1000n;
    if (kind === 'hwpt') client.hwptAllocPaging({ deviceId, ioasId: pick(host, 'ioas', b), nestParent: c > 0 });
    else if (kind === 'viommu') {
      viommus.viommuAlloc({ deviceId, parentId: pick(host, 'hwpt-paging', b), type: c === 0 ? 1 : VIOMMU_TYPE });
    } else if (kind === 'vdevice') viommus.vdeviceAlloc(viommuId, deviceId, c);
    else if (kind === 'veventq') files.push(viommus.veventqAlloc(viommuId, 1 + (a % 2), c));
    else if (kind === 'hw queue')
      viommus.hwQueueAlloc({ viommuId, type: HW_QUEUE_TYPE, index: c, iova, length: 0x1800n });
    else if (kind === 'nested') {
      const queue = c === 0 ? { faultId: pick(host, 'fault', c) } : {};
      const data = new Uint8Array(8);
      client.hwptAllocNested({ deviceId, parentId: viommuId, type: VIOMMU_HWPT_TYPE, data, ...queue });
    } else if (kind === 'fault queue') files.push(client.faultQueueAlloc());
    else if (kind === 'bind') {
      if (devices.length < 4) devices.push(host.bind());
    } else if (kind === 'unbind') this.unbind(a);
    else if (kind === 'attach') devices[a % devices.length]?.attach(pick(host, c === 0 ? 'ioas' : 'hwpt-nested', b));
    else if (kind === 'detach') devices[a % devices.length]?.detach();
    else if (kind === 'close') {
      const [file] = files.splice(a % Math.max(files.length, 1), 1);
      if (file !== undefined) host.system.close(file.fd);
    } else if (kind === 'report') {
      host.driver.viommu!.live[a % 3]?.core.reportEvent(1 + (b % 2), Uint8Array.of(c));
    } else if (kind === 'unmap') client.ioasUnmap(host.ioasId, iova, 0x1000n);
    else this.destroy(pick(host, 'vdevice', a + b));
  }

  /** What holds at any time. */
  check(): void {
    const { host, devices, files, tombstones } = this;
    const objects = host.context.objects.all();
    const used = objects.flatMap(({ uses }) => uses.map(({ id }) => id));
    for (const { id, type, users } of objects) {
      let count = 1 + used.filter((other) => other === id).length;
      if (type === 'device') {
        const attached = devices.find((device) => device.id === id)!.attached() !== null;
        count += attached ? 2 : 1;
      }
      count += files.filter((file) => file.id === id).length;
      expect([id, type, users]).toEqual([id, type, count]);
      expect([id, tombstones.has(id)]).toEqual([id, false]);
    }
    expect(host.space.pinnedPages).toBe(host.user.lockedPages);
  }

  end(): void {
    const { host, devices } = this;
    for (const device of devices) device.unbind();
    host.process.exit();
    expect([host.context.objects.size, host.node.contexts.size, host.descriptors.size]).toEqual([0, 0, 0]);
    expect([host.space.pinnedPages, host.user.lockedPages, host.kernel.frames.allocated]).toEqual([0, 0, 0]);
    expect([...host.driver.live, ...host.driver.viommu!.live]).toEqual([]);
    expect(host.driver.routes.size).toBe(0);
  }

  private unbind(at: number): void {
    const [device] = this.devices.splice(at % Math.max(this.devices.length, 1), 1);
    if (device === undefined) return;
    const { vdevice } = device;
    device.unbind();
    if (vdevice !== null) this.tombstones.add(vdevice.id);
  }

  private destroy(id: number): void {
    const object = this.host.context.objects.all().find((other) => other.id === id);
    if (object === undefined) return;
    const { users } = object;
    let code: string | null = null;
    try {
      this.host.client.destroy(id);
    } catch (error) {
      code = (error as SysError).code;
    }
    expect([object.type, code]).toEqual([object.type, users === 1 ? null : 'EBUSY']);
  }
}

test('DESTROY succeeds exactly where nobody uses an object, ids of tombstones stay away, and closing takes everything', () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 10, maxLength: 60, size: 'max' }), (steps) => {
      const world = new World();
      for (const each of steps) {
        try {
          world.run(each);
        } catch (error) {
          if (!(error instanceof SysError)) throw error;
        }
        world.check();
      }
      world.end();
    }),
    { numRuns: 150 },
  );
});
