/** A PCI function as the kernel handles it: configuration space, memory resources, and the services it can be told to use. */

import { formatRid } from '@iommukit/hw';
import { SysError } from '../errno.ts';
import type { Kernel } from '../kernel.ts';
import { ConfigSpace } from './config-space.ts';
import { MsixTable } from './msix.ts';
import type { PciBus } from './pci-bus.ts';
import * as reg from './registers.ts';

/** Memory behind a base address register. */
export type PciResource = {
  /** BAR number, 0..5; a 64-bit BAR has the number of its first half. */
  readonly bar: number;
  readonly address: bigint;
  readonly size: bigint;
  readonly is64: boolean;
  readonly prefetchable: boolean;
};

/** Time a function may take for a function-level reset: 100 ms (section 6.6.2). */
const RESET_TIME = 100_000_000;

export class PciDevice {
  readonly kernel: Kernel;
  readonly bus: PciBus;
  readonly rid: number;
  readonly config: ConfigSpace;
  readonly vendorId: number;
  readonly deviceId: number;
  /** 24 bits: class, subclass, programming interface. */
  readonly classCode: number;
  readonly multifunction: boolean;
  /** The physical function of a VF. */
  readonly physicalFunction: PciDevice | null;
  /** Set by the bus when it assigns addresses. */
  resources: readonly PciResource[] = [];
  readonly msix: MsixTable | null;
  readonly expressOffset: number;
  readonly atsOffset: number;
  readonly priOffset: number;
  readonly pasidOffset: number;
  readonly acsOffset: number;
  readonly sriovOffset: number;
  readonly siovOffset: number;

  constructor(kernel: Kernel, bus: PciBus, rid: number, physicalFunction: PciDevice | null = null) {
    this.kernel = kernel;
    this.bus = bus;
    this.rid = rid;
    this.physicalFunction = physicalFunction;
    this.config = new ConfigSpace(kernel.memory, bus.ecamBase, rid);
    const { config } = this;
    this.sriovOffset = config.findExtendedCapability(reg.EXT_CAP_SRIOV);
    // A VF's own identification registers read all-ones; its identity is in the PF's SR-IOV capability.
    this.vendorId = physicalFunction?.vendorId ?? config.read(reg.VENDOR_ID, 2);
    this.deviceId =
      physicalFunction === null
        ? config.read(reg.DEVICE_ID, 2)
        : physicalFunction.config.read(physicalFunction.sriovOffset + reg.SRIOV_VF_DEVICE_ID, 2);
    this.classCode = config.read(reg.CLASS_REVISION, 4) >>> 8;
    this.multifunction =
      physicalFunction === null && (config.read(reg.HEADER_TYPE, 1) & reg.HEADER_TYPE_MULTIFUNCTION) !== 0;
    this.expressOffset = config.findCapability(reg.CAP_EXPRESS);
    this.atsOffset = config.findExtendedCapability(reg.EXT_CAP_ATS);
    // A PF's PASID and page-request interfaces serve its VFs, which have none of their own (sections 9.3.7.11, .14).
    this.priOffset = config.findExtendedCapability(reg.EXT_CAP_PRI);
    this.pasidOffset = config.findExtendedCapability(reg.EXT_CAP_PASID);
    this.acsOffset = config.findExtendedCapability(reg.EXT_CAP_ACS);
    this.siovOffset = config.findVendorCapability(reg.VENDOR_INTEL, reg.DVSEC_ID_SIOV);
    const msix = config.findCapability(reg.CAP_MSIX);
    this.msix = msix === 0 ? null : new MsixTable(this, msix);
  }

  /** `0000:bb:dd.f`. */
  get name(): string {
    return `0000:${formatRid(this.rid)}`;
  }

  get isVirtualFunction(): boolean {
    return this.physicalFunction !== null;
  }

  get isBridge(): boolean {
    return this.physicalFunction === null && (this.config.read(reg.HEADER_TYPE, 1) & 0x7f) === reg.HEADER_TYPE_BRIDGE;
  }

  /** Device/port type of the PCI Express capability; -1 without one. */
  get portType(): number {
    if (this.expressOffset === 0) return -1;
    return (this.config.read(this.expressOffset + reg.EXPRESS_CAPABILITIES, 2) >> 4) & 15;
  }

  /** The resource behind BAR `bar`, or null. */
  resource(bar: number): PciResource | null {
    return this.resources.find((resource) => resource.bar === bar) ?? null;
  }

  setBusMaster(on: boolean): void {
    this.setCommand(reg.COMMAND_BUS_MASTER, on);
  }

  setMemoryDecode(on: boolean): void {
    this.setCommand(reg.COMMAND_MEMORY, on);
  }

  /** Turns address translation services on, at 4 KiB granularity. */
  setAts(on: boolean): void {
    if (this.atsOffset === 0) return;
    this.config.update16(this.atsOffset + reg.ATS_CONTROL, on ? reg.ATS_ENABLE : 0, reg.ATS_ENABLE | 31);
  }

  /** Invalidations the function takes at a time, 1..32, as the register has it: 32 is 0. */
  get atsQueueDepth(): number {
    return this.atsOffset === 0 ? 0 : this.config.read(this.atsOffset + reg.ATS_CAPABILITY, 2) & 31;
  }

  /** PASIDs the function can issue: 2^width, or 0 without the capability. A VF uses its PF's, once that is on. */
  get pasids(): number {
    const owner = this.physicalFunction ?? this;
    if (owner.pasidOffset === 0) return 0;
    const control = owner.config.read(owner.pasidOffset + reg.PASID_CONTROL, 2);
    if (this.isVirtualFunction && (control & reg.PASID_ENABLE) === 0) return 0;
    return 2 ** ((owner.config.read(owner.pasidOffset + reg.PASID_CAPABILITY, 2) >> 8) & 31);
  }

  /** PASID_EXECUTE and PASID_PRIVILEGED, as far as the function can set them on requests. */
  get pasidFeatures(): number {
    const owner = this.physicalFunction ?? this;
    if (owner.pasidOffset === 0) return 0;
    const capability = owner.config.read(owner.pasidOffset + reg.PASID_CAPABILITY, 2);
    return capability & (reg.PASID_EXECUTE | reg.PASID_PRIVILEGED);
  }

  /** Lets the function, and its VFs, send PASIDs. `features` holds PASID_EXECUTE and PASID_PRIVILEGED. */
  setPasid(on: boolean, features = 0): void {
    if (this.pasidOffset === 0) return;
    this.config.write(this.pasidOffset + reg.PASID_CONTROL, 2, on ? reg.PASID_ENABLE | features : 0);
  }

  get hasPri(): boolean {
    return (this.physicalFunction ?? this).priOffset !== 0;
  }

  /** The interface for page requests is its physical function's. */
  get sharesPageRequests(): boolean {
    return this.isVirtualFunction && this.hasPri;
  }

  /** The function can be shared out by PASID: it has the DVSEC of Intel's Scalable I/O Virtualization. */
  get hasSiov(): boolean {
    return this.siovOffset !== 0;
  }

  /**
   * Lets the function, and its VFs, send page requests, as many as it can at a time.
   * @throws {SysError} EBUSY requests from before are still outstanding
   */
  enablePri(): void {
    const { config, priOffset } = this;
    if (priOffset === 0) return;
    if ((config.read(priOffset + reg.PRI_CONTROL, 2) & reg.PRI_ENABLE) !== 0) return;
    if ((config.read(priOffset + reg.PRI_STATUS, 2) & reg.PRI_STATUS_STOPPED) === 0) {
      throw new SysError('EBUSY', 'pci_enable_pri', `page requests of ${this.name} are outstanding`);
    }
    config.write(priOffset + reg.PRI_ALLOCATION, 4, config.read(priOffset + reg.PRI_CAPACITY, 4));
    config.write(priOffset + reg.PRI_CONTROL, 2, reg.PRI_ENABLE);
  }

  disablePri(): void {
    if (this.priOffset !== 0) this.config.write(this.priOffset + reg.PRI_CONTROL, 2, 0);
  }

  get canReset(): boolean {
    const { config, expressOffset } = this;
    if (expressOffset === 0) return false;
    return (config.read(expressOffset + reg.EXPRESS_DEVICE_CAPABILITIES, 4) & reg.EXPRESS_FLR_CAPABLE) !== 0;
  }

  /**
   * Function-level reset. Addresses, the command register and the enables of MSI-X, ATS, PASID and PRI are afterwards
   * as before; so are those of virtual functions, which go and come back with their PF.
   * @throws {SysError} EINVAL the function cannot be reset
   */
  reset(): void {
    if (!this.canReset) throw new SysError('EINVAL', 'pcie_flr', `${this.name} has no function-level reset`);
    const { config, kernel } = this;
    const virtual = this.bus.devices.filter((device) => device.physicalFunction === this);
    const restores = [this, ...virtual].map((device) => device.saveState());
    this.setBusMaster(false);
    config.update16(this.expressOffset + reg.EXPRESS_DEVICE_CONTROL, reg.EXPRESS_INITIATE_FLR, 0);
    kernel.scheduler.advance(RESET_TIME);
    for (const restore of restores) restore();
  }

  private setCommand(bits: number, on: boolean): void {
    this.config.update16(reg.COMMAND, on ? bits : 0, bits);
  }

  /** Reads what a reset clears; gives the function that writes it back. */
  private saveState(): () => void {
    const { config } = this;
    const saved: { offset: number; width: 2 | 4; value: number }[] = [];
    const save = (offset: number, width: 2 | 4): void => {
      saved.push({ offset, width, value: config.read(offset, width) });
    };
    if (!this.isVirtualFunction) for (let bar = 0; bar < 6; bar++) save(reg.BAR0 + 4 * bar, 4);
    if (this.pasidOffset !== 0) save(this.pasidOffset + reg.PASID_CONTROL, 2);
    if (this.atsOffset !== 0) save(this.atsOffset + reg.ATS_CONTROL, 2);
    if (this.priOffset !== 0) {
      save(this.priOffset + reg.PRI_ALLOCATION, 4);
      save(this.priOffset + reg.PRI_CONTROL, 2);
    }
    if (this.sriovOffset !== 0) {
      save(this.sriovOffset + reg.SRIOV_NUM_VFS, 2);
      for (let bar = 0; bar < 6; bar++) save(this.sriovOffset + reg.SRIOV_VF_BAR0 + 4 * bar, 4);
      save(this.sriovOffset + reg.SRIOV_CONTROL, 2);
    }
    save(reg.COMMAND, 2);
    const restoreMsix = this.msix?.save();
    return () => {
      for (const { offset, width, value } of saved) config.write(offset, width, value);
      restoreMsix?.();
    };
  }
}
