import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Fields, Struct } from '../../src/index.ts';
import {
  IOMMU_TEST_CMD,
  IOMMU_TEST_IOTLB_DEFAULT,
  IOMMU_TEST_OP_CREATE_ACCESS,
  IOMMU_TEST_OP_DMABUF_GET,
  MOCK_FLAGS_DEVICE_PASID,
  TEST_CMD_SIZE,
  testCmdHead,
  testCmdMembers,
} from '../../src/selftest/index.ts';
import * as uapi from '../../src/uapi/iommufd.ts';
import { SelftestHost } from './support.ts';

const U64_MAX = 2n ** 64n - 1n;
const IOVA = 1n << 24n;

/** The member of each operation from 1 on, and an id or descriptor that it can be about at first. */
const OPERATIONS = [
  ['addReserved', 1],
  ['mockDomain', 1],
  ['checkMap', 4],
  ['checkRefs', 0],
  ['createAccess', 1],
  ['destroyAccessPages', 1],
  ['accessPages', 1],
  ['accessRw', 1],
  ['memoryLimit', 0],
  ['mockDomainReplace', 2],
  ['accessReplaceIoas', 1],
  ['mockDomainFlags', 1],
  ['dirty', 7],
  ['checkIotlb', 6],
  ['triggerIopf', 0],
  ['checkDevCache', 3],
  ['triggerVevent', 0],
  ['pasidAttach', 2],
  ['pasidReplace', 2],
  ['pasidDetach', 2],
  ['pasidCheck', 2],
  ['dmabufGet', 0],
  ['dmabufRevoke', 0],
] as const;

const word = fc.oneof(
  { weight: 9, arbitrary: fc.nat(10) },
  { weight: 1, arbitrary: fc.constantFrom(0xffff_ffff, 0x8000_0000, 1024, 4096, 1 << 16) },
);
const address = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(IOVA, IOVA + 2048n, IOVA + 4096n, IOVA + 0x3000n) },
  { weight: 1, arbitrary: fc.constantFrom(0n, 1n << 31n, 1n << 38n, 1n << 63n, U64_MAX, U64_MAX - 2047n) },
);
const length = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(2048n, 4096n, 8192n, 0x4000n) },
  { weight: 1, arbitrary: fc.constantFrom(0n, 1n, 4095n, 1n << 24n, 1n << 38n, 1n << 63n, U64_MAX, U64_MAX - 4095n) },
);
/** Bytes into the program's memory, or any address. */
const pointer = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(0n, 2048n, 4096n, 8191n).map((offset) => ({ offset, within: true })) },
  { weight: 1, arbitrary: fc.constantFrom(0n, 1n, U64_MAX).map((offset) => ({ offset, within: false })) },
);

const call = fc.record({
  op: fc.integer({ min: 1, max: OPERATIONS.length }),
  /** null: the one that fits. */
  id: fc.option(word, { freq: 3 }),
  word: fc.array(word, { minLength: 4, maxLength: 4 }),
  address,
  length: fc.tuple(length, length),
  pointer,
  /** Now and then the bytes mean nothing at all. */
  noise: fc.option(fc.uint8Array({ minLength: 56, maxLength: 56 }), { freq: 8 }),
});

test('whatever the bytes of IOMMU_TEST_CMD are, it gives a result or an errno, and exit leaves nothing', () => {
  const succeeded = new Set<number>();
  fc.assert(
    fc.property(fc.array(call, { minLength: 100, maxLength: 200, size: 'max' }), (calls) => {
      const host = new SelftestHost();
      const ioas = host.ioas();
      host.map(ioas, IOVA, 0, 4);
      const { idev } = host.device(ioas, MOCK_FLAGS_DEVICE_PASID);
      const parent = host.hwpt(idev, ioas, uapi.IOMMU_HWPT_ALLOC_NEST_PARENT);
      host.hwpt(idev, parent, 0, { iotlb: IOMMU_TEST_IOTLB_DEFAULT, pagetableType: 0 });
      const tracking = host.hwpt(idev, ioas, uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING | uapi.IOMMU_HWPT_ALLOC_PASID);
      const track = { hwptId: tracking, flags: 1 };
      host.ioctl(uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, uapi.iommuHwptSetDirtyTracking, track);
      host.test(IOMMU_TEST_OP_CREATE_ACCESS, 'createAccess', ioas, { flags: 1 });
      host.test(IOMMU_TEST_OP_DMABUF_GET, 'dmabufGet', 0, { length: 4096 });
      for (const { op, id, noise, ...values } of calls) {
        const bytes = new Uint8Array(TEST_CMD_SIZE);

        const [member, fitting] = OPERATIONS[op - 1]!;
        const layout = testCmdMembers[member] as unknown as Struct<Fields>;
        const { offset, within } = values.pointer;
        const uptr = within ? host.memory + offset : offset;
        const fields = Object.keys(layout.read(new Uint8Array(layout.size))).map((name, index) => {
          if (name === 'uptr') return [name, uptr];
          if (name === 'iova' || name === 'start' || name === 'addr') return [name, values.address];
          const [bytes, pageSize] = values.length;
          if (name === 'pageSize') return [name, pageSize];
          if (name === 'length') return [name, op === 22 ? Number(BigInt.asUintN(32, bytes)) : bytes];
          if (name === 'flags') return [name, values.word[0]! & (noise === null ? 1 : -1)];
          return [name, name === 'outNrDirty' ? 0n : values.word[index % 4]!];
        });
        layout.write(Object.fromEntries(fields), bytes, testCmdHead.size);
        testCmdHead.write({ size: TEST_CMD_SIZE, op, id: id ?? fitting, reserved: 0 }, bytes);
        if (noise !== null) bytes.set(noise, 16);
        host.poke(host.argument, bytes);
        const result = host.system.ioctl(host.fd, IOMMU_TEST_CMD, host.argument);
        expect(Number.isInteger(result) && result > -200 && result < 1024).toBe(true);
        if (result >= 0) succeeded.add(op);
      }
      host.system.exit();
      expect([host.node.contexts.size, host.selftest.devices, host.kernel.frames.allocated]).toEqual([0, 0, 0]);
      expect(host.process.addressSpace.pinnedPages).toBe(0);
    }),
    { numRuns: 30 },
  );
  // What is hostile now and then gets everywhere at other times.
  expect(succeeded.size).toBeGreaterThan(12);
});
