import {
  ACCESS_READ,
  high32,
  low32,
  NO_PASID,
  PRG_INVALID_REQUEST,
  PRG_SUCCESS,
  pageHigh,
  pageLow,
  TEST_COMMAND,
} from '@iommukit/hw';
import { type ErrnoCode, SysError } from '@iommukit/iommu-core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { VtdHost } from './support/vtd-host.ts';

const GVA = 0x7000_0000_1000n;
const ROOT = 0x10000n;
const PASID = 5;

function errno(body: () => unknown): ErrnoCode | null {
  try {
    body();
    return null;
  } catch (error) {
    if (error instanceof SysError) return error.code;
    throw error;
  }
}

/** Guest memory of 32 pages from guest physical 0, on a nest parent. */
function guest(host: VtdHost): { va: bigint; ioasId: number; parentId: number } {
  const { client, device } = host;
  const va = host.memory(32);
  const ioasId = client.ioasAlloc();
  client.ioasMap({ ioasId, userVa: va, length: 32n * 4096n, iova: 0n });
  const parentId = client.hwptAllocPaging({ deviceId: device.id, ioasId, nestParent: true, pasid: true });
  // The pages of the first stage start empty.
  for (let page = 0n; page < 8n; page++) host.fill(va + ROOT + page * 4096n, 0);
  return { va, ioasId, parentId };
}

describe('paging tables on VT-d', () => {
  test('DMA reaches what is mapped, where it is mapped, and nothing after it is unmapped', () => {
    const host = new VtdHost();
    const { client, device, tester } = host;
    const va = host.memory(4);
    const ioasId = client.ioasAlloc();
    const iova = client.ioasMap({ ioasId, userVa: va, length: 4 * 4096 });
    expect([host.process.addressSpace.pinnedPages, tester.read(iova)]).toEqual([0, null]);
    host.inKernel(() => device.attach(ioasId));
    expect(host.process.addressSpace.pinnedPages).toBe(4);
    expect([0n, 1n, 2n, 3n].map((page) => tester.read(iova + page * 4096n))).toEqual([1, 2, 3, 4]);
    expect([tester.write(iova + 4097n, 99), host.byteAt(va + 4097n)]).toEqual([true, 99]);
    const copy = client.ioasAlloc();
    const second = client.ioasCopy({ srcIoasId: ioasId, srcIova: iova, length: 0x2000n, dstIoasId: copy });
    host.inKernel(() => device.replace(copy));
    expect([tester.read(second), tester.read(iova + 0x2000n)]).toEqual([1, null]);
    client.ioasUnmapAll(copy);
    expect([tester.read(second), host.process.addressSpace.pinnedPages]).toEqual([null, 0]);
    expect(host.processes.counts.pinned).toBe(0);
  });

  test('C5 a process that remaps its memory keeps the DMA on the pages that were pinned, and they are what is unpinned', () => {
    const host = new VtdHost();
    const { client, device, tester, system } = host;
    const ioasId = client.ioasAlloc();
    host.inKernel(() => device.attach(ioasId));
    const va = host.memory(4, 10);
    const iova = client.ioasMap({ ioasId, userVa: va, length: 4 * 4096 });
    const frames = host.machine.frames.allocated;
    system.munmap(va, 4 * 4096);
    const other = system.mmap({ length: 4 * 4096 });
    if (other === va) for (let page = 0n; page < 4n; page++) host.fill(va + page * 4096n, 77);
    expect([0n, 1n, 2n, 3n].map((page) => tester.read(iova + page * 4096n))).toEqual([10, 11, 12, 13]);
    expect(tester.write(iova, 50)).toBe(true);
    if (other === va) expect(host.byteAt(va)).toBe(77);
    expect(host.processes.counts.pinned).toBe(4);
    client.ioasUnmap(ioasId, iova, 4 * 4096);
    expect([host.processes.counts.pinned, tester.read(iova)]).toEqual([0, null]);
    expect(host.machine.frames.allocated).toBeLessThanOrEqual(frames);
    system.exit();
    expect([host.processes.counts.pinned, host.process.addressSpace.pinnedPages]).toEqual([0, 0]);
  });

  test('memory of a process that has exited stays what it was for the device until it is unmapped', () => {
    const host = new VtdHost();
    const { client, device, tester } = host;
    const ioasId = client.ioasAlloc();
    host.inKernel(() => device.attach(ioasId));
    const iova = client.ioasMap({ ioasId, userVa: host.memory(2, 40), length: 2 * 4096 });
    // The bound device keeps /dev/iommu alive after the process.
    host.system.exit();
    expect([tester.read(iova), tester.read(iova + 4096n), host.processes.counts.pinned]).toEqual([40, 41, 2]);
    host.inKernel(() => device.unbind());
    expect([tester.read(iova), host.processes.counts.pinned]).toEqual([null, 0]);
  });

  test('F8 a replace is seen by DMA at once, and one that fails leaves the old table', () => {
    const host = new VtdHost();
    const { client, device, tester } = host;
    const [one, two] = [client.ioasAlloc(), client.ioasAlloc()];
    client.ioasMap({ ioasId: one, userVa: host.memory(1, 1), length: 4096, iova: 0x5000n });
    client.ioasMap({ ioasId: two, userVa: host.memory(1, 2), length: 4096, iova: 0x5000n });
    host.inKernel(() => device.attach(one));
    expect(tester.read(0x5000n)).toBe(1);
    for (let nth = 1; ; nth++) {
      host.machine.kernel.failpoints.arm(nth);
      const code = errno(() => host.inKernel(() => device.replace(two)));
      const { hit } = host.machine.kernel.failpoints;
      host.machine.kernel.failpoints.arm(0);
      if (hit === null) {
        expect([code, nth > 3]).toEqual([null, true]);
        break;
      }
      expect([hit, code, tester.read(0x5000n)]).toEqual([hit, 'ENOMEM', 1]);
      expect(host.process.addressSpace.pinnedPages).toBe(1);
    }
    expect([tester.read(0x5000n), host.process.addressSpace.pinnedPages]).toEqual([2, 1]);
  });

  test('F9 a PASID needs tables made for PASIDs', () => {
    const host = new VtdHost();
    const { client, device, tester } = host;
    const ioasId = client.ioasAlloc();
    client.ioasMap({ ioasId, userVa: host.memory(1, 9), length: 4096, iova: 0x5000n });
    const plain = client.hwptAllocPaging({ deviceId: device.id, ioasId });
    const made = client.hwptAllocPaging({ deviceId: device.id, ioasId, pasid: true });
    const attach = (id: number, pasid?: number): ErrnoCode | null =>
      errno(() => host.inKernel(() => device.attach(id, pasid)));
    expect(attach(plain, PASID)).toBe('EINVAL');
    expect(attach(plain)).toBeNull();
    expect([attach(made, PASID), tester.read(0x5000n, { pasid: PASID })]).toEqual(['EINVAL', null]);
    expect(errno(() => host.inKernel(() => device.replace(made)))).toBeNull();
    expect([attach(made, PASID), tester.read(0x5000n, { pasid: PASID })]).toEqual([null, 9]);
    expect(tester.read(0x5000n, { pasid: PASID + 1 })).toBeNull();
    host.inKernel(() => device.detach(PASID));
    expect([tester.read(0x5000n, { pasid: PASID }), tester.read(0x5000n)]).toEqual([null, 9]);
  });

  test('the interrupt window of the device cannot be mapped while it is attached', () => {
    const host = new VtdHost();
    const { client, device } = host;
    const ioasId = client.ioasAlloc();
    host.inKernel(() => device.attach(ioasId));
    const userVa = host.memory(1);
    const map = (iova: bigint): ErrnoCode | null => errno(() => client.ioasMap({ ioasId, userVa, length: 4096, iova }));
    expect([map(0xfee0_0000n), map(0xfeef_f000n), map(0xfef0_0000n)]).toEqual(['EINVAL', 'EINVAL', null]);
    expect(client.hwInfo(device.id)).toMatchObject({ type: 1, maxPasidLog2: 20 });
  });
});

describe('nested tables on VT-d', () => {
  test('D3 DMA without PASID goes through both stages', () => {
    const host = new VtdHost();
    const { client, device, tester } = host;
    const { va, ioasId, parentId } = guest(host);
    host.stage1Map(va, ROOT, GVA, 0x3000n);
    const nested = client.hwptAllocVtdS1({ deviceId: device.id, parentId, pageTable: ROOT, addressWidth: 48 });
    host.inKernel(() => device.attach(nested));
    expect([tester.read(GVA), tester.read(0x3000n)]).toEqual([4, null]);
    expect([tester.write(GVA + 5n, 200), host.byteAt(va + 0x3005n)]).toEqual([true, 200]);
    // The guest moves the page: the old translation is used until it is invalidated.
    host.stage1Map(va, ROOT, GVA, 0x4000n);
    expect(tester.read(GVA)).toBe(4);
    client.hwptInvalidateVtdS1(nested, [{ address: GVA, pages: 1 }]);
    expect(tester.read(GVA)).toBe(5);
    // What the host unmaps of guest memory is gone for the nested table, with no word of the guest.
    client.ioasUnmapAll(ioasId);
    expect([tester.read(GVA), host.processes.counts.pinned]).toEqual([null, 0]);
  });

  test('D4 a table of the kernel and one of the user serve two PASIDs of one device', () => {
    const host = new VtdHost();
    const { client, device, tester } = host;
    const { va, parentId } = guest(host);
    host.stage1Map(va, ROOT, GVA, 0x6000n);
    const kernelIoas = client.ioasAlloc();
    client.ioasMap({ ioasId: kernelIoas, userVa: host.memory(1, 150), length: 4096, iova: 0x9000n });
    const paging = client.hwptAllocPaging({ deviceId: device.id, ioasId: kernelIoas, pasid: true });
    const request = { deviceId: device.id, parentId, pageTable: ROOT, addressWidth: 48, pasid: true };
    const nested = client.hwptAllocVtdS1(request);
    host.inKernel(() => {
      device.attach(paging, 3);
      device.attach(nested, 4);
    });
    expect([tester.read(0x9000n, { pasid: 3 }), tester.read(GVA, { pasid: 4 })]).toEqual([150, 7]);
    expect([tester.read(GVA, { pasid: 3 }), tester.read(0x9000n, { pasid: 4 })]).toEqual([null, null]);
    expect([tester.read(0x9000n), tester.read(GVA)]).toEqual([null, null]);
    expect(errno(() => client.destroy(parentId))).toBe('EBUSY');
  });
});

describe('page requests on VT-d', () => {
  /** A guest table without a translation of GVA at PASID, with a fault queue. */
  function faulting(): { host: VtdHost; va: bigint; nested: number; fd: number; start: () => void } {
    const host = new VtdHost();
    const { client, device, tester } = host;
    const { va, parentId } = guest(host);
    const { id: faultId, fd } = client.faultQueueAlloc();
    const nested = client.hwptAllocVtdS1({
      deviceId: device.id,
      parentId,
      pageTable: ROOT,
      addressWidth: 48,
      pasid: true,
      faultId,
    });
    host.inKernel(() => device.attach(nested, PASID));
    const start = (): void => {
      tester.start(TEST_COMMAND.read, GVA, 1, { pasid: PASID, addressing: 'cached', requestPages: true });
      host.machine.settle();
    };
    return { host, va, nested, fd, start };
  }

  test('D15 the guest maps the page, answers success, and the DMA completes', () => {
    const { host, va, fd, start } = faulting();
    const { client, device, tester } = host;
    start();
    expect([tester.busy, host.system.poll(fd) & 1]).toEqual([true, 1]);
    const [record, ...rest] = client.readFaults(fd);
    expect(rest).toEqual([]);
    expect(record).toMatchObject({ deviceId: device.id, pasid: PASID, last: true, address: GVA });
    host.stage1Map(va, ROOT, GVA, 0x8000n);
    client.respondFault(fd, record!.cookie, true);
    expect(tester.wait()).toBe(true);
    expect([tester.response, tester.result, tester.bufferByte]).toEqual([PRG_SUCCESS, 0, 9]);
  });

  test('D16 an answer of INVALID reaches the device, and a bad code or cookie does not', () => {
    const { host, fd, start } = faulting();
    const { client, tester } = host;
    start();
    const [record] = client.readFaults(fd);
    const write = (cookie: number, code: number): ErrnoCode | null =>
      errno(() => host.system.write(fd, new Uint8Array(Uint32Array.of(cookie, code).buffer)));
    expect([write(record!.cookie, 7), write(record!.cookie + 1, 0), tester.busy]).toEqual(['EINVAL', 'EINVAL', true]);
    expect(write(record!.cookie, 1)).toBeNull();
    expect(tester.wait()).toBe(true);
    expect([tester.response, tester.result !== 0]).toEqual([PRG_INVALID_REQUEST, true]);
    expect(write(record!.cookie, 1)).toBe('EINVAL');
  });

  test('D17 three requests of a group are delivered together, in order, when the last has come', () => {
    const { host, fd } = faulting();
    const { client, device, machine } = host;
    const { rid } = device.device;
    const addresses = [GVA, GVA + 0x5000n, GVA + 0x2000n];
    addresses.forEach((address, index) => {
      expect([index, client.readFaults(fd)]).toEqual([index, []]);
      const [low, high] = [low32(address), high32(address)];
      const place = { pageHigh: pageHigh(high), pageLow: pageLow(low, high) };
      machine.unit.requestPage({ rid, pasid: PASID, access: ACCESS_READ, last: index === 2, group: 9, ...place });
      machine.settle();
    });
    const records = client.readFaults(fd);
    expect(records.map(({ address, last, group, cookie }) => [address, last, group, cookie])).toEqual([
      [addresses[0], false, 9, 1],
      [addresses[1], false, 9, 1],
      [addresses[2], true, 9, 1],
    ]);
    const answers: unknown[] = [];
    machine.trace.listen((event) => {
      if (event.name === 'page_response') answers.push([event.rid, event.pasid, event.group, event.code]);
    });
    client.respondFault(fd, 1, true);
    expect(answers).toEqual([[rid, PASID, 9, PRG_SUCCESS]]);
  });

  test('D18 a request that is pending when the attachment goes is answered INVALID, once', () => {
    for (const read of [false, true]) {
      for (const leave of ['detach', 'replace', 'unbind', 'kill'] as const) {
        const { host, fd, start, nested } = faulting();
        const { client, device, tester } = host;
        start();
        const cookie = read ? client.readFaults(fd)[0]!.cookie : 1;
        const other = client.hwptAllocPaging({ deviceId: device.id, ioasId: client.ioasAlloc(), pasid: true });
        if (leave === 'detach') host.inKernel(() => device.detach(PASID));
        else if (leave === 'replace') host.inKernel(() => device.replace(other, PASID));
        else if (leave === 'unbind') host.inKernel(() => device.unbind());
        else {
          host.system.exit();
          host.inKernel(() => device.unbind());
        }
        expect([leave, tester.wait()]).toEqual([leave, true]);
        expect([leave, tester.response, tester.requests]).toEqual([leave, PRG_INVALID_REQUEST, 1]);
        if (leave === 'kill') {
          expect([host.processes.counts.pinned, host.system.openDescriptors]).toEqual([0, 0]);
          continue;
        }
        expect([leave, errno(() => client.respondFault(fd, cookie, true))]).toEqual([leave, 'EINVAL']);
        expect(client.readFaults(fd)).toEqual([]);
        expect(errno(() => client.destroy(nested))).toBeNull();
      }
    }
  });
});

describe('reach', () => {
  const PAGES = 6;
  const SLOTS = 4;
  const action = fc.oneof(
    fc.record({ op: fc.constant('map' as const), ioas: fc.nat(1), page: fc.nat(PAGES - 1), slot: fc.nat(SLOTS - 1) }),
    fc.record({ op: fc.constant('copy' as const), ioas: fc.nat(1), from: fc.nat(SLOTS - 1), slot: fc.nat(SLOTS - 1) }),
    fc.record({ op: fc.constant('unmap' as const), ioas: fc.nat(1), slot: fc.nat(SLOTS - 1) }),
    fc.record({ op: fc.constant('remap' as const), page: fc.nat(PAGES - 1) }),
    fc.record({ op: fc.constant('move' as const), ioas: fc.nat(1), pasid: fc.constantFrom(NO_PASID, 7) }),
    fc.record({ op: fc.constant('detach' as const), pasid: fc.constantFrom(NO_PASID, 7) }),
  );

  test('X3 no order of calls lets the device reach a page that its IOAS does not map, or another page instead', () => {
    fc.assert(
      fc.property(fc.array(action, { minLength: 10, maxLength: 25, size: 'max' }), (actions) => {
        const host = new VtdHost({ ramBytes: 4 << 20 });
        const { client, device, tester, system } = host;
        const ids = [client.ioasAlloc(), client.ioasAlloc()];
        const tables = ids.map((ioasId) => client.hwptAllocPaging({ deviceId: device.id, ioasId, pasid: true }));
        let stamp = 0;
        const memory = Array.from({ length: PAGES }, () => host.memory(1, ++stamp));
        const content = memory.map((_, page) => page + 1);
        /** Byte that DMA finds in each slot of each IOAS. */
        const mapped = ids.map(() => new Array<number | null>(SLOTS).fill(null));
        const attached = new Map<number, number>();
        const at = (slot: number): bigint => BigInt(slot + 1) * 0x1000n;
        for (const step of actions) {
          if (step.op === 'map') {
            const request = { ioasId: ids[step.ioas]!, userVa: memory[step.page]!, length: 4096, iova: at(step.slot) };
            const free = mapped[step.ioas]![step.slot] === null;
            expect(errno(() => client.ioasMap(request))).toBe(free ? null : 'EEXIST');
            if (free) mapped[step.ioas]![step.slot] = content[step.page]!;
          } else if (step.op === 'copy') {
            const source = mapped[1 - step.ioas]![step.from]!;
            const free = mapped[step.ioas]![step.slot] === null;
            const srcIoasId = ids[1 - step.ioas]!;
            const dstIoasId = ids[step.ioas]!;
            const place = { srcIova: at(step.from), dstIova: at(step.slot), length: 4096 };
            const code = errno(() => client.ioasCopy({ srcIoasId, dstIoasId, ...place }));
            expect(code).toBe(source === null ? 'ENOENT' : free ? null : 'EEXIST');
            if (code === null) mapped[step.ioas]![step.slot] = source;
          } else if (step.op === 'unmap') {
            const code = errno(() => client.ioasUnmap(ids[step.ioas]!, at(step.slot), 4096));
            expect(code).toBe(mapped[step.ioas]![step.slot] === null ? 'ENOENT' : null);
            mapped[step.ioas]![step.slot] = null;
          } else if (step.op === 'remap') {
            system.munmap(memory[step.page]!, 4096);
            memory[step.page] = host.memory(1, ++stamp);
            content[step.page] = stamp;
          } else if (step.op === 'move') {
            const table = tables[step.ioas]!;
            host.inKernel(() => {
              if (attached.has(step.pasid)) device.replace(table, step.pasid);
              else device.attach(table, step.pasid);
            });
            attached.set(step.pasid, step.ioas);
          } else {
            host.inKernel(() => device.detach(step.pasid));
            attached.delete(step.pasid);
          }
          for (const pasid of [NO_PASID, 7]) {
            const ioas = attached.get(pasid);
            const seen = Array.from({ length: SLOTS }, (_, slot) => tester.read(at(slot), { pasid }));
            expect(seen).toEqual(ioas === undefined ? new Array(SLOTS).fill(null) : mapped[ioas]);
          }
        }
        system.exit();
        host.inKernel(() => device.unbind());
        expect([host.processes.counts.pinned, host.process.credentials.user.lockedPages]).toEqual([0, 0]);
        expect(tester.read(at(0))).toBeNull();
      }),
      { numRuns: 40 },
    );
  });
});
