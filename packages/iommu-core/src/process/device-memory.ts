/**
 * Device registers, or frames of the kernel, that a process maps (Linux: a VM_PFNMAP region), and that can be taken from
 * it at any time.
 */

import type { Backing, BackingMapper } from './region.ts';

export class DeviceMemory implements Backing {
  readonly isMemory = false;
  private readonly frameOf: (index: number) => number;
  private readonly mappers = new Set<BackingMapper>();

  /** `frameOf` gives the frame of page `index`, or -1 while it may not be used; asked on each fault. */
  constructor(frameOf: (index: number) => number) {
    this.frameOf = frameOf;
  }

  frame(index: number): number {
    return this.frameOf(index);
  }

  mapped(mapper: BackingMapper): void {
    this.mappers.add(mapper);
  }

  unmapped(mapper: BackingMapper): void {
    this.mappers.delete(mapper);
  }

  /** Takes every page out of every process; the next use asks again. Never fails. */
  revoke(): void {
    for (const mapper of [...this.mappers]) mapper.dropPages(this, 0, Number.POSITIVE_INFINITY);
  }
}
