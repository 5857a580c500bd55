/**
 * Structures that a user says the size of (Documentation/userspace-api/iommu.rst of Linux 5.17): the size comes first,
 * what precedes the union is mandatory, and what a newer user has behind the kernel's structure is not looked at.
 */

import { SysError } from '../errno.ts';
import type { AddressSpace } from '../process/address-space.ts';
import type { Fields, Struct, StructValues } from '../struct.ts';
import { copyFromUser } from '../user-memory.ts';

/**
 * Copies a structure whose first `minimum` bytes must be there; those that the user does not have are zero. `check` sees
 * these first bytes before any more are fetched.
 * @throws {SysError} EFAULT; EINVAL the user's size is below `minimum`; and what `check` throws
 */
export function copyStruct<F extends Fields & { readonly argsz: 'u32' }>(
  call: string,
  mm: AddressSpace,
  pointer: bigint,
  layout: Struct<F>,
  minimum: number,
  check?: (head: StructValues<F>) => void,
): StructValues<F> {
  const bytes = new Uint8Array(layout.size);
  bytes.set(copyFromUser(mm, pointer, minimum));
  const size = new DataView(bytes.buffer).getUint32(0, true);
  if (size < minimum) throw new SysError('EINVAL', call, `${size} bytes of at least ${minimum}`);
  check?.(layout.read(bytes));
  bytes.set(copyFromUser(mm, pointer + BigInt(minimum), Math.min(size, layout.size) - minimum), minimum);
  return layout.read(bytes);
}
