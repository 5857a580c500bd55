import { describe, expect, test } from 'vitest';
import { createAccess } from '../../src/access.ts';
import * as uapi from '../../src/uapi/iommufd.ts';
import { EBUSY, EFAULT, EMFILE, ENOENT, ENOMEM, EOPNOTSUPP } from '../support/errno.ts';
import { ARGUMENT, Host, MEMORY } from '../support/host.ts';

describe('IOMMU_DESTROY', () => {
  const destroy = (host: Host, id: number): number => host.ioctl(uapi.IOMMU_DESTROY, uapi.iommuDestroy, { id }).result;

  test('ENOENT for an id that names nothing, or nothing any more', () => {
    const host = new Host();
    const id = host.client.ioasAlloc();
    for (const other of [0, id + 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) expect(destroy(host, other)).toBe(ENOENT);
    expect([destroy(host, id), destroy(host, id)]).toEqual([0, ENOENT]);
  });

  test('EBUSY for what other objects, drivers or open files use', () => {
    const host = new Host();
    const device = host.bind();
    const ioasId = host.client.ioasAlloc();
    const parentId = host.client.hwptAllocPaging({ deviceId: device.id, ioasId, nestParent: true });
    const { id: faultId, fd } = host.client.faultQueueAlloc();
    const request = { deviceId: device.id, parentId, pageTable: 0n, addressWidth: 48, faultId };
    const nestedId = host.client.hwptAllocVtdS1(request);
    const access = createAccess(host.context, { needsPinPages: false, unmap() {} });
    access.attach(ioasId);
    device.attach(nestedId);
    for (const id of [device.id, ioasId, parentId, faultId, nestedId, access.id]) expect(destroy(host, id)).toBe(EBUSY);
    device.detach();
    expect(destroy(host, nestedId)).toBe(0);
    expect(destroy(host, faultId)).toBe(EBUSY);
    host.system.close(fd);
    expect([destroy(host, faultId), destroy(host, parentId), destroy(host, ioasId)]).toEqual([0, 0, EBUSY]);
    access.close();
    expect(destroy(host, ioasId)).toBe(0);
  });

  test('0 for an IOAS with areas, which are unmapped', () => {
    const host = new Host();
    const ioasId = host.client.ioasAlloc();
    host.client.ioasMap({ ioasId, userVa: MEMORY, length: 0x4000n });
    expect(destroy(host, ioasId)).toBe(0);
    expect(host.eventsOf('ioas_unmap').map(({ length }) => length)).toEqual([0x4000n]);
  });
});

describe('IOMMU_FAULT_QUEUE_ALLOC', () => {
  const alloc = (host: Host, flags = 0): number =>
    host.ioctl(uapi.IOMMU_FAULT_QUEUE_ALLOC, uapi.iommuFaultAlloc, { flags }).result;

  test('EOPNOTSUPP for any flag', () => {
    const host = new Host();
    for (const flags of [1, 0x8000_0000]) expect(alloc(host, flags)).toBe(EOPNOTSUPP);
    expect(host.context.objects.size).toBe(0);
  });

  test('EMFILE without a descriptor left, ENOMEM without memory, EFAULT where ids cannot be stored; no object stays', () => {
    const host = new Host();
    const before = host.snapshot();
    for (let nth = 1; ; nth++) {
      host.kernel.failpoints.arm(nth);
      const result = alloc(host);
      const { hit } = host.kernel.failpoints;
      host.kernel.failpoints.arm(0);
      if (hit === null) {
        expect([result, nth > 1]).toEqual([0, true]);
        break;
      }
      expect([hit, result]).toEqual([hit, ENOMEM]);
      expect(host.snapshot()).toEqual(before);
    }
    host.space.write(ARGUMENT, Uint8Array.of(16, 0, 0, 0, 0, 0, 0, 0));
    const full = host.snapshot();
    host.space.pages.get(Number(ARGUMENT >> 12n))!.writable = false;
    expect(host.system.ioctl(host.fd, uapi.IOMMU_FAULT_QUEUE_ALLOC, ARGUMENT)).toBe(EFAULT);
    expect(host.snapshot()).toEqual(full);
    while (host.descriptors.size < 1024) host.system.dup(host.fd);
    expect(host.system.ioctl(host.fd, uapi.IOMMU_FAULT_QUEUE_ALLOC, ARGUMENT)).toBe(EMFILE);
    expect(host.context.objects.size).toBe(1);
  });
});
