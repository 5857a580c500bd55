/**
 * Where a device's DMA goes that is attached to several IOASIDs in one place. At a PASID, or without one, a device is
 * attached along one line of the nesting: to a root, then to a child of it, while the root's attachment stands; what its
 * DMA reaches is the deepest of them. Devices of a group cannot be told apart by the IOMMU, so what holds is the deepest
 * of the group: its first device that attaches moves the group, and the others must follow or be refused.
 */

import { NO_PASID } from '@iommukit/hw';
import { SysError } from '@iommukit/iommu-core';
import { IommufdDevice } from '../device.ts';
import type { Hwpt } from '../hwpt.ts';
import type { Ioasid } from './ioasid.ts';
import type { IoasidContext } from './ioasid-context.ts';
import type { IoasidDevice } from './ioasid-device.ts';
import { reservedRanges } from './windows.ts';

const ATTACH = 'VFIO_ATTACH_IOASID';

export class Routes {
  private readonly context: IoasidContext;

  constructor(context: IoasidContext) {
    this.context = context;
  }

  /** Devices of this file that the IOMMU does not tell apart from `device`; it is one of them. */
  peers(device: IoasidDevice): IoasidDevice[] {
    const { bound } = device;
    if (!(bound instanceof IommufdDevice)) return [device];
    return [...this.context.devices].filter((other) => {
      return other.bound instanceof IommufdDevice && other.bound.group === bound.group;
    });
  }

  /** The IOASID that DMA of `device` with `pasid` reaches, or null. */
  at(device: IoasidDevice, pasid: number): Ioasid | null {
    let deepest: Ioasid | null = null;
    for (const peer of this.peers(device)) {
      const own = peer.line(pasid).at(-1);
      if (own !== undefined && (deepest === null || own.depth > deepest.depth)) deepest = own;
    }
    return deepest;
  }

  /**
   * Attaches `device`, at `pasid` or without PASID (NO_PASID). On failure nothing changes.
   * @throws {SysError} EBUSY attached here already, or there and off the line; EINVAL its group is attached off the
   * line, or the table does not fit; EADDRINUSE what is mapped lies in a region that the device reserves; and the errors
   * of Ioasid.prepare and BoundDevice.attach
   */
  enter(device: IoasidDevice, ioasid: Ioasid, pasid: number): void {
    const before = this.at(device, pasid);
    this.checkLine(device, ioasid, pasid, before);
    try {
      const table = ioasid.prepare(device.bound.device);
      if (pasid === NO_PASID) reserve(ioasid, device);
      this.place(device, pasid, before?.table ?? null, before?.isWithin(ioasid) === true ? before.table! : table);
    } catch (error) {
      if (pasid === NO_PASID) ioasid.ioas?.table.space.unreserve(device);
      ioasid.trim();
      throw error;
    }
    device.enter(ioasid, pasid);
  }

  /**
   * Detaches `device`: what it is attached to above comes back without a moment of neither; without any its DMA is
   * blocked on return. On failure nothing changes.
   * @throws {SysError} the errors of BoundDevice.replace
   */
  leave(device: IoasidDevice, ioasid: Ioasid, pasid: number): void {
    this.withdraw(device, ioasid, pasid, (_, error) => {
      throw error;
    });
  }

  /** As `leave`, but what cannot come back is blocked. Never fails. */
  drop(device: IoasidDevice, ioasid: Ioasid, pasid: number): void {
    this.withdraw(device, ioasid, pasid, (peers) => {
      for (const peer of peers) peer.bound.detach(pasid);
    });
  }

  /**
   * Moves what reaches `ioasid` from its table `old` over to `next`, without a moment of neither.
   * @throws {SysError} the errors of BoundDevice.replace and DeviceGroup.route; all is at `old` then, or blocked
   */
  move(ioasid: Ioasid, next: Hwpt, old: Hwpt): void {
    const undo: (() => void)[] = [];
    try {
      for (const { device, pasid } of this.placesOf(ioasid)) {
        const { bound } = device;
        bound.replace(next.id, pasid);
        undo.push(() =>
          orElse(
            () => bound.replace(old.id, pasid),
            () => this.block(device, pasid),
          ),
        );
      }
      for (const { bound, pasid } of this.context.grantsOf(ioasid)) {
        if (bound.group.routed(pasid) === next) continue;
        bound.group.route(bound, pasid, next);
        undo.push(() =>
          orElse(
            () => bound.group.route(bound, pasid, old),
            () => bound.group.unroute(pasid),
          ),
        );
      }
    } catch (error) {
      for (const step of undo.reverse()) step();
      throw error;
    }
  }

  private checkLine(device: IoasidDevice, ioasid: Ioasid, pasid: number, before: Ioasid | null): void {
    const own = device.line(pasid).at(-1);
    if (own !== undefined && (own === ioasid || !ioasid.isWithin(own))) {
      throw new SysError('EBUSY', ATTACH, `device ${device.name} is attached to IOASID ${own.handle}`);
    }
    if (before === null || ioasid.isWithin(before) || before.isWithin(ioasid)) return;
    throw new SysError('EINVAL', ATTACH, `the group of ${device.name} is attached to IOASID ${before.handle}`);
  }

  /** Lets `device` join what its group is attached to, then moves all of it to `to`. On failure nothing changes. */
  private place({ bound }: IoasidDevice, pasid: number, from: Hwpt | null, to: Hwpt): void {
    const joins = bound.attached(pasid) === null;
    if (joins) bound.attach((from ?? to).id, pasid);
    if (bound.attached(pasid) === to.id) return;
    try {
      bound.replace(to.id, pasid);
    } catch (error) {
      if (joins) bound.detach(pasid);
      throw error;
    }
  }

  private withdraw(
    device: IoasidDevice,
    ioasid: Ioasid,
    pasid: number,
    refused: (peers: IoasidDevice[], error: SysError) => void,
  ): void {
    const before = this.at(device, pasid);
    device.leave(ioasid, pasid);
    const after = this.at(device, pasid);
    if (after !== null && after !== before) {
      const peers = this.peers(device).filter(({ bound }) => bound.attached(pasid) !== null);
      try {
        peers[0]?.bound.replace(after.table!.id, pasid);
      } catch (error) {
        device.enter(ioasid, pasid);
        if (!(error instanceof SysError)) throw error;
        refused(peers, error);
        device.leave(ioasid, pasid);
      }
    }
    if (device.line(pasid).length === 0) device.bound.detach(pasid);
    if (pasid === NO_PASID) ioasid.ioas?.table.space.unreserve(device);
    ioasid.trim();
  }

  private block(device: IoasidDevice, pasid: number): void {
    for (const peer of this.peers(device)) peer.bound.detach(pasid);
  }

  /** One device for each place from which DMA reaches `ioasid`. */
  private placesOf(ioasid: Ioasid): { device: IoasidDevice; pasid: number }[] {
    const places: { device: IoasidDevice; pasid: number }[] = [];
    for (const device of this.context.devices) {
      for (const pasid of device.pasids) {
        if (this.at(device, pasid) !== ioasid || device.bound.attached(pasid) === null) continue;
        const peers = this.peers(device);
        if (places.some((place) => place.pasid === pasid && peers.includes(place.device))) continue;
        places.push({ device, pasid });
      }
    }
    return places;
  }
}

/** Keeps what is mapped out of a device's regions as long as it is attached, whichever IOASID its DMA reaches. */
function reserve({ ioas, windows }: Ioasid, device: IoasidDevice): void {
  const ranges = reservedRanges(device.bound.device.reservedRegions());
  windows?.checkOutside(ATTACH, ranges);
  for (const { start, last } of ranges) ioas?.table.space.reserve(start, last, device);
}

/** What cannot go back, because hardware or memory fails twice, is blocked. */
function orElse(back: () => void, block: () => void): void {
  try {
    back();
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    block();
  }
}
