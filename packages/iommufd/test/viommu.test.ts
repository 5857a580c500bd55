import { NO_PASID } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import * as uapi from '../src/uapi/iommufd.ts';
import * as uapiViommu from '../src/uapi/viommu.ts';
import { vdeviceAlloc } from '../src/vdevice.ts';
import { E2BIG, EEXIST, EFAULT, EINVAL, ENOENT, EOPNOTSUPP } from './support/errno.ts';
import {
  BAD_VIRT_ID,
  fakeViommuData,
  fakeViommuInvalidate,
  VIOMMU_HWPT_TYPE,
  VIOMMU_INVALIDATE_TYPE,
  VIOMMU_TYPE,
} from './support/fake-viommu.ts';
import { BUFFER } from './support/host.ts';
import { errno, ViommuHost } from './support/viommu-host.ts';

const EIO = -5;
const NOWHERE = 0xdead_0000n;

describe('IOMMU_VIOMMU_ALLOC', () => {
  const alloc = (host: ViommuHost, values: object): number => {
    const good = { type: VIOMMU_TYPE, devId: host.device.id, hwptId: host.parentId };
    return host.ioctl(uapiViommu.IOMMU_VIOMMU_ALLOC, uapiViommu.iommuViommuAlloc, { ...good, ...values }).result;
  };

  test('makes one that holds its parent, for the device’s IOMMU', () => {
    const host = new ViommuHost();
    const { core } = host.half;
    expect([core.viommuType, core.parent]).toEqual([VIOMMU_TYPE, host.driver.live[0]]);
    expect([host.users(host.parentId), host.users(host.viommuId), host.users(host.device.id)]).toEqual([2, 1, 2]);
    expect(errno(() => host.client.destroy(host.parentId))).toBe('EBUSY');
    host.client.destroy(host.viommuId);
    expect(host.half.destroyed).toBe(true);
    host.client.destroy(host.parentId);
  });

  test('EOPNOTSUPP flags, type 0, a type or an IOMMU without vIOMMUs, in this order before ENOENT and EINVAL', () => {
    const host = new ViommuHost();
    const before = host.snapshot();
    const nothing = { devId: 99, hwptId: 99 };
    expect(alloc(host, { ...nothing, flags: 1 })).toBe(EOPNOTSUPP);
    expect(alloc(host, { ...nothing, type: 0 })).toBe(EOPNOTSUPP);
    expect(alloc(host, { ...nothing, type: 0xdead })).toBe(ENOENT);
    expect(alloc(host, { hwptId: 99, type: 0xdead })).toBe(EOPNOTSUPP);
    host.driver.viommu = null;
    expect(alloc(host, { hwptId: 99 })).toBe(EOPNOTSUPP);
    expect(host.snapshot()).toEqual({ ...(before as object), viommus: undefined });
  });

  test('ENOENT no device, no page table, or objects of other types', () => {
    const host = new ViommuHost();
    const nested = host.client.hwptAllocVtdS1({
      deviceId: host.device.id,
      parentId: host.parentId,
      pageTable: 0n,
      addressWidth: 48,
    });
    const before = host.snapshot();
    for (const devId of [0, 99, host.ioasId, host.viommuId]) expect(alloc(host, { devId })).toBe(ENOENT);
    for (const hwptId of [0, 99, host.ioasId, nested, host.viommuId]) expect(alloc(host, { hwptId })).toBe(ENOENT);
    expect(host.snapshot()).toEqual(before);
  });

  test('EINVAL a table that is no nest parent, or of another IOMMU', () => {
    const host = new ViommuHost();
    const { ioasId } = host;
    const plain = host.client.hwptAllocPaging({ deviceId: host.device.id, ioasId });
    const other = host.bindElsewhere();
    const foreign = host.client.hwptAllocPaging({ deviceId: other.id, ioasId, nestParent: true });
    host.device.attach(ioasId);
    const before = host.snapshot();
    expect(alloc(host, { hwptId: plain })).toBe(EINVAL);
    expect(alloc(host, { hwptId: foreign })).toBe(EINVAL);
    expect(alloc(host, { hwptId: host.device.attached()! })).toBe(EINVAL);
    expect(host.snapshot()).toEqual(before);
  });

  test('EINVAL and EFAULT data that the driver does not take; the reserved field is not looked at', () => {
    const host = new ViommuHost();
    const before = host.snapshot();
    expect(alloc(host, { dataLen: 7, dataUptr: BUFFER })).toBe(EINVAL);
    expect(alloc(host, { dataLen: 25, dataUptr: BUFFER })).toBe(EINVAL);
    expect(alloc(host, { dataLen: 0xffff_ffff, dataUptr: BUFFER })).toBe(EINVAL);
    expect(alloc(host, { dataLen: 24, dataUptr: NOWHERE })).toBe(EFAULT);
    host.space.pages.get(Number(BUFFER >> 12n))!.writable = false;
    expect(alloc(host, { dataLen: 24, dataUptr: BUFFER })).toBe(EFAULT);
    expect(host.snapshot()).toEqual(before);
    expect(alloc(host, { reserved: 1 })).toBe(0);
  });

  test('the driver answers in the user’s data, as far as it goes', () => {
    const host = new ViommuHost();
    const bytes = new Uint8Array(24);
    fakeViommuData.write({ inData: 0xbeef, outData: 0, mmapOffset: 0n, mmapLength: 0n }, bytes);
    host.space.write(BUFFER, bytes);
    expect(alloc(host, { dataLen: 24, dataUptr: BUFFER })).toBe(0);
    host.space.read(BUFFER, bytes);
    const answer = { inData: 0xbeef, outData: 0xbeef, mmapOffset: 0x1000n, mmapLength: 0x2000n };
    expect(fakeViommuData.read(bytes)).toEqual(answer);
    host.space.write(BUFFER, new Uint8Array(24).fill(0x11));
    expect(alloc(host, { dataLen: 8, dataUptr: BUFFER })).toBe(0);
    host.space.read(BUFFER, bytes);
    expect([...bytes.subarray(0, 9)]).toEqual(new Array(9).fill(0x11));
    const data = new Uint8Array(24);
    host.viommus.viommuAlloc({ deviceId: host.device.id, parentId: host.parentId, type: VIOMMU_TYPE, data });
    expect(fakeViommuData.read(data)).toMatchObject({ mmapOffset: 0x5000n, mmapLength: 0x2000n });
  });
});

describe('IOMMU_VDEVICE_ALLOC', () => {
  const alloc = (host: ViommuHost, values: object): number => {
    const good = { viommuId: host.viommuId, devId: host.device.id, virtId: 0x99n };
    return host.ioctl(uapiViommu.IOMMU_VDEVICE_ALLOC, uapiViommu.iommuVdeviceAlloc, { ...good, ...values }).result;
  };

  test('makes one that holds the vIOMMU and not the device, by which the driver finds both numbers', () => {
    const host = new ViommuHost();
    const { core } = host.half;
    const top = 2n ** 64n - 1n;
    const id = host.viommus.vdeviceAlloc(host.viommuId, host.device.id, top);
    expect([host.users(host.viommuId), host.users(host.device.id), host.users(id)]).toEqual([2, 2, 1]);
    expect([core.findDevice(top), core.virtIdOf(host.device.device)]).toEqual([host.device.device, top]);
    expect([core.findDevice(0n), core.virtIdOf(host.bind().device)]).toEqual([null, null]);
    expect(errno(() => host.client.destroy(host.viommuId))).toBe('EBUSY');
    host.client.destroy(id);
    expect([core.findDevice(top), core.virtIdOf(host.device.device), [...host.half.vdevices]]).toEqual([
      null,
      null,
      [],
    ]);
    host.client.destroy(host.viommuId);
  });

  test('ENOENT no vIOMMU, no device, or objects of other types', () => {
    const host = new ViommuHost();
    const before = host.snapshot();
    for (const viommuId of [0, 99, host.parentId, host.device.id]) expect(alloc(host, { viommuId })).toBe(ENOENT);
    for (const devId of [0, 99, host.viommuId]) expect(alloc(host, { devId })).toBe(ENOENT);
    expect(host.snapshot()).toEqual(before);
  });

  test('ENOENT a device that is being unbound', () => {
    const host = new ViommuHost();
    const { viommuId, device } = host;
    host.viommus.vdeviceAlloc(viommuId, device.id, 1n);
    const refusals: unknown[] = [];
    host.half.onVdeviceGone = () => {
      refusals.push(errno(() => vdeviceAlloc(host.context, { viommuId, deviceId: device.id, virtId: 2n })));
    };
    device.unbind();
    expect(refusals).toEqual(['ENOENT']);
  });

  test('EINVAL a device behind another IOMMU', () => {
    const host = new ViommuHost();
    const other = host.bindElsewhere();
    const before = host.snapshot();
    expect(alloc(host, { devId: other.id })).toBe(EINVAL);
    expect(host.snapshot()).toEqual(before);
  });

  test('EEXIST a second one of a device, in whatever vIOMMU, and a second one at a number of a vIOMMU', () => {
    const host = new ViommuHost();
    const { device, parentId } = host;
    const second = host.viommus.viommuAlloc({ deviceId: device.id, parentId, type: VIOMMU_TYPE });
    const other = host.bind();
    expect(alloc(host, {})).toBe(0);
    const before = host.snapshot();
    expect(alloc(host, {})).toBe(EEXIST);
    expect(alloc(host, { virtId: 0x98n })).toBe(EEXIST);
    expect(alloc(host, { viommuId: second, virtId: 0x98n })).toBe(EEXIST);
    expect(alloc(host, { devId: other.id })).toBe(EEXIST);
    expect(host.snapshot()).toEqual(before);
    expect(alloc(host, { devId: other.id, viommuId: second })).toBe(0);
  });

  test('EIO and what else the driver refuses with', () => {
    const host = new ViommuHost();
    const before = host.snapshot();
    expect(alloc(host, { virtId: BAD_VIRT_ID })).toBe(EIO);
    expect(host.snapshot()).toEqual(before);
    expect(alloc(host, {})).toBe(0);
  });

  test('a driver need not hear of devices', () => {
    const host = new ViommuHost();
    host.half.initVdevice = null;
    const id = host.viommus.vdeviceAlloc(host.viommuId, host.device.id, 5n);
    expect(host.half.core.findDevice(5n)).toBe(host.device.device);
    host.client.destroy(id);
  });
});

describe('tombstones', () => {
  test('the vDEVICE of a device that is unbound is gone, and its id is not used again before the file is closed', () => {
    const host = new ViommuHost();
    const { viommuId, device, client, viommus } = host;
    const id = viommus.vdeviceAlloc(viommuId, device.id, 0x99n);
    device.attach(host.allocNested());
    const deviceId = device.id;
    device.unbind();
    expect(errno(() => client.destroy(id))).toBe('ENOENT');
    expect([host.half.core.findDevice(0x99n), [...host.half.vdevices], host.driver.routes.size]).toEqual([null, [], 0]);
    const fresh = host.bind();
    expect(fresh.id).toBe(deviceId);
    const ids = [1, 2, 3, 4].map(() => client.ioasAlloc());
    expect(ids).not.toContain(id);
    // The number in the vIOMMU is free.
    const again = viommus.vdeviceAlloc(viommuId, fresh.id, 0x99n);
    expect([errno(() => client.destroy(id)), errno(() => client.destroy(again))]).toEqual(['ENOENT', null]);
    for (const call of [() => viommus.vdeviceAlloc(id, fresh.id, 1n), () => client.ioasUnmapAll(id)]) {
      expect(errno(call)).toBe('ENOENT');
    }
    fresh.unbind();
    host.system.close(host.fd);
    expect([host.context.objects.size, host.node.contexts.size]).toEqual([0, 0]);
  });

  test('one that its user has destroyed leaves none', () => {
    const host = new ViommuHost();
    const id = host.viommus.vdeviceAlloc(host.viommuId, host.device.id, 0x99n);
    host.client.destroy(id);
    host.device.unbind();
    expect([host.client.ioasAlloc(), host.client.ioasAlloc()]).toEqual([1, id]);
  });
});

describe('IOMMU_HWPT_ALLOC through a vIOMMU', () => {
  const alloc = (host: ViommuHost, values: object): number => {
    const good = {
      devId: host.device.id,
      ptId: host.viommuId,
      dataType: VIOMMU_HWPT_TYPE,
      dataLen: 8,
      dataUptr: BUFFER,
    };
    return host.ioctl(uapi.IOMMU_HWPT_ALLOC, uapi.iommuHwptAlloc, { ...good, ...values }).result;
  };

  test('makes a nested table that holds the vIOMMU, and no more than that its parent', () => {
    const host = new ViommuHost();
    const id = host.allocNested();
    expect([host.users(host.viommuId), host.users(host.parentId)]).toEqual([2, 2]);
    expect(errno(() => host.client.destroy(host.viommuId))).toBe('EBUSY');
    expect(host.eventsOf('hwpt_alloc').at(-1)).toMatchObject({ hwpt: id, parent: host.viommuId, kind: 'nested' });
    // A vIOMMU alone is nothing to attach to; a table of it takes a device that is in it.
    expect(errno(() => host.device.attach(host.viommuId))).toBe('EINVAL');
    expect(errno(() => host.device.attach(id))).toBe('ENOENT');
    host.viommus.vdeviceAlloc(host.viommuId, host.device.id, 1n);
    host.device.attach(id);
    expect(errno(() => host.client.destroy(id))).toBe('EBUSY');
    host.device.detach();
    host.client.destroy(id);
    expect([host.users(host.viommuId), host.users(host.parentId)]).toEqual([2, 2]);
  });

  test('EINVAL a device behind another IOMMU; type and length that disagree', () => {
    const host = new ViommuHost();
    const other = host.bindElsewhere();
    const before = host.snapshot();
    expect(alloc(host, { devId: other.id, flags: 1 << 31 })).toBe(EINVAL);
    expect(alloc(host, { dataLen: 0 })).toBe(EINVAL);
    expect(alloc(host, { dataType: 0 })).toBe(EINVAL);
    expect(alloc(host, { dataLen: 9 })).toBe(EINVAL);
    expect(alloc(host, { dataUptr: NOWHERE })).toBe(EFAULT);
    expect(host.snapshot()).toEqual(before);
  });

  test('EOPNOTSUPP flags, no data, a type, or a vIOMMU without nested tables', () => {
    const host = new ViommuHost();
    const before = host.snapshot();
    for (const flags of [uapi.IOMMU_HWPT_ALLOC_NEST_PARENT, uapi.IOMMU_HWPT_ALLOC_DIRTY_TRACKING, 1 << 31]) {
      expect(alloc(host, { flags })).toBe(EOPNOTSUPP);
    }
    expect(alloc(host, { dataType: 0, dataLen: 0 })).toBe(EOPNOTSUPP);
    expect(alloc(host, { dataType: 1 })).toBe(EOPNOTSUPP);
    host.half.allocNested = null;
    expect(alloc(host, {})).toBe(EOPNOTSUPP);
    expect(host.snapshot()).toEqual(before);
  });

  test('ENOENT no fault queue; with one, page requests go there', () => {
    const host = new ViommuHost();
    const { device, viommuId } = host;
    const flags = uapi.IOMMU_HWPT_FAULT_ID_VALID | uapi.IOMMU_HWPT_ALLOC_PASID;
    const before = host.snapshot();
    expect(alloc(host, { flags, faultId: 0xffff_ffff })).toBe(ENOENT);
    expect(host.snapshot()).toEqual(before);
    const { id: faultId, fd } = host.client.faultQueueAlloc();
    const data = new Uint8Array(8);
    const request = { deviceId: device.id, parentId: viommuId, type: VIOMMU_HWPT_TYPE, data, faultId };
    const hwpt = host.client.hwptAllocNested(request);
    host.viommus.vdeviceAlloc(viommuId, device.id, 0x99n);
    device.attach(hwpt);
    device.device.faults.report({ pasid: NO_PASID, access: 1, group: 4, last: true, address: 0x5000n });
    expect(host.client.readFaults(fd)).toMatchObject([{ deviceId: device.id, pasid: null, group: 4 }]);
  });
});

describe('IOMMU_HWPT_INVALIDATE through a vIOMMU', () => {
  const { size } = fakeViommuInvalidate;

  function setUp(): {
    host: ViommuHost;
    ask(values: object): [number, number];
    put(index: number, ...words: number[]): void;
  } {
    const host = new ViommuHost();
    host.viommus.vdeviceAlloc(host.viommuId, host.device.id, 0x99n);
    const good = { hwptId: host.viommuId, dataUptr: BUFFER, dataType: VIOMMU_INVALIDATE_TYPE, entryLen: size };
    const ask = (values: object): [number, number] => {
      const { result, reply } = host.ioctl(uapi.IOMMU_HWPT_INVALIDATE, uapi.iommuHwptInvalidate, {
        ...good,
        ...values,
      });
      return [result, reply.entryNum];
    };
    const put = (index: number, ...words: number[]): void => {
      host.space.write(BUFFER + BigInt(index * size), new Uint8Array(Uint32Array.from(words).buffer));
    };
    return { host, ask, put };
  }

  test('entries name devices as the guest does, and are carried out up to the first bad one', () => {
    const { host, ask, put } = setUp();
    const { rid } = host.device.device;
    put(0, 0, 0x99, 1);
    put(1, 0, 0x99, 2);
    expect(ask({ entryNum: 2 })).toEqual([0, 2]);
    expect(host.half.invalidated).toEqual([`${rid}:1`, `${rid}:2`]);
    put(1, 1, 0x99, 2);
    expect(ask({ entryNum: 2 })).toEqual([EOPNOTSUPP, 1]);
    put(1, 0, 0x98, 2);
    expect(ask({ entryNum: 2 })).toEqual([EINVAL, 1]);
    expect(host.eventsOf('hwpt_invalidate').map(({ hwpt, entries }) => [hwpt, entries])).toEqual([
      [host.viommuId, 2],
      [host.viommuId, 1],
      [host.viommuId, 1],
    ]);
  });

  test('no entries are a probe of the type', () => {
    const { ask } = setUp();
    expect(ask({ entryNum: 0, dataUptr: 0n, entryLen: 0 })).toEqual([0, 0]);
    expect(ask({ entryNum: 0, dataType: 6 })).toEqual([EINVAL, 0]);
  });

  test('EINVAL another type, no address, a length of 0 or above a page, too many', () => {
    const { ask, put } = setUp();
    put(0, 0, 0x99, 1);
    expect(ask({ entryNum: 1, dataType: 6 })).toEqual([EINVAL, 0]);
    expect(ask({ entryNum: 1, dataUptr: 0n })).toEqual([EINVAL, 0]);
    expect(ask({ entryNum: 1, entryLen: 0 })).toEqual([EINVAL, 0]);
    expect(ask({ entryNum: 1, entryLen: 4097 })).toEqual([EINVAL, 0]);
    expect(ask({ entryNum: (1 << 19) + 1 })).toEqual([EINVAL, 0]);
  });

  test('entries of other lengths are filled up, or must be zero behind what the driver knows', () => {
    const { host, ask, put } = setUp();
    put(0, 0, 0x99, 1);
    // One byte of an entry leaves the device 0, which is not there.
    expect(ask({ entryNum: 1, entryLen: 1 })).toEqual([EINVAL, 0]);
    expect(ask({ entryNum: 1, entryLen: 8 })).toEqual([0, 1]);
    expect(ask({ entryNum: 1, entryLen: 16 })).toEqual([0, 1]);
    expect(host.half.invalidated.map((entry) => entry.split(':')[1])).toEqual(['0', '1']);
    put(1, 1, 0, 0);
    expect(ask({ entryNum: 1, entryLen: 16 })).toEqual([E2BIG, 0]);
  });

  test('EFAULT anywhere in the array carries out nothing', () => {
    const { host, ask, put } = setUp();
    put(0, 0, 0x99, 1);
    expect(ask({ entryNum: 1000, dataUptr: BUFFER + 0x8000n - 24n })).toEqual([EFAULT, 0]);
    expect(host.half.invalidated).toEqual([]);
  });

  test('EOPNOTSUPP a vIOMMU without invalidation, and a nested table that leaves it to its vIOMMU', () => {
    const { host, ask, put } = setUp();
    put(0, 0, 0x99, 1);
    expect(ask({ entryNum: 1, hwptId: host.allocNested() })).toEqual([EOPNOTSUPP, 0]);
    host.half.invalidate = null;
    expect(ask({ entryNum: 1 })).toEqual([EOPNOTSUPP, 0]);
  });

  test('the client gives bytes, and learns what was done', () => {
    const { host } = setUp();
    const entries = new Uint8Array(Uint32Array.of(0, 0x99, 7, 0, 0x98, 7).buffer);
    const request = { hwptId: host.viommuId, type: VIOMMU_INVALIDATE_TYPE, entries, entryLength: size };
    expect(host.client.hwptInvalidate(request)).toMatchObject({ handled: 1, failure: { code: 'EINVAL' } });
  });
});
