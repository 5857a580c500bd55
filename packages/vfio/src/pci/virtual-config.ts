/** A function's configuration space as its user reads and writes it (Linux: drivers/vfio/pci/vfio_pci_config.c). */

import type { PciDevice, PciResource } from '@iommukit/iommu-core';
import {
  BAR0,
  COMMAND,
  COMMAND_MEMORY,
  CONFIG_SIZE,
  ConfigLayout,
  DEVICE_CONTROL,
  DEVICE_CONTROL_FLR,
  load,
  ROM_ADDRESS,
  store,
} from './config-layout.ts';

/** What writes to configuration space do to the rest of the open device. */
export type ConfigActions = {
  /** Memory decode is about to go off: no process may reach a BAR on return. */
  revokeMappings(): void;
  /** The user asks for a function-level reset. */
  reset(): void;
};

type Width = 1 | 2 | 4;

export class VirtualConfig {
  readonly size: number = CONFIG_SIZE;
  private readonly device: PciDevice;
  private readonly layout: ConfigLayout;
  private readonly actions: ConfigActions;

  constructor(device: PciDevice, actions: ConfigActions) {
    this.device = device;
    this.layout = new ConfigLayout(device);
    this.actions = actions;
    for (let bar = 0; bar < 6; bar++) this.fixBar(bar);
  }

  /** True while the function answers memory accesses. */
  get memoryEnabled(): boolean {
    return (this.readRegister(COMMAND, 2) & COMMAND_MEMORY) !== 0;
  }

  /** Fills `into` from `offset`; all of it must lie inside the space. */
  read(offset: number, into: Uint8Array): void {
    for (let done = 0; done < into.length; ) {
      const width = chunk(offset + done, into.length - done);
      store(into, done, width, this.readRegister(offset + done, width));
      done += width;
    }
  }

  /** Stores `from` at `offset`; all of it must lie inside the space. */
  write(offset: number, from: Uint8Array): void {
    for (let done = 0; done < from.length; ) {
      const width = chunk(offset + done, from.length - done);
      this.writeRegister(offset + done, width, load(from, done, width));
      done += width;
    }
  }

  private readRegister(offset: number, width: Width): number {
    const virtual = load(this.layout.virtual, offset, width);
    const value = this.layout.value(offset, width);
    if (virtual === mask(width)) return value;
    return ((this.device.config.read(offset, width) & ~virtual) | (value & virtual)) >>> 0;
  }

  private writeRegister(offset: number, width: Width, value: number): void {
    const { layout, device } = this;
    const virtual = load(layout.virtual, offset, width);
    const writable = load(layout.writable, offset, width);
    if (offset <= COMMAND && COMMAND < offset + width) {
      const command = value >>> (8 * (COMMAND - offset));
      if ((command & COMMAND_MEMORY) === 0) this.actions.revokeMappings();
    }
    const kept = writable & virtual;
    layout.setValue(offset, width, (layout.value(offset, width) & ~kept) | (value & kept));
    const passed = writable & ~virtual;
    if (passed !== 0) {
      const physical =
        passed >>> 0 === mask(width) ? value : (device.config.read(offset, width) & ~passed) | (value & passed);
      device.config.write(offset, width, physical);
    }
    for (let bar = 0; bar < 6; bar++) {
      if (offset < BAR0 + 4 * bar + 4 && BAR0 + 4 * bar < offset + width) this.fixBar(bar);
    }
    if (offset < ROM_ADDRESS + 4 && ROM_ADDRESS < offset + width) layout.setValue(ROM_ADDRESS, 4, 0);
    this.checkReset(offset, width);
  }

  /** Keeps the address bits below a BAR's size at zero and its type bits as they are, so that sizing works. */
  private fixBar(index: number): void {
    const { layout, device } = this;
    const at = BAR0 + 4 * index;
    const resource = device.resource(index);
    const lower = index > 0 ? device.resource(index - 1) : null;
    let value = 0;
    if (resource !== null) value = (layout.value(at, 4) & sizeMask(resource, false)) | typeBits(resource);
    else if (lower?.is64 === true) value = layout.value(at, 4) & sizeMask(lower, true);
    layout.setValue(at, 4, value);
  }

  private checkReset(offset: number, width: number): void {
    const { layout, device } = this;
    const at = layout.express + DEVICE_CONTROL;
    if (layout.express === 0 || offset >= at + 2 || offset + width <= at) return;
    const control = layout.value(at, 2);
    if ((control & DEVICE_CONTROL_FLR) === 0) return;
    layout.setValue(at, 2, control & ~DEVICE_CONTROL_FLR);
    if (device.canReset) this.actions.reset();
  }
}

/** The largest naturally aligned access at `offset` that `left` bytes hold. */
function chunk(offset: number, left: number): Width {
  if (offset % 4 === 0 && left >= 4) return 4;
  return offset % 2 === 0 && left >= 2 ? 2 : 1;
}

function mask(width: Width): number {
  return width === 4 ? 0xffffffff : (1 << (8 * width)) - 1;
}

function sizeMask(resource: PciResource, high: boolean): number {
  const bits = -resource.size;
  return Number(BigInt.asIntN(32, high ? bits >> 32n : bits));
}

function typeBits(resource: PciResource): number {
  return (resource.is64 ? 4 : 0) | (resource.prefetchable ? 8 : 0);
}
