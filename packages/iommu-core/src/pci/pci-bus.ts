/**
 * One PCI segment as the kernel finds it: enumeration through ECAM, bridges included, and assignment of addresses to
 * base address registers (PCI Express 6.0, sections 7.5.1 and 9.3.3).
 */

import { requesterId } from '@iommukit/hw';
import { SysError } from '../errno.ts';
import type { Kernel } from '../kernel.ts';
import { ConfigSpace } from './config-space.ts';
import { PciDevice, type PciResource } from './pci-device.ts';
import * as reg from './registers.ts';

/** Physical addresses free for base address registers: closed intervals. */
export type AddressWindow = { readonly first: bigint; readonly last: bigint };

export type PciBusOptions = {
  /** Physical address of the configuration registers of bus 0. */
  ecamBase: bigint;
  /** Addresses below 4 GiB. */
  window32: AddressWindow;
  /** Addresses for 64-bit registers. */
  window64: AddressWindow;
};

export class PciBus {
  readonly ecamBase: bigint;
  /** Every function found, in the order of requester ids. */
  readonly devices: PciDevice[] = [];
  private readonly kernel: Kernel;
  private readonly window32: AddressWindow;
  private readonly window64: AddressWindow;
  private next32: bigint;
  private next64: bigint;
  private lastBus = 0;

  constructor(kernel: Kernel, options: PciBusOptions) {
    this.kernel = kernel;
    this.ecamBase = options.ecamBase;
    this.window32 = options.window32;
    this.window64 = options.window64;
    this.next32 = options.window32.first;
    this.next64 = options.window64.first;
  }

  device(rid: number): PciDevice | null {
    return this.devices.find((device) => device.rid === rid) ?? null;
  }

  /** The bridge whose secondary bus `bus` is, or null for bus 0. */
  bridgeTo(bus: number): PciDevice | null {
    return this.devices.find((device) => device.isBridge && device.config.read(reg.SECONDARY_BUS, 1) === bus) ?? null;
  }

  /** Finds every function, gives buses to bridges and addresses to BARs, and turns memory decode on. @throws {SysError} ENOSPC */
  enumerate(): void {
    this.scanBus(0);
    this.devices.sort((a, b) => a.rid - b.rid);
  }

  /**
   * Creates `count` virtual functions of a PF. @throws {SysError} EOPNOTSUPP no SR-IOV; EBUSY there are some; EINVAL
   * more than the PF can have, or one would be where another function is; ENOSPC no addresses
   */
  enableVirtualFunctions(pf: PciDevice, count: number): PciDevice[] {
    const call = 'pci_enable_sriov';
    const at = pf.sriovOffset;
    if (at === 0) throw new SysError('EOPNOTSUPP', call, `${pf.name} has no SR-IOV`);
    if ((pf.config.read(at + reg.SRIOV_CONTROL, 2) & reg.SRIOV_VF_ENABLE) !== 0) {
      throw new SysError('EBUSY', call, `${pf.name} has virtual functions`);
    }
    const total = pf.config.read(at + reg.SRIOV_TOTAL_VFS, 2);
    if (count < 1 || count > total) throw new SysError('EINVAL', call, `${count} of ${total} VFs of ${pf.name}`);
    pf.config.write(at + reg.SRIOV_NUM_VFS, 2, count);
    const first = pf.rid + pf.config.read(at + reg.SRIOV_VF_OFFSET, 2);
    const stride = pf.config.read(at + reg.SRIOV_VF_STRIDE, 2);
    for (let index = 0; index < count; index++) {
      const other = this.device(first + index * stride);
      if (other === null) continue;
      pf.config.write(at + reg.SRIOV_NUM_VFS, 2, 0);
      throw new SysError('EINVAL', call, `VF ${index} of ${pf.name} would be at ${other.name}, which is taken`);
    }
    const blocks = this.assign(pf.config, at + reg.SRIOV_VF_BAR0, 6, total);
    pf.config.update16(at + reg.SRIOV_CONTROL, reg.SRIOV_VF_ENABLE | reg.SRIOV_VF_MEMORY, 0);
    const functions: PciDevice[] = [];
    for (let index = 0; index < count; index++) {
      const vf = new PciDevice(this.kernel, this, first + index * stride, pf);
      vf.resources = blocks.map((block) => ({ ...block, address: block.address + BigInt(index) * block.size }));
      functions.push(vf);
    }
    this.devices.push(...functions);
    this.devices.sort((a, b) => a.rid - b.rid);
    return functions;
  }

  private scanBus(bus: number): void {
    this.lastBus = Math.max(this.lastBus, bus);
    for (let slot = 0; slot < 32; slot++) {
      const first = this.scanFunction(requesterId(bus, slot, 0));
      if (first === null) continue;
      if (first.multifunction) for (let fn = 1; fn < 8; fn++) this.scanFunction(requesterId(bus, slot, fn));
    }
  }

  private scanFunction(rid: number): PciDevice | null {
    const config = new ConfigSpace(this.kernel.memory, this.ecamBase, rid);
    const vendor = config.read(reg.VENDOR_ID, 2);
    if (vendor === 0xffff || vendor === 0) return null;
    const device = new PciDevice(this.kernel, this, rid);
    this.devices.push(device);
    // Registers that are being sized must not answer.
    config.update16(reg.COMMAND, 0, reg.COMMAND_MEMORY);
    device.resources = this.assign(config, reg.BAR0, device.isBridge ? 2 : 6, 1);
    config.update16(reg.COMMAND, reg.COMMAND_MEMORY, 0);
    if (device.isBridge) this.scanBridge(device);
    return device;
  }

  /** Keeps bus numbers that firmware has given, gives the next ones otherwise. */
  private scanBridge(bridge: PciDevice): void {
    const { config } = bridge;
    let secondary = config.read(reg.SECONDARY_BUS, 1);
    const assigned = secondary === 0;
    if (assigned) {
      secondary = this.lastBus + 1;
      config.write(reg.PRIMARY_BUS, 1, bridge.rid >> 8);
      config.write(reg.SECONDARY_BUS, 1, secondary);
      config.write(reg.SUBORDINATE_BUS, 1, 255);
    }
    config.update16(reg.COMMAND, reg.COMMAND_BUS_MASTER, 0);
    if (bridge.acsOffset !== 0) {
      const capability = config.read(bridge.acsOffset + reg.ACS_CONTROL - 2, 2);
      config.write(bridge.acsOffset + reg.ACS_CONTROL, 2, capability & reg.ACS_ISOLATING);
    }
    this.scanBus(secondary);
    if (assigned) config.write(reg.SUBORDINATE_BUS, 1, this.lastBus);
  }

  /** Sizes `count` registers from `offset` and gives each `copies` times its size, as one aligned block. */
  private assign(config: ConfigSpace, offset: number, count: number, copies: number): PciResource[] {
    const resources: PciResource[] = [];
    for (let bar = 0; bar < count; bar++) {
      const at = offset + 4 * bar;
      config.write(at, 4, 0xffffffff);
      const low = config.read(at, 4);
      if (low === 0 || (low & reg.BAR_IO) !== 0) continue;
      const is64 = (low & reg.BAR_TYPE_MASK) === reg.BAR_TYPE_64;
      let mask = BigInt(low & ~15) & 0xffffffffn;
      if (is64) {
        config.write(at + 4, 4, 0xffffffff);
        mask |= BigInt(config.read(at + 4, 4)) << 32n;
      } else mask |= 0xffffffff00000000n;
      const size = BigInt.asUintN(64, -mask);
      const address = this.takeAddresses(size, BigInt(copies), is64);
      config.write(at, 4, Number(address & 0xffffffffn));
      if (is64) config.write(at + 4, 4, Number(address >> 32n));
      resources.push({ bar, address, size, is64, prefetchable: (low & reg.BAR_PREFETCHABLE) !== 0 });
      if (is64) bar++;
    }
    return resources;
  }

  private takeAddresses(size: bigint, copies: bigint, is64: boolean): bigint {
    const align = size > 4096n ? size : 4096n;
    const start = ((is64 ? this.next64 : this.next32) + align - 1n) & -align;
    const end = start + ((size * copies + 4095n) & -4096n);
    const window = is64 ? this.window64 : this.window32;
    if (end - 1n > window.last) throw new SysError('ENOSPC', 'pci_assign_resource', `no ${size * copies} free bytes`);
    if (is64) this.next64 = end;
    else this.next32 = end;
    return start;
  }
}
