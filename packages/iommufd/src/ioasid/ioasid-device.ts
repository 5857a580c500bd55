/**
 * A device that is bound to an open /dev/ioasid (RFC, section 3: struct ioasid_dev), as device drivers use it: VFIO
 * binds it for the holder of both files, attaches it to IOASIDs, or allows it to use one at a PASID.
 *
 * Attaching authorises the device and routes its DMA in one step. Allowing authorises it alone; the IOASID's table is
 * routed for whichever devices are allowed (B.11 of the systems specification).
 *
 * Both files are the authority (V9). Binding shows both, and the device keeps to that IOASID file: ATTACH_IOASID and
 * DETACH_IOASID come on the device's file alone and name IOASIDs of the file that it is bound to. Only ALLOW shows both
 * anew.
 */

import { NO_PASID } from '@iommukit/hw';
import { authorizePasid, deauthorizePasid, type SvaHandle, SysError } from '@iommukit/iommu-core';
import type { BoundDevice } from '../bound-device.ts';
import { IommufdDevice } from '../device.ts';
import type { Ioasid } from './ioasid.ts';
import type { IoasidContext } from './ioasid-context.ts';

const ATTACH = 'VFIO_ATTACH_IOASID';
const ALLOW = 'VFIO_DEVICE_ALLOW_IOASID';

export class IoasidDevice {
  readonly context: IoasidContext;
  readonly bound: BoundDevice;
  /** By which its user knows it in queries, invalidations and page requests. */
  readonly cookie: bigint;
  /** The device takes PASIDs that a CPU sends (DMWr). */
  readonly cpuPasids: boolean;
  /** What it is attached to by PASID, NO_PASID included, outermost first. */
  private readonly lines = new Map<number, Ioasid[]>();
  private readonly allowed = new Map<number, Ioasid>();
  private readonly shares = new Map<Ioasid, SvaHandle>();

  /** For IoasidContext. */
  constructor(context: IoasidContext, bound: BoundDevice, cookie: bigint, cpuPasids: boolean) {
    this.context = context;
    this.bound = bound;
    this.cookie = cookie;
    this.cpuPasids = cpuPasids;
  }

  get name(): string {
    return this.bound.device.name;
  }

  /** PASIDs, NO_PASID included, at which it is attached. */
  get pasids(): number[] {
    return [...this.lines.keys()];
  }

  /** What it is attached to at `pasid`, outermost first. */
  line(pasid: number): readonly Ioasid[] {
    return this.lines.get(pasid) ?? [];
  }

  /** PASIDs at which it is allowed to use `ioasid`. */
  allowedAt(ioasid: Ioasid): number[] {
    return [...this.allowed].filter(([, use]) => use === ioasid).map(([pasid]) => pasid);
  }

  /** True when it is attached to `ioasid` or allowed to use it, at whatever PASID. */
  isAt(ioasid: Ioasid): boolean {
    const attached = [...this.lines.values()].some((line) => line.includes(ioasid));
    return attached || this.shares.has(ioasid) || this.allowedAt(ioasid).length > 0;
  }

  /**
   * Routes the device's DMA to an IOASID: that with `userPasid`, or null for that without PASID. What the user calls a
   * PASID is the one on the wire, but for mediated devices. A process's shared address space has a PASID of its own.
   * @returns the PASID to give to the device, or null
   * @throws {SysError} EINVAL an IOASID of another file, DMA that cannot be made to snoop where that is enforced, a child
   * whose parent the device is not attached to (version 1), a PASID where the user's table has them all (version 2) or
   * for a shared address space; EBUSY it is attached there, or allowed; and the errors of Routes.enter and Sva.bind
   */
  attach(ioasid: Ioasid, userPasid: number | null): number | null {
    this.checkFit(ioasid, ATTACH);
    if (ioasid.shared !== null) return this.share(ioasid, userPasid);
    const pasid = this.placeOf(ioasid, userPasid, ATTACH);
    if (this.allowed.has(pasid)) throw new SysError('EBUSY', ATTACH, `${this.name} is allowed PASID ${pasid}`);
    this.context.routes.enter(this, ioasid, pasid);
    return userPasid;
  }

  /**
   * Undoes one `attach`.
   * @throws {SysError} ENOENT it is not attached there; EBUSY it is attached to a child (version 1); and the errors of
   * Routes.leave, when nothing has changed
   */
  detach(ioasid: Ioasid, userPasid: number | null): void {
    const call = 'VFIO_DETACH_IOASID';
    if (this.shares.has(ioasid)) {
      this.unshare(ioasid);
      return;
    }
    const pasid = keyOf(userPasid, call);
    if (!this.line(pasid).includes(ioasid)) {
      throw new SysError('ENOENT', call, `${this.name} is not attached to IOASID ${ioasid.handle} there`);
    }
    this.checkChildren(ioasid, call);
    this.context.routes.leave(this, ioasid, pasid);
  }

  /**
   * Authorises the device to use an IOASID with `pasid`, whatever is mapped there.
   * @throws {SysError} EOPNOTSUPP a mediated device or a shared address space; EINVAL as `attach`, a PASID that the
   * device cannot issue, or another IOASID is routed there for its group; EBUSY the PASID is in use; and the errors of
   * Ioasid.prepare
   */
  allow(ioasid: Ioasid, pasid: number): void {
    this.checkFit(ioasid, ALLOW);
    const { bound } = this;
    if (!(bound instanceof IommufdDevice) || ioasid.shared !== null) {
      throw new SysError('EOPNOTSUPP', ALLOW, `${this.name} at IOASID ${ioasid.handle} is authorised by attaching it`);
    }
    this.placeOf(ioasid, pasid, ALLOW);
    const other = this.context.routes.peers(this).find(({ allowed }) => (allowed.get(pasid) ?? ioasid) !== ioasid);
    if (other !== undefined) throw new SysError('EINVAL', ALLOW, `PASID ${pasid} of the group is routed elsewhere`);
    try {
      const table = ioasid.prepare(bound.device);
      authorizePasid(bound.device, pasid);
      try {
        bound.group.route(bound, pasid, table);
      } catch (error) {
        deauthorizePasid(bound.device, pasid);
        throw error;
      }
    } catch (error) {
      ioasid.trim();
      throw error;
    }
    this.allowed.set(pasid, ioasid);
  }

  /**
   * DMA with `pasid` is blocked on return; other devices go on.
   * @throws {SysError} ENOENT it is not allowed there; EBUSY it is attached to a child (version 1)
   */
  disallow(ioasid: Ioasid, pasid: number): void {
    const call = 'VFIO_DEVICE_DISALLOW_IOASID';
    if (this.allowed.get(pasid) !== ioasid) {
      throw new SysError('ENOENT', call, `${this.name} is not allowed PASID ${pasid} there`);
    }
    this.checkChildren(ioasid, call);
    this.revoke(pasid, ioasid);
  }

  /** Blocks all ways to `ioasid`. Never fails. */
  leaveAll(ioasid: Ioasid): void {
    for (const pasid of this.pasids) {
      if (this.line(pasid).includes(ioasid)) this.context.routes.drop(this, ioasid, pasid);
    }
    for (const pasid of this.allowedAt(ioasid)) this.revoke(pasid, ioasid);
    if (this.shares.has(ioasid)) this.unshare(ioasid);
  }

  /** Gives the device up: its DMA is blocked on return, and it is free for others. Never fails. */
  unbind(): void {
    this.blockAll();
    this.context.devices.delete(this);
    this.bound.unbind();
  }

  /** Blocks all its DMA at once; what it shares is given up. `blockAll` follows. Never fails. */
  silence(): void {
    for (const pasid of this.pasids) this.bound.detach(pasid);
    for (const pasid of this.allowed.keys()) deauthorizePasid(this.bound.device, pasid);
    for (const ioasid of [...this.shares.keys()]) this.unshare(ioasid);
  }

  /** Detaches it from everything, innermost first. Never fails. */
  blockAll(): void {
    this.silence();
    for (const pasid of this.pasids) {
      for (const ioasid of [...this.line(pasid)].reverse()) this.context.routes.drop(this, ioasid, pasid);
    }
    for (const [pasid, ioasid] of this.allowed) this.revoke(pasid, ioasid);
  }

  /** For Routes: notes an attachment, or forgets it. */
  enter(ioasid: Ioasid, pasid: number): void {
    const line = this.lines.get(pasid) ?? [];
    this.lines.set(
      pasid,
      [...line, ioasid].sort((a, b) => a.depth - b.depth),
    );
  }

  leave(ioasid: Ioasid, pasid: number): void {
    const line = this.line(pasid).filter((other) => other !== ioasid);
    if (line.length === 0) this.lines.delete(pasid);
    else this.lines.set(pasid, line);
  }

  private revoke(pasid: number, ioasid: Ioasid): void {
    const { bound } = this;
    this.allowed.delete(pasid);
    deauthorizePasid(bound.device, pasid);
    const others = this.context.routes.peers(this).some((peer) => peer.allowed.has(pasid));
    if (!others && bound instanceof IommufdDevice) bound.group.unroute(pasid);
    ioasid.trim();
  }

  private share(ioasid: Ioasid, userPasid: number | null): number {
    const { core } = this.context;
    if (core === null || !(this.bound instanceof IommufdDevice)) {
      throw new SysError('EOPNOTSUPP', ATTACH, `${this.name} cannot share a process's address space here`);
    }
    if (userPasid !== null) throw new SysError('EINVAL', ATTACH, 'a shared address space has a PASID of its own');
    if (this.shares.has(ioasid)) throw new SysError('EBUSY', ATTACH, `${this.name} shares IOASID ${ioasid.handle}`);
    const handle = core.sva.bind(this.bound.device, ioasid.shared!);
    this.shares.set(ioasid, handle);
    return handle.pasid;
  }

  private unshare(ioasid: Ioasid): void {
    const handle = this.shares.get(ioasid)!;
    this.shares.delete(ioasid);
    this.context.core!.sva.unbind(handle);
  }

  private placesAt(ioasid: Ioasid): number {
    const lines = [...this.lines.values()].filter((line) => line.includes(ioasid));
    return lines.length + this.allowedAt(ioasid).length;
  }

  /** Whatever way the device is to use the IOASID. */
  private checkFit({ context, handle, enforceSnoop }: Ioasid, call: string): void {
    if (context !== this.context) {
      throw new SysError('EINVAL', call, `IOASID ${handle} is of another file than the one ${this.name} is bound to`);
    }
    if (enforceSnoop && !this.bound.device.capable('enforce-cache-coherency')) {
      throw new SysError('EINVAL', call, `the IOMMU of ${this.name} cannot be made to snoop`);
    }
  }

  /** The PASID, or NO_PASID, at which the device may come to an IOASID that is not shared. */
  private placeOf({ parent, handle }: Ioasid, userPasid: number | null, call: string): number {
    const pasid = keyOf(userPasid, call);
    const { rules } = this.context;
    if (rules === 'v1' && parent !== null && !this.isAt(parent)) {
      throw new SysError('EINVAL', call, `${this.name} is not attached to ${parent.handle}, the parent of ${handle}`);
    }
    if (rules === 'v2' && pasid !== NO_PASID && this.bound.device.capable('user-pasid-table')) {
      throw new SysError('EINVAL', call, `the PASIDs of ${this.name} are in its user's table`);
    }
    return pasid;
  }

  /** Version 1: a device at a child stays at the parent in one place at least. */
  private checkChildren(ioasid: Ioasid, call: string): void {
    if (this.context.rules !== 'v1' || this.placesAt(ioasid) > 1) return;
    const child = [...ioasid.children].find((candidate) => this.isAt(candidate));
    if (child !== undefined) {
      throw new SysError('EBUSY', call, `${this.name} is attached to the child ${child.handle}`);
    }
  }
}

/** @throws {SysError} EINVAL no device can issue the PASID */
function keyOf(userPasid: number | null, call: string): number {
  if (userPasid === null) return NO_PASID;
  if (Number.isInteger(userPasid) && userPasid > 0) return userPasid;
  throw new SysError('EINVAL', call, `PASID ${userPasid}`);
}
