/** VFIO_IOMMU_GET_INFO on bytes: a structure, and behind it a chain of capabilities for which there may be no room. */

import { type AddressSpace, copyStruct, copyToUser } from '@iommukit/iommu-core';
import type { IommufdContext } from '../context.ts';
import { type Type1Capability, type1Capabilities, type1Info } from '../type1/info.ts';
import * as uapi from '../uapi/type1.ts';

/**
 * Nothing is stored past the caller's `argsz`. Of a capability without room those pieces are stored that fit, but for the
 * first one, which holds the header; the chain is announced only when all of it is there.
 * @throws {SysError} EFAULT; EINVAL `argsz` is too small for the structure; ENODEV no IOAS is set
 */
export function type1GetInfo(context: IommufdContext, memory: AddressSpace, argument: bigint): void {
  const call = 'VFIO_IOMMU_GET_INFO';
  const layout = uapi.vfioIommuType1Info;
  const { argsz } = copyStruct(call, memory, argument, layout, layout.end('iovaPgsizes'));
  const info = type1Info(context.compatIoas.get(call));
  let previous = 0;
  let end = layout.size;
  for (const capability of type1Capabilities(info)) {
    const bytes = encode(capability);
    const room = argsz - end;
    if (room > 0) storePieces(memory, argument + BigInt(end), bytes, capability.pieceSize, room);
    if (previous > 0 && room >= 0) storeNext(memory, argument + BigInt(previous), end);
    previous = end;
    end += Math.ceil(bytes.length / 8) * 8;
  }
  const bytes = new Uint8Array(layout.size);
  const flags = uapi.VFIO_IOMMU_INFO_PGSIZES | uapi.VFIO_IOMMU_INFO_CAPS;
  const capOffset = argsz < end ? 0 : layout.size;
  layout.write({ argsz: end, flags, iovaPgsizes: info.pageSizes, capOffset, pad: 0 }, bytes);
  copyToUser(memory, argument, bytes.subarray(0, Math.min(argsz, layout.size)));
}

/** The last of the chain until another is linked behind it. */
function encode({ id, version, data }: Type1Capability): Uint8Array {
  const { size, write } = uapi.vfioInfoCapHeader;
  const bytes = new Uint8Array(size + data.length);
  write({ id, version, next: 0 }, bytes);
  bytes.set(data, size);
  return bytes;
}

function storePieces(memory: AddressSpace, address: bigint, bytes: Uint8Array, piece: number, room: number): void {
  const fitting = Math.min(bytes.length, room - (room % piece));
  if (fitting > piece) copyToUser(memory, address + BigInt(piece), bytes.subarray(piece, fitting));
  if (fitting === bytes.length) copyToUser(memory, address, bytes.subarray(0, piece));
}

function storeNext(memory: AddressSpace, header: bigint, next: number): void {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, next, true);
  copyToUser(memory, header + BigInt(uapi.vfioInfoCapHeader.offset('next')), bytes);
}
