/**
 * One of the unit's own interrupts, fault, invalidation or page request: control, data, address and upper address
 * registers with mask and pending bit (VT-d Architecture Specification, revision 4.1, sections 7.3, 11.4.7). A message to
 * an address outside the interrupt range is none and is lost.
 */

import { EVENT_CONTROL_IM, EVENT_CONTROL_IP } from './registers.ts';

/** Writes an interrupt message: 32-bit `data` to the address (`lo`, `hi`). */
export type MessageSender = (lo: number, hi: number, data: number) => void;

/** Addresses 0xfee00000..0xfeefffff without their low 20 bits. */
const INTERRUPT_RANGE = 0xfee;

export class EventInterrupt {
  private readonly send: MessageSender;
  private control = EVENT_CONTROL_IM;
  private data = 0;
  private address = 0;
  private upper = 0;

  constructor(send: MessageSender) {
    this.send = send;
  }

  /** Register `index`: 0 control, 1 data, 2 address, 3 upper address. */
  read(index: number): number {
    return index === 0 ? this.control : index === 1 ? this.data : index === 2 ? this.address : this.upper;
  }

  write(index: number, value: number): void {
    if (index === 1) this.data = value & 0xffff;
    else if (index === 2) this.address = value & ~3;
    else if (index === 3) this.upper = value;
    else {
      this.control = (this.control & EVENT_CONTROL_IP) | (value & EVENT_CONTROL_IM);
      this.deliver();
    }
  }

  /** An interrupt condition came up. */
  raise(): void {
    this.control |= EVENT_CONTROL_IP;
    this.deliver();
  }

  /** Software serviced the condition before the message left. */
  withdraw(): void {
    this.control &= ~EVENT_CONTROL_IP;
  }

  private deliver(): void {
    if ((this.control & EVENT_CONTROL_IP) === 0 || (this.control & EVENT_CONTROL_IM) !== 0) return;
    this.control &= ~EVENT_CONTROL_IP;
    if (this.address >>> 20 === INTERRUPT_RANGE) this.send(this.address, this.upper, this.data);
  }
}
