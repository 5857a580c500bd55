import { readTable } from '@iommukit/uapi';
import { expect, test } from 'vitest';
import { requestName } from '../src/request-names.ts';
import { formatCall } from '../src/trace.ts';

/** Where the requests of linux/vfio.h are made, by how they are called. */
const files: readonly (readonly [RegExp, string])[] = [
  [/^VFIO_GROUP_/, '/dev/vfio/12'],
  [/^VFIO_DEVICE_/, '/dev/vfio/devices/vfio3'],
  [/^VFIO_(GET_API_VERSION|CHECK_EXTENSION|SET_IOMMU|IOMMU_(?!SPAPR))/, '/dev/vfio/vfio'],
];

test('every request of the kernel’s headers has its name', () => {
  const { requests } = readTable('iommufd');
  for (const [name, number] of Object.entries(requests)) expect(requestName('/dev/iommu', number)).toBe(name);
  let named = 0;
  for (const [name, number] of Object.entries(readTable('vfio').requests)) {
    const file = files.find(([pattern]) => pattern.test(name))?.[1];
    if (file === undefined) continue;
    expect(requestName(file, number)).toBe(name);
    named++;
  }
  expect(named).toBe(27);
});

test('a number that means different things is named by the file, and one without name stays a number', () => {
  expect(requestName('/dev/vfio/vfio', 0x3b70)).toBe('VFIO_IOMMU_GET_INFO');
  expect(requestName('/dev/iommu', 0x3b70)).toBe('VFIO_IOMMU_GET_INFO');
  expect(requestName('/dev/vfio/devices/vfio0', 0x3b70)).toBe('VFIO_DEVICE_GET_PCI_HOT_RESET_INFO');
  expect(requestName('/dev/vfio/devices/vfio0', 0x3b85)).toBe('0x3b85');
  expect(requestName('', 0x5401)).toBe('0x5401');
  const call = { kind: 'ioctl', file: 1, request: 0x3b81, argument: 0x7ffcn } as const;
  expect(formatCall(7, call, '/dev/iommu', 0, null).trim()).toBe(
    'call     [7] ioctl(/dev/iommu, IOMMU_IOAS_ALLOC, 0x7ffc) = 0',
  );
});
