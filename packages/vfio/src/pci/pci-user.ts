/**
 * A PCI function in the hands of a user: from bind to close (Linux: drivers/vfio/pci/vfio_pci_core.c). Bus mastering is
 * off and the function has been reset when it comes, and again when it goes.
 */

import { type Device, resetDevice, SysError } from '@iommukit/iommu-core';
import type { Mapping } from '@iommukit/iommufd';
import type { DeviceInfo, DeviceUser, RegionInfo } from '../device-user.ts';
import * as uapi from '../uapi/vfio.ts';
import { BarRegion } from './bar-region.ts';
import { COMMAND } from './config-layout.ts';
import { Interrupts } from './interrupts.ts';
import { VirtualConfig } from './virtual-config.ts';

/** Whether the pages of the MSI-X table can be mapped, as in Linux, or accesses to them must go through the file. */
export type MsixTableAccess = 'mappable' | 'trapped';

/** Whether BARs can be mapped, as in Linux, or accesses to them must go through the file. */
export type BarAccess = 'mappable' | 'trapped';

export type PciAccess = { readonly msixTable: MsixTableAccess; readonly bars: BarAccess };

export class PciUser implements DeviceUser {
  readonly device: Device;
  readonly interrupts: Interrupts;
  private readonly config: VirtualConfig;
  private readonly bars = new Map<number, BarRegion>();
  private readonly resettable: boolean;
  /** The command register as it was taken over. */
  private readonly command: number;
  private readonly msixTable: MsixTableAccess;
  /** False after `close`: windows that a process still has give nothing any more. */
  private open = true;

  /** Takes the function over. @throws {SysError} EBUSY it is being reset */
  constructor(device: Device, { msixTable, bars }: PciAccess) {
    const { pci } = device;
    this.device = device;
    this.msixTable = msixTable;
    pci.setBusMaster(false);
    this.command = pci.config.read(COMMAND, 2);
    this.resettable = pci.canReset;
    if (this.resettable) resetDevice(device);
    this.config = new VirtualConfig(pci, { revokeMappings: () => this.revoke(), reset: () => this.reset() });
    this.interrupts = new Interrupts(device, (action) => this.withMemory(action));
    const trapped = bars === 'trapped' ? 'all' : msixTable === 'trapped' ? 'table' : 'nothing';
    for (const resource of pci.resources) {
      const enabled = (): boolean => this.open && this.config.memoryEnabled;
      this.bars.set(resource.bar, new BarRegion(pci, resource, enabled, trapped));
    }
  }

  get info(): DeviceInfo {
    const flags = uapi.VFIO_DEVICE_FLAGS_PCI | (this.resettable ? uapi.VFIO_DEVICE_FLAGS_RESET : 0);
    return { flags, regions: uapi.VFIO_PCI_NUM_REGIONS, irqs: uapi.VFIO_PCI_NUM_IRQS };
  }

  /** @throws {SysError} EINVAL no such region */
  regionInfo(index: number): RegionInfo {
    if (index >= uapi.VFIO_PCI_NUM_REGIONS || index === uapi.VFIO_PCI_VGA_REGION_INDEX) {
      throw new SysError('EINVAL', 'VFIO_DEVICE_GET_REGION_INFO', `no region ${index}`);
    }
    const offset = BigInt(index) << BigInt(uapi.VFIO_PCI_OFFSET_SHIFT);
    const readWrite = uapi.VFIO_REGION_INFO_FLAG_READ | uapi.VFIO_REGION_INFO_FLAG_WRITE;
    const plain = { offset, msixMappable: false, sparse: null };
    if (index === uapi.VFIO_PCI_CONFIG_REGION_INDEX) {
      return { ...plain, flags: readWrite, size: BigInt(this.config.size) };
    }
    const bar = this.bars.get(index);
    if (bar === undefined) return { ...plain, flags: 0, size: 0n };
    const size = BigInt(bar.size);
    if (bar.windows.length === 0) return { ...plain, flags: readWrite, size };
    const trapped = bar.holdsTable && this.msixTable === 'trapped';
    const sparse = bar.windows.map(({ first, last }) => ({ offset: BigInt(first), size: BigInt(last - first + 1) }));
    return {
      flags: readWrite | uapi.VFIO_REGION_INFO_FLAG_MMAP,
      size,
      offset,
      msixMappable: bar.holdsTable && !trapped,
      sparse: trapped ? sparse : null,
    };
  }

  read(position: bigint, into: Uint8Array): number {
    const { index, offset } = locate(position);
    if (index === uapi.VFIO_PCI_CONFIG_REGION_INDEX) {
      this.checkConfig('read', offset, into.length);
      this.config.read(offset, into);
      return into.length;
    }
    return this.bar('read', index).read(offset, into);
  }

  write(position: bigint, from: Uint8Array): number {
    const { index, offset } = locate(position);
    if (index === uapi.VFIO_PCI_CONFIG_REGION_INDEX) {
      this.checkConfig('write', offset, from.length);
      this.config.write(offset, from);
      return from.length;
    }
    return this.bar('write', index).write(offset, from);
  }

  /** Pages of a BAR. @throws {SysError} EINVAL private mapping, or nothing that can be mapped */
  mmap(position: bigint, length: bigint, shared: boolean): Mapping {
    if (!shared) throw new SysError('EINVAL', 'mmap', 'device memory can only be mapped shared');
    const { index, offset } = locate(position);
    return this.bar('mmap', index).mmap(offset, length);
  }

  /** Function-level reset, DMA blocked meanwhile. @throws {SysError} EINVAL the function cannot be reset; EBUSY it is being reset */
  reset(): void {
    if (!this.resettable) throw new SysError('EINVAL', 'VFIO_DEVICE_RESET', `${this.device.name} cannot be reset`);
    this.revoke();
    // Saving and restoring the MSI-X table takes memory decode.
    this.withMemory(() => resetDevice(this.device));
  }

  /** Gives the function back, silent and reset. Never fails. */
  close(): void {
    const { pci } = this.device;
    this.open = false;
    this.revoke();
    this.interrupts.disable();
    pci.setBusMaster(false);
    if (this.resettable) {
      try {
        resetDevice(this.device);
      } catch (error) {
        if (!(error instanceof SysError)) throw error;
      }
    }
    pci.config.write(COMMAND, 2, this.command);
  }

  private revoke(): void {
    for (const bar of this.bars.values()) bar.revoke();
  }

  private withMemory(action: () => void): void {
    const { pci } = this.device;
    const enabled = this.config.memoryEnabled;
    if (!enabled) pci.setMemoryDecode(true);
    try {
      action();
    } finally {
      if (!enabled) pci.setMemoryDecode(false);
    }
  }

  private bar(call: string, index: number): BarRegion {
    const bar = this.bars.get(index);
    if (bar === undefined) throw new SysError('EINVAL', call, `region ${index} cannot be accessed`);
    return bar;
  }

  private checkConfig(call: string, offset: number, length: number): void {
    if (offset + length <= this.config.size) return;
    throw new SysError('EFAULT', call, `${length} bytes at ${offset} are outside configuration space`);
  }
}

/** A position in the device file; the offset in a region has 40 bits. */
function locate(position: bigint): { index: number; offset: number } {
  const shift = BigInt(uapi.VFIO_PCI_OFFSET_SHIFT);
  return { index: Number(position >> shift), offset: Number(position & ((1n << shift) - 1n)) };
}
