/**
 * A device under the control of a context, as drivers of user space attach it: to a hardware page table, or to an IOAS,
 * for which a table is found or made (Linux: iommufd_device_change_pt and relatives, drivers/iommu/iommufd/device.c).
 * What carries the attachments is for the kinds to say: the group of a function (device.ts), or the driver of a mediated
 * device's parent (mediated-device.ts).
 */

import { formatRid, NO_PASID } from '@iommukit/hw';
import { type Device, SysError } from '@iommukit/iommu-core';
import type { IommufdContext } from './context.ts';
import { allocPaging, type Hwpt, HwptNested, HwptPaging, NO_USER_DATA } from './hwpt.ts';
import { Ioas } from './ioas/ioas.ts';
import { IommufdObject, type ObjectDetails } from './object-table.ts';

/** PASIDs that the user of a device can name: 1..count-1, none when 0, with these PASID_ features of requests. */
export type UserPasids = { readonly count: number; readonly features: number };

/** Only the driver that bound it makes it go, with `unbind`. */
export abstract class BoundDevice extends IommufdObject {
  readonly type = 'device';
  readonly context: IommufdContext;
  /** The function whose requests carry the device's DMA. */
  readonly device: Device;
  private readonly holdsContext: boolean;

  /** `holdsContext`: whether the context lives as long as the device is bound, or ends it. */
  constructor(id: number, context: IommufdContext, device: Device, holdsContext = true) {
    super(id);
    this.context = context;
    this.device = device;
    this.holdsContext = holdsContext;
    this.users++;
    if (holdsContext) context.hold();
  }

  abstract readonly pasids: UserPasids;

  /** PASIDs, NO_PASID included, at which the device is attached. */
  protected abstract attachedPasids(): number[];
  protected abstract attachedTo(pasid: number): Hwpt | null;
  /** Takes one use of the table. */
  protected abstract attachTo(hwpt: Hwpt, pasid: number): void;
  /**
   * Refuses what no table that is made for an attachment to `ioas` could be attached for, before it is made and filled:
   * Linux fills such a table when it is attached. @throws {SysError} as `attachTo`
   */
  protected checkAttachFresh(_ioas: Ioas, _pasid: number): void {}
  /** Gives what was attached, with one use of it left; null when it is `hwpt`. */
  protected abstract replaceBy(hwpt: Hwpt, pasid: number): Hwpt | null;
  /** Gives what was attached, with its use left; null when nothing was. Never fails. */
  protected abstract detachFrom(pasid: number): Hwpt | null;

  get uses(): readonly IommufdObject[] {
    return this.attachedPasids().map((pasid) => this.attachedTo(pasid)!);
  }

  override details(): ObjectDetails {
    const attached = this.attachedPasids().map((pasid) => {
      const hwpt = this.attachedTo(pasid)!.id;
      return pasid === NO_PASID ? { hwpt } : { pasid, hwpt };
    });
    return { rid: formatRid(this.device.rid), attached };
  }

  /** Id of the hardware page table attached at `pasid`, or null. */
  attached(pasid: number = NO_PASID): number | null {
    return this.attachedTo(pasid)?.id ?? null;
  }

  /**
   * Attaches the device: to a hardware page table, or to one that is found or made for an IOAS.
   * `pasid` is NO_PASID for requests without PASID.
   * @returns id of the hardware page table
   * @throws {SysError} ENOENT no object `ptId`; EINVAL it is of another type, does not fit the device, its group or
   * its PASIDs; EBUSY attached already; EADDRINUSE areas are where the device reserves regions; EOPNOTSUPP no PASIDs
   * or none for such a table; EFAULT, ENOMEM from filling; and the driver's errors
   */
  attach(ptId: number, pasid: number = NO_PASID): number {
    const attach = (hwpt: Hwpt): null => {
      this.attachTo(hwpt, pasid);
      return null;
    };
    return this.change(ptId, attach, (ioas) => this.checkAttachFresh(ioas, pasid));
  }

  /**
   * Moves the device, and all of its group that is attached at `pasid`, to another table without a moment of neither.
   * On failure nothing changes.
   * @returns id of the hardware page table
   * @throws {SysError} EINVAL not attached; and as `attach`
   */
  replace(ptId: number, pasid: number = NO_PASID): number {
    return this.change(ptId, (hwpt) => this.replaceBy(hwpt, pasid));
  }

  /** DMA with `pasid` is blocked, and page requests are answered, on return. Nothing happens when it was not attached. */
  detach(pasid: number = NO_PASID): void {
    this.put(this.detachFrom(pasid));
  }

  /** Gives the device up: detaches it everywhere and lets it return to the kernel. Never fails. */
  unbind(): void {
    for (const pasid of this.attachedPasids()) this.detach(pasid);
    this.preDestroy();
    this.context.objects.putAndTryDestroy(this);
  }

  /** Ends what stands for the device without being a user of it. Never fails. */
  protected preDestroy(): void {}

  destroy(): void {
    this.emit('device_unbind');
    if (this.holdsContext) this.context.release();
  }

  /** Called by whoever made the object, when it is complete. */
  traceBind(): void {
    this.emit('device_bind');
  }

  private emit(name: 'device_bind' | 'device_unbind'): void {
    const { trace, id: context } = this.context;
    if (trace.enabled) trace.emit({ name, context, device: this.id, rid: this.device.rid });
  }

  /** `check` comes before a table is made. */
  private change(ptId: number, move: (hwpt: Hwpt) => Hwpt | null, check: (ioas: Ioas) => void = () => {}): number {
    const table = this.context.objects.get(ptId, IommufdObject);
    if (table instanceof HwptPaging || table instanceof HwptNested) {
      this.put(move(table));
      return table.id;
    }
    if (table instanceof Ioas) return this.changeToIoas(table, move, check);
    throw new SysError('EINVAL', 'iommufd_device_attach', `a ${table.type} is no page table`);
  }

  /** Tries the tables that were made for this purpose, in order; makes one when none fits. */
  private changeToIoas(ioas: Ioas, move: (hwpt: Hwpt) => Hwpt | null, check: (ioas: Ioas) => void): number {
    for (const hwpt of ioas.hwpts) {
      if (!hwpt.auto) continue;
      try {
        this.put(move(hwpt));
        return hwpt.id;
      } catch (error) {
        if (!(error instanceof SysError) || error.code !== 'EINVAL') throw error;
      }
    }
    check(ioas);
    const fresh = allocPaging(this.context, ioas, this.device, 0, NO_USER_DATA, true);
    try {
      this.put(move(fresh));
    } catch (error) {
      this.context.objects.destroy(fresh.id);
      throw error;
    }
    return fresh.id;
  }

  /** Gives up the use of a table that an attachment had. */
  private put(hwpt: Hwpt | null): void {
    if (hwpt === null) return;
    if (hwpt instanceof HwptPaging && hwpt.auto) this.context.objects.putAndTryDestroy(hwpt);
    else hwpt.users--;
  }
}
