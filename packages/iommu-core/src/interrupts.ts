/**
 * The host's interrupt dispatcher: the processor's side of a local APIC. Vectors belong to handlers; a handler runs as
 * soon as the APIC has its vector pending, which is a hardware event, so it may only note the fact and queue work.
 */

import type { InterruptSource, MmioHandler } from '@iommukit/hw';
import { SysError } from './errno.ts';
import type { InterruptController, MsiMessage } from './kernel.ts';

/** What hw's LocalApic offers to its processor. */
export type ProcessorApic = InterruptSource & MmioHandler & { onPending: (() => void) | null };

/** Local APIC registers (Intel SDM volume 3, table 12-1). */
const APIC_ID = 0x20;
const APIC_TASK_PRIORITY = 0x80;
const APIC_EOI = 0xb0;
const APIC_SPURIOUS = 0xf0;
const APIC_SOFTWARE_ENABLE = 0x100;

const FIRST_VECTOR = 0x30;
const LAST_VECTOR = 0xef;
const SPURIOUS_VECTOR = 0xff;
/** MSI address with physical destination mode (SDM volume 3, section 12.11.1). */
const MSI_BASE = 0xfee00000n;

export class ApicInterrupts implements InterruptController {
  private readonly apic: ProcessorApic;
  private readonly handlers = new Map<number, () => void>();
  private readonly destination: bigint;
  private dispatching = false;

  /** Enables the APIC and becomes its processor. */
  constructor(apic: ProcessorApic) {
    this.apic = apic;
    this.destination = (apic.read(APIC_ID, 4) >> 24n) & 0xffn;
    apic.write(APIC_TASK_PRIORITY, 4, 0n);
    apic.write(APIC_SPURIOUS, 4, BigInt(APIC_SOFTWARE_ENABLE | SPURIOUS_VECTOR));
    apic.onPending = () => this.dispatch();
  }

  /** Vectors in use. */
  get allocated(): number {
    return this.handlers.size;
  }

  allocate(handler: () => void): MsiMessage {
    for (let vector = FIRST_VECTOR; vector <= LAST_VECTOR; vector++) {
      if (this.handlers.has(vector)) continue;
      this.handlers.set(vector, handler);
      return { address: MSI_BASE | (this.destination << 12n), data: vector };
    }
    throw new SysError('ENOSPC', 'irq_domain_alloc', `all vectors ${FIRST_VECTOR}..${LAST_VECTOR} are in use`);
  }

  free(message: MsiMessage): void {
    this.handlers.delete(message.data & 0xff);
  }

  private dispatch(): void {
    if (this.dispatching) return;
    this.dispatching = true;
    try {
      for (let vector = this.apic.pending(); vector >= 0; vector = this.apic.pending()) {
        this.apic.acknowledge(vector);
        this.handlers.get(vector)?.();
        this.apic.write(APIC_EOI, 4, 0n);
      }
    } finally {
      this.dispatching = false;
    }
  }
}
