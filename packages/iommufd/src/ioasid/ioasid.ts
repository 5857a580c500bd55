/**
 * One I/O address space of an open /dev/ioasid, by its handle: an IOAS, or a table of its user's on the parent's, and
 * the hardware page table that its devices reach. The hardware page table is there while a device is attached or
 * allowed, or a child's table is nested on it; before, the handle is, in the proposal's words, just a number.
 */

import { type AddressSpace, type Device, type FaultGroup, SysError } from '@iommukit/iommu-core';
import { FaultQueue } from '../fault-queue.ts';
import { allocNested, allocPaging, type Hwpt, type HwptNested, type HwptPaging } from '../hwpt.ts';
import type { Ioas } from '../ioas/ioas.ts';
import { ioasAlloc } from '../ioas/ioas-commands.ts';
import { IOMMU_HWPT_ALLOC_NEST_PARENT, IOMMU_HWPT_ALLOC_PASID, IOMMU_HWPT_FAULT_ID_VALID } from '../uapi/iommufd.ts';
import type { IoasidContext } from './ioasid-context.ts';
import { checkTable, encodeTable, type UserTable } from './user-table.ts';
import { outside, Windows } from './windows.ts';

const CALL = 'ioasid_table';

/** Levels of nesting, the root included. Hardware has two; software can go on, at work that each level multiplies. */
export const IOASID_MAX_LEVELS = 4;

export type IoasidOptions = {
  readonly parent: Ioasid | null;
  /** User-managed from the start; else the kernel fills the table. */
  readonly table: UserTable | null;
  /** The address space is a process's own. */
  readonly shared: AddressSpace | null;
  /** Takes only devices that can be made to snoop caches. */
  readonly enforceSnoop: boolean;
  /** Page requests are read from the file. */
  readonly faults: boolean;
};

export class Ioasid {
  readonly context: IoasidContext;
  readonly handle: number;
  readonly parent: Ioasid | null;
  /** Levels above: 0 is a root. */
  readonly depth: number;
  readonly children: Set<Ioasid> = new Set();
  readonly enforceSnoop: boolean;
  readonly shared: AddressSpace | null;
  /** What the kernel maps here; null when it never does. */
  readonly ioas: Ioas | null;
  /** What a kernel-managed child maps, in its parent's addresses. */
  readonly windows: Windows | null;
  private takesFaults: boolean;
  private bound: UserTable | null;
  private paging: HwptPaging | null = null;
  private nested: HwptNested | null = null;
  private queue: FaultQueue | null = null;

  /** @throws {SysError} EINVAL the parent is on the last of IOASID_MAX_LEVELS; ENOMEM */
  constructor(context: IoasidContext, handle: number, options: IoasidOptions) {
    const { parent, table, shared } = options;
    this.context = context;
    this.handle = handle;
    this.parent = parent;
    this.depth = parent === null ? 0 : parent.depth + 1;
    if (this.depth >= IOASID_MAX_LEVELS) {
      throw new SysError('EINVAL', 'IOASID_ALLOC', `IOASID ${parent!.handle} is nested ${parent!.depth} levels deep`);
    }
    this.enforceSnoop = options.enforceSnoop;
    this.takesFaults = options.faults;
    this.shared = shared;
    this.bound = table;
    this.ioas = table === null && shared === null ? ioasAlloc(context.iommufd, 0) : null;
    this.windows = this.ioas !== null && parent !== null ? new Windows() : null;
    parent?.children.add(this);
  }

  /** The user's table that is bound here, or null. */
  get userTable(): UserTable | null {
    return this.bound;
  }

  /** What devices here reach; null while none has been here. */
  get table(): Hwpt | null {
    return this.bound === null ? this.paging : this.nested;
  }

  get faults(): FaultQueue | null {
    return this.queue;
  }

  /** True for `ancestor` itself as well. */
  isWithin(ancestor: Ioasid): boolean {
    return this === ancestor || (this.parent?.isWithin(ancestor) ?? false);
  }

  /**
   * The hardware page table for `device`, made when there is none. Whoever calls uses it, or trims.
   * @throws {SysError} EINVAL another IOMMU than the table's, or a format it does not have; EOPNOTSUPP no nesting;
   * EADDRINUSE what is mapped does not fit; EFAULT, ENOMEM; and the driver's errors
   */
  prepare(device: Device): Hwpt {
    if (this.bound === null) return this.preparePaging(device);
    this.nested ??= this.makeNested(this.bound, this.takesFaults, device);
    return this.checkDriver(this.nested, device);
  }

  /**
   * Puts a user's table in the place of what devices here reach, without a moment of neither. On failure nothing changes.
   * @throws {SysError} EBUSY windows are mapped; and as `prepare`
   */
  bind(table: UserTable, faults: boolean, device: Device): void {
    if (this.windows !== null && this.windows.size > 0) {
      throw new SysError('EBUSY', 'IOASID_BIND_PGTABLE', `IOASID ${this.handle} has ${this.windows.size} mappings`);
    }
    const old = this.nested;
    const made = this.makeNested(table, faults, device);
    try {
      this.context.routes.move(this, made, this.table!);
    } catch (error) {
      this.context.iommufd.objects.destroy(made.id);
      this.trim();
      throw error;
    }
    this.bound = table;
    this.nested = made;
    this.takesFaults = faults;
    if (old !== null) this.context.iommufd.objects.destroy(old.id);
    this.trim();
  }

  /** Back to a table that the kernel fills, and that is empty. On failure nothing changes. @throws {SysError} as `prepare` */
  unbind(device: Device): void {
    const { takesFaults } = this;
    this.takesFaults = false;
    try {
      this.context.routes.move(this, this.preparePaging(device), this.nested!);
    } catch (error) {
      this.takesFaults = takesFaults;
      this.trim();
      throw error;
    }
    this.bound = null;
    this.trim();
  }

  /** Gives up what nothing uses any more, here and above. Never fails. */
  trim(): void {
    for (let level: Ioasid | null = this; level !== null; level = level.parent) level.trimOwn();
  }

  /** The handle is gone, and no device or child is here. Never fails. */
  destroy(): void {
    this.parent?.children.delete(this);
    this.trim();
    if (this.ioas !== null) this.context.iommufd.objects.destroy(this.ioas.id);
  }

  private trimOwn(): void {
    const { objects } = this.context.iommufd;
    const keep = this.context.devicesAt(this).length > 0 ? this.table : null;
    const unused = (table: Hwpt | null): table is Hwpt => table !== null && table !== keep && table.users === 1;
    if (unused(this.nested)) {
      objects.destroy(this.nested.id);
      this.nested = null;
    }
    if (unused(this.paging)) {
      objects.destroy(this.paging.id);
      this.paging = null;
    }
    if (this.queue?.users === 1) {
      objects.destroy(this.queue.id);
      this.queue = null;
    }
  }

  /**
   * A table that the kernel fills: one to nest on when the IOMMU has that and no mapping forbids it, as read-only ones
   * do on VT-d.
   */
  private preparePaging(device: Device): HwptPaging {
    if (this.ioas === null) throw new SysError('EINVAL', CALL, `IOASID ${this.handle} is not the kernel's to fill`);
    if (this.paging === null && this.mayNest) {
      try {
        this.paging = this.makePaging(device, IOMMU_HWPT_ALLOC_NEST_PARENT);
      } catch (error) {
        if (!(error instanceof SysError) || (error.code !== 'EOPNOTSUPP' && error.code !== 'EINVAL')) throw error;
      }
    }
    this.paging ??= this.makePaging(device, this.takesFaults ? IOMMU_HWPT_FAULT_ID_VALID : 0);
    return this.checkDriver(this.paging, device);
  }

  /** In version 1 only a root has children. */
  private get mayNest(): boolean {
    return !this.takesFaults && (this.parent === null || this.context.rules === 'v2');
  }

  private makePaging(device: Device, flags: number): HwptPaging {
    const { iommufd } = this.context;
    const hwpt = allocPaging(iommufd, this.ioas!, device, flags | IOMMU_HWPT_ALLOC_PASID);
    try {
      this.windows?.checkOutside(CALL, outside(hwpt.domain));
      if (this.takesFaults) this.takeFaults(hwpt);
      return hwpt;
    } catch (error) {
      iommufd.objects.destroy(hwpt.id);
      throw error;
    }
  }

  private makeNested(table: UserTable, faults: boolean, device: Device): HwptNested {
    const { iommufd } = this.context;
    checkTable(CALL, table, device);
    const parent = this.parent!.preparePaging(device);
    if (!parent.domain.nestParent) {
      throw new SysError('EOPNOTSUPP', CALL, `no table can be nested on IOASID ${this.parent!.handle}`);
    }
    const flags = IOMMU_HWPT_ALLOC_PASID | (faults ? IOMMU_HWPT_FAULT_ID_VALID : 0);
    const hwpt = allocNested(iommufd, parent, device, flags, encodeTable(table));
    try {
      if (faults) this.takeFaults(hwpt);
      return hwpt;
    } catch (error) {
      iommufd.objects.destroy(hwpt.id);
      throw error;
    }
  }

  /** Page requests of attachments to `hwpt` go to the fault queue, and the file hears of it. @throws {SysError} ENOMEM */
  private takeFaults(hwpt: Hwpt): void {
    const { iommufd, faults } = this.context;
    const queue = this.queue ?? iommufd.objects.create((id) => new FaultQueue(id, iommufd));
    this.queue = queue;
    hwpt.setFaultQueue(queue);
    hwpt.domain.faultHandler = (group: FaultGroup) => {
      queue.deliver(group);
      faults.arrived(group);
    };
  }

  private checkDriver<H extends Hwpt>(hwpt: H, device: Device): H {
    if (hwpt.domain.driver === device.driver) return hwpt;
    throw new SysError(
      'EINVAL',
      CALL,
      `IOASID ${this.handle} has a table of another IOMMU than that of ${device.name}`,
    );
  }
}
