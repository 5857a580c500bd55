/**
 * A VFIO device given to the guest: its PCI function as the guest sees it.
 *
 * Configuration space is the VMM's own, with the identity of the real function; PASID, ATS and PRI are shown there for
 * the guest to enable, while the host has enabled the real ones when it took the device over. Registers and portals go
 * to the real BARs; interrupts come back through eventfds.
 */

import {
  type AccessWidth,
  AtsCapability,
  ExpressCapability,
  type MmioHandler,
  MsixCapability,
  PageRequestInterface,
  PasidCapability,
  PciFunction,
} from '@iommukit/hw';
import { POLLIN, SysError, type SystemCalls } from '@iommukit/iommufd';
import { VFIO_PCI_MSIX_IRQ_INDEX, type VfioDeviceClient } from '@iommukit/vfio';

const COMMAND = 0x04;
const COMMAND_MEMORY = 1 << 1;
const COMMAND_MASTER = 1 << 2;
const CAPABILITY_POINTER = 0x34;
const CAPABILITY_MSIX = 0x11;
const BARS = 6;

/** Hears of 64-byte writes to the device. */
export type PortalWatcher = (instruction: 'enqcmd' | 'movdir64b', data: Uint8Array, accepted: boolean) => void;

export type PassthroughOptions = {
  /** The real one. */
  vfio: VfioDeviceClient;
  system: SystemCalls;
  /** Width of the PASIDs shown to the guest. */
  pasidBits: number;
  onPortalWrite: PortalWatcher;
};

export class PassthroughFunction extends PciFunction {
  private readonly options: PassthroughOptions;
  /** Eventfds of the real interrupts, by vector. */
  private readonly triggers: number[] = [];

  constructor(options: PassthroughOptions) {
    const { vfio } = options;
    super({
      vendorId: vfio.readConfig(0x00, 2),
      deviceId: vfio.readConfig(0x02, 2),
      revision: vfio.readConfig(0x08, 1),
      classCode: vfio.readConfig(0x08, 4) >>> 8,
      subsystemVendorId: vfio.readConfig(0x2c, 2),
      subsystemId: vfio.readConfig(0x2e, 2),
    });
    this.options = options;
    vfio.writeConfig(COMMAND, 2, COMMAND_MEMORY);
    for (let index = 0; index < BARS; index++) this.addRealBar(index);
    this.add(new ExpressCapability());
    this.addMsix();
    this.add(new AtsCapability());
    this.add(new PasidCapability({ width: options.pasidBits, execute: true, privileged: true }));
    this.add(new PageRequestInterface({ capacity: 512 }));
    this.config.onWrite(COMMAND, 2, () => this.forwardCommand());
  }

  /** Raises in the guest what the real device has raised since the last call. */
  pumpInterrupts(): void {
    const { system } = this.options;
    const count = new Uint8Array(8);
    this.triggers.forEach((fd, vector) => {
      if ((system.poll(fd) & POLLIN) === 0) return;
      system.read(fd, count);
      this.msix?.raise(vector);
    });
  }

  /** Closes what the function holds in the VMM process. */
  close(): void {
    for (const fd of this.triggers.splice(0)) this.options.system.close(fd);
  }

  protected override onReset(): void {
    attempt(() => this.options.vfio.reset(), undefined);
    this.forwardCommand();
  }

  /** Bus mastering is the guest's decision; memory decode of the real device stays on, for the VMM's windows. */
  private forwardCommand(): void {
    const master = this.config.read(COMMAND, 2) & COMMAND_MASTER;
    this.options.vfio.writeConfig(COMMAND, 2, COMMAND_MEMORY | master);
  }

  private addRealBar(index: number): void {
    const { vfio } = this.options;
    const size = Number(vfio.regionInfo(index).size);
    if (size === 0) return;
    const low = vfio.readConfig(0x10 + 4 * index, 4);
    const is64 = (low & 6) === 4;
    this.addBar(index, { size, handler: this.barHandler(index, size), is64, prefetchable: (low & 8) !== 0 });
  }

  private barHandler(index: number, size: number): MmioHandler {
    const { vfio, system, onPortalWrite } = this.options;
    const word = new Uint8Array(8);
    const view = new DataView(word.buffer);
    const memory = system.process.memory!;
    const window = vfio.map(index, 0, size);
    return {
      read(offset: number, width: AccessWidth): bigint {
        word.fill(0);
        const count = attempt(() => vfio.read(index, offset, word.subarray(0, width)), 0);
        word.fill(0xff, count, width);
        return view.getBigUint64(0, true);
      },
      write(offset: number, width: AccessWidth, value: bigint): void {
        view.setBigUint64(0, value, true);
        attempt(() => vfio.write(index, offset, word.subarray(0, width)), 0);
      },
      store64(offset: number, data: Uint8Array): void {
        const stored = attempt(() => {
          memory.store64(window + BigInt(offset), data);
          return true;
        }, false);
        onPortalWrite('movdir64b', data, stored);
      },
      enqueue64(offset: number, data: Uint8Array): boolean {
        const accepted = attempt(() => memory.enqueue64(window + BigInt(offset), data), false);
        onPortalWrite('enqcmd', data, accepted);
        return accepted;
      },
    };
  }

  /** The guest's table lies where the real one does, over the VMM's own; the real vectors signal eventfds. */
  private addMsix(): void {
    const { vfio, system } = this.options;
    const { count } = vfio.irqInfo(VFIO_PCI_MSIX_IRQ_INDEX);
    const at = this.findRealCapability(CAPABILITY_MSIX);
    if (count === 0 || at === 0) return;
    const table = vfio.readConfig(at + 4, 4);
    const pending = vfio.readConfig(at + 8, 4);
    this.add(
      new MsixCapability({
        vectors: count,
        bar: table & 7,
        tableOffset: table & ~7,
        pendingOffset: pending & ~7,
      }),
    );
    for (let vector = 0; vector < count; vector++) this.triggers.push(system.eventfd());
    vfio.setTriggers({ index: VFIO_PCI_MSIX_IRQ_INDEX }, this.triggers);
  }

  private findRealCapability(id: number): number {
    const { vfio } = this.options;
    let at = vfio.readConfig(CAPABILITY_POINTER, 1);
    for (let seen = 0; at >= 0x40 && seen < 48; seen++) {
      if (vfio.readConfig(at, 1) === id) return at;
      at = vfio.readConfig(at + 1, 1) & ~3;
    }
    return 0;
  }
}

/**
 * What `action` gives, or `refused` when the host refuses it. An access of the guest's ends on the guest's bus, never
 * in the VMM: reads of what is not there are all ones, writes are dropped.
 */
function attempt<T>(action: () => T, refused: T): T {
  try {
    return action();
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    return refused;
  }
}
