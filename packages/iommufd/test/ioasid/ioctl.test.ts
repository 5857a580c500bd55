import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Fields, Struct, StructValues } from '../../src/index.ts';
import * as uapi from '../../src/ioasid/uapi.ts';
import { ARGUMENT, BUFFER, MEMORY } from '../support/host.ts';
import { errno, FakeIoasidHost, PAGE } from '../support/ioasid-host.ts';

/** Puts a structure at ARGUMENT, calls, and gives the result with the structure as it is then. */
function call<F extends Fields>(
  host: FakeIoasidHost,
  request: number,
  layout: Struct<F>,
  values: Partial<StructValues<F>>,
): { result: number; reply: StructValues<F> } {
  const bytes = new Uint8Array(layout.size);
  layout.write({ ...layout.read(bytes), argsz: layout.size, ...values } as StructValues<F>, bytes);
  host.space.write(ARGUMENT, bytes);
  const result = host.system.ioctl(host.client.fd, request, ARGUMENT);
  host.space.read(ARGUMENT, bytes);
  return { result, reply: layout.read(bytes) };
}

test('requests and layouts', () => {
  const requests = Object.entries(uapi).filter(([, value]) => typeof value === 'number' && value >= 0x6900);
  expect(Object.fromEntries(requests)).toEqual({
    IOASID_CHECK_EXTENSION: 0x6964,
    IOASID_REGISTER_MEMORY: 0x6965,
    IOASID_UNREGISTER_MEMORY: 0x6966,
    IOASID_ALLOC: 0x6967,
    IOASID_FREE: 0x6968,
    IOASID_GET_INFO: 0x6969,
    IOASID_MAP_DMA: 0x696a,
    IOASID_UNMAP_DMA: 0x696b,
    IOASID_CREATE_NESTING: 0x696c,
    IOASID_BIND_PGTABLE: 0x696d,
    IOASID_UNBIND_PGTABLE: 0x696e,
    IOASID_BIND_PASID_TABLE: 0x696f,
    IOASID_UNBIND_PASID_TABLE: 0x6970,
    IOASID_INVALIDATE_CACHE: 0x6971,
    IOMMU_CHECK_EXTENSION: 0x6964,
    IOMMU_DEVICE_GET_INFO: 0x6965,
    IOMMU_IOASID_ALLOC: 0x6966,
    IOMMU_IOASID_FREE: 0x6967,
    IOMMU_MAP_DMA: 0x6968,
    IOMMU_UNMAP_DMA: 0x6969,
    IOMMU_INVALIDATE_CACHE: 0x696a,
    IOASID_SET_FAULT_EVENTFD: 0x6984,
  });
  const { ioasidMemory, ioasidInfo, ioasidDmaMap, ioasidDmaUnmap, ioasidTable, ioasidInvalidate } = uapi;
  expect(
    [ioasidMemory, ioasidInfo, ioasidDmaMap, ioasidDmaUnmap, ioasidTable, ioasidInvalidate].map((s) => s.size),
  ).toEqual([24, 64, 40, 32, 32, 40]);
  expect([uapi.ioasidFault.size, uapi.ioasidFaultResponse.size, uapi.ioasidRange.size]).toEqual([40, 16, 16]);
  expect([ioasidDmaMap.offset('vaddr'), ioasidDmaMap.offset('iova'), ioasidDmaMap.offset('size')]).toEqual([
    16, 24, 32,
  ]);
  expect([ioasidInfo.offset('id'), ioasidInfo.offset('vendorUptr'), ioasidInfo.offset('rangesUptr')]).toEqual([
    8, 40, 56,
  ]);
});

describe('the commands on bytes', () => {
  test('version 1: the flow of section 5.3, with handles as results', () => {
    const host = new FakeIoasidHost('v1');
    const { fd } = host.client;
    const ioctl = (request: number, argument: bigint | number = 0): number => host.system.ioctl(fd, request, argument);
    const device = host.bind();
    expect([
      ioctl(uapi.IOASID_CHECK_EXTENSION, uapi.IOASID_EXT_NESTING),
      ioctl(uapi.IOASID_CHECK_EXTENSION, 77),
    ]).toEqual([1, 0]);
    const gpa = ioctl(uapi.IOASID_ALLOC);
    expect([gpa, ioctl(uapi.IOASID_CREATE_NESTING, gpa)]).toEqual([1, -19]);
    host.attach(device, gpa);
    const registration = { vaddr: MEMORY, size: 8n * PAGE };
    expect(call(host, uapi.IOASID_REGISTER_MEMORY, uapi.ioasidMemory, registration).result).toBe(0);
    expect(host.space.pinnedPages).toBe(8);
    const map = { ioasid: gpa, flags: 3, vaddr: MEMORY, iova: 0n, size: 4n * PAGE };
    expect(call(host, uapi.IOASID_MAP_DMA, uapi.ioasidDmaMap, map).result).toBe(0);
    expect(call(host, uapi.IOASID_UNREGISTER_MEMORY, uapi.ioasidMemory, registration).result).toBe(-16);
    const child = ioctl(uapi.IOASID_CREATE_NESTING, gpa);
    host.attach(device, child);
    const window = { ioasid: child, flags: 1, vaddr: PAGE, iova: 0x9000n, size: PAGE };
    expect(call(host, uapi.IOASID_MAP_DMA, uapi.ioasidDmaMap, window).result).toBe(0);
    const unmap = { ioasid: gpa, flags: uapi.IOASID_DMA_UNMAP_ALL };
    expect(call(host, uapi.IOASID_UNMAP_DMA, uapi.ioasidDmaUnmap, unmap)).toMatchObject({
      result: 0,
      reply: { size: 4n * PAGE },
    });
    const table = { ioasid: child, format: 1, addr: 0x1000n, width: 48 };
    expect(call(host, uapi.IOASID_BIND_PGTABLE, uapi.ioasidTable, table).result).toBe(-16);
    expect(
      call(host, uapi.IOASID_UNMAP_DMA, uapi.ioasidDmaUnmap, { ioasid: child, iova: 0x9000n, size: PAGE }),
    ).toMatchObject({
      result: 0,
      reply: { size: PAGE },
    });
    expect(call(host, uapi.IOASID_BIND_PGTABLE, uapi.ioasidTable, table).result).toBe(0);
    const change = { ioasid: child, flags: uapi.IOASID_INVALIDATE_ADDR, addr: 0x5000n, size: PAGE };
    expect(call(host, uapi.IOASID_INVALIDATE_CACHE, uapi.ioasidInvalidate, change).result).toBe(0);
    expect([ioctl(uapi.IOASID_UNBIND_PGTABLE, child), ioctl(uapi.IOASID_UNBIND_PGTABLE, child)]).toEqual([0, -22]);
    expect([
      ioctl(uapi.IOASID_UNBIND_PASID_TABLE, child),
      ioctl(uapi.IOASID_FREE, gpa),
      ioctl(uapi.IOASID_FREE, child),
    ]).toEqual([-22, -16, 0]);
    expect([ioctl(uapi.IOASID_FREE, gpa), ioctl(uapi.IOASID_FREE, gpa), ioctl(uapi.IOASID_FREE, 1n << 32n)]).toEqual([
      0, -2, -2,
    ]);
    expect(call(host, uapi.IOASID_UNREGISTER_MEMORY, uapi.ioasidMemory, registration).result).toBe(0);
    expect([
      ioctl(uapi.IOASID_SET_FAULT_EVENTFD, -1n & 0xffff_ffffn),
      ioctl(uapi.IOASID_SET_FAULT_EVENTFD, 55),
    ]).toEqual([0, -9]);
    expect([ioctl(0x3b81), ioctl(0x6972), ioctl(0x6963)]).toEqual([-25, -25, -25]);
  });

  test('information: what there is room for, and how much there would be', () => {
    const host = new FakeIoasidHost('v1');
    host.driver.regions = [
      { first: 0x1000n, last: 0x1fffn, kind: 'reserved', prot: 0 },
      { first: 0xfee0_0000n, last: 0xfeef_ffffn, kind: 'msi', prot: 0 },
    ];
    const ioasid = host.client.alloc();
    host.attach(host.bind(), ioasid);
    const values = { id: BigInt(ioasid), vendorUptr: BUFFER, vendorLen: 8, numRanges: 1, rangesUptr: BUFFER + 64n };
    const short = call(host, uapi.IOASID_GET_INFO, uapi.ioasidInfo, values);
    expect([short.result, short.reply.numRanges, short.reply.vendorLen, short.reply.vendorType]).toEqual([
      -90, 2, 24, 1,
    ]);
    const bytes = new Uint8Array(128);
    host.space.read(BUFFER, bytes);
    expect([...bytes.subarray(0, 10)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 0, 0]);
    expect([uapi.ioasidRange.read(bytes, 64), bytes[80]]).toEqual([{ start: 0x1000n, last: 0x1fffn }, 0]);
    const long = call(host, uapi.IOASID_GET_INFO, uapi.ioasidInfo, { ...values, numRanges: 2 });
    expect(long).toMatchObject({
      result: 0,
      reply: {
        flags:
          uapi.IOASID_INFO_MAP_DMA |
          uapi.IOASID_INFO_NESTING_HARDWARE |
          uapi.IOASID_INFO_NESTING_SOFTWARE |
          uapi.IOASID_INFO_ENFORCE_SNOOP,
        formats: 2,
        maxPasidLog2: 16,
        pageSizes: 0x4020_1000n,
      },
    });
    expect(call(host, uapi.IOASID_GET_INFO, uapi.ioasidInfo, { ...values, rangesUptr: 1n, numRanges: 2 }).result).toBe(
      -14,
    );
    expect(call(host, uapi.IOASID_GET_INFO, uapi.ioasidInfo, { id: 1n << 40n }).result).toBe(-2);
  });

  test('version 2: the same numbers mean other commands', () => {
    const host = new FakeIoasidHost('v2');
    const ioctl = (request: number, argument: bigint | number = 0): number =>
      host.system.ioctl(host.client.fd, request, argument);
    const device = host.bind();
    const info = call(host, uapi.IOMMU_DEVICE_GET_INFO, uapi.ioasidInfo, { id: device.cookie });
    expect([info.result, info.reply.flags & uapi.IOASID_INFO_PASID, info.reply.numRanges]).toEqual([-90, 256, 1]);
    const alloc = (values: object): number => call(host, uapi.IOMMU_IOASID_ALLOC, uapi.ioasidTable, values).result;
    const gpa = alloc({});
    const map = { ioasid: gpa, flags: 3, vaddr: MEMORY, iova: 0n, size: 4n * PAGE };
    expect([gpa, call(host, uapi.IOMMU_MAP_DMA, uapi.ioasidDmaMap, map).result]).toEqual([1, 0]);
    const flags = uapi.IOASID_ALLOC_PARENT | uapi.IOASID_ALLOC_USER_PGTABLE;
    const child = alloc({ flags, ioasid: gpa, format: 1, addr: 0x1000n, width: 48 });
    host.attach(device, child);
    const change = { ioasid: child, flags: uapi.IOASID_INVALIDATE_COOKIE, cookie: device.cookie };
    expect(call(host, uapi.IOMMU_INVALIDATE_CACHE, uapi.ioasidInvalidate, change).result).toBe(0);
    expect([alloc({ flags: 64 }), alloc({ flags: flags | uapi.IOASID_ALLOC_USER_PASID_TABLE, ioasid: gpa })]).toEqual([
      -22, -22,
    ]);
    expect([alloc({ flags, ioasid: 99 }), alloc({ flags: uapi.IOASID_ALLOC_SHARED })]).toEqual([-2, -95]);
    expect([
      ioctl(uapi.IOMMU_IOASID_FREE, gpa),
      ioctl(uapi.IOMMU_IOASID_FREE, child),
      ioctl(uapi.IOMMU_IOASID_FREE, gpa),
    ]).toEqual([-16, 0, 0]);
    expect([ioctl(0x696b), ioctl(uapi.IOASID_INVALIDATE_CACHE)]).toEqual([-25, -25]);
  });

  test('short structures, unknown flags, reserved fields and bad addresses', () => {
    const host = new FakeIoasidHost('v1');
    const ioasid = host.client.alloc();
    host.attach(host.bind(), ioasid);
    const before = host.snapshot();
    const commands: [number, Struct<Fields>][] = [
      [uapi.IOASID_REGISTER_MEMORY, uapi.ioasidMemory as Struct<Fields>],
      [uapi.IOASID_GET_INFO, uapi.ioasidInfo as Struct<Fields>],
      [uapi.IOASID_MAP_DMA, uapi.ioasidDmaMap as Struct<Fields>],
      [uapi.IOASID_UNMAP_DMA, uapi.ioasidDmaUnmap as Struct<Fields>],
      [uapi.IOASID_BIND_PGTABLE, uapi.ioasidTable as Struct<Fields>],
      [uapi.IOASID_INVALIDATE_CACHE, uapi.ioasidInvalidate as Struct<Fields>],
    ];
    host.space.write(ARGUMENT + 16n * PAGE - 8n, Uint8Array.of(0, 16, 0, 0));
    for (const [request, layout] of commands) {
      const result = (values: object): number => call(host, request, layout, values).result;
      expect([request, result({ argsz: layout.size - 1 }), result({ argsz: 0 })]).toEqual([request, -22, -22]);
      if (request !== uapi.IOASID_GET_INFO) expect([request, result({ flags: 0x8000_0000 })]).toEqual([request, -22]);
      for (const argument of [0n, 1n, 0xffff_ffff_ffff_fffcn, 0x7777_0000n, ARGUMENT + 16n * PAGE - 8n]) {
        expect(host.system.ioctl(host.client.fd, request, argument)).toBe(-14);
      }
    }
    const map = { ioasid, flags: 3, vaddr: MEMORY, iova: 0n, size: PAGE };
    expect(call(host, uapi.IOASID_MAP_DMA, uapi.ioasidDmaMap, { ...map, reserved: 1 }).result).toBe(-22);
    expect(call(host, uapi.IOASID_UNMAP_DMA, uapi.ioasidDmaUnmap, { ioasid, flags: 2, size: PAGE }).result).toBe(-22);
    expect(host.snapshot()).toEqual(before);
    // Longer structures, of a later header, are taken as far as they are known.
    expect(call(host, uapi.IOASID_MAP_DMA, uapi.ioasidDmaMap, { ...map, argsz: 4096 }).result).toBe(0);
  });

  test('an unmap whose answer could not be stored is not made', () => {
    const host = new FakeIoasidHost('v1');
    const ioasid = host.client.alloc();
    host.attach(host.bind(), ioasid);
    host.client.map({ ioasid, iova: 0, vaddr: MEMORY, size: PAGE });
    const bytes = new Uint8Array(uapi.ioasidDmaUnmap.size);
    uapi.ioasidDmaUnmap.write({ argsz: bytes.length, flags: 0, ioasid, reserved: 0, iova: 0n, size: PAGE }, bytes);
    host.space.write(ARGUMENT, bytes);
    for (const page of host.space.pages.values()) page.writable = false;
    const before = host.snapshot();
    expect(host.system.ioctl(host.client.fd, uapi.IOASID_UNMAP_DMA, ARGUMENT)).toBe(-14);
    expect(host.snapshot()).toEqual(before);
  });
});

test('no bytes make a command throw anything but an errno', () => {
  const word = fc.oneof(fc.constantFrom(0, 1, 2, 3, 24, 32, 40, 64, 4096, 0x9000, 0xffff_ffff), fc.nat(0xffff_ffff));
  const step = fc.record({
    command: fc.oneof(fc.nat(15), fc.constantFrom(32, 99)),
    words: fc.array(word, { minLength: 16, maxLength: 16 }),
    byValue: fc.boolean(),
    data: fc.uint8Array({ maxLength: 96 }),
  });
  fc.assert(
    fc.property(fc.constantFrom('v1' as const, 'v2' as const), fc.array(step, { maxLength: 20 }), (rules, steps) => {
      const host = new FakeIoasidHost(rules);
      const device = host.bind();
      const root = host.client.alloc();
      host.attach(device, root);
      host.client.map({ ioasid: root, iova: 0, vaddr: MEMORY, size: 4n * PAGE });
      for (const { command, words, byValue, data } of steps) {
        host.space.write(ARGUMENT, new Uint8Array(Uint32Array.from(words).buffer));
        const argument = byValue ? BigInt(words[0]!) : ARGUMENT;
        const result = host.system.ioctl(host.client.fd, 0x6964 + command, argument);
        expect(result).toBeGreaterThanOrEqual(-133);
        errno(() => host.system.write(host.client.fd, data));
        errno(() => host.system.read(host.client.fd, new Uint8Array(data.length)));
      }
      host.system.exit();
      host.kernel.call('driver', () => device.unbind());
      expect([host.node.iommufd.objects, host.space.pinnedPages, host.user.lockedPages, host.driver.live]).toEqual([
        0,
        0,
        0,
        [],
      ]);
    }),
    { numRuns: 150 },
  );
});
