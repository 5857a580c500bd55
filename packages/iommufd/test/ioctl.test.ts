import { SysError } from '@iommukit/iommu-core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import * as uapi from '../src/uapi/iommufd.ts';
import * as uapiViommu from '../src/uapi/viommu.ts';
import { ARGUMENT, BUFFER, Host, MEMORY } from './support/host.ts';

const EPERM = -1;
const ENOENT = -2;
const E2BIG = -7;
const ENOMEM = -12;
const EFAULT = -14;
const EBUSY = -16;
const EEXIST = -17;
const EINVAL = -22;
const EMFILE = -24;
const ENOTTY = -25;
const EOVERFLOW = -75;
const EMSGSIZE = -90;
const EOPNOTSUPP = -95;
const U64_MAX = 2n ** 64n - 1n;
const RW = uapi.IOMMU_IOAS_MAP_READABLE | uapi.IOMMU_IOAS_MAP_WRITEABLE;
const FIXED = uapi.IOMMU_IOAS_MAP_FIXED_IOVA;
const NOWHERE = 0xdead_0000n;

const COMMANDS = [
  { request: uapi.IOMMU_DESTROY, size: 8, min: 8 },
  { request: uapi.IOMMU_IOAS_ALLOC, size: 12, min: 12 },
  { request: uapi.IOMMU_IOAS_COPY, size: 40, min: 40 },
  { request: uapi.IOMMU_IOAS_IOVA_RANGES, size: 32, min: 32 },
  { request: uapi.IOMMU_IOAS_MAP, size: 40, min: 40 },
  { request: uapi.IOMMU_IOAS_UNMAP, size: 24, min: 24 },
  { request: uapi.IOMMU_HWPT_ALLOC, size: 48, min: 24 },
  { request: uapi.IOMMU_GET_HW_INFO, size: 40, min: 32 },
  { request: uapi.IOMMU_HWPT_INVALIDATE, size: 32, min: 32 },
  { request: uapi.IOMMU_FAULT_QUEUE_ALLOC, size: 16, min: 16 },
  { request: uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, size: 16, min: 16 },
  { request: uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, size: 48, min: 48 },
  { request: uapi.IOMMU_OPTION, size: 24, min: 24 },
  { request: uapi.IOMMU_VFIO_IOAS, size: 12, min: 12 },
  { request: uapiViommu.IOMMU_VIOMMU_ALLOC, size: 40, min: 24 },
  { request: uapiViommu.IOMMU_VDEVICE_ALLOC, size: 24, min: 24 },
  { request: uapiViommu.IOMMU_VEVENTQ_ALLOC, size: 32, min: 28 },
  { request: uapiViommu.IOMMU_HW_QUEUE_ALLOC, size: 40, min: 40 },
];

/** Calls with raw bytes at ARGUMENT. */
function raw(host: Host, request: number, bytes: Uint8Array, at = ARGUMENT): number {
  host.space.write(at, bytes);
  return host.system.ioctl(host.fd, request, at);
}

function sized(size: number, length = Math.max(size, 4)): Uint8Array {
  const bytes = new Uint8Array(length);
  new DataView(bytes.buffer).setUint32(0, size, true);
  return bytes;
}

describe('dispatch', () => {
  test('F1 unknown commands, short structures, long ones with a tail, and reserved fields have their errno', () => {
    const host = new Host();
    expect(raw(host, 0x3b95, sized(8))).toBe(ENOTTY);
    expect(raw(host, 0x3bff, sized(8))).toBe(ENOTTY);
    expect(raw(host, 0x3b6b, sized(8))).toBe(ENOTTY);
    // The right number under another type.
    expect(raw(host, 0x3c81, sized(12))).toBe(ENOTTY);
    expect(raw(host, 0x8000_3b81, sized(12))).toBe(ENOTTY);
    for (const { request, size, min } of COMMANDS) {
      expect([request, raw(host, request, sized(min - 1, size))]).toEqual([request, EINVAL]);
      expect([request, raw(host, request, sized(0, size))]).toEqual([request, EINVAL]);
      const tail = sized(size + 9);
      tail[size + 8] = 1;
      expect([request, raw(host, request, tail)]).toEqual([request, E2BIG]);
      tail[size + 8] = 0;
      expect([request, raw(host, request, tail)]).not.toEqual([request, E2BIG]);
    }
    const reserved = { reserved: 1 };
    expect(host.ioctl(uapi.IOMMU_IOAS_MAP, uapi.iommuIoasMap, reserved).result).toBe(EOPNOTSUPP);
    expect(host.ioctl(uapi.IOMMU_IOAS_IOVA_RANGES, uapi.iommuIoasIovaRanges, reserved).result).toBe(EOPNOTSUPP);
    expect(host.ioctl(uapi.IOMMU_HWPT_ALLOC, uapi.iommuHwptAlloc, reserved).result).toBe(EOPNOTSUPP);
    expect(host.ioctl(uapi.IOMMU_GET_HW_INFO, uapi.iommuHwInfo, { reserved1: 1 }).result).toBe(EOPNOTSUPP);
    expect(host.ioctl(uapi.IOMMU_HWPT_INVALIDATE, uapi.iommuHwptInvalidate, reserved).result).toBe(EOPNOTSUPP);
    expect(host.ioctl(uapi.IOMMU_IOAS_ALLOC, uapi.iommuIoasAlloc, { flags: 1 }).result).toBe(EOPNOTSUPP);
    expect(host.ioctl(uapi.IOMMU_FAULT_QUEUE_ALLOC, uapi.iommuFaultAlloc, { flags: 1 }).result).toBe(EOPNOTSUPP);
  });

  test('a size that cannot be read comes before a command that does not exist', () => {
    const host = new Host();
    for (const { request } of COMMANDS) expect(host.system.ioctl(host.fd, request, 0n)).toBe(EFAULT);
    expect(host.system.ioctl(host.fd, 0x3b82, NOWHERE)).toBe(EFAULT);
    expect(host.system.ioctl(host.fd, 0x3b95, NOWHERE)).toBe(ENOTTY);
    expect(host.system.ioctl(host.fd, uapi.IOMMU_IOAS_ALLOC, U64_MAX - 1n)).toBe(EFAULT);
  });

  test('a structure may end where memory ends, and one that goes on is EFAULT', () => {
    const host = new Host();
    const end = ARGUMENT + 0x10000n;
    const request = uapi.IOMMU_IOAS_ALLOC;
    expect(raw(host, request, sized(12), end - 12n)).toBe(0);
    host.space.write(end - 12n, sized(16, 12));
    expect(host.system.ioctl(host.fd, request, end - 12n)).toBe(EFAULT);
    host.space.write(end - 8n, sized(12, 8));
    expect(host.system.ioctl(host.fd, request, end - 8n)).toBe(EFAULT);
  });

  test('a shorter structure is filled up with zeros and only as much is answered', () => {
    const host = new Host();
    const device = host.bind();
    const { id: ptId } = { id: host.client.ioasAlloc() };
    const canary = new Uint8Array(48).fill(0xcc);
    host.space.write(ARGUMENT, canary);
    const values = { devId: device.id, ptId };
    const bytes = new Uint8Array(48);
    uapi.iommuHwptAlloc.write({ ...uapi.iommuHwptAlloc.read(bytes), ...values, size: 24 }, bytes);
    host.space.write(ARGUMENT, bytes.subarray(0, 24));
    expect(host.system.ioctl(host.fd, uapi.IOMMU_HWPT_ALLOC, ARGUMENT)).toBe(0);
    const after = new Uint8Array(48);
    host.space.read(ARGUMENT, after);
    expect(uapi.iommuHwptAlloc.read(after).outHwptId).toBe(ptId + 1);
    expect([...after.subarray(24)]).toEqual(new Array(24).fill(0xcc));
  });

  test('an object whose id cannot be answered is taken back', () => {
    const host = new Host();
    const device = host.bind();
    const ioas = host.client.ioasAlloc();
    for (const page of host.space.pages.values()) page.writable = false;
    const before = host.snapshot();
    const write = (bytes: Uint8Array): void => {
      host.space.bytes.set(host.space.pages.get(0x100)!.pfn, bytes);
    };
    const call = (request: number, bytes: Uint8Array): number => {
      const pageBytes = new Uint8Array(4096);
      pageBytes.set(bytes);
      write(pageBytes);
      return host.system.ioctl(host.fd, request, ARGUMENT);
    };
    const hwpt = new Uint8Array(48);
    const values = { ...uapi.iommuHwptAlloc.read(hwpt), size: 48, devId: device.id, ptId: ioas };
    uapi.iommuHwptAlloc.write(values, hwpt);
    expect(call(uapi.IOMMU_IOAS_ALLOC, sized(12))).toBe(EFAULT);
    expect(call(uapi.IOMMU_FAULT_QUEUE_ALLOC, sized(16))).toBe(EFAULT);
    expect(call(uapi.IOMMU_HWPT_ALLOC, hwpt)).toBe(EFAULT);
    expect(host.snapshot()).toEqual(before);
    // DESTROY has no answer to store.
    const destroy = new Uint8Array(8);
    uapi.iommuDestroy.write({ size: 8, id: ioas }, destroy);
    expect([call(uapi.IOMMU_DESTROY, destroy), host.context.objects.size]).toEqual([0, 1]);
  });

  test('hostile bytes give an errno and leave nothing behind that closing does not take', () => {
    const word = fc.oneof(fc.nat(12), fc.constantFrom(0xffff_ffff, 0x8000_0000, 24, 40, 4096), fc.nat(0xffff_ffff));
    const long = fc.oneof(
      fc.constantFrom(0n, U64_MAX, U64_MAX - 1n, 1n << 63n, MEMORY, MEMORY + 0x1000n, BUFFER, 0x1000n, 0x4000n, 24n),
      fc.bigInt(0n, U64_MAX),
    );
    const structure = fc.tuple(
      fc.constantFrom(...COMMANDS),
      fc.array(word, { minLength: 12, maxLength: 12 }),
      fc.array(long, { minLength: 6, maxLength: 6 }),
      fc.nat(63),
      fc.integer({ min: -4, max: 12 }),
    );
    fc.assert(
      fc.property(fc.array(structure, { minLength: 5, maxLength: 40, size: 'max' }), (calls) => {
        const host = new Host({ memlock: 100 * 4096 });
        host.bind();
        host.client.ioasAlloc();
        for (const [{ request, size }, words, longs, mask, extra] of calls) {
          const bytes = new Uint8Array(size + Math.max(extra, 0));
          const view = new DataView(bytes.buffer);
          for (let at = 0; at + 4 <= size; at += 4) view.setUint32(at, words[at / 4]!, true);
          for (let at = 8; at + 8 <= size; at += 8) {
            if (((mask >> (at / 8)) & 1) === 1) view.setBigUint64(at, longs[at / 8]!, true);
          }
          view.setUint32(0, size + extra, true);
          host.space.write(ARGUMENT, bytes);
          const result = host.system.ioctl(host.fd, request, ARGUMENT);
          expect(Number.isInteger(result) && result <= 0 && result > -200).toBe(true);
          expect(host.space.pinnedPages).toBe(host.user.lockedPages);
        }
        const device = host.context.objects.all().find(({ type }) => type === 'device')!;
        (device as unknown as { unbind(): void }).unbind();
        host.process.exit();
        expect([host.space.pinnedPages, host.user.lockedPages, host.context.objects.size]).toEqual([0, 0, 0]);
        expect([...host.driver.live, ...host.driver.viommu!.live]).toEqual([]);
        expect(host.kernel.frames.allocated).toBe(0);
      }),
      { numRuns: 120 },
    );
  });
});

describe('objects', () => {
  test('F2 a page table in use keeps itself and its IOAS; what is gone is gone', () => {
    const host = new Host();
    const device = host.bind();
    const ioas = host.client.ioasAlloc();
    const hwpt = host.client.hwptAllocPaging({ deviceId: device.id, ioasId: ioas });
    device.attach(hwpt);
    const destroy = (id: number): number => host.ioctl(uapi.IOMMU_DESTROY, uapi.iommuDestroy, { id }).result;
    expect([destroy(hwpt), destroy(ioas), destroy(device.id)]).toEqual([EBUSY, EBUSY, EBUSY]);
    device.detach();
    expect([destroy(ioas), destroy(hwpt), destroy(ioas), destroy(ioas)]).toEqual([EBUSY, 0, 0, ENOENT]);
    expect([destroy(0), destroy(77), destroy(0xffff_ffff), destroy(device.id)]).toEqual([
      ENOENT,
      ENOENT,
      ENOENT,
      EBUSY,
    ]);
    device.unbind();
    expect(destroy(device.id)).toBe(ENOENT);
  });

  test('ids are the lowest free ones, from 1, whatever the type', () => {
    const host = new Host();
    const ids = [host.client.ioasAlloc(), host.bind().id, host.client.faultQueueAlloc().id, host.client.ioasAlloc()];
    expect(ids).toEqual([1, 2, 3, 4]);
    host.client.destroy(1);
    host.client.destroy(4);
    expect([host.client.ioasAlloc(), host.client.ioasAlloc(), host.client.ioasAlloc()]).toEqual([1, 4, 5]);
  });

  test('C7 closing the file destroys everything, whatever the order in which it was made', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(6), fc.nat(9), fc.nat(9)), { minLength: 4, maxLength: 30, size: 'max' }),
        (steps) => {
          const host = new Host();
          const device = host.bind();
          const made: number[] = [host.client.ioasAlloc()];
          const pick = (at: number): number => made[at % made.length]!;
          const references = new Map<number, number>();
          for (const [kind, a, b] of steps) {
            try {
              if (kind === 0) made.push(host.client.ioasAlloc());
              else if (kind === 1)
                made.push(host.client.hwptAllocPaging({ deviceId: device.id, ioasId: pick(a), nestParent: true }));
              else if (kind === 2) {
                const request = { deviceId: device.id, parentId: pick(a), pageTable: 0n, addressWidth: 48 };
                made.push(host.client.hwptAllocVtdS1(request));
              } else if (kind === 3) made.push(host.client.faultQueueAlloc().id);
              else if (kind === 4) {
                const request = { deviceId: device.id, ioasId: pick(a), faultId: pick(b) };
                made.push(host.client.hwptAllocPaging(request));
              } else if (kind === 5) host.client.ioasMap({ ioasId: pick(a), userVa: MEMORY, length: 0x3000n });
              else host.client.destroy(pick(a));
            } catch (error) {
              if (!(error instanceof SysError)) throw error;
            }
            // DESTROY succeeds exactly when nothing else uses the object.
            references.clear();
            for (const object of host.context.objects.all()) {
              const users = object as unknown as {
                ioas?: { id: number };
                parent?: { id: number };
                fault?: { id: number } | null;
              };
              for (const used of [users.ioas, users.parent, users.fault]) {
                if (used) references.set(used.id, (references.get(used.id) ?? 0) + 1);
              }
            }
            for (const { id, type, users } of host.context.objects.all()) {
              const outside = type === 'device' || type === 'fault' ? 1 : 0;
              expect(users).toBe(1 + outside + (references.get(id) ?? 0));
            }
          }
          device.unbind();
          host.process.exit();
          expect([host.context.objects.size, host.space.pinnedPages, host.user.lockedPages]).toEqual([0, 0, 0]);
          expect(host.driver.live).toEqual([]);
        },
      ),
      { numRuns: 100 },
    );
  });

  test('a bound device keeps the objects when the file is closed, until it is unbound', () => {
    const host = new Host();
    const device = host.bind();
    const ioas = host.client.ioasAlloc();
    host.client.ioasMap({ ioasId: ioas, userVa: MEMORY, length: 0x4000n });
    device.attach(ioas);
    host.system.close(host.fd);
    const left = (): number[] => [host.node.contexts.size, host.node.objects, host.node.areas, host.space.pinnedPages];
    expect(left()).toEqual([1, 3, 1, 4]);
    device.unbind();
    expect(left()).toEqual([0, 0, 0, 0]);
    expect(host.context.objects.size).toBe(0);
    expect(host.driver.live).toEqual([]);
    expect(host.driver.routes.size).toBe(0);
  });

  test('a descriptor of a fault queue keeps it, and the objects', () => {
    const host = new Host();
    const { id, fd } = host.client.faultQueueAlloc();
    expect(() => host.client.destroy(id)).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    host.system.close(host.fd);
    expect(host.context.objects.size).toBe(1);
    host.system.close(fd);
    expect(host.context.objects.size).toBe(0);
  });

  test('a fault queue without a descriptor to give is not made', () => {
    const host = new Host();
    while (host.descriptors.size < 1024) host.system.dup(host.fd);
    expect(host.ioctl(uapi.IOMMU_FAULT_QUEUE_ALLOC, uapi.iommuFaultAlloc, {}).result).toBe(EMFILE);
    expect(host.context.objects.size).toBe(0);
  });
});

describe('IOAS commands', () => {
  type MapValues = Parameters<typeof uapi.iommuIoasMap.write>[0];
  const map = (host: Host, values: Partial<MapValues>): ReturnType<Host['ioctl']>['result'] =>
    host.ioctl(uapi.IOMMU_IOAS_MAP, uapi.iommuIoasMap, values).result;

  test('F3 maps that overlap, are unaligned, allow nothing or are reserved have their errno', () => {
    const host = new Host();
    host.driver.regions = [{ first: 0xfee0_0000n, last: 0xfeef_ffffn, kind: 'msi', prot: 0 }];
    const device = host.bind();
    const ioasId = host.client.ioasAlloc();
    device.attach(ioasId);
    const good = { ioasId, flags: RW | FIXED, userVa: MEMORY, length: 0x2000n, iova: 0x10000n };
    expect(map(host, good)).toBe(0);
    expect(map(host, { ...good, iova: 0x11000n })).toBe(EEXIST);
    expect(map(host, { ...good, iova: 0xf000n })).toBe(EEXIST);
    expect(map(host, { ...good, iova: 0x20001n })).toBe(EINVAL);
    expect(map(host, { ...good, length: 0x1001n })).toBe(EINVAL);
    expect(map(host, { ...good, userVa: MEMORY + 0x800n, iova: 0x20000n })).toBe(EINVAL);
    expect(map(host, { ...good, length: 0n })).toBe(EINVAL);
    expect(map(host, { ...good, flags: FIXED })).toBe(EINVAL);
    expect(map(host, { ...good, iova: 0xfedf_f000n })).toBe(EINVAL);
    expect(map(host, { ...good, iova: 0xfeef_f000n })).toBe(EINVAL);
    expect(map(host, { ...good, iova: 0xfef0_0000n })).toBe(0);
  });

  test('MAP checks in the order flags, range, access, IOAS, memory, place', () => {
    const host = new Host();
    const ioasId = host.client.ioasAlloc();
    const bad = { ioasId: 99, flags: 8 | FIXED, userVa: U64_MAX - 0xfffn, length: U64_MAX, iova: U64_MAX };
    expect(map(host, bad)).toBe(EOPNOTSUPP);
    expect(map(host, { ...bad, flags: FIXED })).toBe(EOVERFLOW);
    expect(map(host, { ...bad, flags: FIXED, length: 0n })).toBe(EOVERFLOW);
    expect(map(host, { ...bad, flags: FIXED, length: 0x2000n, iova: 1n })).toBe(EINVAL);
    expect(map(host, { ...bad, flags: FIXED | RW, length: 0x2000n, iova: 1n })).toBe(ENOENT);
    const here = { ioasId, flags: FIXED | RW, userVa: U64_MAX - 0xfffn, length: 0x2000n, iova: 1n };
    expect(map(host, here)).toBe(EOVERFLOW);
    expect(map(host, { ...here, length: 0x1000n })).toBe(EOVERFLOW);
    expect(map(host, { ...here, userVa: 0n, length: 0n })).toBe(EINVAL);
    expect(map(host, { ...here, userVa: 0n, length: U64_MAX - 0xffen })).toBe(EINVAL);
    expect(map(host, { ...here, userVa: 0n, iova: U64_MAX - 0xfffn })).toBe(EOVERFLOW);
    expect(map(host, { ...here, flags: RW, userVa: 0n, length: 1n << 63n })).toBe(EOVERFLOW);
    // Without a device even memory that is not there can be mapped.
    expect(map(host, { ...here, userVa: NOWHERE })).toBe(0);
  });

  test('pinning is refused for memory that is not there, or above RLIMIT_MEMLOCK', () => {
    const host = new Host({ memlock: 8 * 4096 });
    const device = host.bind();
    const ioasId = host.client.ioasAlloc();
    device.attach(ioasId);
    const before = host.snapshot();
    const values = { ioasId, flags: RW, userVa: MEMORY, length: 0x9000n };
    expect(map(host, values)).toBe(ENOMEM);
    expect(map(host, { ...values, userVa: NOWHERE })).toBe(EFAULT);
    host.space.pages.get(Number(MEMORY >> 12n))!.writable = false;
    expect(map(host, { ...values, length: 0x1000n })).toBe(EFAULT);
    expect(host.snapshot()).toEqual(before);
    expect(map(host, { ...values, length: 0x1000n, flags: uapi.IOMMU_IOAS_MAP_READABLE })).toBe(0);
    expect(map(host, { ...values, userVa: MEMORY + 0x1000n, length: 0x7000n })).toBe(0);
    expect(map(host, { ...values, userVa: MEMORY + 0x1000n, length: 0x1000n })).toBe(ENOMEM);
    expect([host.user.lockedPages, host.space.lockedPages, host.space.pinnedPages]).toEqual([8, 0, 8]);
  });

  test('CAP_IPC_LOCK pays nothing; accounting by address space charges that', () => {
    const privileged = new Host({ memlock: 0, capabilities: ['CAP_IPC_LOCK'] });
    const owner = new Host({ accountMm: true, memlock: 4 * 4096 });
    for (const host of [privileged, owner]) {
      const ioasId = host.client.ioasAlloc();
      host.bind().attach(ioasId);
      expect(map(host, { ioasId, flags: RW, userVa: MEMORY, length: 0x4000n })).toBe(0);
    }
    expect([privileged.user.lockedPages, privileged.space.lockedPages, privileged.space.pinnedPages]).toEqual([
      0, 0, 4,
    ]);
    expect([owner.user.lockedPages, owner.space.lockedPages, owner.space.pinnedPages]).toEqual([0, 4, 4]);
    expect(map(owner, { ioasId: 1, flags: RW, userVa: MEMORY, length: 0x1000n })).toBe(ENOMEM);
  });

  test('IOVA_RANGES gives what is not reserved, and how many there are when there is too little room', () => {
    const host = new Host();
    host.driver.regions = [{ first: 0xfee0_0000n, last: 0xfeef_ffffn, kind: 'msi', prot: 0 }];
    host.driver.domainOptions = { aperture: { first: 0n, last: 0xffff_ffff_ffffn } };
    const ioasId = host.client.ioasAlloc();
    const layout = uapi.iommuIoasIovaRanges;
    const ask = (numIovas: number, allowedIovas = BUFFER): ReturnType<typeof host.ioctl> =>
      host.ioctl(uapi.IOMMU_IOAS_IOVA_RANGES, layout, { ioasId, numIovas, allowedIovas }) as never;
    expect(ask(1)).toMatchObject({ result: 0, reply: { numIovas: 1, outIovaAlignment: 1n } });
    expect(host.client.ioasIovaRanges(ioasId)).toEqual({ ranges: [{ start: 0n, last: U64_MAX }], alignment: 1 });
    host.bind().attach(ioasId);
    host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x1000n, iova: 0x5000n });
    expect(ask(0)).toMatchObject({ result: EMSGSIZE, reply: { numIovas: 2 } });
    expect(ask(1)).toMatchObject({ result: EMSGSIZE, reply: { numIovas: 2, outIovaAlignment: 4096n } });
    expect(ask(2)).toMatchObject({ result: 0, reply: { numIovas: 2 } });
    const bytes = new Uint8Array(32);
    host.space.read(BUFFER, bytes);
    expect(uapi.iommuIovaRange.read(bytes)).toEqual({ start: 0n, last: 0xfedf_ffffn });
    expect(uapi.iommuIovaRange.read(bytes, 16)).toEqual({ start: 0xfef0_0000n, last: 0xffff_ffff_ffffn });
    expect(ask(2, NOWHERE).result).toBe(EFAULT);
    expect(ask(2, U64_MAX - 7n).result).toBe(EFAULT);
    expect(host.ioctl(uapi.IOMMU_IOAS_IOVA_RANGES, layout, { ioasId: 9 }).result).toBe(ENOENT);
  });

  test('COPY shares pages, across areas and in part, and refuses holes and more rights', () => {
    const host = new Host();
    const [src, dst] = [host.client.ioasAlloc(), host.client.ioasAlloc()];
    host.bind().attach(src);
    host.bind().attach(dst);
    host.client.ioasMap({ ioasId: src, userVa: MEMORY, length: 0x3000n, iova: 0x10000n });
    host.client.ioasMap({ ioasId: src, userVa: MEMORY + 0x8000n, length: 0x2000n, iova: 0x13000n, writable: false });
    const copy = (values: object): number =>
      host.ioctl(uapi.IOMMU_IOAS_COPY, uapi.iommuIoasCopy, {
        flags: uapi.IOMMU_IOAS_MAP_READABLE | FIXED,
        srcIoasId: src,
        dstIoasId: dst,
        length: 0x3000n,
        dstIova: 0x80000n,
        srcIova: 0x11000n,
        ...values,
      }).result;
    expect(copy({ flags: 8 })).toBe(EOPNOTSUPP);
    expect(copy({ length: U64_MAX })).toBe(EOVERFLOW);
    expect(copy({ flags: FIXED })).toBe(EINVAL);
    expect(copy({ srcIoasId: 99, length: 0n })).toBe(ENOENT);
    expect(copy({ length: 0n, dstIoasId: 99 })).toBe(EINVAL);
    expect(copy({ length: U64_MAX - 1n, dstIoasId: 99 })).toBe(EOVERFLOW);
    expect(copy({ length: 0x5000n, dstIoasId: 99 })).toBe(ENOENT);
    expect(copy({ dstIoasId: 99 })).toBe(ENOENT);
    expect(copy({ flags: RW | FIXED })).toBe(EPERM);
    expect(copy({ length: 0x800n })).toBe(EINVAL);
    expect(host.space.pinnedPages).toBe(5);
    expect(copy({})).toBe(0);
    expect(copy({})).toBe(EEXIST);
    expect(copy({ dstIoasId: src, flags: RW, length: 0x2000n })).toBe(0);
    expect([host.space.pinnedPages, host.user.lockedPages]).toEqual([5, 5]);
    const [first, second] = host.driver.live as unknown as { iovaToPhys(iova: bigint): bigint }[];
    for (let page = 0n; page < 3n; page++) {
      expect(second!.iovaToPhys(0x80000n + page * 4096n)).toBe(first!.iovaToPhys(0x11000n + page * 4096n));
    }
    expect(host.client.ioasUnmapAll(src)).toBe(0x7000n);
    expect(host.space.pinnedPages).toBe(3);
    expect(host.client.ioasUnmapAll(dst)).toBe(0x3000n);
    expect(host.space.pinnedPages).toBe(0);
  });

  test('UNMAP takes whole areas only; those before a cut are gone', () => {
    const host = new Host();
    const ioasId = host.client.ioasAlloc();
    const unmap = (iova: bigint, length: bigint, id = ioasId): [number, bigint] => {
      const values = { ioasId: id, iova, length };
      const { result, reply } = host.ioctl(uapi.IOMMU_IOAS_UNMAP, uapi.iommuIoasUnmap, values);
      return [result, reply.length];
    };
    expect(unmap(0n, U64_MAX)).toEqual([0, 0n]);
    expect(unmap(0n, 0x1000n)).toEqual([ENOENT, 0x1000n]);
    for (const iova of [0x10000n, 0x20000n, 0x30000n]) {
      host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x2000n, iova });
    }
    expect(unmap(0n, 0n)).toEqual([EINVAL, 0n]);
    expect(unmap(0n, 0n, 99)).toEqual([ENOENT, 0n]);
    expect(unmap(1n, U64_MAX)[0]).toBe(EOVERFLOW);
    expect(unmap(U64_MAX, 1n)[0]).toBe(EOVERFLOW);
    expect(unmap(0x1000n, U64_MAX - 1n)[0]).toBe(EOVERFLOW);
    expect(unmap(0x11000n, 0x1000n)[0]).toBe(ENOENT);
    expect(unmap(0x10000n, 0x11000n)).toEqual([ENOENT, 0x11000n]);
    expect(unmap(0x10000n, 0x2000n)[0]).toBe(ENOENT);
    expect(unmap(0x1f000n, 0x20000n)).toEqual([0, 0x4000n]);
    expect(unmap(0x20000n, 0x2000n)[0]).toBe(ENOENT);
  });
});

describe('device commands', () => {
  test('HWPT_ALLOC checks in the order of the kernel', () => {
    const host = new Host();
    const device = host.bind();
    const ioas = host.client.ioasAlloc();
    const alloc = (values: object): number =>
      host.ioctl(uapi.IOMMU_HWPT_ALLOC, uapi.iommuHwptAlloc, { devId: device.id, ptId: ioas, ...values }).result;
    const data = { dataType: 1, dataLen: 24, dataUptr: BUFFER };
    expect(alloc({ dataLen: 4, devId: 99 })).toBe(EINVAL);
    expect(alloc({ dataType: 1, devId: 99 })).toBe(EINVAL);
    expect(alloc({ devId: 99, ptId: 99 })).toBe(ENOENT);
    expect(alloc({ devId: ioas, ptId: 99 })).toBe(ENOENT);
    expect(alloc({ ptId: 99, flags: 0x100 })).toBe(EINVAL);
    expect(alloc({ ptId: device.id })).toBe(EINVAL);
    expect(alloc({ flags: 0x10 })).toBe(EOPNOTSUPP);
    expect(alloc({ flags: uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING })).toBe(EOPNOTSUPP);
    expect(alloc({ flags: uapi.IOMMU_HWPT_FAULT_ID_VALID | uapi.IOMMU_HWPT_ALLOC_NEST_PARENT })).toBe(EOPNOTSUPP);
    expect(alloc({ flags: uapi.IOMMU_HWPT_FAULT_ID_VALID, faultId: ioas })).toBe(ENOENT);
    expect(alloc(data)).toBe(EOPNOTSUPP);
    const objects = host.context.objects.size;
    const plain = host.client.hwptAllocPaging({ deviceId: device.id, ioasId: ioas });
    const parent = host.client.hwptAllocPaging({ deviceId: device.id, ioasId: ioas, nestParent: true });
    expect(alloc({ ptId: parent })).toBe(EOPNOTSUPP);
    expect(alloc({ ...data, ptId: parent, flags: uapi.IOMMU_HWPT_ALLOC_NEST_PARENT })).toBe(EOPNOTSUPP);
    expect(alloc({ ...data, ptId: plain })).toBe(EINVAL);
    expect(alloc({ ...data, ptId: parent, dataType: 2 })).toBe(EOPNOTSUPP);
    expect(alloc({ ...data, ptId: parent, dataLen: 23 })).toBe(EINVAL);
    expect(alloc({ ...data, ptId: parent, dataLen: 0xffff_ffff })).toBe(EINVAL);
    const nowhere = { ...data, ptId: parent, dataUptr: NOWHERE };
    expect(alloc({ ...nowhere, dataType: 2 })).toBe(EOPNOTSUPP);
    expect(alloc({ ...nowhere, dataLen: 23 })).toBe(EINVAL);
    expect(alloc(nowhere)).toBe(EFAULT);
    expect(host.context.objects.size).toBe(objects + 2);
    expect(alloc({ ...data, ptId: parent })).toBe(0);
    expect(alloc({ ...data, ptId: parent + 1 })).toBe(EINVAL);
  });

  test('D1 an id of a nested table is nowhere taken for an address space', () => {
    const host = new Host();
    const device = host.bind();
    const ioasId = host.client.ioasAlloc();
    const parentId = host.client.hwptAllocPaging({ deviceId: device.id, ioasId, nestParent: true });
    const nested = host.client.hwptAllocVtdS1({ deviceId: device.id, parentId, pageTable: 0x1000n, addressWidth: 48 });
    const before = host.snapshot();
    const map = { flags: RW, ioasId: nested, userVa: MEMORY, length: 0x1000n };
    expect(host.ioctl(uapi.IOMMU_IOAS_MAP, uapi.iommuIoasMap, map).result).toBe(ENOENT);
    const unmap = { ioasId: nested, iova: 0n, length: U64_MAX };
    expect(host.ioctl(uapi.IOMMU_IOAS_UNMAP, uapi.iommuIoasUnmap, unmap).result).toBe(ENOENT);
    const copy = { flags: RW, srcIoasId: ioasId, dstIoasId: nested, length: 0x1000n };
    host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x1000n, iova: 0n });
    expect(host.ioctl(uapi.IOMMU_IOAS_COPY, uapi.iommuIoasCopy, copy).result).toBe(ENOENT);
    host.client.ioasUnmapAll(ioasId);
    expect(host.snapshot()).toEqual(before);
    const domain = host.driver.live[1]! as object;
    expect(['map' in domain, 'unmap' in domain]).toEqual([false, false]);
  });

  test('D2 a parent with a nested table on it cannot be destroyed', () => {
    const host = new Host();
    const device = host.bind();
    const ioasId = host.client.ioasAlloc();
    const parentId = host.client.hwptAllocPaging({ deviceId: device.id, ioasId, nestParent: true });
    const nested = host.client.hwptAllocVtdS1({ deviceId: device.id, parentId, pageTable: 0x1000n, addressWidth: 48 });
    const destroy = (id: number): number => host.ioctl(uapi.IOMMU_DESTROY, uapi.iommuDestroy, { id }).result;
    expect([destroy(parentId), destroy(ioasId)]).toEqual([EBUSY, EBUSY]);
    expect([destroy(nested), destroy(parentId), destroy(ioasId)]).toEqual([0, 0, 0]);
  });

  test('GET_HW_INFO cuts to a short buffer and clears the rest of a long one', () => {
    const host = new Host();
    const device = host.bind(undefined, { pasidFeatures: uapi.IOMMU_HW_CAP_PCI_PASID_EXEC });
    const layout = uapi.iommuHwInfo;
    const ask = (values: object): ReturnType<Host['ioctl']> =>
      host.ioctl(uapi.IOMMU_GET_HW_INFO, layout, { devId: device.id, dataUptr: BUFFER, ...values }) as never;
    const reply = { dataLen: 24, outDataType: 1, outMaxPasidLog2: 16, outCapabilities: 2n | 8n };
    host.space.write(BUFFER, new Uint8Array(64).fill(0xaa));
    expect(ask({ dataLen: 5 })).toMatchObject({ result: 0, reply });
    const bytes = new Uint8Array(64);
    host.space.read(BUFFER, bytes);
    expect([...bytes.subarray(0, 8)]).toEqual([1, 2, 3, 4, 5, 0xaa, 0xaa, 0xaa]);
    expect(ask({ dataLen: 40 })).toMatchObject({ result: 0, reply });
    host.space.read(BUFFER, bytes);
    expect([...bytes.subarray(22, 42)]).toEqual([23, 24, ...new Array(16).fill(0), 0xaa, 0xaa]);
    expect(ask({ dataLen: 0, dataUptr: 0n })).toMatchObject({ result: 0, reply });
    expect(ask({ dataLen: 24, dataUptr: 0n }).result).toBe(EFAULT);
    expect(ask({ dataLen: 0xffff_ffff }).result).toBe(EFAULT);
    expect(ask({ dataLen: 24, dataUptr: U64_MAX - 3n }).result).toBe(EFAULT);
    expect(ask({ outDataType: 7 }).result).toBe(0);
    expect(ask({ outDataType: 7, flags: 1 }).result).toBe(EOPNOTSUPP);
    expect(ask({ flags: 2, devId: 99 }).result).toBe(EOPNOTSUPP);
    expect(ask({ devId: 99 }).result).toBe(ENOENT);
    host.driver.capabilities.add('dirty-tracking').add('pci-ats');
    expect(host.client.hwInfo(device.id)).toMatchObject({ type: 1, capabilities: 1 | 2, maxPasidLog2: 16 });
    expect(host.client.hwInfo(device.id).data.length).toBe(24);
  });

  test('HWPT_INVALIDATE carries out entries up to the first bad one and says how many', () => {
    const host = new Host();
    const device = host.bind();
    const ioasId = host.client.ioasAlloc();
    const parentId = host.client.hwptAllocPaging({ deviceId: device.id, ioasId, nestParent: true });
    const hwptId = host.client.hwptAllocVtdS1({ deviceId: device.id, parentId, pageTable: 0n, addressWidth: 48 });
    const ask = (values: object): [number, number] => {
      const fields = { hwptId, dataUptr: BUFFER, dataType: 0, entryLen: 24, entryNum: 3, ...values };
      const { result, reply } = host.ioctl(uapi.IOMMU_HWPT_INVALIDATE, uapi.iommuHwptInvalidate, fields);
      return [result, reply.entryNum];
    };
    expect(ask({})).toEqual([0, 3]);
    expect(ask({ entryNum: 0, dataUptr: 0n, entryLen: 0 })).toEqual([0, 0]);
    expect(ask({ entryNum: 0, dataType: 1 })).toEqual([EINVAL, 0]);
    expect(ask({ dataUptr: 0n })).toEqual([EINVAL, 0]);
    expect(ask({ entryLen: 0 })).toEqual([EINVAL, 0]);
    expect(ask({ entryLen: 4097 })).toEqual([EINVAL, 0]);
    expect(ask({ entryNum: (1 << 19) + 1 })).toEqual([EINVAL, 0]);
    expect(ask({ hwptId: 99 })).toEqual([ENOENT, 0]);
    expect(ask({ hwptId: parentId })).toEqual([EINVAL, 0]);
    expect(ask({ hwptId: ioasId })).toEqual([EINVAL, 0]);
    expect(ask({ reserved: 1 })).toEqual([EOPNOTSUPP, 0]);
    host.space.write(BUFFER + 24n, Uint8Array.of(0xff));
    expect(ask({})).toEqual([EINVAL, 1]);
    // Two entries and a half before the memory ends, then batches.
    const end = ARGUMENT + 0x10000n;
    expect(ask({ dataUptr: end - 60n })).toEqual([EFAULT, 2]);
    expect(ask({ dataUptr: end - 10n })).toEqual([EFAULT, 0]);
    host.space.write(BUFFER + 24n, Uint8Array.of(0));
    host.space.write(BUFFER + 24n * 700n, Uint8Array.of(0xff));
    expect(ask({ entryNum: 1000 })).toEqual([EINVAL, 700]);
    expect(ask({ entryNum: 700 })).toEqual([0, 700]);
    expect(host.eventsOf('hwpt_invalidate').map(({ entries }) => entries)).toEqual([3, 1, 2, 700, 700]);
    host.client.hwptInvalidateVtdS1(hwptId, [{ address: 0x5000n, pages: 2n, leaf: true }]);
    const nested = host.driver.live[1]! as unknown as { invalidated: string[] };
    expect(nested.invalidated.at(-1)).toBe(`0050${'0'.repeat(12)}02${'0'.repeat(14)}01${'0'.repeat(14)}`);
  });
});
