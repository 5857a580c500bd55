/**
 * One open /dev/ioasid: its IOASIDs, the devices bound to it, and its registered memory (RFC, section 3: struct
 * ioasid_ctx). Everything is made of objects of a /dev/iommu context that nobody else sees.
 */

import { hex } from '@iommukit/hw';
import { type Device, type IommuCore, type Kernel, SysError } from '@iommukit/iommu-core';
import type { BoundDevice } from '../bound-device.ts';
import type { IommufdContext } from '../context.ts';
import { bindDevice, IommufdDevice } from '../device.ts';
import { IdMap } from '../id-map.ts';
import { MediatedDevice } from '../mediated-device.ts';
import { IoasidFaults } from './faults.ts';
import { Ioasid, type IoasidOptions } from './ioasid.ts';
import { IoasidDevice } from './ioasid-device.ts';
import { Routes } from './routes.ts';

/** Of the proposal's first version (27 May 2021) or of its second (9 July 2021). */
export type IoasidRules = 'v1' | 'v2';

export type BindOptions = {
  /** The device takes PASIDs that a CPU sends (DMWr); false by default. */
  cpuPasids?: boolean;
};

export class IoasidContext {
  readonly rules: IoasidRules;
  readonly iommufd: IommufdContext;
  /** Null: no address space can be shared with a process. */
  readonly core: IommuCore | null;
  readonly devices: Set<IoasidDevice> = new Set();
  readonly routes: Routes;
  readonly faults: IoasidFaults;
  private readonly ioasids = new IdMap<Ioasid>();

  constructor(rules: IoasidRules, iommufd: IommufdContext, core: IommuCore | null) {
    this.rules = rules;
    this.iommufd = iommufd;
    this.core = core;
    this.routes = new Routes(this);
    this.faults = new IoasidFaults(this);
  }

  get kernel(): Kernel {
    return this.iommufd.kernel;
  }

  /** IOASIDs now, ascending by handle. */
  get all(): Ioasid[] {
    return [...this.ioasids.entries()].map(([, ioasid]) => ioasid);
  }

  /** @throws {SysError} ENOMEM */
  alloc(options: IoasidOptions): Ioasid {
    this.kernel.checkpoint('ioasid_data');
    const handle = this.ioasids.reserve();
    try {
      const ioasid = new Ioasid(this, handle, options);
      this.ioasids.set(handle, ioasid);
      return ioasid;
    } catch (error) {
      this.ioasids.delete(handle);
      throw error;
    }
  }

  /** @throws {SysError} ENOENT */
  get(handle: number, call: string): Ioasid {
    const ioasid = this.ioasids.get(handle);
    if (ioasid === undefined) throw new SysError('ENOENT', call, `no IOASID ${hex(handle)}`);
    return ioasid;
  }

  /**
   * Frees an IOASID; devices there are blocked, or back at its parent, on return.
   * @throws {SysError} ENOENT; EBUSY it has children
   */
  free(handle: number): void {
    const call = 'IOASID_FREE';
    const ioasid = this.get(handle, call);
    if (ioasid.children.size > 0) {
      throw new SysError('EBUSY', call, `IOASID ${handle} has ${ioasid.children.size} children`);
    }
    for (const device of this.devices) device.leaveAll(ioasid);
    this.remove(ioasid);
  }

  /** Devices attached to an IOASID or allowed to use it. */
  devicesAt(ioasid: Ioasid): IoasidDevice[] {
    return [...this.devices].filter((device) => device.isAt(ioasid));
  }

  /** The PASIDs at which devices are allowed to use `ioasid`. */
  grantsOf(ioasid: Ioasid): { bound: IommufdDevice; pasid: number }[] {
    const grants: { bound: IommufdDevice; pasid: number }[] = [];
    for (const device of this.devices) {
      const { bound } = device;
      if (!(bound instanceof IommufdDevice)) continue;
      for (const pasid of device.allowedAt(ioasid)) grants.push({ bound, pasid });
    }
    return grants;
  }

  /** @throws {SysError} ENOENT no device was bound with that cookie */
  device(cookie: bigint, call: string): IoasidDevice {
    for (const device of this.devices) if (device.cookie === cookie) return device;
    throw new SysError('ENOENT', call, `no device has the cookie ${hex(cookie)}`);
  }

  /** Takes a function, which nothing else may have. Its DMA is blocked until it is attached. @throws {SysError} as `adopt` */
  bind(device: Device, cookie: bigint, options: BindOptions = {}): IoasidDevice {
    return this.adopt((iommufd) => bindDevice(iommufd, device), cookie, options);
  }

  /**
   * Takes a device of any kind, which `bind` binds to the context given. `cookie` is its user's name for it.
   * @throws {SysError} EEXIST another device has the cookie; EINVAL CPUs would have to translate PASIDs for some of the
   * devices that take them and not for others; and the errors of `bind`
   */
  adopt(bind: (iommufd: IommufdContext) => BoundDevice, cookie: bigint, options: BindOptions = {}): IoasidDevice {
    const call = 'VFIO_BIND_IOASID_FD';
    if ([...this.devices].some((device) => device.cookie === cookie)) {
      throw new SysError('EEXIST', call, `another device has the cookie ${hex(cookie)}`);
    }
    this.kernel.checkpoint('ioasid_device');
    const bound = bind(this.iommufd);
    const device = new IoasidDevice(this, bound, cookie, options.cpuPasids ?? false);
    const other = [...this.devices].find(({ cpuPasids }) => cpuPasids);
    if (device.cpuPasids && other !== undefined && isMediated(device) !== isMediated(other)) {
      bound.unbind();
      throw new SysError('EINVAL', call, `${device.name} and ${other.name} need different PASIDs of the CPU`);
    }
    this.devices.add(device);
    return device;
  }

  /** The file is closed: all DMA is blocked, then everything goes, what is nested first. Devices stay bound. Never fails. */
  close(): void {
    for (const device of this.devices) device.silence();
    for (const device of this.devices) device.blockAll();
    for (const ioasid of this.all.sort((a, b) => b.depth - a.depth)) this.remove(ioasid);
    this.iommufd.registered.clear();
    this.faults.eventfd = null;
    this.iommufd.release();
  }

  private remove(ioasid: Ioasid): void {
    this.ioasids.delete(ioasid.handle);
    ioasid.destroy();
  }
}

/** PASIDs of a mediated device's user are not those on the wire. */
export function isMediated({ bound }: IoasidDevice): boolean {
  return bound instanceof MediatedDevice;
}
