import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import * as uapi from '../src/uapi/vfio.ts';
import { Machine, PAGE, type User } from './support/machine.ts';

const EFAULT = -14;
const EINVAL = -22;
const ENOTTY = -25;
const E2BIG = -7;
const EBADF = -9;
const EBADFD = -77;
const EACCES = -13;

const {
  vfioDeviceAttach: attachLayout,
  vfioDeviceBind: bindLayout,
  vfioDeviceDetach: detachLayout,
  vfioDeviceInfo: infoLayout,
  vfioRegionInfo: regionLayout,
} = uapi;
const { VFIO_DEVICE_BIND_IOMMUFD: BIND, VFIO_DEVICE_ATTACH_IOMMUFD_PT: ATTACH } = uapi;
const { VFIO_DEVICE_DETACH_IOMMUFD_PT: DETACH } = uapi;

function bound(): User {
  const user = new Machine().user();
  user.vfio.bind(user.iommufd.fd);
  return user;
}

/** The address of a page that can only be read, holding a structure. */
function readOnly(user: User, bytes: Uint8Array): bigint {
  const va = user.system.mmap({ length: PAGE });
  user.memory.write(va, bytes);
  user.memory.protect(va, PAGE, 1);
  return va;
}

describe('BIND_IOMMUFD', () => {
  test('answers with the id that /dev/iommu knows the device by', () => {
    const user = new Machine().user();
    const { result, reply } = user.ioctl(BIND, bindLayout, { iommufd: user.iommufd.fd });
    expect(result).toBe(0);
    expect(user.iommufd.hwInfo(reply.outDevid).type).toBe(1);
  });

  test('takes the short and the long form, and zeros behind it', () => {
    const short = new Machine().user();
    expect(short.ioctl(BIND, bindLayout, { argsz: 16, iommufd: short.iommufd.fd }).result).toBe(0);
    const long = new Machine().user();
    expect(long.ioctl(BIND, bindLayout, { iommufd: long.iommufd.fd }, new Uint8Array(1000)).result).toBe(0);
  });

  test('refuses, and leaves the device unbound', () => {
    const user = new Machine().user();
    const iommufd = user.iommufd.fd;
    const call = (values: Parameters<typeof user.ioctl<never>>[2] | object, tail?: Uint8Array) =>
      user.ioctl(BIND, bindLayout, { iommufd, ...values }, tail).result;
    expect(call({ argsz: 15 })).toBe(EINVAL);
    expect(call({ argsz: 0 })).toBe(EINVAL);
    expect(call({}, new Uint8Array([0, 1]))).toBe(E2BIG);
    expect(call({ argsz: 0xffffffff }, new Uint8Array(8))).toBe(EFAULT);
    expect(call({ iommufd: -1 })).toBe(EINVAL);
    expect(call({ flags: 2 })).toBe(EINVAL);
    expect(call({ iommufd: 77 })).toBe(EBADF);
    expect(call({ iommufd: user.vfio.fd })).toBe(EBADFD);
    expect(call({ flags: 1, tokenUuidPtr: 0n })).toBe(EFAULT);
    expect(user.system.ioctl(user.vfio.fd, BIND, 0)).toBe(EFAULT);
    const bytes = new Uint8Array(bindLayout.size);
    bindLayout.write({ argsz: 24, flags: 0, iommufd, outDevid: 0, tokenUuidPtr: 0n }, bytes);
    expect(user.system.ioctl(user.vfio.fd, BIND, readOnly(user, bytes))).toBe(EFAULT);
    expect(user.machine.devices[0]!.group.owner).toBe(null);
    expect(call({})).toBe(0);
    expect(call({})).toBe(EINVAL);
  });

  test('a token comes from memory', () => {
    const machine = new Machine({ virtualFunctions: 1 });
    const owner = machine.user();
    const guest = machine.user({}, 1);
    const values = (user: User) => ({ flags: 1, iommufd: user.iommufd.fd, tokenUuidPtr: user.argument + 100n });
    expect(guest.ioctl(BIND, bindLayout, { iommufd: guest.iommufd.fd }).result).toBe(EACCES);
    expect(guest.ioctl(BIND, bindLayout, values(guest)).result).toBe(EACCES);
    owner.memory.write(owner.argument + 100n, new Uint8Array(16).fill(3));
    expect(owner.ioctl(BIND, bindLayout, values(owner)).result).toBe(0);
    guest.memory.write(guest.argument + 100n, new Uint8Array(16).fill(3));
    expect(guest.ioctl(BIND, bindLayout, values(guest)).result).toBe(0);
  });

  test('at every failpoint leaves nothing behind', () => {
    for (let nth = 1; ; nth++) {
      const user = new Machine().user();
      const { kernel, frames } = user.machine;
      user.memory.write(user.argument, new Uint8Array(24));
      const allocated = frames.allocated;
      kernel.failpoints.arm(nth);
      const { result } = user.ioctl(BIND, bindLayout, { iommufd: user.iommufd.fd });
      const { hit } = kernel.failpoints;
      kernel.failpoints.arm(0);
      if (hit === null) {
        expect([result, nth > 1]).toEqual([0, true]);
        return;
      }
      expect([hit, result]).toEqual([hit, -12]);
      expect(frames.allocated).toBe(allocated);
      expect(user.machine.devices[0]!.group.owner).toBe(null);
      expect(user.ioctl(BIND, bindLayout, { iommufd: user.iommufd.fd }).result).toBe(0);
    }
  });
});

describe('ATTACH_IOMMUFD_PT and DETACH_IOMMUFD_PT', () => {
  test('give the table, with and without PASID', () => {
    const user = new Machine().user();
    const deviceId = user.vfio.bind(user.iommufd.fd);
    const { ioasId } = user.mappedIoas();
    const ptId = user.iommufd.hwptAllocPaging({ deviceId, ioasId, pasid: true });
    expect(user.ioctl(ATTACH, attachLayout, { argsz: 12, ptId }).reply.ptId).toBe(ptId);
    const { result, reply } = user.ioctl(ATTACH, attachLayout, { flags: 1, ptId, pasid: 9 });
    expect([result, reply.ptId]).toEqual([0, ptId]);
    expect(user.ioctl(DETACH, detachLayout, { flags: 1, pasid: 9 }).result).toBe(0);
    expect(user.ioctl(DETACH, detachLayout, { flags: 1, pasid: 9 }).result).toBe(0);
    const other = user.ioctl(ATTACH, attachLayout, { ptId: ioasId });
    expect([other.result, other.reply.ptId !== ioasId]).toEqual([0, true]);
    expect(user.ioctl(DETACH, detachLayout, { argsz: 8 }).result).toBe(0);
  });

  test('refuse', () => {
    const user = bound();
    const { ioasId } = user.mappedIoas();
    const attach = (values: object) => user.ioctl(ATTACH, attachLayout, { ptId: ioasId, ...values }).result;
    expect(attach({ argsz: 11 })).toBe(EINVAL);
    expect(attach({ argsz: 12, flags: 1, pasid: 1 })).toBe(EINVAL);
    expect(attach({ flags: 2 })).toBe(EINVAL);
    expect(attach({ flags: 1, pasid: 0 })).toBe(EINVAL);
    expect(attach({ ptId: 12345 })).toBe(-2);
    expect(user.system.ioctl(user.vfio.fd, ATTACH, 0x1000)).toBe(EFAULT);
    const detach = (values: object) => user.ioctl(DETACH, detachLayout, values).result;
    expect(detach({ argsz: 7 })).toBe(EINVAL);
    expect(detach({ argsz: 11, flags: 1 })).toBe(EINVAL);
    expect(detach({ flags: 2 })).toBe(EINVAL);
  });

  test('an attach that cannot answer has not happened', () => {
    const user = bound();
    const { ioasId } = user.mappedIoas();
    const bytes = new Uint8Array(attachLayout.size);
    attachLayout.write({ argsz: 16, flags: 0, ptId: ioasId, pasid: 0 }, bytes);
    expect(user.system.ioctl(user.vfio.fd, ATTACH, readOnly(user, bytes))).toBe(EFAULT);
    expect(user.machine.processes.counts.pinned).toBe(0);
    user.iommufd.destroy(ioasId);
  });
});

describe('information', () => {
  test('GET_INFO answers as much as was asked', () => {
    const user = bound();
    const full = user.ioctl(uapi.VFIO_DEVICE_GET_INFO, infoLayout, { capOffset: 7, pad: 7 });
    expect([full.result, full.reply]).toEqual([
      0,
      { argsz: 24, flags: 3, numRegions: 9, numIrqs: 5, capOffset: 0, pad: 0 },
    ]);
    const short = user.ioctl(uapi.VFIO_DEVICE_GET_INFO, infoLayout, { argsz: 16, capOffset: 7, pad: 7 });
    expect([short.result, short.reply.numIrqs, short.reply.capOffset]).toEqual([0, 5, 7]);
    expect(user.ioctl(uapi.VFIO_DEVICE_GET_INFO, infoLayout, { argsz: 15 }).result).toBe(EINVAL);
  });

  test('GET_REGION_INFO gives offsets, sizes and, when there is room, capabilities', () => {
    const user = bound();
    const request = uapi.VFIO_DEVICE_GET_REGION_INFO;
    const regions = [0, 1, 2, 6, 7].map((index) => user.ioctl(request, regionLayout, { index }).reply);
    expect(regions.map(({ flags, size, offset }) => [flags, size, offset >> 40n])).toEqual([
      [15, 0x10000n, 0n],
      [0, 0n, 1n],
      [0, 0n, 2n],
      [0, 0n, 6n],
      [3, 4096n, 7n],
    ]);
    expect([regions[0]!.argsz, regions[0]!.capOffset]).toEqual([40, 0]);
    const { reply, bytes } = user.ioctl(request, regionLayout, { index: 0, argsz: 40 }, new Uint8Array(8));
    expect([reply.argsz, reply.capOffset]).toEqual([40, 32]);
    expect([...bytes.subarray(32)]).toEqual([3, 0, 1, 0, 0, 0, 0, 0]);
    for (const index of [8, 9, 0xffffffff]) expect(user.ioctl(request, regionLayout, { index }).result).toBe(EINVAL);
    expect(user.ioctl(request, regionLayout, { argsz: 31 }).result).toBe(EINVAL);
  });

  test('GET_REGION_INFO lists what can be mapped around a trapped table', () => {
    const user = new Machine({ msixTable: 'trapped' }).user();
    user.vfio.bind(user.iommufd.fd);
    const request = uapi.VFIO_DEVICE_GET_REGION_INFO;
    const short = user.ioctl(request, regionLayout, { index: 0 });
    expect([short.reply.argsz, short.reply.capOffset, short.reply.flags]).toEqual([80, 0, 15]);
    const { reply, bytes } = user.ioctl(request, regionLayout, { index: 0 }, new Uint8Array(48));
    expect(reply.capOffset).toBe(32);
    expect(uapi.vfioRegionSparseMmap.read(bytes, 32)).toEqual({ id: 1, version: 1, next: 0, nrAreas: 2, reserved: 0 });
    expect(uapi.vfioRegionSparseMmapArea.read(bytes, 64)).toEqual({ offset: 0x2000n, size: 0xe000n });
  });
});

describe('anything at all', () => {
  test('an unknown request is ENOTTY', () => {
    const user = bound();
    for (const request of [0x3b64, 0x3b70, 0x3b79, 0x3b80, 0, -1, 0x40003b6b]) {
      expect([request, user.system.ioctl(user.vfio.fd, request, user.argument)]).toEqual([request, ENOTTY]);
    }
    expect(user.system.ioctl(user.vfio.fd, uapi.VFIO_DEVICE_RESET, 0)).toBe(0);
  });

  const requests = [BIND, ATTACH, DETACH, 0x3b6b, 0x3b6c, 0x3b6d, 0x3b6e, 0x3b6f];
  const word = fc.oneof(fc.nat(40), fc.constantFrom(0xffffffff, 0x80000000, 0x7fffffff), fc.nat(0xffffffff));

  test('hostile structures give an errno, never more, and closing leaves nothing', () => {
    const machine = new Machine();
    const { allocated } = machine.frames;
    fc.assert(
      fc.property(
        fc.boolean(),
        fc.array(
          fc.record({
            request: fc.constantFrom(...requests),
            words: fc.array(word, { minLength: 8, maxLength: 8 }),
            at: fc.constantFrom(0n, 2n * BigInt(PAGE) - 32n, 2n * BigInt(PAGE) - 12n, 1n << 63n),
          }),
          { maxLength: 12 },
        ),
        (bind, calls) => {
          const user = machine.user();
          if (bind) user.bindAndAttach();
          for (const { request, words, at } of calls) {
            const bytes = new Uint8Array(Uint32Array.from(words).buffer);
            const argument = at >> 63n === 0n ? user.argument + at : at;
            const room = Number(user.argument + 2n * BigInt(PAGE) - argument);
            if (at >> 63n === 0n) user.memory.write(argument, bytes.subarray(0, Math.min(32, room)));
            const result = user.system.ioctl(user.vfio.fd, request, argument);
            expect(result <= 0 && result > -134).toBe(true);
          }
          user.system.exit();
          expect(machine.frames.allocated).toBe(allocated);
          expect(machine.processes.counts.pinned).toBe(0);
        },
      ),
      { numRuns: 150 },
    );
  });
});
