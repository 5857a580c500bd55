/**
 * The kernel driver of a test function that divides it into mediated devices: `default` ones have one address space, and
 * `pasids` ones let their user name PASIDs. All of them share the function's one engine, a command at a time; none of
 * them sends a request without PASID, so the function's own DMA stays the kernel's.
 */

import { TEST_DEVICE_ID, TEST_VENDOR_ID } from '@iommukit/hw';
import {
  type Device,
  disableFeature,
  enableFeature,
  hasFeature,
  type IommuCore,
  type Kernel,
  resetDevice,
  SysError,
  unuseDefaultDomain,
  useDefaultDomain,
} from '@iommukit/iommu-core';
import { CommandEngine } from './command-engine.ts';
import { EmulatedUser } from './emulated-user.ts';
import type { MdevBackend, MdevParent, MdevType } from './mdev.ts';
import type { MdevBus } from './mdev-bus.ts';
import { MdevDma } from './mdev-dma.ts';
import { MediatedFunction } from './mediated-function.ts';

/** Of one mediated device, so that its user leaves the other users some of the parent's. */
const ATTACHED_PASIDS = 64;

const PASIDS: MdevType = {
  name: 'pasids',
  description: `one address space, and one for each PASID of the user, ${ATTACHED_PASIDS} at a time`,
};
const TYPES: readonly MdevType[] = [{ name: 'default', description: 'one address space' }, PASIDS];

export type TestFunctionParentOptions = {
  core: IommuCore;
  bus: MdevBus;
  device: Device;
  /** Mediated devices that can exist at a time; 8 by default. */
  instances?: number;
};

export class TestFunctionParent implements MdevParent {
  readonly kernel: Kernel;
  readonly device: Device;
  readonly types: readonly MdevType[] = TYPES;
  readonly instances: number;
  private readonly core: IommuCore;
  private readonly bus: MdevBus;
  private readonly engine: CommandEngine;
  private readonly undo: (() => void)[] = [];

  /**
   * Takes the function, in its state after a reset, and offers it for division.
   * @throws {SysError} ENODEV another device, or one that cannot be divided; EBUSY somebody owns its DMA; ENOSPC, ENOMEM
   */
  constructor({ core, bus, device, instances = 8 }: TestFunctionParentOptions) {
    const { pci } = device;
    this.core = core;
    this.bus = bus;
    this.device = device;
    this.kernel = device.kernel;
    this.instances = instances;
    if (pci.vendorId !== TEST_VENDOR_ID || pci.deviceId !== TEST_DEVICE_ID || !pci.canReset) {
      throw new SysError('ENODEV', 'mdev_parent_probe', `${device.name} is no test function`);
    }
    if (!hasFeature(device, 'aux')) {
      throw new SysError('ENODEV', 'mdev_parent_probe', `${device.name} cannot be divided`);
    }
    try {
      useDefaultDomain(device);
      this.undo.push(() => unuseDefaultDomain(device));
      resetDevice(device);
      enableFeature(device, 'aux');
      this.undo.push(() => disableFeature(device, 'aux'));
      this.engine = new CommandEngine(device);
      this.undo.push(() => this.engine.free());
      this.undo.push(core.pasids.addReferrer((pasid) => this.pasidUser(pasid)));
      bus.registerParent(this);
      this.undo.push(() => bus.unregisterParent(this));
    } catch (error) {
      this.release();
      throw error;
    }
  }

  get name(): string {
    return this.device.name;
  }

  create(type: MdevType): MdevBackend {
    const { core, device, engine, kernel } = this;
    const dma: MdevDma = new MdevDma({
      core,
      device,
      maxPasids: type === PASIDS ? device.maxPasids : 0,
      maxAttached: ATTACHED_PASIDS,
      quiesce: (pasid) => engine.quiesce(dma, pasid),
    });
    const open = (): EmulatedUser => {
      kernel.checkpoint('mdev_open');
      return new EmulatedUser(kernel, new MediatedFunction(engine, dma, device.pci));
    };
    return { dma, open };
  }

  /**
   * Removes all mediated devices and gives the function back, reset.
   * @throws {SysError} EBUSY a user has one of them, or auxiliary domains of the function are attached
   */
  remove(): void {
    this.bus.checkIdle(this);
    disableFeature(this.device, 'aux');
    this.release();
    resetDevice(this.device);
  }

  private release(): void {
    for (const undo of this.undo.splice(0).reverse()) undo();
  }

  private pasidUser(pasid: number): string | null {
    return this.engine.names(pasid) ? `a command of ${this.name}` : null;
  }
}
