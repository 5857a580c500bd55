/**
 * A PCI function that a driver emulates for a user, register by register: nothing of it can be mapped, and every access
 * is a call that the driver sees (what Linux's mediated drivers do in their read and write).
 */

import { CONFIG_SPACE_SIZE, PciFunction } from '@iommukit/hw';
import { type Kernel, SysError } from '@iommukit/iommu-core';
import type { DeviceInfo, DeviceUser, RegionInfo } from '../device-user.ts';
import * as uapi from '../uapi/vfio.ts';
import { EmulatedInterrupts } from './emulated-interrupts.ts';

/** A model of a function that is in no fabric: its configuration space and BARs are what the user sees. */
export abstract class EmulatedFunction extends PciFunction {
  /** Where the function's interrupts go while a user has it. */
  onInterrupt: (vector: number) => void = () => {};

  /** Back to the state after reset, configuration space apart, with nothing under way. Never fails. */
  abstract resetRegisters(): void;
  /** Ends what is under way, for good. Never fails. */
  abstract stop(): void;
}

export class EmulatedUser implements DeviceUser {
  readonly interrupts: EmulatedInterrupts;
  private readonly fn: EmulatedFunction;

  constructor(kernel: Kernel, fn: EmulatedFunction) {
    this.fn = fn;
    this.interrupts = new EmulatedInterrupts(kernel, fn.msix?.vectors ?? 0);
    fn.onInterrupt = (vector) => this.interrupts.raise(vector);
  }

  get info(): DeviceInfo {
    const flags = uapi.VFIO_DEVICE_FLAGS_PCI | uapi.VFIO_DEVICE_FLAGS_RESET;
    return { flags, regions: uapi.VFIO_PCI_NUM_REGIONS, irqs: uapi.VFIO_PCI_NUM_IRQS };
  }

  regionInfo(index: number): RegionInfo {
    if (index >= uapi.VFIO_PCI_NUM_REGIONS || index === uapi.VFIO_PCI_VGA_REGION_INDEX) {
      throw new SysError('EINVAL', 'VFIO_DEVICE_GET_REGION_INFO', `no region ${index}`);
    }
    const size = this.sizeOf(index);
    const flags = size === 0 ? 0 : uapi.VFIO_REGION_INFO_FLAG_READ | uapi.VFIO_REGION_INFO_FLAG_WRITE;
    const offset = BigInt(index) << BigInt(uapi.VFIO_PCI_OFFSET_SHIFT);
    return { flags, size: BigInt(size), offset, msixMappable: false, sparse: null };
  }

  read(position: bigint, into: Uint8Array): number {
    const view = new DataView(into.buffer, into.byteOffset, into.length);
    return this.access('read', position, into.length, (index, offset, at, width) => {
      const value = this.load(index, offset, width);
      for (let i = 0; i < width; i++) view.setUint8(at + i, Number((value >> BigInt(8 * i)) & 0xffn));
    });
  }

  write(position: bigint, from: Uint8Array): number {
    return this.access('write', position, from.length, (index, offset, at, width) => {
      let value = 0n;
      for (let i = width - 1; i >= 0; i--) value = (value << 8n) | BigInt(from[at + i]!);
      this.store(index, offset, width, value);
    });
  }

  mmap(): never {
    throw new SysError('EINVAL', 'mmap', 'every access to a mediated device is trapped');
  }

  reset(): void {
    this.fn.resetRegisters();
  }

  close(): void {
    this.fn.onInterrupt = () => {};
    this.fn.stop();
    this.interrupts.disable();
  }

  private load(index: number, offset: number, width: 1 | 2 | 4 | 8): bigint {
    if (index !== uapi.VFIO_PCI_CONFIG_REGION_INDEX) return this.fn.bars[index]!.read(offset, width);
    return BigInt(this.fn.config.read(offset, width as 1 | 2 | 4));
  }

  private store(index: number, offset: number, width: 1 | 2 | 4 | 8, value: bigint): void {
    if (index !== uapi.VFIO_PCI_CONFIG_REGION_INDEX) this.fn.bars[index]!.write(offset, width, value);
    else this.fn.config.write(offset, width as 1 | 2 | 4, Number(value));
  }

  /**
   * Cuts an access into naturally aligned ones, of 8 bytes at most, of 4 in configuration space, and stops at the end of
   * a BAR. Gives the bytes of all.
   */
  private access(
    call: string,
    position: bigint,
    length: number,
    move: (index: number, offset: number, at: number, width: 1 | 2 | 4 | 8) => void,
  ): number {
    const shift = BigInt(uapi.VFIO_PCI_OFFSET_SHIFT);
    const index = Number(position >> shift);
    const start = Number(position & ((1n << shift) - 1n));
    const size = index < uapi.VFIO_PCI_NUM_REGIONS ? this.sizeOf(index) : 0;
    const config = index === uapi.VFIO_PCI_CONFIG_REGION_INDEX;
    if (config && start + length > size) {
      throw new SysError('EFAULT', call, `${length} bytes at ${start} are outside configuration space`);
    }
    if (start >= size) throw new SysError('EINVAL', call, `${start} is outside region ${index}`);
    if (!config && !this.fn.memoryEnabled) throw new SysError('EIO', call, 'memory decode is off');
    const count = Math.min(length, size - start);
    for (let done = 0; done < count; ) {
      const width = widest(start + done, count - done, config ? 4 : 8);
      move(index, start + done, done, width);
      done += width;
    }
    return count;
  }

  /** Bytes of a region; 0 when nothing is there. */
  private sizeOf(index: number): number {
    if (index === uapi.VFIO_PCI_CONFIG_REGION_INDEX) return CONFIG_SPACE_SIZE;
    return this.fn.bars[index]?.size ?? 0;
  }
}

/** The largest naturally aligned access at `offset` that `left` bytes hold. */
function widest(offset: number, left: number, most: 4 | 8): 1 | 2 | 4 | 8 {
  for (const width of [8, 4, 2] as const) if (width <= most && offset % width === 0 && left >= width) return width;
  return 1;
}
