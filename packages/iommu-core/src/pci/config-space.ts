/** Configuration space through ECAM: one 4 KiB frame of registers per function (PCI Express 6.0, section 7.2.2). */

import type { PhysicalMemory } from '@iommukit/hw';
import * as reg from './registers.ts';

export class ConfigSpace {
  private readonly memory: PhysicalMemory;
  private readonly base: bigint;

  /** `ecamBase` is the physical address of bus 0's registers. */
  constructor(memory: PhysicalMemory, ecamBase: bigint, rid: number) {
    this.memory = memory;
    this.base = ecamBase + BigInt(rid) * 4096n;
  }

  /** A naturally aligned register, as an unsigned number. */
  read(offset: number, width: 1 | 2 | 4): number {
    return Number(this.memory.load(this.base + BigInt(offset), width));
  }

  write(offset: number, width: 1 | 2 | 4, value: number): void {
    const wrapped = width === 4 ? value >>> 0 : value & (width === 2 ? 0xffff : 0xff);
    this.memory.store(this.base + BigInt(offset), width, wrapped);
  }

  /** Sets the bits of `set` and clears those of `clear` in a 16-bit register. */
  update16(offset: number, set: number, clear: number): void {
    this.write(offset, 2, (this.read(offset, 2) & ~clear) | set);
  }

  /** Offset of the standard capability `id`, or 0. A chain that loops ends. */
  findCapability(id: number): number {
    if ((this.read(reg.STATUS, 2) & reg.STATUS_CAPABILITIES) === 0) return 0;
    let at = this.read(reg.CAPABILITY_POINTER, 1) & 0xfc;
    for (let hops = 0; at >= 0x40 && hops < 48; hops++) {
      if (this.read(at, 1) === id) return at;
      at = this.read(at + 1, 1) & 0xfc;
    }
    return 0;
  }

  /** Offset of the first extended capability `id`, or 0. A chain that loops ends. */
  findExtendedCapability(id: number): number {
    return this.findExtended(id, () => true);
  }

  /** Offset of the designated vendor-specific capability (DVSEC) `id` of `vendor`, or 0. A chain that loops ends. */
  findVendorCapability(vendor: number, id: number): number {
    return this.findExtended(
      reg.EXT_CAP_DVSEC,
      (at) => this.read(at + reg.DVSEC_VENDOR, 2) === vendor && this.read(at + reg.DVSEC_ID, 2) === id,
    );
  }

  private findExtended(id: number, suits: (at: number) => boolean): number {
    let at = reg.EXTENDED_CAPABILITIES;
    for (let hops = 0; at >= reg.EXTENDED_CAPABILITIES && hops < 960; hops++) {
      const header = this.read(at, 4);
      if (header === 0 || header === 0xffffffff) return 0;
      if ((header & 0xffff) === id && suits(at)) return at;
      at = (header >>> 20) & 0xffc;
    }
    return 0;
  }
}
