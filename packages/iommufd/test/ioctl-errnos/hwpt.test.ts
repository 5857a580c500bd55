import { SysError } from '@iommukit/iommu-core';
import { describe, expect, test } from 'vitest';
import * as uapi from '../../src/uapi/iommufd.ts';
import { EADDRINUSE, EFAULT, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP } from '../support/errno.ts';
import { ARGUMENT, BUFFER, Host, MEMORY } from '../support/host.ts';

const NOWHERE = 0xdead_0000n;
const NEST_PARENT = uapi.IOMMU_HWPT_ALLOC_NEST_PARENT;
const DIRTY = uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING;
const FAULT = uapi.IOMMU_HWPT_FAULT_ID_VALID;
const PASID = uapi.IOMMU_HWPT_ALLOC_PASID;

/** A device, an IOAS, and a nest parent and a nested table on it. */
function setUp() {
  const host = new Host();
  const device = host.bind();
  const ioasId = host.client.ioasAlloc();
  const parentId = host.client.hwptAllocPaging({ deviceId: device.id, ioasId, nestParent: true });
  const nestedId = host.client.hwptAllocVtdS1({ deviceId: device.id, parentId, pageTable: 0n, addressWidth: 48 });
  return { host, device, ioasId, parentId, nestedId };
}

describe('IOMMU_HWPT_ALLOC', () => {
  /** Of the fake driver's stage 1. */
  const DATA = { dataType: 1, dataLen: 24, dataUptr: BUFFER };
  const withAlloc = () => {
    const all = setUp();
    const alloc = (values: object): number => {
      const defaults = { devId: all.device.id, ptId: all.ioasId };
      return all.host.ioctl(uapi.IOMMU_HWPT_ALLOC, uapi.iommuHwptAlloc, { ...defaults, ...values }).result;
    };
    return { ...all, alloc };
  };

  test('EOPNOTSUPP for the reserved field, before anything else; the one at the end is not looked at', () => {
    const { alloc } = withAlloc();
    expect(alloc({ reserved: 1, dataLen: 4, devId: 99 })).toBe(EOPNOTSUPP);
    expect(alloc({ reserved2: 1 })).toBe(0);
  });

  test('EINVAL for data without type, and a type without data, before the ids', () => {
    const { alloc } = withAlloc();
    expect(alloc({ dataLen: 4, devId: 99 })).toBe(EINVAL);
    for (const dataType of [1, 2, 0xffff_ffff]) expect(alloc({ dataType, devId: 99 })).toBe(EINVAL);
  });

  test('ENOENT for an id that names no device, before the table', () => {
    const { ioasId, parentId, alloc } = withAlloc();
    for (const devId of [0, 99, ioasId, parentId]) expect(alloc({ devId, ptId: 99 })).toBe(ENOENT);
  });

  test('EINVAL for a table that does not exist, or is of another type, before the flags', () => {
    const { host, device, nestedId, alloc } = withAlloc();
    const { id: faultId } = host.client.faultQueueAlloc();
    for (const ptId of [0, 99, device.id, nestedId, faultId]) {
      expect([ptId, alloc({ ptId, flags: 0x100 })]).toEqual([ptId, EINVAL]);
    }
  });

  test('EOPNOTSUPP for flags of a paging table that are unknown, or do not go together, or the IOMMU cannot', () => {
    const { host, alloc } = withAlloc();
    for (const flags of [0x10, 0x8000_0000, NEST_PARENT | FAULT, DIRTY]) {
      expect([flags, alloc({ flags })]).toEqual([flags, EOPNOTSUPP]);
    }
    host.driver.capabilities.add('dirty-tracking');
    expect(alloc({ flags: DIRTY | NEST_PARENT | PASID })).toBe(0);
  });

  test('EOPNOTSUPP for a paging table from data that the IOMMU does not know', () => {
    const { alloc } = withAlloc();
    expect(alloc(DATA)).toBe(EOPNOTSUPP);
  });

  test('ENOENT for a fault queue that does not exist, or is none, and the table is taken back', () => {
    const { host, device, ioasId, parentId, alloc } = withAlloc();
    const before = host.snapshot();
    for (const faultId of [0, 99, device.id, ioasId]) {
      expect(alloc({ flags: FAULT, faultId })).toBe(ENOENT);
      expect(alloc({ ...DATA, flags: FAULT, faultId, ptId: parentId })).toBe(ENOENT);
    }
    expect(host.snapshot()).toEqual(before);
    // Without the flag the id is not looked at.
    expect(alloc({ faultId: 99 })).toBe(0);
  });

  test('EINVAL and EADDRINUSE for a table that the areas do not fit, EFAULT for memory that is not there', () => {
    const { host, ioasId, alloc } = withAlloc();
    host.driver.domainOptions = { smallestLg2: 16 };
    expect(alloc({})).toBe(EINVAL);
    host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x1000n, iova: 0x10000n });
    host.driver.domainOptions = { aperture: { first: 0x11000n, last: 0xf_ffffn } };
    expect(alloc({})).toBe(EADDRINUSE);
    host.driver.domainOptions = {};
    const fresh = host.client.ioasAlloc();
    host.client.ioasMap({ ioasId: fresh, userVa: MEMORY, length: 0x800n, iova: 0x10000n });
    expect(alloc({ ptId: fresh })).toBe(EADDRINUSE);
    host.client.ioasUnmapAll(fresh);
    host.client.ioasMap({ ioasId: fresh, userVa: NOWHERE, length: 0x1000n, iova: 0x10000n });
    expect(alloc({ ptId: fresh })).toBe(EFAULT);
  });

  test('EOPNOTSUPP for a nested table with other flags or without data, before the parent is looked at', () => {
    const { host, device, ioasId, parentId, alloc } = withAlloc();
    const plainId = host.client.hwptAllocPaging({ deviceId: device.id, ioasId });
    for (const ptId of [parentId, plainId]) {
      expect(alloc({ ptId })).toBe(EOPNOTSUPP);
      for (const flags of [NEST_PARENT, DIRTY, 0x10]) expect(alloc({ ...DATA, ptId, flags })).toBe(EOPNOTSUPP);
    }
  });

  test('EINVAL for a nested table on what is no nest parent, or was made by an attachment', () => {
    const { host, device, ioasId, alloc } = withAlloc();
    const plainId = host.client.hwptAllocPaging({ deviceId: device.id, ioasId });
    const autoId = device.attach(ioasId);
    for (const ptId of [plainId, autoId]) expect(alloc({ ...DATA, ptId })).toBe(EINVAL);
  });

  test('EOPNOTSUPP for a type of data that the IOMMU does not have, EINVAL for its length, EFAULT for its address', () => {
    const { parentId: ptId, alloc } = withAlloc();
    const data = { ...DATA, ptId, dataUptr: NOWHERE };
    expect(alloc({ ...data, dataType: 2, dataLen: 16 })).toBe(EOPNOTSUPP);
    for (const dataLen of [1, 23, 25, 0xffff_ffff]) expect(alloc({ ...data, dataLen })).toBe(EINVAL);
    expect(alloc(data)).toBe(EFAULT);
    expect(alloc({ ...data, dataUptr: 2n ** 64n - 1n })).toBe(EFAULT);
  });

  test('ENOMEM without memory, EFAULT where the id cannot be stored; no object stays', () => {
    const { host, ioasId, parentId, alloc } = withAlloc();
    host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x1000n });
    for (const values of [{}, { ...DATA, ptId: parentId }]) {
      const before = host.snapshot();
      for (let nth = 1; ; nth++) {
        host.kernel.failpoints.arm(nth);
        const result = alloc(values);
        const { hit } = host.kernel.failpoints;
        host.kernel.failpoints.arm(0);
        if (hit === null) {
          expect([result, nth > 1]).toEqual([0, true]);
          break;
        }
        expect([hit, result]).toEqual([hit, ENOMEM]);
        expect(host.snapshot()).toEqual(before);
      }
      const made = host.snapshot();
      const page = host.space.pages.get(Number(ARGUMENT >> 12n))!;
      page.writable = false;
      expect(host.system.ioctl(host.fd, uapi.IOMMU_HWPT_ALLOC, ARGUMENT)).toBe(EFAULT);
      expect(host.snapshot()).toEqual(made);
      page.writable = true;
    }
  });
});

describe('IOMMU_GET_HW_INFO', () => {
  const ask = (host: Host, values: object): number =>
    host.ioctl(uapi.IOMMU_GET_HW_INFO, uapi.iommuHwInfo, values).result;

  test('EOPNOTSUPP for unknown flags and reserved fields, before the id is looked at', () => {
    const host = new Host();
    for (const flags of [2, 3, 0x8000_0000]) expect(ask(host, { devId: 99, flags })).toBe(EOPNOTSUPP);
    for (const field of ['reserved0', 'reserved1', 'reserved2']) {
      expect(ask(host, { devId: 99, [field]: 1 })).toBe(EOPNOTSUPP);
    }
  });

  test('ENOENT for an id that names no device, before the type is looked at', () => {
    const { host, ioasId } = setUp();
    for (const devId of [0, 99, ioasId]) expect(ask(host, { devId, flags: 1, outDataType: 7 })).toBe(ENOENT);
  });

  test('EOPNOTSUPP for a type that the IOMMU does not have, when one is asked for', () => {
    const { host, device } = setUp();
    const asked = { devId: device.id, flags: uapi.IOMMU_HW_INFO_FLAG_INPUT_TYPE };
    for (const outDataType of [2, 0xffff_ffff]) expect(ask(host, { ...asked, outDataType })).toBe(EOPNOTSUPP);
    for (const outDataType of [0, 1]) expect(ask(host, { ...asked, outDataType })).toBe(0);
    expect(ask(host, { devId: device.id, outDataType: 2 })).toBe(0);
  });

  test('EFAULT for a buffer that cannot hold the data, or the zeros behind it, or where the answer cannot be stored', () => {
    const { host, device } = setUp();
    const end = ARGUMENT + 0x10000n;
    const devId = device.id;
    expect(ask(host, { devId, dataLen: 24, dataUptr: 0n })).toBe(EFAULT);
    expect(ask(host, { devId, dataLen: 24, dataUptr: end - 23n })).toBe(EFAULT);
    expect(ask(host, { devId, dataLen: 25, dataUptr: end - 24n })).toBe(EFAULT);
    expect(ask(host, { devId, dataLen: 0xffff_ffff, dataUptr: BUFFER })).toBe(EFAULT);
    expect(ask(host, { devId, dataLen: 24, dataUptr: 2n ** 64n - 8n })).toBe(EFAULT);
    expect(ask(host, { devId, dataLen: 24, dataUptr: end - 24n })).toBe(0);
    host.space.pages.get(Number(ARGUMENT >> 12n))!.writable = false;
    expect(host.system.ioctl(host.fd, uapi.IOMMU_GET_HW_INFO, ARGUMENT)).toBe(EFAULT);
  });
});

describe('IOMMU_HWPT_INVALIDATE', () => {
  const withAsk = () => {
    const all = setUp();
    const ask = (values: object): [result: number, entries: number] => {
      const defaults = { hwptId: all.nestedId, dataUptr: BUFFER, entryLen: 24, entryNum: 3 };
      const layout = uapi.iommuHwptInvalidate;
      const { result, reply } = all.host.ioctl(uapi.IOMMU_HWPT_INVALIDATE, layout, { ...defaults, ...values });
      return [result, reply.entryNum];
    };
    return { ...all, ask };
  };

  test('EOPNOTSUPP for the reserved field, before anything else, with no entry handled', () => {
    const { ask } = withAsk();
    expect(ask({ reserved: 1, hwptId: 99, entryLen: 0 })).toEqual([EOPNOTSUPP, 0]);
  });

  test('EINVAL for entries without address or length, too long, or too many, before the id; none is a probe', () => {
    const { ask } = withAsk();
    for (const values of [{ dataUptr: 0n }, { entryLen: 0 }, { entryLen: 4097 }, { entryNum: (1 << 19) + 1 }]) {
      expect([values, ask({ ...values, hwptId: 99 })]).toEqual([values, [EINVAL, 0]]);
    }
    expect(ask({ entryNum: 0, dataUptr: 0n, entryLen: 0 })).toEqual([0, 0]);
  });

  test('ENOENT for an id that names nothing, EINVAL for one of another type', () => {
    const { device, ioasId, parentId, ask } = withAsk();
    for (const hwptId of [0, 99]) expect(ask({ hwptId })).toEqual([ENOENT, 0]);
    for (const hwptId of [device.id, ioasId, parentId]) {
      expect(ask({ hwptId })).toEqual([EINVAL, 0]);
      expect(ask({ hwptId, entryNum: 0 })).toEqual([EINVAL, 0]);
    }
  });

  test('EINVAL for a type of entries that the table does not have, also of none', () => {
    const { ask } = withAsk();
    for (const entryNum of [0, 3]) expect(ask({ entryNum, dataType: 1 })).toEqual([EINVAL, 0]);
  });

  test('EINVAL for a bad entry, and its errno whatever it is, with the entries before it handled', () => {
    const { host, ask } = withAsk();
    expect(ask({ entryLen: 25 })).toEqual([EINVAL, 0]);
    // Type and length come before the first entry is read, for which there may be no memory.
    for (const bad of [{ entryLen: 25 }, { dataType: 1 }]) {
      expect(ask({ ...bad, dataUptr: NOWHERE })).toEqual([EINVAL, 0]);
    }
    expect(ask({ dataUptr: NOWHERE })).toEqual([EFAULT, 0]);
    expect(ask({ entryNum: 0, entryLen: 25 })).toEqual([0, 0]);
    host.space.write(BUFFER + 48n, Uint8Array.of(0xff));
    expect(ask({})).toEqual([EINVAL, 2]);
    const nested = host.driver.live[1]! as unknown as { invalidate: (...args: number[]) => object };
    nested.invalidate = () => ({ handled: 1, failure: new SysError('EOPNOTSUPP', 'fake', 'an entry') });
    expect(ask({})).toEqual([EOPNOTSUPP, 1]);
  });

  test('EFAULT for entries that cannot be read, with those before them handled, or where the number cannot be stored', () => {
    const { host, ask } = withAsk();
    expect(ask({ dataUptr: NOWHERE })).toEqual([EFAULT, 0]);
    expect(ask({ dataUptr: ARGUMENT + 0x10000n - 50n })).toEqual([EFAULT, 2]);
    expect(ask({ hwptId: 99 })).toEqual([ENOENT, 0]);
    host.space.pages.get(Number(ARGUMENT >> 12n))!.writable = false;
    expect(host.system.ioctl(host.fd, uapi.IOMMU_HWPT_INVALIDATE, ARGUMENT)).toBe(EFAULT);
  });
});
