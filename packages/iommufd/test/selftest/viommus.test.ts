import { beforeEach, describe, expect, test } from 'vitest';
import {
  IOMMU_HW_QUEUE_TYPE_SELFTEST,
  IOMMU_TEST_DEV_CACHE_DEFAULT,
  IOMMU_TEST_IOTLB_DEFAULT,
  IOMMU_TEST_OP_DEV_CHECK_CACHE,
  IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE,
  IOMMU_TEST_OP_TRIGGER_VEVENT,
  IOMMU_VEVENTQ_TYPE_SELFTEST,
  IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
  IOMMU_VIOMMU_TYPE_SELFTEST,
  iommuViommuInvalidateSelftest,
  iommuViommuSelftest,
} from '../../src/selftest/index.ts';
import * as uapi from '../../src/uapi/iommufd.ts';
import * as viommu from '../../src/uapi/viommu.ts';
import { E2BIG, EEXIST, EFAULT, EINVAL, EIO, ENOENT, EOPNOTSUPP } from '../support/errno.ts';
import { NOWHERE, SelftestHost } from './support.ts';

const NESTED = { iotlb: IOMMU_TEST_IOTLB_DEFAULT, pagetableType: 0 };
const VIRT_ID = 0x99n;
const IOVA = 1n << 24n;

let host: SelftestHost;
let ioas: number;
let device: { stdev: number; hwpt: number; idev: number };
let parent: number;

beforeEach(() => {
  host = new SelftestHost();
  ioas = host.ioas();
  device = host.device(ioas);
  parent = host.hwpt(device.idev, ioas, uapi.IOMMU_HWPT_ALLOC_NEST_PARENT);
});

function allocViommu(values: object = {}): number {
  const all = { type: IOMMU_VIOMMU_TYPE_SELFTEST, devId: device.idev, hwptId: parent, ...values };
  const { result, reply } = host.ioctl(viommu.IOMMU_VIOMMU_ALLOC, viommu.iommuViommuAlloc, all);
  return result === 0 ? reply.outViommuId : result;
}

function allocVdevice(viommuId: number, virtId = VIRT_ID, devId = device.idev): number {
  const values = { viommuId, devId, virtId };
  const { result, reply } = host.ioctl(viommu.IOMMU_VDEVICE_ALLOC, viommu.iommuVdeviceAlloc, values);
  return result === 0 ? reply.outVdeviceId : result;
}

function replace(ptId: number): number {
  return host.test(IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, 'mockDomainReplace', device.stdev, { ptId }).result;
}

describe('a mock vIOMMU', () => {
  test('is of one type, with data or without', () => {
    expect(allocViommu()).toBeGreaterThan(0);
    for (const type of [0, 1, 0xdead_beee]) expect(allocViommu({ type })).toBe(EOPNOTSUPP);
    expect(allocViommu({ hwptId: device.hwpt })).toBe(EINVAL);
  });

  test('answers its data, and has two pages to map that begin with it', () => {
    const bytes = new Uint8Array(24);
    iommuViommuSelftest.write({ inData: 0xfeed_f00d, outData: 0, outMmapOffset: 0n, outMmapLength: 0n }, bytes);
    host.poke(host.buffer, bytes);
    const before = host.kernel.frames.allocated;
    const id = allocViommu({ dataLen: 24, dataUptr: host.buffer });
    expect(id).toBeGreaterThan(0);
    const answer = iommuViommuSelftest.read(host.peek(host.buffer, 24));
    expect(answer).toMatchObject({ inData: 0xfeed_f00d, outData: 0xfeed_f00d, outMmapLength: 0x2000n });
    const at = host.system.mmap({ fd: host.fd, length: 0x2000n, offset: answer.outMmapOffset });
    expect(Buffer.from(host.peek(at, 8)).readUInt32LE()).toBe(0xfeed_f00d);
    host.poke(at + 0x1ff8n, Uint8Array.of(1));
    expect(host.destroy(id)).not.toBe(0);
    host.system.munmap(at, 0x2000n);
    expect(host.destroy(id)).toBe(0);
    expect(host.kernel.frames.allocated).toBeLessThanOrEqual(before + 4);
  });

  test('takes data of 8 to 24 bytes, and what it refuses leaves nothing', () => {
    host.poke(host.buffer, new Uint8Array(32));
    const before = host.snapshot();
    for (const dataLen of [4, 7, 25, 32]) expect(allocViommu({ dataLen, dataUptr: host.buffer })).toBe(EINVAL);
    expect(allocViommu({ dataLen: 24, dataUptr: NOWHERE })).toBe(EFAULT);
    expect(host.snapshot()).toEqual(before);
    expect(allocViommu({ dataLen: 8, dataUptr: host.buffer })).toBeGreaterThan(0);
  });
});

describe('nested tables of a mock vIOMMU', () => {
  test('ENOENT to attach a device that is not in it', () => {
    const id = allocViommu();
    const nested = host.hwpt(device.idev, id, 0, NESTED);
    const plain = host.hwpt(device.idev, parent, 0, NESTED);
    expect([replace(nested), replace(plain)]).toEqual([ENOENT, 0]);
    const vdevice = allocVdevice(id);
    expect([replace(nested), host.destroy(vdevice), replace(plain)]).toEqual([0, 0, 0]);
    expect(replace(nested)).toBe(ENOENT);
  });

  test('have data of their own type, and flags for PASIDs alone', () => {
    const id = allocViommu();
    const alloc = (values: object): number =>
      host.ioctl(uapi.IOMMU_HWPT_ALLOC, uapi.iommuHwptAlloc, {
        devId: device.idev,
        ptId: id,
        ...host.hwptData(NESTED),
        ...values,
      }).result;
    expect([alloc({}), alloc({ flags: uapi.IOMMU_HWPT_ALLOC_PASID })]).toEqual([0, 0]);
    expect([alloc({ dataType: 1 }), alloc({ dataLen: 3 })]).toEqual([EOPNOTSUPP, EINVAL]);
    expect(alloc({ flags: uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING })).toBe(EOPNOTSUPP);
  });
});

describe('HWPT_INVALIDATE through a mock vIOMMU', () => {
  type Entry = { flags: number; vdevId: number; cacheId: number };

  const invalidate = (id: number, entries: readonly Entry[], values: object = {}): [number, number] => {
    const bytes = new Uint8Array(Math.max(12 * entries.length, 64));
    entries.forEach((entry, index) => iommuViommuInvalidateSelftest.write(entry, bytes, 12 * index));
    host.poke(host.buffer, bytes);
    const { result, reply } = host.ioctl(uapi.IOMMU_HWPT_INVALIDATE, uapi.iommuHwptInvalidate, {
      hwptId: id,
      dataUptr: host.buffer,
      dataType: IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
      entryLen: 12,
      entryNum: entries.length,
      ...values,
    });
    return [result, reply.entryNum];
  };
  const cached = (): number[] =>
    [0, 1, 2, 3].map((id) => {
      const values = { id, cache: IOMMU_TEST_DEV_CACHE_DEFAULT };
      const { result } = host.test(IOMMU_TEST_OP_DEV_CHECK_CACHE, 'checkDevCache', device.idev, values);
      return result === 0 ? 1 : 0;
    });
  const one = (cacheId: number, flags = 0): Entry => ({ flags, vdevId: Number(VIRT_ID), cacheId });

  test('clears words of the device that the guest knows by that number', () => {
    const id = allocViommu();
    allocVdevice(id);
    expect([invalidate(id, [one(0)]), cached()]).toEqual([
      [0, 1],
      [0, 1, 1, 1],
    ]);
    expect([invalidate(id, [one(1), one(3)]), cached()]).toEqual([
      [0, 2],
      [0, 0, 1, 0],
    ]);
    expect([invalidate(id, [one(0, 1)]), cached()]).toEqual([
      [0, 1],
      [0, 0, 0, 0],
    ]);
  });

  test('entries before a bad one are carried out and counted', () => {
    const id = allocViommu();
    allocVdevice(id);
    expect(invalidate(id, [one(1), one(2, 2), one(3)])).toEqual([EOPNOTSUPP, 1]);
    expect(invalidate(id, [one(2), one(4), one(3)])).toEqual([EINVAL, 1]);
    expect(invalidate(id, [{ flags: 1, vdevId: 0x98, cacheId: 0 }])).toEqual([EINVAL, 0]);
    expect(cached()).toEqual([1, 0, 0, 1]);
  });

  test('other lengths of entries are filled up or must end in zeros; another type is EINVAL', () => {
    const id = allocViommu();
    allocVdevice(id);
    expect(invalidate(id, [], { entryNum: 0 })).toEqual([0, 0]);
    expect(invalidate(id, [one(0)], { dataType: 1 })).toEqual([EINVAL, 0]);
    expect(invalidate(id, [], { dataType: 1 })).toEqual([EINVAL, 0]);
    expect([invalidate(id, [one(0)], { entryLen: 8 }), cached()]).toEqual([
      [0, 1],
      [0, 1, 1, 1],
    ]);
    expect(invalidate(id, [one(1)], { entryLen: 16 })).toEqual([0, 1]);
    expect(invalidate(id, [one(1), one(1, 1)], { entryLen: 16, entryNum: 1 })).toEqual([E2BIG, 0]);
    // What is left of an entry of one byte names no device.
    expect(invalidate(id, [{ ...one(1), flags: 0 }], { entryLen: 1 })).toEqual([EINVAL, 0]);
  });
});

describe('TRIGGER_VEVENT', () => {
  const trigger = (): number =>
    host.test(IOMMU_TEST_OP_TRIGGER_VEVENT, 'triggerVevent', 0, { devId: device.idev }).result;

  test('reports the number that the guest knows the device by, while a table of the vIOMMU is attached', () => {
    const id = allocViommu();
    const nested = host.hwpt(device.idev, id, 0, NESTED);
    allocVdevice(id);
    expect(trigger()).toBe(ENOENT);
    expect([replace(nested), trigger()]).toEqual([0, EOPNOTSUPP]);
    const values = { viommuId: id, type: IOMMU_VEVENTQ_TYPE_SELFTEST, veventqDepth: 2 };
    const { result, reply } = host.ioctl(viommu.IOMMU_VEVENTQ_ALLOC, viommu.iommuVeventqAlloc, values);
    expect([result, trigger()]).toEqual([0, 0]);
    const record = new Uint8Array(12);
    expect(host.system.read(reply.outVeventqFd, record)).toBe(12);
    expect(Buffer.from(record).readUInt32LE(8)).toBe(Number(VIRT_ID));
    expect([replace(ioas), trigger()]).toEqual([0, ENOENT]);
  });

  test('ENOENT where the guest calls the device 0', () => {
    const id = allocViommu();
    const nested = host.hwpt(device.idev, id, 0, NESTED);
    expect([allocVdevice(id, 0n) > 0, replace(nested), trigger()]).toEqual([true, 0, ENOENT]);
  });
});

describe('hardware queues of a mock vIOMMU', () => {
  const alloc = (viommuId: number, index: number, values: object = {}): number => {
    const all = {
      viommuId,
      type: IOMMU_HW_QUEUE_TYPE_SELFTEST,
      index,
      nestingParentIova: IOVA,
      length: 4096n,
      ...values,
    };
    const { result, reply } = host.ioctl(viommu.IOMMU_HW_QUEUE_ALLOC, viommu.iommuHwQueueAlloc, all);
    return result === 0 ? reply.outHwQueueId : result;
  };

  test('are two, the second of which needs the first', () => {
    host.map(ioas, IOVA, 0, 4);
    const id = allocViommu();
    expect([alloc(id, 2), alloc(id, 0xffff_ffff), alloc(id, 1)]).toEqual([EINVAL, EINVAL, EIO]);
    expect(alloc(id, 0, { type: 1 })).toBe(EOPNOTSUPP);
    const first = alloc(id, 0);
    const second = alloc(id, 1, { nestingParentIova: IOVA + 0x1010n, length: 64n });
    expect([first > 0, second > 0, alloc(id, 0), alloc(id, 1)]).toEqual([true, true, EEXIST, EEXIST]);
    expect(host.destroy(first)).not.toBe(0);
    expect([host.destroy(second), alloc(id, 1) > 0]).toEqual([0, true]);
  });
});

test('a device that goes takes its place in the vIOMMU with it, and everything ends with the file', () => {
  const id = allocViommu();
  const nested = host.hwpt(device.idev, id, 0, NESTED);
  const vdevice = allocVdevice(id);
  expect([replace(nested), host.destroy(device.stdev)]).toEqual([0, 0]);
  expect([host.destroy(vdevice), host.selftest.devices]).toEqual([ENOENT, 0]);
  device = host.device(ioas);
  expect(allocVdevice(id)).toBeGreaterThan(vdevice);
  expect(replace(nested)).toBe(0);
  host.system.close(host.fd);
  expect([host.node.contexts.size, host.selftest.devices, host.process.addressSpace.pinnedPages]).toEqual([0, 0, 0]);
});
