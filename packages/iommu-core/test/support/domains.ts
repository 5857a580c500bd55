/** Short ways to make domains and to fill them, with bigint addresses. */

import { high32, joinU64, low32, type PhysicalMemory } from '@iommukit/hw';
import {
  type Domain,
  type FaultGroup,
  IOMMU_READ,
  IOMMU_WRITE,
  type NestedDomain,
  type PagingDomain,
  type UserData,
} from '../../src/index.ts';
import type { TestDevice } from './test-device.ts';

export function pagingDomain(on: TestDevice, flags = 0): PagingDomain {
  return on.device.driver.allocPaging(on.device, 'unmanaged', flags);
}

export function mapPage(
  domain: PagingDomain,
  iova: bigint,
  pfn: number,
  prot: number = IOMMU_READ | IOMMU_WRITE,
): void {
  domain.map(low32(iova), high32(iova), pfn << 12, pfn >>> 20, 4096, prot);
  domain.syncMap(low32(iova), high32(iova), 4096);
}

export function unmapPage(domain: PagingDomain, iova: bigint): number {
  const unmapped = domain.unmap(low32(iova), high32(iova), 4096);
  domain.sync();
  return unmapped;
}

/** Ranges of [iova, iova + bytes) that are dirty, with the domain flushed after a read that clears. */
export function readDirty(domain: PagingDomain, iova: bigint, bytes: number, keep = false): [bigint, number][] {
  const ranges: [bigint, number][] = [];
  domain.dirty!.read(low32(iova), high32(iova), bytes, keep, (lo, hi, length) =>
    ranges.push([joinU64(lo, hi), length]),
  );
  if (!keep) domain.sync();
  return ranges;
}

/** Bytes of struct iommu_hwpt_vtd_s1. */
export function vtdS1(root: bigint, options: { flags?: bigint; width?: number; reserved?: number } = {}): Uint8Array {
  const data = new Uint8Array(24);
  const view = new DataView(data.buffer);
  view.setBigUint64(0, options.flags ?? 0n, true);
  view.setBigUint64(8, root, true);
  view.setUint32(16, options.width ?? 48, true);
  view.setUint32(20, options.reserved ?? 0, true);
  return data;
}

/** Bytes of struct iommu_hwpt_vtd_s1_invalidate. */
export function vtdInvalidate(address: bigint, pages: bigint, flags = 0): Uint8Array {
  const data = new Uint8Array(24);
  const view = new DataView(data.buffer);
  view.setBigUint64(0, address, true);
  view.setBigUint64(8, pages, true);
  view.setUint32(16, flags, true);
  return data;
}

/** A structure that a user handed in. */
export function userData(bytes: Uint8Array, type = 1): UserData {
  return { type, length: bytes.length, read: () => bytes };
}

export function nestedDomain(on: TestDevice, parent: PagingDomain, root: bigint): NestedDomain {
  return on.device.driver.allocNested(on.device, parent, 0, userData(vtdS1(root)));
}

/** Collects the fault groups of a domain. */
export function collectFaults(domain: Domain): FaultGroup[] {
  const groups: FaultGroup[] = [];
  domain.faultHandler = (group) => groups.push(group);
  return groups;
}

const USER_TABLE = 0x07n;
export const LEAF_READ_WRITE = 0x07n;
export const LEAF_READ_ONLY = 0x05n;

/**
 * A guest's x86-64 page table of four levels, built by hand in memory. Guest frame `gfn` lies at host frame
 * `gfn + offset`; the tables take guest frames from `nextGfn` on.
 */
export class GuestTable {
  readonly root: bigint;
  private readonly memory: PhysicalMemory;
  private readonly offset: number;
  private nextGfn: number;
  private readonly rootGfn: number;

  constructor(memory: PhysicalMemory, offset: number, firstGfn: number) {
    this.memory = memory;
    this.offset = offset;
    this.nextGfn = firstGfn;
    this.rootGfn = this.nextGfn++;
    this.root = BigInt(this.rootGfn) << 12n;
  }

  /** Sets the leaf of `gva`; `entry` 0 takes it away. */
  set(gva: bigint, gfn: number, bits: bigint = LEAF_READ_WRITE): void {
    let table = this.rootGfn;
    for (let level = 3; level > 0; level--) {
      const at = this.address(table, gva, level);
      const entry = this.memory.load(at, 8);
      if ((entry & 1n) !== 0n) {
        table = Number(entry >> 12n);
        continue;
      }
      const next = this.nextGfn++;
      this.memory.bytes.fill(0, (next + this.offset) << 12, (next + this.offset + 1) << 12);
      this.memory.store(at, 8, (BigInt(next) << 12n) | USER_TABLE);
      table = next;
    }
    this.memory.store(this.address(table, gva, 0), 8, bits === 0n ? 0n : (BigInt(gfn) << 12n) | bits);
  }

  private address(gfn: number, gva: bigint, level: number): bigint {
    const index = (gva >> BigInt(12 + 9 * level)) & 511n;
    return (BigInt(gfn + this.offset) << 12n) + index * 8n;
  }
}
