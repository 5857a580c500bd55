/**
 * An access to an IOAS that a program drives through IOMMU_TEST_CMD (Linux: struct selftest_access,
 * drivers/iommu/iommufd/selftest.c). It is a file: the access goes with its last descriptor, and the context not before.
 */

import { hex } from '@iommukit/hw';
import { type Kernel, type PfnRuns, SysError } from '@iommukit/iommu-core';
import { type Access, type AccessOps, createAccess } from '../access.ts';
import type { IommufdContext } from '../context.ts';
import type { Descriptors, File } from '../files/file.ts';

/** Pages that the access pinned with one call. */
type Item = { readonly id: number; readonly iova: bigint; readonly length: bigint };

export class TestAccess implements File, AccessOps {
  readonly name = 'anon_inode:[iommufd_test_staccess]';
  readonly needsPinPages: boolean;
  readonly access: Access;
  private readonly kernel: Kernel;
  private items: Item[] = [];
  private nextId = 0;

  /** @throws {SysError} ENOMEM */
  constructor(context: IommufdContext, needsPinPages: boolean) {
    this.kernel = context.kernel;
    this.needsPinPages = needsPinPages;
    this.access = createAccess(context, this);
  }

  /**
   * Pins pages until `unpin`, or until they are unmapped. `check` sees their frames before that counts.
   * @returns the number to unpin them by
   * @throws {SysError} as Access.pinPages, and what `check` throws
   */
  pin(iova: bigint, length: bigint, write: boolean, check: (frames: PfnRuns) => void): number {
    const frames = this.access.pinPages(iova, length, write);
    try {
      check(frames);
      this.kernel.checkpoint('iommufd_test_access_item');
    } catch (error) {
      this.access.unpinPages(iova, length);
      throw error;
    }
    const id = this.nextId++;
    this.items.push({ id, iova, length });
    return id;
  }

  /** @throws {SysError} ENOENT nothing is pinned by that number */
  unpin(id: number): void {
    const item = this.items.find((one) => one.id === id);
    if (item === undefined) throw new SysError('ENOENT', 'IOMMU_TEST_CMD', `nothing is pinned as ${id}`);
    this.drop([item]);
  }

  unmap(iova: bigint, length: bigint): void {
    const last = iova + length - 1n;
    this.drop(this.items.filter((item) => item.iova <= last && iova <= item.iova + item.length - 1n));
  }

  release(): void {
    this.access.close();
  }

  private drop(gone: readonly Item[]): void {
    this.items = this.items.filter((item) => !gone.includes(item));
    for (const { iova, length } of gone) this.access.unpinPages(iova, length);
  }
}

/** The access behind a descriptor. @throws {SysError} EBADFD it is not open, or another file */
export function testAccessOf(descriptors: Descriptors, fd: number): TestAccess {
  let file: File | null = null;
  try {
    file = descriptors.get(fd);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
  }
  if (file instanceof TestAccess) return file;
  throw new SysError('EBADFD', 'IOMMU_TEST_CMD', `descriptor ${hex(fd)} is no access`);
}
