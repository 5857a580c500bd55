/**
 * A dma-buf: memory that one driver lends to others as a file, here one stretch of adjoining frames, which its owner can
 * take away while others use it (Linux: include/linux/dma-buf.h; what iommufd accepts of them,
 * drivers/iommu/iommufd/pages.c).
 */

import { PAGE_SIZE } from '@iommukit/hw';
import { SysError } from '@iommukit/iommu-core';
import type { File } from './file.ts';

export type DmaBufOptions = {
  /** First frame. */
  pfn: number;
  /** How many. */
  frames: number;
  /** The file is closed and nobody uses the memory any more. */
  onRelease?: () => void;
};

export class DmaBuf implements File {
  readonly name = '/dmabuf:';
  readonly pfn: number;
  readonly frames: number;
  private readonly onRelease: () => void;
  private readonly importers = new Set<() => void>();
  private holders = 1;
  private gone = false;

  constructor(options: DmaBufOptions) {
    this.pfn = options.pfn;
    this.frames = options.frames;
    this.onRelease = options.onRelease ?? (() => {});
  }

  /** Bytes. */
  get size(): number {
    return this.frames * PAGE_SIZE;
  }

  get revoked(): boolean {
    return this.gone;
  }

  /**
   * Uses the memory until the function given back is called. `onRevoke` is called when it is taken away: no device may
   * reach it when that returns. @throws {SysError} ENODEV it has been taken away
   */
  attach(onRevoke: () => void): () => void {
    if (this.gone) throw new SysError('ENODEV', 'dma_buf_attach', 'the dma-buf is revoked');
    // A wrapper of its own tells apart importers that share one function.
    const importer = (): void => onRevoke();
    this.importers.add(importer);
    this.holders++;
    return () => {
      if (this.importers.delete(importer)) this.put();
    };
  }

  /** Takes the memory away from everybody who uses it. */
  revoke(): void {
    if (this.gone) return;
    this.gone = true;
    for (const importer of this.importers) importer();
  }

  /** Lends the memory again, to those who attach from now on. */
  restore(): void {
    this.gone = false;
  }

  release(): void {
    this.put();
  }

  private put(): void {
    if (--this.holders === 0) this.onRelease();
  }
}
