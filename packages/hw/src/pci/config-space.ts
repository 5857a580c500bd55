/**
 * The 4 KiB configuration space of one function (PCI Express Base Specification 6.0, section 7.2).
 *
 * Each bit is read-only, read-write, or write-one-to-clear. Whatever a write means beyond storing bits is an action
 * that runs after the bits are stored and reads the registers back.
 */

export const CONFIG_SPACE_SIZE = 4096;

/** How a register starts and which of its bits software can change; every mask is 0 where it is left out. */
export type ConfigRegister = {
  /** Value after reset. */
  value?: number;
  /** Bits that take what is written. */
  writable?: number;
  /** Bits that a written 1 clears. */
  clearable?: number;
};

type WriteAction = {
  readonly first: number;
  readonly last: number;
  readonly run: () => void;
};

export class ConfigSpace {
  private readonly bytes = new Uint8Array(CONFIG_SPACE_SIZE);
  private readonly initial = new Uint8Array(CONFIG_SPACE_SIZE);
  private readonly writable = new Uint8Array(CONFIG_SPACE_SIZE);
  private readonly clearable = new Uint8Array(CONFIG_SPACE_SIZE);
  private readonly actions: WriteAction[] = [];

  /** Lays out a register of `width` bytes at `offset`, in place of what was there. */
  define(offset: number, width: 1 | 2 | 4, register: ConfigRegister): void {
    const { value = 0, writable = 0, clearable = 0 } = register;
    for (let i = 0; i < width; i++) {
      const shift = 8 * i;
      this.initial[offset + i] = value >>> shift;
      this.bytes[offset + i] = value >>> shift;
      this.writable[offset + i] = writable >>> shift;
      this.clearable[offset + i] = clearable >>> shift;
    }
  }

  /** Runs `action` after each write that touches a byte of [offset, offset + length). */
  onWrite(offset: number, length: number, action: () => void): void {
    this.actions.push({ first: offset, last: offset + length - 1, run: action });
  }

  /** A configuration read, unsigned; all-ones for bytes outside the space. */
  read(offset: number, width: 1 | 2 | 4): number {
    let value = 0;
    for (let i = width - 1; i >= 0; i--) value = (value << 8) | (this.bytes[offset + i] ?? 0xff);
    return value >>> 0;
  }

  /** A configuration write. */
  write(offset: number, width: 1 | 2 | 4, value: number): void {
    for (let i = 0; i < width && offset + i < CONFIG_SPACE_SIZE; i++) {
      const at = offset + i;
      const written = (value >>> (8 * i)) & 0xff;
      const writable = this.writable[at]!;
      this.bytes[at] = (this.bytes[at]! & ~writable & ~(written & this.clearable[at]!)) | (written & writable);
    }
    const last = offset + width - 1;
    for (const action of this.actions) {
      if (offset <= action.last && last >= action.first) action.run();
    }
  }

  /** Stores a register as the device does: no mask applies and no action runs. */
  set(offset: number, width: 1 | 2 | 4, value: number): void {
    for (let i = 0; i < width; i++) this.bytes[offset + i] = value >>> (8 * i);
  }

  /** Changes which bits of a register take what is written. */
  setWritable(offset: number, width: 1 | 2 | 4, mask: number): void {
    for (let i = 0; i < width; i++) this.writable[offset + i] = mask >>> (8 * i);
  }

  /** Every register back to its value after reset; no action runs. */
  reset(): void {
    this.bytes.set(this.initial);
  }
}
