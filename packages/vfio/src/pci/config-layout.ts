/**
 * Which bits of a PCI function's configuration space a user sees and changes (Linux: the permission tables of
 * drivers/vfio/pci/vfio_pci_config.c).
 *
 * A bit is virtual, kept by VFIO, or physical, the function's own; and it takes writes or it does not. Capabilities
 * that Linux does not know how to pass on are hidden: PASID among them, which a VMM presents from what
 * IOMMU_GET_HW_INFO says. ATS, PRI and SR-IOV can be seen and not changed. Bytes of no structure are passed through;
 * those of hidden capabilities, unlike in Linux, take no writes.
 */

import type { PciDevice } from '@iommukit/iommu-core';

export const CONFIG_SIZE = 4096;
export const COMMAND = 0x04;
export const COMMAND_MEMORY: number = 1 << 1;
export const COMMAND_INTX_DISABLE: number = 1 << 10;
export const BAR0 = 0x10;
export const ROM_ADDRESS = 0x30;
export const INTERRUPT_PIN = 0x3d;
export const DEVICE_CONTROL = 0x08;
export const DEVICE_CONTROL_FLR: number = 1 << 15;

const STATUS = 0x06;
const STATUS_CAPABILITIES = 1 << 4;
const CAPABILITY_POINTER = 0x34;
const STANDARD_HEADER = 0x40;
const FIRST_EXTENDED = 0x100;
const EXPRESS_FLAGS = 0x02;
const DEVICE_CONTROL2 = 0x28;
/** Max payload and max read request sizes are the host's business; the reset bit is an action. */
const DEVICE_CONTROL_VIRTUAL = DEVICE_CONTROL_FLR | 0x00e0 | 0x7000;
const DEVICE_CONTROL_PHANTOM = 1 << 9;
const DEVICE_CONTROL2_ARI = 1 << 5;

const CAP_PM = 0x01;
const CAP_VPD = 0x03;
const CAP_VENDOR = 0x09;
const CAP_EXPRESS = 0x10;
const CAP_MSIX = 0x11;
const CAP_AF = 0x13;

/** Bytes of the standard capabilities that are passed on; 0: the second byte of the structure says. */
const STANDARD_LENGTHS = new Map([
  [CAP_PM, 8],
  [CAP_VPD, 8],
  [CAP_VENDOR, 0],
  [CAP_EXPRESS, -1],
  [CAP_MSIX, 12],
  [CAP_AF, 6],
]);

/** Bytes of the extended capabilities that are passed on: AER, DSN, power budgeting, ACS, ARI, ATS, SR-IOV, PRI, LTR. */
const EXTENDED_LENGTHS = new Map([
  [0x01, 0x48],
  [0x03, 12],
  [0x04, 16],
  [0x0d, 8],
  [0x0e, 8],
  [0x0f, 8],
  [0x10, 0x40],
  [0x13, 16],
  [0x18, 8],
]);

export class ConfigLayout {
  /** Bits whose value is VFIO's. */
  readonly virtual: Uint8Array = new Uint8Array(CONFIG_SIZE);
  /** Bits that take writes. */
  readonly writable: Uint8Array = new Uint8Array(CONFIG_SIZE).fill(0xff);
  /** The virtual values. */
  readonly values: Uint8Array = new Uint8Array(CONFIG_SIZE);
  /** Offset of the PCI Express capability, or 0. */
  express = 0;
  private readonly device: PciDevice;

  constructor(device: PciDevice) {
    this.device = device;
    for (let offset = 0; offset < CONFIG_SIZE; offset += 4) this.setValue(offset, 4, device.config.read(offset, 4));
    this.layOutHeader();
    this.walkStandard();
    this.walkExtended();
  }

  value(offset: number, width: number): number {
    return load(this.values, offset, width);
  }

  setValue(offset: number, width: number, value: number): void {
    store(this.values, offset, width, value);
  }

  private layOutHeader(): void {
    const { device } = this;
    this.define(0, STANDARD_HEADER, 0, 0);
    this.define(0x00, 4, -1, 0);
    this.define(COMMAND, 2, COMMAND_INTX_DISABLE, 0xffff);
    this.define(STATUS, 2, STATUS_CAPABILITIES, 0);
    for (const offset of [0x0c, 0x0d, 0x0f]) this.define(offset, 1, 0, 0xff);
    for (let bar = 0; bar < 6; bar++) this.define(BAR0 + 4 * bar, 4, -1, -1);
    this.define(ROM_ADDRESS, 4, -1, -1);
    this.define(CAPABILITY_POINTER, 1, 0xff, 0);
    this.define(0x3c, 1, 0xff, 0xff);
    this.define(INTERRUPT_PIN, 1, 0xff, 0);
    this.setValue(INTERRUPT_PIN, 1, 0);
    this.setValue(0x00, 4, device.vendorId | (device.deviceId << 16));
    this.setValue(ROM_ADDRESS, 4, 0);
    const command = device.config.read(COMMAND, 2) & ~COMMAND_INTX_DISABLE;
    this.setValue(COMMAND, 2, device.isVirtualFunction ? command | COMMAND_MEMORY : command);
    // A VF has no enable bit of its own and reads as if it were set (PCI Express 6.0, section 9.3.4.1.3).
    if (device.isVirtualFunction) this.define(COMMAND, 2, COMMAND_INTX_DISABLE | COMMAND_MEMORY, 0xffff);
  }

  private walkStandard(): void {
    const { config } = this.device;
    let link = CAPABILITY_POINTER;
    let any = false;
    let at = (config.read(STATUS, 2) & STATUS_CAPABILITIES) === 0 ? 0 : config.read(link, 1) & 0xfc;
    for (let hops = 0; at >= STANDARD_HEADER && hops < 48; hops++) {
      const next = config.read(at + 1, 1) & 0xfc;
      const length = this.standardLength(at);
      if (length === 0) {
        this.setValue(link, 1, next);
        this.define(at, 2, 0, 0);
      } else {
        any = true;
        this.define(at, length, 0, 0);
        this.define(at, 2, 0xffff, 0);
        this.layOutStandard(at);
        link = at + 1;
      }
      at = next;
    }
    if (!any) this.setValue(STATUS, 2, this.value(STATUS, 2) & ~STATUS_CAPABILITIES);
  }

  private standardLength(at: number): number {
    const { config } = this.device;
    const length = STANDARD_LENGTHS.get(config.read(at, 1)) ?? 0;
    if (config.read(at, 1) === CAP_VENDOR) return Math.max(3, config.read(at + 2, 1));
    if (length !== -1) return length;
    return (config.read(at + EXPRESS_FLAGS, 2) & 15) === 1 ? 0x14 : 0x3c;
  }

  private layOutStandard(at: number): void {
    const { config } = this.device;
    const id = config.read(at, 1);
    if (id === CAP_VENDOR) this.define(at + 2, Math.max(1, config.read(at + 2, 1) - 2), 0, -1);
    if (id !== CAP_EXPRESS) return;
    this.express = at;
    this.define(at + DEVICE_CONTROL, 2, DEVICE_CONTROL_VIRTUAL, 0xffff & ~DEVICE_CONTROL_PHANTOM);
    if (this.standardLength(at) === 0x3c) this.define(at + DEVICE_CONTROL2, 2, 0, 0xffff & ~DEVICE_CONTROL2_ARI);
  }

  private walkExtended(): void {
    const { config } = this.device;
    let previous = 0;
    let at = FIRST_EXTENDED;
    for (let hops = 0; at >= FIRST_EXTENDED && hops < 960; hops++) {
      const header = config.read(at, 4);
      if (header === 0 || header === 0xffffffff) break;
      const next = (header >>> 20) & 0xffc;
      const length = EXTENDED_LENGTHS.get(header & 0xffff) ?? 0;
      if (length > 0) {
        this.define(at, length, 0, 0);
        this.define(at, 4, -1, 0);
        previous = at;
      } else if (previous > 0) {
        this.define(at, 8, 0, 0);
        this.setValue(previous, 4, (this.value(previous, 4) & 0xfffff) | (next << 20));
      } else {
        // The chain starts here whatever stands here: what is left is a link.
        this.define(at, 8, 0, 0);
        this.define(at, 4, -1, 0);
        this.setValue(at, 4, next << 20);
        previous = at;
      }
      at = next;
    }
  }

  /** Sets the masks of [offset, offset + length); a mask of -1 is all ones, others are little-endian. */
  private define(offset: number, length: number, virtual: number, writable: number): void {
    for (let i = 0; i < length && offset + i < CONFIG_SIZE; i++) {
      this.virtual[offset + i] = virtual === -1 ? 0xff : i < 4 ? virtual >>> (8 * i) : 0;
      this.writable[offset + i] = writable === -1 ? 0xff : i < 4 ? writable >>> (8 * i) : 0;
    }
  }
}

/** A little-endian number of `width` bytes. */
export function load(bytes: Uint8Array, offset: number, width: number): number {
  let value = 0;
  for (let i = width - 1; i >= 0; i--) value = (value << 8) | bytes[offset + i]!;
  return value >>> 0;
}

export function store(bytes: Uint8Array, offset: number, width: number, value: number): void {
  for (let i = 0; i < width; i++) bytes[offset + i] = value >>> (8 * i);
}
