/**
 * Capability chains: what an information structure says beyond its fields lies behind it, entry after entry, each naming
 * where the next one starts (Linux: vfio_info_cap_add, drivers/vfio/vfio_main.c).
 */

import { type AddressSpace, copyToUser } from '@iommukit/iommu-core';
import { vfioInfoCapHeader } from './uapi/vfio.ts';

export type InfoCapability = {
  /** VFIO_REGION_INFO_CAP_, VFIO_IRQ_INFO_CAP_ or VFIO_IOMMU_TYPE1_INFO_CAP_. */
  readonly id: number;
  readonly version: number;
  /** What follows the header. */
  readonly data: Uint8Array;
};

const ALIGNMENT = 8;

/** The bytes of a chain that starts at byte `start` of its structure. Entries are padded to a multiple of 8 bytes. */
export function encodeCapabilities(capabilities: readonly InfoCapability[], start: number): Uint8Array {
  const sizes = capabilities.map(({ data }) => roundUp(vfioInfoCapHeader.size + data.length));
  const bytes = new Uint8Array(sizes.reduce((total, size) => total + size, 0));
  let at = 0;
  capabilities.forEach(({ id, version, data }, index) => {
    const end = at + sizes[index]!;
    vfioInfoCapHeader.write({ id, version, next: index + 1 < capabilities.length ? start + end : 0 }, bytes, at);
    bytes.set(data, at + vfioInfoCapHeader.size);
    at = end;
  });
  return bytes;
}

/**
 * Stores a chain behind a structure of `size` bytes at `argument`, if the caller's `argsz` has room for all of it.
 * @returns bytes that structure and chain take, and where the chain starts, 0 when there was no room
 * @throws {SysError} EFAULT
 */
export function storeCapabilities(
  memory: AddressSpace,
  argument: bigint,
  size: number,
  argsz: number,
  capabilities: readonly InfoCapability[],
): { readonly needed: number; readonly capOffset: number } {
  const chain = encodeCapabilities(capabilities, size);
  const needed = size + chain.length;
  if (argsz < needed || chain.length === 0) return { needed, capOffset: 0 };
  copyToUser(memory, argument + BigInt(size), chain);
  return { needed, capOffset: size };
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}
