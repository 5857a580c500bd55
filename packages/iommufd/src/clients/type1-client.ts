/**
 * The type1 interface of /dev/iommu for programs written in TypeScript: each method is one system call on an open
 * descriptor, and runs the same code as the ioctl of its name.
 */

import { toU64, type U64 } from '@iommukit/hw';
import { Ioas } from '../ioas/ioas.ts';
import { type Type1Info, type1Info } from '../type1/info.ts';
import { type1CheckExtension, type1Map, type1SetIommu, type1Unmap } from '../type1/type1.ts';
import * as uapi from '../uapi/type1.ts';
import { ContextClient } from './context-client.ts';
import type { MapAccess } from './requests.ts';

export type Type1MapRequest = MapAccess & {
  userVa: U64;
  length: U64;
  iova: U64;
};

export class Type1Client extends ContextClient {
  /** Id of the IOAS that the interface works on. @throws {SysError} ENODEV none is set */
  ioas(): number {
    return this.call('IOMMU_VFIO_IOAS', ({ context }) => context.compatIoas.get('IOMMU_VFIO_IOAS').id);
  }

  /** Null: none from now on. @throws {SysError} ENOENT no such IOAS */
  setIoas(ioasId: number | null): void {
    this.call('IOMMU_VFIO_IOAS', ({ context }) => {
      context.compatIoas.set(ioasId === null ? null : context.objects.get(ioasId, Ioas));
    });
  }

  /** @throws {SysError} as `type1CheckExtension` */
  hasExtension(extension: number): boolean {
    return this.call('VFIO_CHECK_EXTENSION', ({ context }) => type1CheckExtension(context, BigInt(extension)) > 0);
  }

  /** Version 2 by default, in which mappings are unmapped as they were made. @throws {SysError} as `type1SetIommu` */
  setIommu(type: number = uapi.VFIO_TYPE1v2_IOMMU): void {
    this.call('VFIO_SET_IOMMU', ({ context }) => type1SetIommu(context, BigInt(type)));
  }

  /** @throws {SysError} ENODEV no IOAS is set */
  info(): Type1Info {
    const call = 'VFIO_IOMMU_GET_INFO';
    return this.call(call, ({ context }) => type1Info(context.compatIoas.get(call)));
  }

  /** Maps memory of the process. @throws {SysError} as `type1Map` */
  map({ userVa, length, iova, readable = true, writable = true }: Type1MapRequest): void {
    let flags = readable ? uapi.VFIO_DMA_MAP_FLAG_READ : 0;
    if (writable) flags |= uapi.VFIO_DMA_MAP_FLAG_WRITE;
    const request = { flags, vaddr: toU64(userVa), iova: toU64(iova), size: toU64(length) };
    this.call('VFIO_IOMMU_MAP_DMA', ({ context, process }) => type1Map(context, process, request));
  }

  /** @returns bytes unmapped, which may be none. @throws {SysError} as `type1Unmap` */
  unmap(iova: U64, length: U64): bigint {
    return this.unmapDma(0, toU64(iova), toU64(length));
  }

  /** @returns bytes unmapped. @throws {SysError} ENODEV no IOAS is set; EBUSY */
  unmapAll(): bigint {
    return this.unmapDma(uapi.VFIO_DMA_UNMAP_FLAG_ALL, 0n, 0n);
  }

  private unmapDma(flags: number, iova: bigint, size: bigint): bigint {
    return this.call('VFIO_IOMMU_UNMAP_DMA', ({ context }) => {
      const { unmapped, failure } = type1Unmap(context, { flags, iova, size });
      if (failure !== null) throw failure;
      return unmapped;
    });
  }
}
