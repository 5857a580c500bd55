/**
 * The attachments of a group that has bound devices: one hardware page table for requests without PASID and one for each
 * PASID, each shared by all devices of the group that asked for it (Linux: struct iommufd_group).
 */

import { NO_PASID, type TraceSink } from '@iommukit/hw';
import {
  type AttachHandle,
  attachDevicePasid,
  attachGroup,
  detachDevicePasid,
  detachGroup,
  type FaultGroup,
  type IommuGroup,
  type ReservedRegion,
  type RidScope,
  replaceDevicePasid,
  replaceGroup,
  routePasid,
  SysError,
  unroutePasid,
} from '@iommukit/iommu-core';
import type { BoundDevice } from './bound-device.ts';
import type { IommufdContext } from './context.ts';
import type { IommufdDevice } from './device.ts';
import type { FaultSource } from './fault-queue.ts';
import type { Hwpt, HwptPaging } from './hwpt.ts';
import type { Ioas } from './ioas/ioas.ts';
import type { IommufdEvent } from './trace.ts';

type Route = { hwpt: Hwpt; handle: FaultSource };
type Attachment = { hwpt: Hwpt; handle: AttachHandle; readonly devices: Set<IommufdDevice> };

export class DeviceGroup {
  readonly group: IommuGroup;
  readonly devices: Set<IommufdDevice> = new Set();
  private readonly context: IommufdContext;
  private readonly trace: TraceSink<IommufdEvent>;
  /** By PASID, NO_PASID included. */
  private readonly attachments = new Map<number, Attachment>();
  /** PASIDs that are routed for whichever devices are authorised, apart from the attachments. */
  private readonly routes = new Map<number, Route>();

  constructor(context: IommufdContext, group: IommuGroup) {
    this.context = context;
    this.trace = context.trace;
    this.group = group;
  }

  /** What `device` is attached to at `pasid`, or null. */
  attached(device: IommufdDevice, pasid: number): Hwpt | null {
    const attachment = this.attachments.get(pasid);
    return attachment?.devices.has(device) === true ? attachment.hwpt : null;
  }

  /** PASIDs, NO_PASID included, at which `device` is attached. */
  pasidsOf(device: IommufdDevice): number[] {
    return [...this.attachments].filter(([, { devices }]) => devices.has(device)).map(([pasid]) => pasid);
  }

  /**
   * Attaches a device; the first of the group attaches the group.
   * @throws {SysError} EBUSY it is attached; EINVAL others of the group are attached elsewhere, or the table does not
   * fit the device or the group's other attachments; EADDRINUSE an area is in a region the device reserves; and the
   * core's and driver's errors
   */
  attach(device: IommufdDevice, pasid: number, hwpt: Hwpt): void {
    const call = 'iommufd_device_attach';
    const present = this.checkPlace(call, device, pasid, hwpt);
    this.context.kernel.checkpoint('iommufd_attach_device');
    const reserves = pasid === NO_PASID;
    if (reserves) reserveRegions(hwpt.paging, device);
    try {
      if (present === undefined) {
        const handle = this.makeHandle(call, device, pasid, hwpt);
        if (pasid === NO_PASID) attachGroup(this.group, handle, scopeOf(hwpt));
        else attachDevicePasid(device.device, pasid, handle);
        this.attachments.set(pasid, { hwpt, handle, devices: new Set([device]) });
      } else present.devices.add(device);
    } catch (error) {
      if (reserves) hwpt.paging.ioas.table.space.unreserve(device);
      throw error;
    }
    hwpt.users++;
    device.users++;
    this.emit('device_attach', device, pasid, hwpt);
  }

  /**
   * Refuses what a table that is yet to be made for `ioas`, without PASIDs, would be refused for.
   * @throws {SysError} EBUSY, EINVAL, EADDRINUSE as `attach`
   */
  checkAttachFresh(device: IommufdDevice, pasid: number, ioas: Ioas): void {
    const call = 'iommufd_device_attach';
    this.checkPlace(call, device, pasid, null);
    if (pasid === NO_PASID) {
      for (const { first, last } of enforcedRegions(device)) ioas.table.space.checkReserve(first, last);
    }
    this.checkPasids(call, pasid, null);
  }

  /**
   * Moves every device that is attached at `pasid` over to `hwpt`. On failure nothing changes.
   * @returns the table they were attached to, with one use of it left for the caller to give up; null when it is `hwpt`
   * @throws {SysError} EINVAL the device is not attached; and as `attach`
   */
  replace(device: IommufdDevice, pasid: number, hwpt: Hwpt): Hwpt | null {
    const call = 'iommufd_device_replace';
    const attachment = this.attachments.get(pasid);
    if (attachment === undefined || !attachment.devices.has(device)) {
      throw new SysError('EINVAL', call, `device ${device.id} is not attached`);
    }
    const old = attachment.hwpt;
    if (old === hwpt) return null;
    const reserves = pasid === NO_PASID && old.paging.ioas !== hwpt.paging.ioas;
    const reserved: IommufdDevice[] = [];
    const { table } = hwpt.paging.ioas;
    let handle: FaultSource;
    try {
      if (reserves) {
        for (const member of attachment.devices) {
          reserveRegions(hwpt.paging, member);
          reserved.push(member);
        }
      }
      handle = this.makeHandle(call, device, pasid, hwpt);
      if (pasid === NO_PASID) replaceGroup(this.group, handle, scopeOf(hwpt));
      else replaceDevicePasid(device.device, pasid, handle);
    } catch (error) {
      for (const member of reserved) table.space.unreserve(member);
      throw error;
    }
    if (reserves) for (const member of attachment.devices) old.paging.ioas.table.space.unreserve(member);
    old.fault?.dismiss(attachment.handle);
    attachment.hwpt = hwpt;
    attachment.handle = handle;
    hwpt.users += attachment.devices.size;
    old.users -= attachment.devices.size - 1;
    this.emit('device_replace', device, pasid, hwpt);
    return old;
  }

  /** Detaches a device; the last of the group detaches the group. Null when it was not attached. Never fails. */
  detach(device: IommufdDevice, pasid: number): Hwpt | null {
    const attachment = this.attachments.get(pasid);
    if (attachment === undefined || !attachment.devices.delete(device)) return null;
    const { hwpt, handle } = attachment;
    if (attachment.devices.size === 0) {
      if (pasid === NO_PASID) detachGroup(this.group);
      else detachDevicePasid(device.device, pasid);
      this.attachments.delete(pasid);
      hwpt.fault?.dismiss(handle);
    }
    if (pasid === NO_PASID) hwpt.paging.ioas.table.space.unreserve(device);
    device.users--;
    this.emit('device_detach', device, pasid, hwpt);
    return hwpt;
  }

  /** The table that `pasid` is routed to, or null. */
  routed(pasid: number): Hwpt | null {
    return this.routes.get(pasid)?.hwpt ?? null;
  }

  /**
   * The map half of an attachment at a PASID: leads it, for those devices of the group that are or will be authorised
   * (iommu-core: authorizePasid), to `hwpt`; from the table that it is routed to without a moment of neither. `device`
   * is one of the group. On failure nothing changes.
   * @throws {SysError} EBUSY the PASID is attached; EINVAL the table does not fit; and the core's and driver's errors
   */
  route(device: IommufdDevice, pasid: number, hwpt: Hwpt): void {
    const present = this.routes.get(pasid);
    if (present?.hwpt === hwpt) return;
    const handle = this.makeHandle('iommufd_device_route', device, pasid, hwpt);
    if (present === undefined) routePasid(this.group, pasid, handle);
    else replaceDevicePasid(device.device, pasid, handle);
    this.routes.set(pasid, { hwpt, handle });
    hwpt.users++;
    if (present !== undefined) endRoute(present);
  }

  /** Takes the map half away: DMA of every device with `pasid` is blocked on return. Never fails. */
  unroute(pasid: number): void {
    const route = this.routes.get(pasid);
    if (route === undefined) return;
    unroutePasid(this.group, pasid);
    this.routes.delete(pasid);
    endRoute(route);
  }

  /** Checks that `hwpt` fits, then makes the handle of its attachment. */
  private makeHandle(call: string, device: IommufdDevice, pasid: number, hwpt: Hwpt): FaultSource {
    const { name, sharesPageRequests } = device.device.master;
    if (hwpt.fault !== null && sharesPageRequests) {
      throw new SysError('EINVAL', call, `${name} shares its page requests with its physical function`);
    }
    this.checkPasids(call, pasid, hwpt);
    this.context.kernel.checkpoint('iommufd_attach_handle');
    const bound = this.devices;
    return {
      domain: hwpt.domain,
      deviceId(group: FaultGroup): number {
        for (const member of bound) if (member.device === group.device) return member.id;
        return device.id;
      },
    };
  }

  /** What the device would join at `pasid`. `hwpt` is null when it is yet to be made. @throws {SysError} EBUSY, EINVAL */
  private checkPlace(call: string, device: IommufdDevice, pasid: number, hwpt: Hwpt | null): Attachment | undefined {
    const present = this.attachments.get(pasid);
    if (present?.devices.has(device) === true) {
      throw new SysError('EBUSY', call, `device ${device.id} is attached to ${present.hwpt.id}`);
    }
    if (present === undefined || present.hwpt === hwpt) return present;
    throw new SysError('EINVAL', call, `its group is attached to ${present.hwpt.id}, not to ${nameOf(hwpt)}`);
  }

  /**
   * Where PASIDs are attached, the requests without PASID must go to a table made for PASIDs, and so must each. A table
   * that is yet to be made, null, is not.
   */
  private checkPasids(call: string, pasid: number, hwpt: Hwpt | null): void {
    if (pasid === NO_PASID) {
      const other = [...this.attachments.keys()].find((key) => key !== NO_PASID);
      if (other === undefined || hwpt?.pasidCompatible === true) return;
      throw new SysError('EINVAL', call, `PASID ${other} is attached and ${nameOf(hwpt)} was not made for PASIDs`);
    }
    const rid = this.attachments.get(NO_PASID)?.hwpt;
    if (hwpt?.pasidCompatible === true && rid?.pasidCompatible !== false) return;
    const culprit = hwpt?.pasidCompatible === true ? rid! : hwpt;
    throw new SysError('EINVAL', call, `${nameOf(culprit)} was not made for PASIDs`);
  }

  private emit(
    name: 'device_attach' | 'device_replace' | 'device_detach',
    device: IommufdDevice,
    pasid: number,
    hwpt: Hwpt,
  ): void {
    if (!this.trace.enabled) return;
    this.trace.emit({ name, context: this.context.id, device: device.id, pasid, hwpt: hwpt.id });
  }
}

function nameOf(hwpt: Hwpt | null): string {
  return hwpt === null ? 'a new table' : `table ${hwpt.id}`;
}

function endRoute({ hwpt, handle }: Route): void {
  hwpt.fault?.dismiss(handle);
  hwpt.users--;
}

/** The scope of an attachment without PASID: a table that tells PASIDs apart itself takes them all. */
function scopeOf(hwpt: Hwpt): RidScope {
  return hwpt.domain.scopes.includes('rid') ? 'rid' : 'all-pasids';
}

/** Keeps areas out of the regions that a device's requests must not be translated in. @throws {SysError} EADDRINUSE, ENOMEM */
export function reserveRegions(paging: HwptPaging, device: BoundDevice): void {
  const { table } = paging.ioas;
  try {
    for (const { first, last } of enforcedRegions(device)) table.space.reserve(first, last, device);
  } catch (error) {
    table.space.unreserve(device);
    throw error;
  }
}

function enforcedRegions(device: BoundDevice): ReservedRegion[] {
  return device.device.reservedRegions().filter(({ kind }) => kind !== 'direct-relaxable');
}
