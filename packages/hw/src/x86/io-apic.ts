/**
 * An I/O APIC, version 0x20 (Intel I/O Controller Hub 9 datasheet, order 316972, section 13.5): 24 pins, each with a
 * redirection entry that becomes an interrupt message.
 *
 * An entry in the remappable format of VT-d (section 5.1.5.1) becomes a remappable message by the same wiring: bits
 * 63:48 are address bits 19:4 and bit 11 is address bit 2. Polarity is the wire's business: pins are asserted or not.
 */

import type { AccessWidth, MmioHandler } from '../memory/mmio.ts';
import type { InterruptSink } from '../pci/transaction.ts';

/** Physical address of the register page. */
export const IO_APIC_BASE = 0xfec0_0000;

const PINS = 24;
const VERSION_VALUE = 0x20 | ((PINS - 1) << 16);
const LEVEL = 1 << 15;
const REMOTE_IRR = 1 << 14;
const MASKED = 1 << 16;
const LOW_WRITABLE = 0x1afff;

export class IoApic implements MmioHandler {
  private readonly sink: InterruptSink;
  private select = 0;
  private id = 0;
  private readonly low: Int32Array = new Int32Array(PINS).fill(MASKED);
  private readonly high: Int32Array = new Int32Array(PINS);
  private readonly asserted: Uint8Array = new Uint8Array(PINS);

  /** Messages go to `sink`: the local APICs, or an interrupt-remapping unit in front of them. */
  constructor(sink: InterruptSink) {
    this.sink = sink;
  }

  /** The level of an input pin, 0..23. An edge-triggered entry takes the change to asserted, a level one the level. */
  setLine(pin: number, asserted: boolean): void {
    const rising = asserted && this.asserted[pin] === 0;
    this.asserted[pin] = asserted ? 1 : 0;
    if (rising || (asserted && (this.low[pin]! & LEVEL) !== 0)) this.send(pin);
  }

  /** EOI of `vector`, broadcast by a local APIC: level-triggered pins that are still asserted are sent again. */
  endOfInterrupt(vector: number): void {
    for (let pin = 0; pin < PINS; pin++) {
      const entry = this.low[pin]!;
      if ((entry & REMOTE_IRR) === 0 || (entry & 0xff) !== vector) continue;
      this.low[pin] = entry & ~REMOTE_IRR;
      if (this.asserted[pin] !== 0) this.send(pin);
    }
  }

  read(offset: number, width: AccessWidth): bigint {
    const value = offset === 0 ? this.select : offset === 0x10 ? this.readSelected() : 0;
    return BigInt.asUintN(Math.min(width * 8, 32), BigInt(value));
  }

  write(offset: number, width: AccessWidth, value: bigint): void {
    const word = Number(value & 0xffffffffn) | 0;
    if (offset === 0) this.select = word & 0xff;
    else if (width < 4) return;
    else if (offset === 0x10) this.writeSelected(word);
    else if (offset === 0x40) this.endOfInterrupt(word & 0xff);
  }

  private readSelected(): number {
    if (this.select === 0) return this.id;
    if (this.select === 1) return VERSION_VALUE;
    const pin = (this.select - 0x10) >> 1;
    if (pin < 0 || pin >= PINS) return 0;
    return (this.select & 1) === 0 ? this.low[pin]! : this.high[pin]!;
  }

  private writeSelected(value: number): void {
    if (this.select === 0) this.id = value & 0x0f000000;
    const pin = (this.select - 0x10) >> 1;
    if (pin < 0 || pin >= PINS) return;
    if ((this.select & 1) !== 0) {
      this.high[pin] = value;
      return;
    }
    // Remote IRR belongs to level-triggered entries: making an entry edge-triggered clears it.
    const kept = (value & LEVEL) !== 0 ? this.low[pin]! & REMOTE_IRR : 0;
    this.low[pin] = (value & LOW_WRITABLE) | kept;
    if (this.asserted[pin] !== 0 && (value & LEVEL) !== 0) this.send(pin);
  }

  private send(pin: number): void {
    const low = this.low[pin]!;
    const high = this.high[pin]!;
    if ((low & MASKED) !== 0 || ((low & LEVEL) !== 0 && (low & REMOTE_IRR) !== 0)) return;
    if ((low & LEVEL) !== 0) this.low[pin] = low | REMOTE_IRR;
    const address = 0xfee00000 | (((high >>> 16) & 0xffff) << 4) | (((low >> 11) & 1) << 2);
    this.sink.deliver(address | 0, (low & 0x7ff) | (low & LEVEL) | ((low & LEVEL) >> 1));
  }
}
