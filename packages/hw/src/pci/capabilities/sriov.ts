/**
 * The SR-IOV capability of a physical function (PCI Express Base Specification 6.0, section 9.3.3). VF Enable makes
 * NumVFs functions appear at their routing ids, clearing it takes them away; VF Memory Space Enable decodes their BARs.
 * The only system page size is 4 KiB.
 */

import { PAGE_SIZE } from '../../memory/physical-memory.ts';
import type { ConfigSpace } from '../config-space.ts';
import { barFrame, defineBar, type PciFunction } from '../function.ts';
import type { Capability } from './capability.ts';

const CONTROL = 0x08;
const INITIAL_VFS = 0x0c;
const TOTAL_VFS = 0x0e;
const NUM_VFS = 0x10;
const FUNCTION_LINK = 0x12;
const FIRST_OFFSET = 0x14;
const STRIDE = 0x16;
const DEVICE_ID = 0x1a;
const SUPPORTED_PAGES = 0x1c;
const SYSTEM_PAGE = 0x20;
const BARS = 0x24;

const CONTROL_VF_ENABLE = 1 << 0;
const CONTROL_MEMORY = 1 << 3;
const CONTROL_ARI = 1 << 4;
const PAGES_4K = 1;

export type VfBarOptions = {
  index: number;
  /** Bytes of one VF's BAR. */
  size: number;
  is64?: boolean;
  prefetchable?: boolean;
};

export type SriovOptions = {
  totalVfs: number;
  /** Routing id of VF 0 less that of the PF; 1 by default. */
  firstOffset?: number;
  /** Distance between the routing ids of neighbouring VFs; 1 by default. */
  stride?: number;
  deviceId: number;
  bars: VfBarOptions[];
  /** Makes VF `index`, with a BAR of the named size for each entry of `bars`. */
  create: (index: number) => PciFunction;
};

export class SriovCapability implements Capability {
  readonly id = 0x10;
  readonly extended = true;
  readonly size = 0x40;
  /** The VFs that are there now; null where the routing id belongs to another function. */
  readonly functions: (PciFunction | null)[] = [];
  private readonly options: SriovOptions;
  private readonly firstOffset: number;
  private readonly stride: number;
  private fn!: PciFunction;
  private config!: ConfigSpace;
  private offset = 0;
  private vfEnabled = false;

  constructor(options: SriovOptions) {
    this.options = options;
    this.firstOffset = options.firstOffset ?? 1;
    this.stride = options.stride ?? 1;
  }

  install(fn: PciFunction, offset: number): void {
    const { totalVfs, deviceId, bars } = this.options;
    const config = fn.config;
    this.fn = fn;
    this.config = config;
    this.offset = offset;
    fn.sriov = this;
    config.define(offset + CONTROL, 2, { writable: CONTROL_VF_ENABLE | CONTROL_MEMORY | CONTROL_ARI });
    config.define(offset + INITIAL_VFS, 2, { value: totalVfs });
    config.define(offset + TOTAL_VFS, 2, { value: totalVfs });
    config.define(offset + NUM_VFS, 2, { writable: 0xffff });
    config.define(offset + FUNCTION_LINK, 1, {});
    config.define(offset + FIRST_OFFSET, 2, { value: this.firstOffset });
    config.define(offset + STRIDE, 2, { value: this.stride });
    config.define(offset + DEVICE_ID, 2, { value: deviceId });
    config.define(offset + SUPPORTED_PAGES, 4, { value: PAGES_4K });
    config.define(offset + SYSTEM_PAGE, 4, { value: PAGES_4K });
    for (const { index, size, is64 = true, prefetchable = false } of bars) {
      const at = offset + BARS + 4 * index;
      defineBar(config, at, size, is64, prefetchable);
      config.onWrite(at, is64 ? 8 : 4, () => this.updateDecoding());
    }
    config.onWrite(offset + CONTROL, 2, () => this.update());
  }

  /** The routing id of VF `index`. */
  routingId(index: number): number {
    return this.fn.rid + this.firstOffset + index * this.stride;
  }

  reset(): void {
    this.update();
  }

  private update(): void {
    const enabled = (this.config.read(this.offset + CONTROL, 2) & CONTROL_VF_ENABLE) !== 0;
    if (enabled !== this.vfEnabled) {
      this.vfEnabled = enabled;
      if (enabled) this.create();
      else this.destroy();
      this.config.setWritable(this.offset + NUM_VFS, 2, enabled ? 0 : 0xffff);
      const { fabric, rid } = this.fn;
      if (fabric?.trace.enabled) fabric.trace.emit({ name: 'sriov_enable', rid, count: this.functions.length });
    }
    this.updateDecoding();
  }

  private create(): void {
    const fabric = this.fn.fabric;
    if (fabric === null) return;
    const count = Math.min(this.config.read(this.offset + NUM_VFS, 2), this.options.totalVfs);
    for (let index = 0; index < count; index++) {
      const vf = this.options.create(index);
      this.functions.push(fabric.plugVirtual(vf, this.routingId(index), this.fn) ? vf : null);
    }
  }

  private destroy(): void {
    for (const vf of this.functions) if (vf !== null) this.fn.fabric?.unplug(vf);
    this.functions.length = 0;
  }

  /** BAR n of VF i lies at the VF BAR register plus i times its size. */
  private updateDecoding(): void {
    const fabric = this.fn.fabric;
    if (fabric === null) return;
    const enabled = (this.config.read(this.offset + CONTROL, 2) & CONTROL_MEMORY) !== 0;
    for (const { index, size, is64 = true } of this.options.bars) {
      const first = barFrame(this.config, this.offset + BARS + 4 * index, is64);
      for (let i = 0; i < this.functions.length; i++) {
        const bar = this.functions[i]?.bars[index];
        if (bar !== undefined) fabric.decoder.decode(bar, enabled ? first + (i * size) / PAGE_SIZE : null);
      }
    }
  }
}
