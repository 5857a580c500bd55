import { describe, expect, test } from 'vitest';
import {
  IOMMU_HW_INFO_TYPE_SELFTEST,
  IOMMU_HWPT_DATA_SELFTEST,
  IOMMU_TEST_CMD,
  IOMMU_TEST_DEV_CACHE_DEFAULT,
  IOMMU_TEST_IOTLB_DEFAULT,
  IOMMU_TEST_OP_DEV_CHECK_CACHE,
  IOMMU_TEST_OP_MOCK_DOMAIN,
  IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS,
  IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE,
  IOMMU_TEST_OP_PASID_ATTACH,
  IOMMU_TEST_OP_PASID_CHECK_HWPT,
  IOMMU_TEST_OP_PASID_DETACH,
  IOMMU_TEST_OP_PASID_REPLACE,
  IOMMU_TEST_OP_TRIGGER_IOPF,
  IOMMU_TEST_OP_TRIGGER_VEVENT,
  iommuTestHwInfo,
  MOCK_FLAGS_DEVICE_NO_DIRTY,
  MOCK_FLAGS_DEVICE_PASID,
  MOCK_IOMMUPT_HUGE,
  TEST_CMD_MIN,
  TEST_CMD_SIZE,
} from '../../src/selftest/index.ts';
import * as uapi from '../../src/uapi/iommufd.ts';
import { E2BIG, EADDRINUSE, EBUSY, EFAULT, EINVAL, ENOENT, ENOMEM, ENOTTY, EOPNOTSUPP } from '../support/errno.ts';
import { NOWHERE, SelftestHost } from './support.ts';

const NEST_PARENT = uapi.IOMMU_HWPT_ALLOC_NEST_PARENT;
const DIRTY = uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING;
const FAULT = uapi.IOMMU_HWPT_FAULT_ID_VALID;
const PASID = uapi.IOMMU_HWPT_ALLOC_PASID;
const NESTED = { iotlb: IOMMU_TEST_IOTLB_DEFAULT, pagetableType: 0 };

describe('IOMMU_TEST_CMD', () => {
  const call = (host: SelftestHost, size: number, op = 99): number => {
    const bytes = host.testBytes(op, 'memoryLimit', 0, { limit: 4096 });
    const long = new Uint8Array(Math.max(size, 80));
    long.set(bytes);
    new DataView(long.buffer).setUint32(0, size, true);
    host.poke(host.argument, long);
    return host.system.ioctl(host.fd, IOMMU_TEST_CMD, host.argument);
  };

  test('is there when it is registered, and is of 68 to 72 bytes and more', () => {
    const host = new SelftestHost();
    expect([TEST_CMD_MIN, TEST_CMD_SIZE]).toEqual([68, 72]);
    for (const size of [0, 16, 67]) expect(call(host, size, 9)).toBe(EINVAL);
    for (const size of [68, 72, 80]) expect(call(host, size, 9)).toBe(0);
    const tail = new Uint8Array(1).fill(1);
    host.poke(host.argument + 76n, tail);
    expect(host.system.ioctl(host.fd, IOMMU_TEST_CMD, host.argument)).toBe(E2BIG);
    expect(host.system.ioctl(host.fd, IOMMU_TEST_CMD, NOWHERE)).toBe(EFAULT);
    expect(host.system.ioctl(host.fd, IOMMU_TEST_CMD + 1, host.argument)).toBe(ENOTTY);
  });

  test('EOPNOTSUPP for an operation that it does not have', () => {
    const host = new SelftestHost();
    for (const op of [0, 24, 99, 0xffff_ffff]) expect(call(host, 72, op)).toBe(EOPNOTSUPP);
  });
});

describe('MOCK_DOMAIN and MOCK_DOMAIN_FLAGS', () => {
  const make = (host: SelftestHost, id: number, devFlags = 0): number =>
    host.test(IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS, 'mockDomainFlags', id, { devFlags }).result;

  test('make a device, bind it and attach it: three ids, in a group of its own', () => {
    const host = new SelftestHost();
    const ioas = host.ioas();
    expect(host.device(ioas)).toEqual({ stdev: 2, idev: 3, hwpt: 4 });
    expect(host.context.objects.all().map(({ type }) => type)).toEqual(['ioas', 'selftest', 'device', 'hwpt-paging']);
    const other = host.device(ioas, MOCK_FLAGS_DEVICE_PASID);
    expect(other).toEqual({ stdev: 5, idev: 6, hwpt: 4 });
    expect(host.selftest.core.groups.map(({ devices }) => devices.map(({ name }) => name))).toEqual([
      ['iommufd_mock0'],
      ['iommufd_mock1'],
    ]);
    expect(host.device(other.hwpt)).toEqual({ stdev: 7, idev: 8, hwpt: 4 });
  });

  test('the device goes with its object, and with the file', () => {
    const host = new SelftestHost();
    const ioas = host.ioas();
    const { stdev, idev, hwpt } = host.device(ioas);
    expect([host.destroy(idev), host.destroy(hwpt), host.destroy(ioas)]).toEqual([EBUSY, EBUSY, EBUSY]);
    expect(host.destroy(stdev)).toBe(0);
    expect(host.context.objects.all().map(({ type }) => type)).toEqual(['ioas']);
    expect([host.selftest.devices, host.selftest.core.groups.length]).toEqual([0, 0]);
    expect(host.device(ioas)).toEqual({ stdev, idev, hwpt });
    host.device(hwpt);
    host.system.close(host.fd);
    expect([host.selftest.devices, host.node.contexts.size]).toEqual([0, 0]);
  });

  test('EINVAL for unknown flags and for what is no page table, ENOENT for nothing', () => {
    const host = new SelftestHost();
    const ioas = host.ioas();
    const { idev } = host.device(ioas);
    const before = host.snapshot();
    for (const flags of [2, 8, 0x8000_0000]) expect(make(host, ioas, flags)).toBe(EINVAL);
    expect([make(host, idev), make(host, 99), make(host, 0)]).toEqual([EINVAL, ENOENT, ENOENT]);
    expect(host.test(IOMMU_TEST_OP_MOCK_DOMAIN, 'mockDomain', 99).result).toBe(ENOENT);
    expect(host.snapshot()).toEqual(before);
  });

  test('EINVAL where the table tracks and the device does not; EADDRINUSE where areas are not in the aperture', () => {
    const host = new SelftestHost();
    const ioas = host.ioas();
    const { idev } = host.device(ioas);
    const tracking = host.hwpt(idev, ioas, DIRTY);
    expect(make(host, tracking, MOCK_FLAGS_DEVICE_NO_DIRTY)).toBe(EINVAL);
    expect(make(host, tracking)).toBe(0);
    const low = host.ioas();
    expect(host.map(low, 0x1000n, 0, 1)).toBe(0);
    expect(make(host, low)).toBe(EADDRINUSE);
  });

  test('a failure at any allocation, or of the answer, leaves nothing', () => {
    const host = new SelftestHost();
    const ioas = host.ioas();
    host.poke(host.memory, new Uint8Array(4 * 4096));
    host.map(ioas, 0x100_0000n, 0, 4);
    const before = host.snapshot();
    const { failpoints } = host.kernel;
    const failed: (string | null)[] = [];
    for (let nth = 1; ; nth++) {
      failpoints.arm(nth);
      const { result } = host.test(IOMMU_TEST_OP_MOCK_DOMAIN, 'mockDomain', ioas);
      const { hit } = failpoints;
      failpoints.arm(0);
      if (hit === null) break;
      expect([hit, result]).toEqual([hit, ENOMEM]);
      expect(host.snapshot()).toEqual(before);
      failed.push(hit);
    }
    expect(failed).toContain('mock_domain');
    expect(failed).toContain('iommu_probe_device');
    expect(failed.length).toBeGreaterThan(8);
    host.destroy(2);
    const again = host.snapshot();
    host.poke(host.argument, host.testBytes(IOMMU_TEST_OP_MOCK_DOMAIN, 'mockDomain', ioas));
    host.process.memory!.protect(host.argument, 4096n, 1);
    expect(host.system.ioctl(host.fd, IOMMU_TEST_CMD, host.argument)).toBe(EFAULT);
    host.process.memory!.protect(host.argument, 4096n, 3);
    expect(host.snapshot()).toEqual(again);
  });
});

describe('MOCK_DOMAIN_REPLACE', () => {
  const replace = (host: SelftestHost, id: number, ptId: number) =>
    host.test(IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, 'mockDomainReplace', id, { ptId });

  test('moves a device to a table, or to an IOAS, and says which table it is', () => {
    const host = new SelftestHost();
    const ioas = host.ioas();
    const { stdev, idev, hwpt } = host.device(ioas);
    const made = host.hwpt(idev, ioas);
    expect(replace(host, stdev, made)).toMatchObject({ result: 0, cmd: { ptId: made } });
    expect(host.destroy(made)).toBe(EBUSY);
    // The table made by attaching went when nothing was attached to it any more, so its id is free.
    expect(replace(host, stdev, ioas)).toMatchObject({ result: 0, cmd: { ptId: hwpt } });
    expect(host.destroy(made)).toBe(0);
  });

  test('ENOENT for ids that name nothing, EINVAL for what is no page table', () => {
    const host = new SelftestHost();
    const ioas = host.ioas();
    const { stdev, idev } = host.device(ioas);
    expect(replace(host, stdev, 99).result).toBe(ENOENT);
    expect(replace(host, stdev, idev).result).toBe(EINVAL);
    for (const id of [0, 99, ioas, idev]) expect(replace(host, id, ioas).result).toBe(ENOENT);
  });
});

describe('PASID_ATTACH, PASID_REPLACE, PASID_DETACH and PASID_CHECK_HWPT', () => {
  const setUp = (devFlags = MOCK_FLAGS_DEVICE_PASID) => {
    const host = new SelftestHost();
    const ioas = host.ioas();
    const { stdev, idev } = host.device(ioas, devFlags);
    const table = host.hwpt(idev, ioas, PASID);
    const plain = host.hwpt(idev, ioas);
    host.test(IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, 'mockDomainReplace', stdev, { ptId: table });
    const run = (op: number, pasid: number, ptId: number, id = stdev) =>
      host.test(op, 'pasidAttach', id, { pasid, ptId });
    return {
      host,
      ioas,
      stdev,
      idev,
      table,
      plain,
      attach: (pasid: number, ptId: number, id = stdev) => run(IOMMU_TEST_OP_PASID_ATTACH, pasid, ptId, id),
      replace: (pasid: number, ptId: number, id = stdev) => run(IOMMU_TEST_OP_PASID_REPLACE, pasid, ptId, id),
      detach: (pasid: number, id = stdev) => host.test(IOMMU_TEST_OP_PASID_DETACH, 'pasidDetach', id, { pasid }).result,
      check: (pasid: number, hwptId: number, id = stdev) =>
        host.test(IOMMU_TEST_OP_PASID_CHECK_HWPT, 'pasidCheck', id, { pasid, hwptId }).result,
    };
  };

  test('lead a PASID to a table, to another, and nowhere', () => {
    const { host, ioas, idev, table, attach, replace, detach, check } = setUp();
    const other = host.hwpt(idev, ioas, PASID);
    expect(detach(100)).toBe(0);
    expect([check(100, 0), check(100, table)]).toEqual([0, EINVAL]);
    expect(attach(100, table)).toMatchObject({ result: 0, cmd: { ptId: table } });
    expect([check(100, table), check(100, other), check(100, 0)]).toEqual([0, EINVAL, EINVAL]);
    expect([attach(100, table).result, attach(100, other).result]).toEqual([EBUSY, EBUSY]);
    expect(replace(100, other)).toMatchObject({ result: 0, cmd: { ptId: other } });
    expect([check(100, other), host.destroy(other), detach(100), check(100, 0)]).toEqual([0, EBUSY, 0, 0]);
    expect([replace(100, table).result, host.destroy(other)]).toEqual([EINVAL, 0]);
  });

  test('PASID 0 is what has no PASID', () => {
    const { table, plain, check, attach, detach } = setUp();
    expect([check(0, table), check(0, plain), check(0, 0)]).toEqual([0, EINVAL, EINVAL]);
    expect([attach(0, table).result, detach(0), check(0, 0), attach(0, plain).result]).toEqual([EBUSY, 0, 0, 0]);
  });

  test('EINVAL for tables that were not made for PASIDs, for an IOAS, and for PASIDs out of range', () => {
    const { ioas, table, plain, attach, check } = setUp();
    expect([attach(5, plain).result, attach(5, ioas).result, check(5, 0)]).toEqual([EINVAL, EINVAL, 0]);
    expect([attach(2 ** 20 - 1, table).result, attach(2 ** 20, table).result]).toEqual([0, EINVAL]);
    expect(attach(0xffff_ffff, table).result).toBe(EINVAL);
  });

  test('EINVAL for every PASID of a device without', () => {
    const { table, plain, attach, replace, detach } = setUp(0);
    expect([attach(1, table).result, attach(5, plain).result, replace(5, table).result]).toEqual([
      EINVAL,
      EINVAL,
      EINVAL,
    ]);
    expect(detach(5)).toBe(0);
  });

  test('ENOENT for ids that name nothing, and what a check is not about', () => {
    const { ioas, idev, table, attach, replace, detach, check } = setUp();
    for (const id of [0, 99, ioas, idev]) {
      expect([attach(5, table, id).result, replace(5, table, id).result]).toEqual([ENOENT, ENOENT]);
      expect([detach(5, id), check(5, table, id)]).toEqual([ENOENT, ENOENT]);
    }
    expect([attach(5, 99).result, check(5, 99), check(5, ioas)]).toEqual([ENOENT, ENOENT, EINVAL]);
  });

  test('at PASID 1024 every second attachment fails, and leaves what was there', () => {
    const { host, ioas, idev, table, attach, replace, detach, check } = setUp();
    const other = host.hwpt(idev, ioas, PASID);
    expect([attach(1024, table).result, replace(1024, other).result, check(1024, table)]).toEqual([0, ENOMEM, 0]);
    expect([replace(1024, other).result, check(1024, other)]).toEqual([0, 0]);
    expect([replace(1024, table).result, check(1024, other), detach(1024)]).toEqual([ENOMEM, 0, 0]);
    expect([attach(1024, table).result, detach(1024), attach(1024, table).result]).toEqual([0, 0, 0]);
  });

  test('an attachment whose answer cannot be stored is taken back', () => {
    const { host, stdev, table, check } = setUp();
    host.poke(
      host.argument,
      host.testBytes(IOMMU_TEST_OP_PASID_ATTACH, 'pasidAttach', stdev, { pasid: 7, ptId: table }),
    );
    host.process.memory!.protect(host.argument, 4096n, 1);
    expect(host.system.ioctl(host.fd, IOMMU_TEST_CMD, host.argument)).toBe(EFAULT);
    host.process.memory!.protect(host.argument, 4096n, 3);
    expect(check(7, 0)).toBe(0);
  });
});

describe('what a mock device says of itself', () => {
  test('GET_HW_INFO has its type, its register, its PASIDs and whether it tracks', () => {
    const host = new SelftestHost();
    const ioas = host.ioas();
    const info = (devId: number, flags = 0, outDataType = 0) =>
      host.ioctl(uapi.IOMMU_GET_HW_INFO, uapi.iommuHwInfo, {
        devId,
        flags,
        outDataType,
        dataLen: 8,
        dataUptr: host.buffer,
      });
    const plain = host.device(ioas).idev;
    const reply = { outDataType: IOMMU_HW_INFO_TYPE_SELFTEST, dataLen: 8, outMaxPasidLog2: 0, outCapabilities: 9n };
    expect(info(plain)).toMatchObject({ result: 0, reply });
    expect(iommuTestHwInfo.read(host.peek(host.buffer, 8))).toEqual({ flags: 0, testReg: 0xdead_beef });
    expect(info(plain, 1, IOMMU_HW_INFO_TYPE_SELFTEST).result).toBe(0);
    expect([info(plain, 1, 1).result, info(plain, 0, 1).result]).toEqual([EOPNOTSUPP, 0]);
    const other = host.device(ioas, MOCK_FLAGS_DEVICE_PASID | MOCK_FLAGS_DEVICE_NO_DIRTY).idev;
    expect(info(other).reply).toMatchObject({ outMaxPasidLog2: 20, outCapabilities: 8n });
  });

  test('DEV_CHECK_CACHE compares one of four words', () => {
    const host = new SelftestHost();
    const { idev, stdev } = host.device(host.ioas());
    const check = (devId: number, id: number, cache = IOMMU_TEST_DEV_CACHE_DEFAULT): number =>
      host.test(IOMMU_TEST_OP_DEV_CHECK_CACHE, 'checkDevCache', devId, { id, cache }).result;
    for (let id = 0; id < 4; id++) expect([check(idev, id), check(idev, id, 0)]).toEqual([0, EINVAL]);
    for (const id of [4, 0xffff_ffff]) expect([check(idev, id), check(idev, id, 0)]).toEqual([EINVAL, EINVAL]);
    expect([check(stdev, 0), check(99, 0)]).toEqual([ENOENT, ENOENT]);
  });
});

describe('HWPT_ALLOC for a mock device', () => {
  const setUp = () => {
    const host = new SelftestHost();
    const ioas = host.ioas();
    const { idev, stdev, hwpt } = host.device(ioas);
    return { host, ioas, idev, stdev, hwpt, parent: host.hwpt(idev, ioas, NEST_PARENT) };
  };
  const alloc = (host: SelftestHost, values: object): number =>
    host.ioctl(uapi.IOMMU_HWPT_ALLOC, uapi.iommuHwptAlloc, values).result;

  test('paging: two kinds of table, of which the large one has the wider aperture', () => {
    const { host, ioas, idev } = setUp();
    expect(host.hwpt(idev, ioas, DIRTY | PASID | NEST_PARENT)).toBeGreaterThan(0);
    const data = host.hwptData({ iotlb: 0, pagetableType: 2 });
    expect(alloc(host, { devId: idev, ptId: ioas, ...data })).toBe(EOPNOTSUPP);
    const huge = { iotlb: 0, pagetableType: MOCK_IOMMUPT_HUGE };
    expect(alloc(host, { devId: idev, ptId: ioas, ...host.hwptData(huge), dataType: 1 })).toBe(EOPNOTSUPP);
    expect(alloc(host, { devId: idev, ptId: ioas, ...host.hwptData(huge), dataLen: 3 })).toBe(EINVAL);
    expect(alloc(host, { devId: idev, ptId: ioas, ...host.hwptData(huge), dataLen: 9 })).toBe(EINVAL);
    expect(alloc(host, { devId: idev, ptId: ioas, ...host.hwptData(huge), dataUptr: NOWHERE })).toBe(EFAULT);
    const ranges = (ioasId: number) => {
      const values = { ioasId, numIovas: 4, allowedIovas: host.buffer };
      const { result, reply } = host.ioctl(uapi.IOMMU_IOAS_IOVA_RANGES, uapi.iommuIoasIovaRanges, values);
      const { start, last } = uapi.iommuIovaRange.read(host.peek(host.buffer, 16));
      return [result, reply.numIovas, reply.outIovaAlignment, start, last];
    };
    expect(ranges(ioas)).toEqual([0, 1, 2048n, 1n << 24n, (1n << 31n) - 1n]);
    const wide = host.ioas();
    host.hwpt(idev, wide, 0, huge);
    expect(ranges(wide)).toEqual([0, 1, 4096n, 0n, (1n << 38n) - 1n]);
  });

  test('EOPNOTSUPP to track what is written for a device that does not', () => {
    const { host, ioas } = setUp();
    const { idev } = host.device(ioas, MOCK_FLAGS_DEVICE_NO_DIRTY);
    expect([host.hwpt(idev, ioas, DIRTY), host.hwpt(idev, ioas, 0) > 0]).toEqual([EOPNOTSUPP, true]);
  });

  test('nested: on a nest parent, from four bytes of data at least', () => {
    const { host, ioas, idev, hwpt, parent } = setUp();
    const nested = host.hwpt(idev, parent, PASID, NESTED);
    expect([host.destroy(parent), host.hwpt(idev, nested, 0, NESTED)]).toEqual([EBUSY, EINVAL]);
    const data = { devId: idev, ptId: parent, ...host.hwptData(NESTED) };
    expect([alloc(host, { ...data, dataLen: 4 }), alloc(host, { ...data, dataLen: 3 })]).toEqual([0, EINVAL]);
    expect([alloc(host, { ...data, dataLen: 9 }), alloc(host, { ...data, dataUptr: NOWHERE })]).toEqual([
      EINVAL,
      EFAULT,
    ]);
    expect(alloc(host, { ...data, dataType: IOMMU_HWPT_DATA_SELFTEST + 1 })).toBe(EOPNOTSUPP);
    expect(alloc(host, { ...data, dataType: 0 })).toBe(EINVAL);
    expect([alloc(host, { ...data, flags: NEST_PARENT }), alloc(host, { ...data, flags: DIRTY })]).toEqual([
      EOPNOTSUPP,
      EOPNOTSUPP,
    ]);
    expect([alloc(host, { ...data, ptId: hwpt }), alloc(host, { ...data, ptId: host.hwpt(idev, ioas) })]).toEqual([
      EINVAL,
      EINVAL,
    ]);
  });
});

describe('TRIGGER_IOPF', () => {
  const setUp = () => {
    const host = new SelftestHost();
    const ioas = host.ioas();
    const { stdev, idev } = host.device(ioas, MOCK_FLAGS_DEVICE_PASID);
    const parent = host.hwpt(idev, ioas, NEST_PARENT);
    const { reply } = host.ioctl(uapi.IOMMU_FAULT_QUEUE_ALLOC, uapi.iommuFaultAlloc, {});
    const faulty = host.hwpt(idev, parent, FAULT | PASID, NESTED, reply.outFaultId);
    const trigger = (devId: number, pasid: number): number => {
      const fault = { pasid, grpid: 7, perm: 3, addr: 0xdead_beef_c000n };
      return host.test(IOMMU_TEST_OP_TRIGGER_IOPF, 'triggerIopf', 0, { devId, ...fault }).result;
    };
    const read = () => {
      const bytes = new Uint8Array(40);
      return host.system.read(reply.outFaultFd, bytes) === 0 ? null : uapi.iommuHwptPgfault.read(bytes);
    };
    return { host, ioas, stdev, idev, faulty, trigger, read, fd: reply.outFaultFd };
  };

  test('a nested table without PASID takes the requests of every PASID, and is answered', () => {
    const { host, stdev, idev, faulty, trigger, read, fd } = setUp();
    expect([trigger(idev, 1), read()]).toEqual([0, null]);
    host.test(IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, 'mockDomainReplace', stdev, { ptId: faulty });
    expect(trigger(idev, 1)).toBe(0);
    const record = { devId: idev, grpid: 7, perm: 3, addr: 0xdead_beef_c000n, length: 0, reserved: 0 };
    const { cookie } = read()!;
    expect(trigger(idev, 0)).toBe(0);
    expect(read()).toEqual({ ...record, flags: 2, pasid: 0, cookie: cookie + 1 });
    const answer = new Uint8Array(8);
    uapi.iommuHwptPageResponse.write({ cookie, code: uapi.IOMMUFD_PAGE_RESP_SUCCESS }, answer);
    expect(host.system.write(fd, answer)).toBe(8);
    expect(trigger(idev, 2)).toBe(0);
    expect(read()).toEqual({ ...record, flags: 3, pasid: 2, cookie });
  });

  test('a PASID that is attached takes its own, and where nobody does it is dropped', () => {
    const { host, stdev, idev, ioas, faulty, trigger, read } = setUp();
    const table = host.hwpt(idev, ioas, PASID);
    host.test(IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, 'mockDomainReplace', stdev, { ptId: table });
    host.test(IOMMU_TEST_OP_PASID_ATTACH, 'pasidAttach', stdev, { pasid: 5, ptId: faulty });
    expect([trigger(idev, 6), read(), trigger(idev, 5), read()?.pasid]).toEqual([0, null, 0, 5]);
    host.test(IOMMU_TEST_OP_PASID_REPLACE, 'pasidReplace', stdev, { pasid: 5, ptId: table });
    expect([trigger(idev, 5), read()]).toEqual([0, null]);
  });

  test('ENOENT without a device', () => {
    const { stdev, trigger } = setUp();
    expect([trigger(stdev, 1), trigger(99, 1)]).toEqual([ENOENT, ENOENT]);
  });
});

test('TRIGGER_VEVENT is ENOENT for a device that is in no vIOMMU, and for none', () => {
  const host = new SelftestHost();
  const { idev, stdev } = host.device(host.ioas());
  const trigger = (devId: number): number =>
    host.test(IOMMU_TEST_OP_TRIGGER_VEVENT, 'triggerVevent', 0, { devId }).result;
  expect([trigger(idev), trigger(stdev), trigger(99)]).toEqual([ENOENT, ENOENT, ENOENT]);
});
