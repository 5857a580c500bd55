/**
 * One PCI Express function: configuration space with a type 0 (or, for ports, type 1) header, BARs and capabilities
 * (PCI Express Base Specification 6.0, chapter 7; reset: section 6.6; virtual functions: chapter 9).
 *
 * A device model extends this class, adds its BARs and capabilities in its constructor, in the order in which they
 * shall stand in configuration space, and implements `onReset`.
 */

import type { MmioHandler } from '../memory/mmio.ts';
import { pageNumber } from '../u64.ts';
import { Bar } from './bar.ts';
import type { AtsCapability } from './capabilities/ats.ts';
import type { Capability } from './capabilities/capability.ts';
import type { MsixCapability } from './capabilities/msix.ts';
import type { PageRequestInterface } from './capabilities/page-request.ts';
import type { PasidCapability } from './capabilities/pasid.ts';
import type { ExpressCapability } from './capabilities/pci-express.ts';
import type { SriovCapability } from './capabilities/sriov.ts';
import { CONFIG_SPACE_SIZE, ConfigSpace } from './config-space.ts';
import type { PciFabric } from './fabric.ts';
import type { RootPort } from './root-port.ts';
import { UpstreamPort } from './upstream-port.ts';

const COMMAND = 0x04;
const COMMAND_MEMORY = 1 << 1;
const COMMAND_MASTER = 1 << 2;
const STATUS = 0x06;
const STATUS_CAPABILITIES = 1 << 4;
const HEADER_TYPE = 0x0e;
const HEADER_MULTI_FUNCTION = 0x80;
const BAR0 = 0x10;
const CAPABILITY_POINTER = 0x34;
const FIRST_STANDARD = 0x40;
const FIRST_EXTENDED = 0x100;

export type PciFunctionOptions = {
  vendorId: number;
  deviceId: number;
  /** Base class, sub-class and programming interface, 24 bits. */
  classCode: number;
  revision?: number;
  subsystemVendorId?: number;
  subsystemId?: number;
  /** The PF, for a virtual function: ids read as all-ones and BARs lie in the PF's SR-IOV capability. */
  physicalFunction?: PciFunction;
  /** 1 for ports; 0 by default. */
  headerType?: 0 | 1;
};

export type BarOptions = {
  /** Bytes: a power of two, 4 KiB to 4 GiB. */
  size: number;
  handler: MmioHandler;
  /** A 64-bit BAR takes the register of index + 1 too. True by default. */
  is64?: boolean;
  prefetchable?: boolean;
};

type BarRegister = {
  readonly bar: Bar;
  readonly index: number;
  readonly is64: boolean;
};

export class PciFunction {
  readonly config: ConfigSpace = new ConfigSpace();
  /** Where the function's own requests go out. */
  readonly upstream: UpstreamPort;
  readonly physicalFunction: PciFunction | null;
  /** BARs by index; those of a VF are decoded by the PF's SR-IOV capability. */
  readonly bars: (Bar | undefined)[] = [];

  /** Capabilities that other parts of the model ask about; null where the function has none. */
  express: ExpressCapability | null = null;
  msix: MsixCapability | null = null;
  ats: AtsCapability | null = null;
  /** A VF's is its PF's. */
  pasid: PasidCapability | null = null;
  /** A VF's is its PF's. */
  pri: PageRequestInterface | null = null;
  sriov: SriovCapability | null = null;

  /** The fabric the function is plugged in, and its place there. */
  fabric: PciFabric | null = null;
  rid = -1;
  /** The root port above; null for functions of the root complex. */
  port: RootPort | null = null;

  /** Bus Master Enable: without it nothing goes upstream. */
  busMaster = false;
  /** False makes the function swallow ATS invalidation requests, as a hung device does. */
  answersInvalidations = true;

  private readonly barRegisters: BarRegister[] = [];
  private readonly capabilities: Capability[] = [];
  private nextStandard = FIRST_STANDARD;
  private lastStandard = -1;
  private nextExtended = FIRST_EXTENDED;
  private lastExtended = -1;

  constructor(options: PciFunctionOptions) {
    const { physicalFunction = null, headerType = 0 } = options;
    this.physicalFunction = physicalFunction;
    this.upstream = new UpstreamPort(this);
    const virtual = physicalFunction !== null;
    const config = this.config;
    config.define(0x00, 2, { value: virtual ? 0xffff : options.vendorId });
    config.define(0x02, 2, { value: virtual ? 0xffff : options.deviceId });
    config.define(COMMAND, 2, { writable: COMMAND_MASTER | (virtual ? 0 : COMMAND_MEMORY | 0x0540) });
    config.define(STATUS, 2, { clearable: 0xf900 });
    config.define(0x08, 4, { value: (options.classCode << 8) | (options.revision ?? 0) });
    config.define(0x0c, 1, { writable: virtual ? 0 : 0xff });
    config.define(HEADER_TYPE, 1, { value: headerType });
    config.define(0x3c, 1, { writable: virtual ? 0 : 0xff });
    if (headerType === 0) {
      config.define(0x2c, 2, { value: options.subsystemVendorId ?? 0 });
      config.define(0x2e, 2, { value: options.subsystemId ?? 0 });
    }
    config.onWrite(COMMAND, 2, () => this.updateCommand());
    if (virtual) {
      this.pasid = physicalFunction.pasid;
      this.pri = physicalFunction.pri;
    }
  }

  /** Memory Space Enable: without it the BARs do not answer. */
  get memoryEnabled(): boolean {
    return (this.config.read(COMMAND, 2) & COMMAND_MEMORY) !== 0;
  }

  /**
   * Adds BAR `index` (0..5).
   * @throws {RangeError} when its registers are taken or its size is not one
   */
  addBar(index: number, options: BarOptions): Bar {
    const { size, handler, is64 = true, prefetchable = false } = options;
    const bar = new Bar(size, handler);
    const registers = is64 ? 2 : 1;
    for (const other of this.barRegisters) {
      if (index < other.index + (other.is64 ? 2 : 1) && other.index < index + registers) {
        throw new RangeError(`BAR ${index} overlaps BAR ${other.index}`);
      }
    }
    if (index < 0 || index + registers > 6) throw new RangeError(`no such BAR: ${index}`);
    this.bars[index] = bar;
    this.barRegisters.push({ bar, index, is64 });
    if (this.physicalFunction === null) {
      defineBar(this.config, BAR0 + 4 * index, size, is64, prefetchable);
      this.config.onWrite(BAR0 + 4 * index, 4 * registers, () => this.updateDecoding());
    }
    return bar;
  }

  /**
   * Adds a capability at the end of its chain.
   * @throws {RangeError} when configuration space is used up
   */
  add<T extends Capability>(capability: T): T {
    if (capability.extended) this.linkExtended(capability);
    else this.linkStandard(capability);
    this.capabilities.push(capability);
    return capability;
  }

  /** Brings the function to its state after reset (function-level reset and every larger one). */
  reset(): void {
    this.clear();
    const trace = this.fabric?.trace;
    if (trace?.enabled) trace.emit({ name: 'pci_reset', rid: this.rid });
  }

  /** Called by the fabric. */
  plugged(fabric: PciFabric, rid: number, port: RootPort | null): void {
    this.fabric = fabric;
    this.rid = rid;
    this.port = port;
    this.express?.setIntegrated(rid >> 8 === 0);
    this.updateCommand();
  }

  /** Called by the fabric: the function is gone from its slot, with all that it had outstanding. */
  unplugged(): void {
    this.clear();
    for (const { bar } of this.barRegisters) this.fabric?.decoder.decode(bar, null);
    this.fabric = null;
    this.port = null;
    this.rid = -1;
  }

  /** Called by the fabric when the device has more than one function. */
  markMultiFunction(): void {
    this.config.define(HEADER_TYPE, 1, { value: this.config.read(HEADER_TYPE, 1) | HEADER_MULTI_FUNCTION });
  }

  /** The device's own part of a reset: stop what is under way and forget it. */
  protected onReset(): void {}

  private clear(): void {
    this.config.reset();
    for (const capability of this.capabilities) capability.reset();
    this.pri?.dropGroupsOf(this);
    this.updateCommand();
    this.onReset();
  }

  private updateCommand(): void {
    const before = this.busMaster;
    this.busMaster = (this.config.read(COMMAND, 2) & COMMAND_MASTER) !== 0;
    this.updateDecoding();
    if (this.busMaster && !before) this.msix?.sendPending();
  }

  private updateDecoding(): void {
    const fabric = this.fabric;
    if (fabric === null || this.physicalFunction !== null) return;
    const enabled = this.memoryEnabled;
    for (const { bar, index, is64 } of this.barRegisters) {
      fabric.decoder.decode(bar, enabled ? barFrame(this.config, BAR0 + 4 * index, is64) : null);
    }
  }

  private linkStandard(capability: Capability): void {
    const offset = this.nextStandard;
    if (offset + capability.size > FIRST_EXTENDED) throw new RangeError('no room for another capability');
    if (this.lastStandard < 0) {
      this.config.define(STATUS, 2, { value: STATUS_CAPABILITIES, clearable: 0xf900 });
      this.config.define(CAPABILITY_POINTER, 1, { value: offset });
    } else this.config.define(this.lastStandard + 1, 1, { value: offset });
    this.config.define(offset, 2, { value: capability.id });
    capability.install(this, offset);
    this.lastStandard = offset;
    this.nextStandard = (offset + capability.size + 3) & ~3;
  }

  private linkExtended(capability: Capability): void {
    const offset = this.nextExtended;
    if (offset + capability.size > CONFIG_SPACE_SIZE) throw new RangeError('no room for another extended capability');
    if (this.lastExtended >= 0) {
      const header = this.config.read(this.lastExtended, 4);
      this.config.define(this.lastExtended, 4, { value: header | (offset << 20) });
    }
    this.config.define(offset, 4, { value: capability.id | (1 << 16) });
    capability.install(this, offset);
    this.lastExtended = offset;
    this.nextExtended = (offset + capability.size + 3) & ~3;
  }
}

/** Lays out the register(s) of one memory BAR at `offset`. */
export function defineBar(
  config: ConfigSpace,
  offset: number,
  size: number,
  is64: boolean,
  prefetchable: boolean,
): void {
  const writable = size === 2 ** 32 ? 0 : -size & ~0xf;
  config.define(offset, 4, { value: (is64 ? 4 : 0) | (prefetchable ? 8 : 0), writable });
  if (is64) config.define(offset + 4, 4, { writable: -1 });
}

/** The frame number that the BAR register(s) at `offset` hold. */
export function barFrame(config: ConfigSpace, offset: number, is64: boolean): number {
  return pageNumber(config.read(offset, 4) | 0, is64 ? config.read(offset + 4, 4) | 0 : 0);
}
