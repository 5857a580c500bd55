/**
 * The mediated devices of one kernel, and the devices they are parts of (Linux: drivers/vfio/mdev/mdev_core.c and
 * mdev_sysfs.c; `create` and `remove` are the files of these names).
 */

import { SysError } from '@iommukit/iommu-core';
import type { Vfio } from '../vfio-device.ts';
import { Mdev, type MdevParent } from './mdev.ts';

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

export type MdevBusOptions = {
  /** Offers the mediated devices to users. */
  vfio: Vfio;
};

export class MdevBus {
  private readonly vfio: Vfio;
  private readonly parents = new Set<MdevParent>();
  private readonly devices = new Map<string, Mdev>();

  constructor(options: MdevBusOptions) {
    this.vfio = options.vfio;
  }

  /** Lets a device be divided. @throws {SysError} EEXIST it can be */
  registerParent(parent: MdevParent): void {
    if (this.parents.has(parent)) throw new SysError('EEXIST', 'mdev_register_parent', `${parent.name} is a parent`);
    this.parents.add(parent);
  }

  /**
   * Removes a parent with all that is made of it.
   * @throws {SysError} EBUSY a user has one of its mediated devices, when all stay
   */
  unregisterParent(parent: MdevParent): void {
    this.checkIdle(parent);
    for (const mdev of this.children(parent)) this.remove(mdev);
    this.parents.delete(parent);
  }

  /** @throws {SysError} EBUSY a user has a mediated device of `parent` */
  checkIdle(parent: MdevParent): void {
    const used = this.children(parent).find(({ user }) => user !== null);
    if (used === undefined) return;
    throw new SysError('EBUSY', 'mdev_unregister_parent', `${used.uuid} of ${parent.name} is in use`);
  }

  /** Mediated devices that can still be made of `parent` (Linux: available_instances). */
  available(parent: MdevParent): number {
    return this.parents.has(parent) ? parent.instances - this.children(parent).length : 0;
  }

  children(parent: MdevParent): Mdev[] {
    return [...this.devices.values()].filter((mdev) => mdev.parent === parent);
  }

  /** The mediated device of that UUID, or null. */
  find(uuid: string): Mdev | null {
    return this.devices.get(uuid.toLowerCase()) ?? null;
  }

  /**
   * Makes a mediated device and offers it.
   * @throws {SysError} ENODEV not a parent; ENOENT no such type; EINVAL not a UUID; EEXIST it is taken, whatever the
   * parent; EUSERS there are as many as there can be; ENOMEM; and what the parent's driver refuses with
   */
  create(parent: MdevParent, typeName: string, uuid: string): Mdev {
    const call = 'mdev_create';
    if (!this.parents.has(parent)) throw new SysError('ENODEV', call, `${parent.name} is no parent`);
    const type = parent.types.find(({ name }) => name === typeName);
    if (type === undefined) throw new SysError('ENOENT', call, `${parent.name} has no type ${typeName}`);
    const id = uuid.toLowerCase();
    if (!UUID.test(id)) throw new SysError('EINVAL', call, `${uuid} is no UUID`);
    if (this.devices.has(id)) throw new SysError('EEXIST', call, `there is a ${id}`);
    if (this.available(parent) <= 0) throw new SysError('EUSERS', call, `${parent.name} has ${parent.instances}`);
    parent.kernel.checkpoint('mdev_device');
    const backend = parent.create(type);
    const mdev = this.vfio.offer((index) => new Mdev(parent, type, id, backend, index));
    this.devices.set(id, mdev);
    return mdev;
  }

  /**
   * Takes a mediated device away. Linux waits for its user to let go, where this refuses.
   * @throws {SysError} ENODEV it is gone; EBUSY a user has it bound
   */
  remove(mdev: Mdev): void {
    if (this.devices.get(mdev.uuid) !== mdev) throw new SysError('ENODEV', 'mdev_remove', `${mdev.uuid} is gone`);
    this.vfio.withdraw(mdev);
    this.devices.delete(mdev.uuid);
    mdev.retire();
  }
}
