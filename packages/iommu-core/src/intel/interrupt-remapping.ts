/**
 * Interrupt remapping: a device's messages name an entry of this table, and the entry says which requester may use it
 * and what becomes of it (Intel VT-d specification, revision 4.1, sections 5.1 and 9.10).
 */

import {
  fieldPrep,
  GCMD_IRE,
  GCMD_SIRTP,
  IRTA_LO_S,
  IRTE_SIZE,
  IRTE0_PRESENT,
  IRTE0_VECTOR,
  IRTE1_DST_XAPIC,
  IRTE2_SID,
  IRTE2_SVT,
  REG_IRTA,
} from '@iommukit/hw';
import { SysError } from '../errno.ts';
import type { Kernel, MsiMessage } from '../kernel.ts';
import * as describe from './descriptors.ts';
import type { InvalidationQueue } from './invalidation-queue.ts';
import type { RegisterAccess } from './register-access.ts';

const TABLE_FRAMES = 4;
const ENTRY_WORDS: number = IRTE_SIZE / 4;
const ENTRIES: number = (TABLE_FRAMES * 4096) / IRTE_SIZE;

/** Source validation type: all 16 bits of the requester id must match. */
const VERIFY_RID = 1;
/** Remappable format with the handle in the address alone. */
const MESSAGE_BASE = 0xfee00000n;
const MESSAGE_REMAPPABLE = 1n << 4n;

export class InterruptRemapping {
  private readonly kernel: Kernel;
  private readonly queue: InvalidationQueue;
  private readonly tablePfn: number;
  /** The kernel's own message behind each entry in use. */
  private readonly entries = new Map<number, MsiMessage>();

  /** @throws {SysError} ENOMEM */
  constructor(kernel: Kernel, queue: InvalidationQueue) {
    this.kernel = kernel;
    this.queue = queue;
    this.tablePfn = kernel.allocateFrames('interrupt_remapping_table', TABLE_FRAMES);
  }

  /** Entries in use. */
  get size(): number {
    return this.entries.size;
  }

  /** @throws {SysError} ETIMEDOUT */
  enable(registers: RegisterAccess): void {
    registers.write64(REG_IRTA, (BigInt(this.tablePfn) << 12n) | BigInt(fieldPrep(IRTA_LO_S, Math.log2(ENTRIES) - 1)));
    registers.command(GCMD_SIRTP, true);
    this.queue.add(describe.flushInterruptEntries()).submitChecked('intel_enable_irq_remapping');
    registers.command(GCMD_IRE, true);
  }

  /** Turns remapping off and frees the table. */
  shutdown(registers: RegisterAccess): void {
    registers.command(GCMD_IRE, false);
    this.kernel.freeFrame(this.tablePfn, TABLE_FRAMES);
  }

  /** The message with which requester `rid`, and no other, raises `handler`. @throws {SysError} ENOSPC, ENOMEM */
  allocate(rid: number, handler: () => void): MsiMessage {
    this.kernel.checkpoint('irte');
    let index = 0;
    while (this.entries.has(index)) index++;
    if (index >= ENTRIES) throw new SysError('ENOSPC', 'alloc_irte', `all ${ENTRIES} entries are in use`);
    const message = this.kernel.interrupts.allocate(handler);
    this.entries.set(index, message);
    const vector = message.data & 0xff;
    const destination = Number((message.address >> 12n) & 0xffn);
    // Physical destination mode, fixed delivery, edge triggered.
    this.write(index, [
      IRTE0_PRESENT | fieldPrep(IRTE0_VECTOR, vector),
      fieldPrep(IRTE1_DST_XAPIC, destination),
      fieldPrep(IRTE2_SID, rid) | fieldPrep(IRTE2_SVT, VERIFY_RID),
      0,
    ]);
    const handle = BigInt(index);
    return {
      address: MESSAGE_BASE | ((handle & 0x7fffn) << 5n) | MESSAGE_REMAPPABLE | ((handle >> 15n) << 2n),
      data: 0,
    };
  }

  /** The device's message does nothing any more. Never fails. */
  free(message: MsiMessage): void {
    const index = Number(((message.address >> 5n) & 0x7fffn) | (((message.address >> 2n) & 1n) << 15n));
    const own = this.entries.get(index);
    if (own === undefined) return;
    this.write(index, [0, 0, 0, 0]);
    this.entries.delete(index);
    this.kernel.interrupts.free(own);
  }

  private write(index: number, words: readonly number[]): void {
    const word = index * ENTRY_WORDS;
    // The present bit changes last on the way in and first on the way out.
    const order = words[0] === 0 ? [0, 1, 2, 3] : [3, 2, 1, 0];
    for (const at of order) this.kernel.memory.writeWord(this.tablePfn + (word >> 10), (word & 1023) + at, words[at]!);
    this.queue.add(describe.flushInterruptEntry(index)).submit();
  }
}
