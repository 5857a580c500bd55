/**
 * Memory that is pinned and charged before it is mapped anywhere, once however often it is mapped later: the mpin() of
 * the seed discussion and IOASID_REGISTER_MEMORY of the /dev/ioasid proposal (27 May 2021).
 *
 * Registering makes a pin group, covers it, and maps it in a root at its own user addresses. The root is in no hardware
 * table. Mapping registered memory takes slices of the root's areas, as IOAS_COPY does. Nothing of it can be given back
 * while any area uses the group.
 */

import { hex, PAGE_SIZE } from '@iommukit/hw';
import { type AddressSpace, IOMMU_CACHE, IOMMU_READ, IOMMU_WRITE, type Process, SysError } from '@iommukit/iommu-core';
import type { IommufdContext } from '../context.ts';
import type { Area, PagesSlice } from './area.ts';
import { Ioas } from './ioas.ts';
import { makePages } from './ioas-commands.ts';

/** What one address space has registered: the root, and its areas by address. */
type Root = { readonly ioas: Ioas; readonly areas: Map<bigint, Area> };

export class RegisteredMemory {
  private readonly context: IommufdContext;
  private readonly roots = new Map<AddressSpace, Root>();
  private registrations = 0;

  constructor(context: IommufdContext) {
    this.context = context;
  }

  /** Whether anything has ever been registered here. */
  get everUsed(): boolean {
    return this.registrations > 0;
  }

  /** Ranges registered now. */
  get count(): number {
    return [...this.roots.values()].reduce((count, { areas }) => count + areas.size, 0);
  }

  /**
   * Pins and charges a range of the caller's memory, for writing. Address and length are multiples of 4 KiB.
   * @throws {SysError} EINVAL misaligned or length 0; EOVERFLOW; EEXIST a part is registered; EFAULT memory that is not
   * there or not writable; ENOMEM, RLIMIT_MEMLOCK included
   */
  register(caller: Process, userVa: bigint, length: bigint): void {
    const call = 'register_memory';
    if (((userVa | length) & BigInt(PAGE_SIZE - 1)) !== 0n) {
      throw new SysError('EINVAL', call, `${hex(length)} bytes from ${hex(userVa)} are not whole pages`);
    }
    const { addressSpace } = caller;
    const root = this.roots.get(addressSpace) ?? { ioas: new Ioas(0, this.context), areas: new Map() };
    const slice = makePages(this.context, caller, call, { userVa, length, writable: true });
    const { pages } = slice;
    const lastIndex = Number(length / BigInt(PAGE_SIZE)) - 1;
    let area: Area | undefined;
    try {
      pages.cover(0, lastIndex);
      [area] = root.ioas.table.map([slice], length, userVa, IOMMU_CACHE | IOMMU_READ | IOMMU_WRITE);
    } catch (error) {
      if (pages.pinned > 0) pages.uncover(0, lastIndex);
      pages.put();
      throw error;
    }
    root.ioas.traceArea('ioas_map', area!);
    root.areas.set(userVa, area!);
    this.roots.set(addressSpace, root);
    this.registrations++;
  }

  /**
   * Gives back what one `register` pinned.
   * @throws {SysError} ENOENT no range was registered with this address and length; EBUSY an area uses its pages
   */
  unregister(addressSpace: AddressSpace, userVa: bigint, length: bigint): void {
    const call = 'unregister_memory';
    const root = this.roots.get(addressSpace);
    const area = root?.areas.get(userVa);
    if (root === undefined || area === undefined || area.length !== length) {
      throw new SysError('ENOENT', call, `${hex(length)} bytes from ${hex(userVa)} were not registered as one`);
    }
    const { pages } = area;
    if (pages.users > 1) {
      throw new SysError('EBUSY', call, `pages ${pages.id} at ${hex(userVa)} have ${pages.users - 1} areas`);
    }
    this.drop(root, area);
    if (root.areas.size === 0) this.roots.delete(addressSpace);
  }

  /**
   * The slices of registered pages behind a range, with a reference each that the caller gives on or puts.
   * @throws {SysError} ENOENT a part is not registered; EINVAL length 0; EOVERFLOW; ENOMEM
   */
  slices(addressSpace: AddressSpace, userVa: bigint, length: bigint): PagesSlice[] {
    const root = this.roots.get(addressSpace);
    if (root === undefined) {
      throw new SysError('ENOENT', 'registered_memory', `address space ${addressSpace.id} has registered nothing`);
    }
    return root.ioas.table.slices(userVa, length);
  }

  /** Gives everything back; no area uses any of it. Never fails. */
  clear(): void {
    for (const root of this.roots.values()) for (const area of root.areas.values()) this.drop(root, area);
    this.roots.clear();
  }

  private drop({ ioas, areas }: Root, area: Area): void {
    area.pages.uncover(area.firstIndex, area.lastIndex);
    areas.delete(area.iova);
    ioas.table.unmap(area.iova, area.length, (gone) => ioas.traceArea('ioas_unmap', gone));
  }
}
