/** One BAR of an open device: accesses through the file, and windows in processes (Linux: vfio_pci_rdwr.c, vfio_pci_core.c). */

import { PAGE_SIZE } from '@iommukit/hw';
import { DeviceMemory, type PciDevice, type PciResource, SysError } from '@iommukit/iommu-core';
import type { Mapping } from '@iommukit/iommufd';

/** A closed interval of byte offsets in a BAR. */
export type BarRange = { readonly first: number; readonly last: number };

/** What of a BAR is reached through the file alone. */
export type TrappedPart = 'nothing' | 'table' | 'all';

export class BarRegion {
  readonly resource: PciResource;
  readonly size: number;
  /** What can be mapped: everything, what lies around the pages of the MSI-X table, or nothing. */
  readonly windows: readonly BarRange[];
  private readonly device: PciDevice;
  private readonly table: BarRange | null;
  private readonly memory: DeviceMemory;
  private readonly memoryEnabled: () => boolean;
  private readonly directStores: boolean;

  /** `trapped` is kept out of the windows, the MSI-X table with its pages. */
  constructor(device: PciDevice, resource: PciResource, memoryEnabled: () => boolean, trapped: TrappedPart) {
    this.device = device;
    this.resource = resource;
    this.size = Number(resource.size);
    this.memoryEnabled = memoryEnabled;
    this.directStores = trapped === 'all';
    const { msix } = device;
    const start = msix?.tableBar === resource.bar ? msix.tableOffset : -1;
    this.table = start < 0 ? null : { first: start, last: start + 16 * msix!.vectors - 1 };
    const hole = trapped === 'table' ? this.table : null;
    this.windows = trapped === 'all' || this.size % PAGE_SIZE !== 0 ? [] : windowsAround(this.size, hole);
    const base = Number(resource.address / BigInt(PAGE_SIZE));
    this.memory = new DeviceMemory((index) => (memoryEnabled() ? base + index : -1));
  }

  /** True when the MSI-X table lies in this BAR. */
  get holdsTable(): boolean {
    return this.table !== null;
  }

  /** Reads up to the end of the BAR; the MSI-X table reads as ones. Gives the bytes read. @throws {SysError} EINVAL past the end; EIO memory decode is off */
  read(offset: number, into: Uint8Array): number {
    return this.access('read', offset, into, (address, chunk) => {
      if (address < 0) chunk.fill(0xff);
      else this.device.kernel.memory.read(this.resource.address + BigInt(address), chunk);
    });
  }

  /**
   * Writes up to the end of the BAR; the MSI-X table takes nothing. 64 bytes at a multiple of 64 are one store, as by
   * MOVDIR64B, where no mapping could make it. Gives the bytes written. @throws {SysError} EINVAL, EIO
   */
  write(offset: number, from: Uint8Array): number {
    return this.access('write', offset, from, (address, chunk) => {
      if (address < 0) return;
      const { memory } = this.device.kernel;
      const to = this.resource.address + BigInt(address);
      if (this.directStores && chunk.length === 64 && address % 64 === 0) memory.store64(to, chunk);
      else memory.write(to, chunk);
    });
  }

  /** [offset, offset + length), whole pages, to be mapped into a process. @throws {SysError} EINVAL not within one window */
  mmap(offset: number, length: bigint): Mapping {
    const last = BigInt(offset) + length - 1n;
    const inside = this.windows.some((window) => offset >= window.first && last <= BigInt(window.last));
    if (inside) return { backing: this.memory, offset: BigInt(offset) };
    throw new SysError('EINVAL', 'mmap', `BAR ${this.resource.bar}: ${offset}..${last} cannot be mapped`);
  }

  /** Takes the windows out of every process until memory decode is found on again. */
  revoke(): void {
    this.memory.revoke();
  }

  /** `move` gets the offset of each part and its bytes; -1 for the MSI-X table. */
  private access(
    call: string,
    offset: number,
    buffer: Uint8Array,
    move: (offset: number, chunk: Uint8Array) => void,
  ): number {
    if (offset >= this.size) throw new SysError('EINVAL', call, `${offset} is outside BAR ${this.resource.bar}`);
    if (!this.memoryEnabled()) throw new SysError('EIO', call, `memory decode of ${this.device.name} is off`);
    const count = Math.min(buffer.length, this.size - offset);
    const cuts = [offset, offset + count];
    if (this.table !== null) cuts.push(this.table.first, this.table.last + 1);
    cuts.sort((a, b) => a - b);
    for (let i = 1; i < cuts.length; i++) {
      const start = Math.max(cuts[i - 1]!, offset);
      const end = Math.min(cuts[i]!, offset + count);
      if (start >= end) continue;
      const trapped = this.table !== null && start >= this.table.first && start <= this.table.last;
      move(trapped ? -1 : start, buffer.subarray(start - offset, end - offset));
    }
    return count;
  }
}

/** What of `size` bytes lies outside the pages that `hole` touches. */
function windowsAround(size: number, hole: BarRange | null): BarRange[] {
  if (hole === null) return [{ first: 0, last: size - 1 }];
  const first = Math.floor(hole.first / PAGE_SIZE) * PAGE_SIZE;
  const end = (Math.floor(hole.last / PAGE_SIZE) + 1) * PAGE_SIZE;
  const windows: BarRange[] = [];
  if (first > 0) windows.push({ first: 0, last: first - 1 });
  if (end < size) windows.push({ first: end, last: size - 1 });
  return windows;
}
