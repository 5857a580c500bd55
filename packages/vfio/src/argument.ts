/** Structures in the caller's memory that start with their size. */

import { type AddressSpace, SysError } from '@iommukit/iommu-core';
import { copyFromUser, copyToUser, type Fields, type Struct, type StructValues } from '@iommukit/iommufd';

/** Reads a structure up to and including the field `last`; what lies behind it is zero. @throws {SysError} EFAULT, EINVAL */
export function fetch<F extends Fields>(
  call: string,
  memory: AddressSpace,
  argument: bigint,
  layout: Struct<F>,
  last: keyof F,
): StructValues<F> & { argsz: number } {
  const bytes = new Uint8Array(layout.size);
  bytes.set(copyFromUser(memory, argument, layout.end(last)));
  const argsz = new DataView(bytes.buffer).getUint32(0, true);
  if (argsz < layout.end(last)) throw new SysError('EINVAL', call, `argsz ${argsz} is below ${layout.end(last)}`);
  return { ...layout.read(bytes), argsz };
}

/** @throws {SysError} EFAULT */
export function storeU32(memory: AddressSpace, address: bigint, value: number): void {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  copyToUser(memory, address, bytes);
}

/** Stores the first `length` bytes of a structure. @throws {SysError} EFAULT */
export function storeStruct<F extends Fields>(
  memory: AddressSpace,
  argument: bigint,
  layout: Struct<F>,
  values: StructValues<F>,
  length: number = layout.size,
): void {
  const bytes = new Uint8Array(layout.size);
  layout.write(values, bytes);
  copyToUser(memory, argument, bytes.subarray(0, length));
}
