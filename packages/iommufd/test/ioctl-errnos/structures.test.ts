/** What every command of /dev/iommu says of the structure it is given, before it looks into it. */

import { describe, expect, test } from 'vitest';
import * as uapi from '../../src/uapi/iommufd.ts';
import {
  IOMMU_HW_QUEUE_ALLOC,
  IOMMU_VDEVICE_ALLOC,
  IOMMU_VEVENTQ_ALLOC,
  IOMMU_VIOMMU_ALLOC,
} from '../../src/uapi/viommu.ts';
import { E2BIG, EFAULT, EINVAL, ENOTTY } from '../support/errno.ts';
import { ARGUMENT, Host } from '../support/host.ts';

/** Bytes of the structure, and of its smallest form. */
const COMMANDS: [name: string, request: number, size: number, min: number][] = [
  ['IOMMU_DESTROY', uapi.IOMMU_DESTROY, 8, 8],
  ['IOMMU_IOAS_ALLOC', uapi.IOMMU_IOAS_ALLOC, 12, 12],
  ['IOMMU_IOAS_ALLOW_IOVAS', uapi.IOMMU_IOAS_ALLOW_IOVAS, 24, 24],
  ['IOMMU_IOAS_COPY', uapi.IOMMU_IOAS_COPY, 40, 40],
  ['IOMMU_IOAS_IOVA_RANGES', uapi.IOMMU_IOAS_IOVA_RANGES, 32, 32],
  ['IOMMU_IOAS_MAP', uapi.IOMMU_IOAS_MAP, 40, 40],
  ['IOMMU_IOAS_UNMAP', uapi.IOMMU_IOAS_UNMAP, 24, 24],
  ['IOMMU_OPTION', uapi.IOMMU_OPTION, 24, 24],
  ['IOMMU_VFIO_IOAS', uapi.IOMMU_VFIO_IOAS, 12, 12],
  ['IOMMU_HWPT_ALLOC', uapi.IOMMU_HWPT_ALLOC, 48, 24],
  ['IOMMU_GET_HW_INFO', uapi.IOMMU_GET_HW_INFO, 40, 32],
  ['IOMMU_HWPT_SET_DIRTY_TRACKING', uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, 16, 16],
  ['IOMMU_HWPT_GET_DIRTY_BITMAP', uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, 48, 48],
  ['IOMMU_HWPT_INVALIDATE', uapi.IOMMU_HWPT_INVALIDATE, 32, 32],
  ['IOMMU_FAULT_QUEUE_ALLOC', uapi.IOMMU_FAULT_QUEUE_ALLOC, 16, 16],
  ['IOMMU_IOAS_MAP_FILE', uapi.IOMMU_IOAS_MAP_FILE, 40, 40],
  ['IOMMU_IOAS_CHANGE_PROCESS', uapi.IOMMU_IOAS_CHANGE_PROCESS, 8, 8],
  ['IOMMU_VIOMMU_ALLOC', IOMMU_VIOMMU_ALLOC, 40, 24],
  ['IOMMU_VDEVICE_ALLOC', IOMMU_VDEVICE_ALLOC, 24, 24],
  ['IOMMU_VEVENTQ_ALLOC', IOMMU_VEVENTQ_ALLOC, 32, 28],
  ['IOMMU_HW_QUEUE_ALLOC', IOMMU_HW_QUEUE_ALLOC, 40, 40],
];

/** The result of a call with `size` in the structure's first word, on `length` zero bytes with `tail` as the last. */
function call(request: number, size: number, length: number, tail = 0, at = ARGUMENT): number {
  const host = new Host();
  const bytes = new Uint8Array(length);
  bytes[length - 1] = tail;
  new DataView(bytes.buffer).setUint32(0, size, true);
  host.space.write(at, bytes);
  return host.system.ioctl(host.fd, request, at);
}

describe.each(COMMANDS)('%s', (_name, request, size, min) => {
  test('EFAULT where the structure cannot be read, its size first of all', () => {
    const host = new Host();
    for (const argument of [0n, ARGUMENT - 4n, 2n ** 64n - 4n, 2n ** 64n - 2n]) {
      expect(host.system.ioctl(host.fd, request, argument)).toBe(EFAULT);
    }
    // The size can be read, and what it says is too short, or too long for the memory there is.
    const end = ARGUMENT + 0x10000n;
    expect(call(request, min - 1, 4, 0, end - 4n)).toBe(EINVAL);
    expect(call(request, min, 4, 0, end - 4n)).toBe(EFAULT);
    expect(call(request, size + 1, size, 0, end - BigInt(size))).toBe(EFAULT);
  });

  test('EINVAL for a structure that is too short', () => {
    for (const short of [0, 4, min - 1]) expect(call(request, short, size)).toBe(EINVAL);
  });

  test('E2BIG for bytes behind it that are not zero, and no matter how many are', () => {
    expect(call(request, size + 1, size + 1, 1)).toBe(E2BIG);
    expect(call(request, 9000, 9000, 1)).toBe(E2BIG);
    expect(call(request, size + 1, size + 1)).toBe(call(request, size, size));
    expect(call(request, 9000, 9000)).toBe(call(request, size, size));
  });

  test('ENOTTY with bits of direction or size, once the first word could be read', () => {
    const host = new Host();
    for (const other of [request | 0x4000_0000, request | 0x8_0000, request ^ 0x100]) {
      expect(host.system.ioctl(host.fd, other, ARGUMENT)).toBe(ENOTTY);
      expect(host.system.ioctl(host.fd, other, 0n)).toBe(EFAULT);
    }
  });
});
