/**
 * Structures that a user has for a driver of one IOMMU family, and how a driver gets at them (Linux: struct
 * iommu_user_data and struct iommu_user_data_array with their copy helpers, include/linux/iommu.h).
 */

import { SysError } from './errno.ts';
import type { Fields, Struct, StructValues } from './struct.ts';

/** A user's structure: its type, its length in bytes, and how to get at it. */
export type UserData = {
  readonly type: number;
  readonly length: number;
  /** @throws {SysError} EFAULT */
  read(): Uint8Array;
};

/** A user's structure that the driver answers in as well. */
export type UserReply = UserData & {
  /** Stores the first `length` of `bytes`. @throws {SysError} EFAULT */
  write(bytes: Uint8Array): void;
};

/** A user's array of structures of one type. */
export type UserArray = {
  readonly type: number;
  /** Bytes of one entry; not 0 when there are entries. */
  readonly entryLength: number;
  readonly count: number;
  /** The bytes of `count` entries from entry `first`. @throws {SysError} EFAULT */
  read(first: number, count: number): Uint8Array;
};

/**
 * The structure in `data`, which has to reach to the field `last`; what it does not have is zero.
 * @throws {SysError} EINVAL another type, too short, or longer than `layout`; EFAULT
 */
export function readUserData<F extends Fields>(
  call: string,
  data: UserData,
  type: number,
  layout: Struct<F>,
  last: keyof F,
): StructValues<F> {
  checkData(call, data, type, layout, last);
  const bytes = new Uint8Array(layout.size);
  bytes.set(data.read());
  return layout.read(bytes);
}

/** Stores as much of a structure as the user has room for. @throws {SysError} as `readUserData` */
export function writeUserData<F extends Fields>(
  call: string,
  data: UserReply,
  type: number,
  layout: Struct<F>,
  last: keyof F,
  values: StructValues<F>,
): void {
  checkData(call, data, type, layout, last);
  const bytes = new Uint8Array(layout.size);
  layout.write(values, bytes);
  data.write(bytes.subarray(0, data.length));
}

/**
 * A whole array, fetched before anything is made of it, as `count` structures of `size` bytes one after the other.
 * Shorter entries are filled up with zeros, longer ones must be zero behind `size` bytes.
 * @throws {SysError} EINVAL another type, or no entries; E2BIG; EFAULT
 */
export function readUserArray(call: string, array: UserArray, type: number, size: number): Uint8Array {
  const { entryLength, count } = array;
  if (array.type !== type || count === 0) {
    throw new SysError('EINVAL', call, `${count} entries of type ${array.type}, where the driver has ${type}`);
  }
  if (entryLength === size) return array.read(0, count);
  const bytes = new Uint8Array(count * size);
  for (let index = 0; index < count; index++) {
    const entry = array.read(index, 1);
    if (entry.subarray(size).some((byte) => byte !== 0)) {
      throw new SysError('E2BIG', call, `entry ${index} is not zero behind ${size} bytes`);
    }
    bytes.set(entry.subarray(0, size), index * size);
  }
  return bytes;
}

function checkData<F extends Fields>(
  call: string,
  data: UserData,
  type: number,
  layout: Struct<F>,
  last: keyof F,
): void {
  if (data.type !== type) throw new SysError('EINVAL', call, `data of type ${data.type}, not ${type}`);
  if (data.length < layout.end(last) || data.length > layout.size) {
    throw new SysError('EINVAL', call, `${data.length} bytes of data of type ${type}`);
  }
}
