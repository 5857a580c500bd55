/** MSI-X of one function, programmed through its capability and its table in a BAR (PCI Express 6.0, section 7.7.2). */

import { SysError } from '../errno.ts';
import type { MsiMessage } from '../kernel.ts';
import type { PciDevice } from './pci-device.ts';
import * as reg from './registers.ts';

const ENTRY_MASKED = 1;

export class MsixTable {
  /** Number of vectors. */
  readonly vectors: number;
  /** BAR and byte offset of the table. */
  readonly tableBar: number;
  readonly tableOffset: number;
  /** BAR and byte offset of the pending bits. */
  readonly pendingBar: number;
  readonly pendingOffset: number;
  private readonly device: PciDevice;
  private readonly capability: number;

  constructor(device: PciDevice, capability: number) {
    this.device = device;
    this.capability = capability;
    this.vectors = (device.config.read(capability + reg.MSIX_CONTROL, 2) & reg.MSIX_SIZE_MASK) + 1;
    const table = device.config.read(capability + reg.MSIX_TABLE, 4);
    const pending = device.config.read(capability + reg.MSIX_PENDING, 4);
    this.tableBar = table & 7;
    this.tableOffset = (table & ~7) >>> 0;
    this.pendingBar = pending & 7;
    this.pendingOffset = (pending & ~7) >>> 0;
  }

  get enabled(): boolean {
    return (this.control & reg.MSIX_ENABLE) !== 0;
  }

  /** Turns MSI-X on, with every vector masked, or off. Needs memory decode. */
  setEnabled(on: boolean): void {
    const at = this.capability + reg.MSIX_CONTROL;
    if (!on) {
      this.device.config.update16(at, 0, reg.MSIX_ENABLE | reg.MSIX_FUNCTION_MASK);
      return;
    }
    this.device.config.update16(at, reg.MSIX_ENABLE | reg.MSIX_FUNCTION_MASK, 0);
    for (let vector = 0; vector < this.vectors; vector++) this.setMasked(vector, true);
    this.device.config.update16(at, 0, reg.MSIX_FUNCTION_MASK);
  }

  /** Sets the message of `vector` and unmasks it. @throws {SysError} EINVAL no such vector */
  program(vector: number, message: MsiMessage): void {
    const entry = this.entry(vector);
    const { memory } = this.device.kernel;
    this.setMasked(vector, true);
    memory.store(entry, 4, message.address & 0xffffffffn);
    memory.store(entry + 4n, 4, message.address >> 32n);
    memory.store(entry + 8n, 4, message.data);
    this.setMasked(vector, false);
  }

  setMasked(vector: number, masked: boolean): void {
    this.device.kernel.memory.store(this.entry(vector) + 12n, 4, masked ? ENTRY_MASKED : 0);
  }

  /** Reads the control register and the whole table; gives the function that writes them back. */
  save(): () => void {
    const { config, kernel } = this.device;
    const at = this.capability + reg.MSIX_CONTROL;
    const control = this.control;
    if ((control & reg.MSIX_ENABLE) === 0) return () => config.write(at, 2, control);
    const words: bigint[] = [];
    const start = this.entry(0);
    const bytes = BigInt(this.vectors * reg.MSIX_ENTRY_BYTES);
    for (let offset = 0n; offset < bytes; offset += 4n) words.push(kernel.memory.load(start + offset, 4));
    return () => {
      config.write(at, 2, control | reg.MSIX_FUNCTION_MASK);
      words.forEach((word, index) => {
        kernel.memory.store(start + BigInt(4 * index), 4, word);
      });
      config.write(at, 2, control);
    };
  }

  private get control(): number {
    return this.device.config.read(this.capability + reg.MSIX_CONTROL, 2);
  }

  private entry(vector: number): bigint {
    const bar = this.device.resource(this.tableBar);
    if (vector < 0 || vector >= this.vectors || bar === null) {
      throw new SysError('EINVAL', 'pci_msix', `vector ${vector} of ${this.vectors} of ${this.device.name}`);
    }
    return bar.address + BigInt(this.tableOffset + vector * reg.MSIX_ENTRY_BYTES);
  }
}
