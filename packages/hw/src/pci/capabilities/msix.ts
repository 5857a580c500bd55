/**
 * The MSI-X capability, its table and its pending-bit array (PCI Express Base Specification 6.0, sections 6.1.4 and
 * 7.7.2). Table and array lie over parts of one of the function's BARs.
 */

import type { AccessWidth, MmioHandler } from '../../memory/mmio.ts';
import { joinU64 } from '../../u64.ts';
import type { ConfigSpace } from '../config-space.ts';
import type { PciFunction } from '../function.ts';
import { NO_PASID } from '../transaction.ts';
import type { Capability } from './capability.ts';

const MESSAGE_CONTROL = 0x02;
const TABLE = 0x04;
const PENDING_BITS = 0x08;

const CONTROL_MASK_ALL = 1 << 14;
const CONTROL_ENABLE = 1 << 15;

const ENTRY_SIZE = 16;
const ENTRY_ADDRESS = 0;
const ENTRY_UPPER_ADDRESS = 4;
const ENTRY_DATA = 8;
const ENTRY_CONTROL = 12;
const ENTRY_MASKED = 1;

export type MsixOptions = {
  /** Table entries, 1..2048. */
  vectors: number;
  /** BAR that holds both structures; it must have been added before. */
  bar: number;
  /** Offset of the table in the BAR, a multiple of 8. */
  tableOffset: number;
  /** Offset of the pending-bit array in the BAR, a multiple of 8. */
  pendingOffset: number;
};

export class MsixCapability implements Capability {
  readonly id = 0x11;
  readonly extended = false;
  readonly size = 12;
  readonly vectors: number;
  private readonly options: MsixOptions;
  private readonly table: Uint8Array;
  private readonly view: DataView;
  private readonly pending: Uint8Array;
  private fn!: PciFunction;
  private config!: ConfigSpace;
  private offset = 0;

  constructor(options: MsixOptions) {
    const { vectors } = options;
    if (!(vectors >= 1 && vectors <= 2048)) throw new RangeError(`MSI-X vectors are not 1..2048: ${vectors}`);
    this.options = options;
    this.vectors = vectors;
    this.table = new Uint8Array(vectors * ENTRY_SIZE);
    this.view = new DataView(this.table.buffer);
    this.pending = new Uint8Array(Math.ceil(vectors / 64) * 8);
    this.maskAll();
  }

  install(fn: PciFunction, offset: number): void {
    const { bar: index, tableOffset, pendingOffset } = this.options;
    const bar = fn.bars[index];
    if (bar === undefined) throw new RangeError(`MSI-X table in BAR ${index}, which the function does not have`);
    this.fn = fn;
    this.config = fn.config;
    this.offset = offset;
    fn.msix = this;
    this.config.define(offset + MESSAGE_CONTROL, 2, {
      value: this.vectors - 1,
      writable: CONTROL_ENABLE | CONTROL_MASK_ALL,
    });
    this.config.define(offset + TABLE, 4, { value: tableOffset | index });
    this.config.define(offset + PENDING_BITS, 4, { value: pendingOffset | index });
    this.config.onWrite(offset + MESSAGE_CONTROL, 2, () => this.sendPending());
    bar.overlay(tableOffset, this.table.length, this.tableHandler());
    bar.overlay(pendingOffset, this.pending.length, {
      read: (at, width) => loadBytes(this.pending, at, width),
      write() {},
    });
  }

  get enabled(): boolean {
    return (this.control() & CONTROL_ENABLE) !== 0;
  }

  /**
   * Requests interrupt `vector`. A masked vector stays pending, and so does one that cannot leave because the function
   * is no bus master. With MSI-X disabled, and for a vector that does not exist, nothing happens.
   */
  raise(vector: number): void {
    if (!(vector >= 0 && vector < this.vectors) || !this.enabled) return;
    this.pending[vector >> 3]! |= 1 << (vector & 7);
    this.send(vector);
  }

  isPending(vector: number): boolean {
    return ((this.pending[vector >> 3] ?? 0) & (1 << (vector & 7))) !== 0;
  }

  /** Sends what is pending and can leave now. */
  sendPending(): void {
    for (let byte = 0; byte < this.pending.length; byte++) {
      for (let bits = this.pending[byte]!; bits !== 0; bits &= bits - 1)
        this.send(8 * byte + 31 - Math.clz32(bits & -bits));
    }
  }

  reset(): void {
    this.table.fill(0);
    this.pending.fill(0);
    this.maskAll();
  }

  private control(): number {
    return this.config.read(this.offset + MESSAGE_CONTROL, 2);
  }

  private maskAll(): void {
    for (let vector = 0; vector < this.vectors; vector++)
      this.table[vector * ENTRY_SIZE + ENTRY_CONTROL] = ENTRY_MASKED;
  }

  private send(vector: number): void {
    const fn = this.fn;
    const entry = vector * ENTRY_SIZE;
    if ((this.control() & (CONTROL_ENABLE | CONTROL_MASK_ALL)) !== CONTROL_ENABLE) return;
    if (!fn.upstream.mayRequest(NO_PASID, 0)) return;
    if ((this.table[entry + ENTRY_CONTROL]! & ENTRY_MASKED) !== 0) return;
    this.pending[vector >> 3]! &= ~(1 << (vector & 7));
    const addressLow = this.view.getInt32(entry + ENTRY_ADDRESS, true);
    const addressHigh = this.view.getInt32(entry + ENTRY_UPPER_ADDRESS, true);
    const data = this.view.getInt32(entry + ENTRY_DATA, true);
    const trace = fn.fabric?.trace;
    if (trace?.enabled) {
      trace.emit({ name: 'msi', rid: fn.rid, vector, address: joinU64(addressLow, addressHigh), data: data >>> 0 });
    }
    fn.upstream.writeMessage(addressLow, addressHigh, data);
  }

  private tableHandler(): MmioHandler {
    return {
      read: (at, width) => loadBytes(this.table, at, width),
      write: (at, width, value) => {
        for (let i = 0; i < width && at + i < this.table.length; i++) {
          this.table[at + i] = Number((value >> BigInt(8 * i)) & 0xffn) & tableWritable((at + i) % ENTRY_SIZE);
        }
        this.sendPending();
      },
    };
  }
}

/** Bits of one byte of a table entry that software can set: the address is aligned, vector control is one bit. */
function tableWritable(byte: number): number {
  if (byte === ENTRY_ADDRESS) return 0xfc;
  if (byte === ENTRY_CONTROL) return ENTRY_MASKED;
  return byte > ENTRY_CONTROL ? 0 : 0xff;
}

function loadBytes(bytes: Uint8Array, at: number, width: AccessWidth): bigint {
  let value = 0n;
  for (let i = width - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[at + i] ?? 0);
  return value;
}
