/**
 * Page requests of the devices behind a unit: a queue in memory that the unit fills and this driver empties, in kernel
 * work that its interrupt queues (Intel VT-d specification, revision 4.1, sections 7.5 to 7.10; Linux:
 * drivers/iommu/intel/prq.c).
 */

import {
  ACCESS_EXECUTE,
  ACCESS_PRIVILEGED,
  ACCESS_READ,
  ACCESS_WRITE,
  fieldGet,
  joinU64,
  NO_PASID,
  PAGE_REQUEST_SIZE,
  PAGE_REQUEST0_PP,
  PAGE_REQUEST0_RID,
  PAGE_REQUEST1_EXE,
  PAGE_REQUEST1_PASID,
  PAGE_REQUEST1_PRIV,
  PAGE_REQUEST2_GROUP,
  PAGE_REQUEST2_LAST,
  PAGE_REQUEST2_READ,
  PAGE_REQUEST2_WRITE,
  PRG_INVALID_REQUEST,
  PRS_PPR,
  PRS_PRO,
  REG_PECTL,
  REG_PQA,
  REG_PQH,
  REG_PQT,
  REG_PRS,
  type TraceSink,
} from '@iommukit/hw';
import { SysError } from '../errno.ts';
import type { Kernel, MsiMessage } from '../kernel.ts';
import type { PageFault } from '../page-fault.ts';
import type { IommuEvent } from '../trace.ts';
import { addEntryFlush } from './attachments.ts';
import * as describe from './descriptors.ts';
import type { IntelDevice } from './intel-device.ts';
import type { InvalidationQueue } from './invalidation-queue.ts';
import type { RegisterAccess } from './register-access.ts';

/** An overflow that comes back this often is a device that never stops: drain gives up on it. */
const MAX_DRAIN_ROUNDS = 64;

export class PageRequestQueue {
  /** Requests read so far, and times that the queue was full. */
  requests = 0;
  overflows = 0;
  private readonly kernel: Kernel;
  private readonly registers: RegisterAccess;
  private readonly queue: InvalidationQueue;
  private readonly trace: TraceSink<IommuEvent>;
  private readonly find: (rid: number) => IntelDevice | null;
  private readonly all: () => Iterable<IntelDevice>;
  private readonly ringPfn: number;
  private readonly ringFrames: number;
  private readonly entries: number;
  private readonly message: MsiMessage;

  /** `frames` is a power of two; `find` gives the device of a requester id, `all` every device of the unit. @throws {SysError} ENOMEM */
  constructor(options: {
    kernel: Kernel;
    registers: RegisterAccess;
    queue: InvalidationQueue;
    trace: TraceSink<IommuEvent>;
    frames: number;
    find: (rid: number) => IntelDevice | null;
    all: () => Iterable<IntelDevice>;
  }) {
    const { kernel, registers, frames } = options;
    this.kernel = kernel;
    this.registers = registers;
    this.queue = options.queue;
    this.trace = options.trace;
    this.find = options.find;
    this.all = options.all;
    this.ringFrames = frames;
    this.entries = (frames * 4096) / PAGE_REQUEST_SIZE;
    this.ringPfn = kernel.allocateFrames('prq', frames);
    this.message = kernel.interrupts.allocate(() => kernel.queueWork(() => this.process()));
    registers.write64(REG_PQH, 0n);
    registers.write64(REG_PQT, 0n);
    registers.write64(REG_PQA, (BigInt(this.ringPfn) << 12n) | BigInt(Math.log2(frames)));
    registers.setEvent(REG_PECTL, this.message);
  }

  free(): void {
    this.registers.write64(REG_PQA, 0n);
    this.kernel.interrupts.free(this.message);
    this.kernel.freeFrame(this.ringPfn, this.ringFrames);
  }

  /** Reports everything in the queue. */
  process(): void {
    // The status goes first: a request that comes after it raises the interrupt again.
    this.registers.write32(REG_PRS, PRS_PPR);
    for (;;) {
      const head = Number(this.registers.read64(REG_PQH)) / PAGE_REQUEST_SIZE;
      if (head * PAGE_REQUEST_SIZE === Number(this.registers.read64(REG_PQT))) break;
      const request = this.read(head);
      // The slot is given back before its request is handled, which may relax and come back here.
      this.registers.write64(REG_PQH, BigInt(((head + 1) % this.entries) * PAGE_REQUEST_SIZE));
      this.handle(request);
    }
    if ((this.registers.read32(REG_PRS) & PRS_PRO) !== 0) this.recoverFromOverflow();
  }

  /**
   * Waits until every page request that (device, pasid) has sent is reported. Its PASID-table entry is gone and its
   * translations are flushed, so no more can come. `domainId` and `translation` are those of the entry that went.
   */
  drain(device: IntelDevice, pasid: number, domainId: number, translation: number): void {
    if (!device.pageRequests) return;
    if (this.trace.enabled) this.trace.emit({ name: 'prq_drain', rid: device.device.rid, pasid });
    for (let round = 0; round < MAX_DRAIN_ROUNDS; round++) {
      this.process();
      this.queue.add(describe.fence());
      addEntryFlush(this.queue, device, pasid, domainId, translation);
      this.queue.submit(true);
      const overflowed = (this.registers.read32(REG_PRS) & PRS_PRO) !== 0;
      this.process();
      if (!overflowed) return;
    }
  }

  private recoverFromOverflow(): void {
    if (this.registers.read64(REG_PQH) !== this.registers.read64(REG_PQT)) return;
    this.overflows++;
    // Parts of groups whose last request was lost would wait for ever.
    for (const { device } of this.all()) device.faults.discardPartial();
    this.registers.write32(REG_PRS, PRS_PRO);
    if (this.trace.enabled) this.trace.emit({ name: 'prq_overflow' });
  }

  private read(index: number): { rid: number; fault: PageFault } {
    const { memory } = this.kernel;
    const pfn = this.ringPfn + Math.floor((index * PAGE_REQUEST_SIZE) / 4096);
    const first = ((index * PAGE_REQUEST_SIZE) % 4096) / 4;
    const word = (at: number): number => memory.readWord(pfn, first + at);
    const [word0, word1, word2, word3] = [word(0), word(1), word(2), word(3)];
    const hasPasid = (word0 & PAGE_REQUEST0_PP) !== 0;
    return {
      rid: fieldGet(PAGE_REQUEST0_RID, word0),
      fault: {
        pasid: hasPasid ? fieldGet(PAGE_REQUEST1_PASID, word1) : NO_PASID,
        access:
          ((word2 & PAGE_REQUEST2_READ) !== 0 ? ACCESS_READ : 0) |
          ((word2 & PAGE_REQUEST2_WRITE) !== 0 ? ACCESS_WRITE : 0) |
          ((word1 & PAGE_REQUEST1_EXE) !== 0 ? ACCESS_EXECUTE : 0) |
          ((word1 & PAGE_REQUEST1_PRIV) !== 0 ? ACCESS_PRIVILEGED : 0),
        last: (word2 & PAGE_REQUEST2_LAST) !== 0,
        group: fieldGet(PAGE_REQUEST2_GROUP, word2),
        address: joinU64(word2 & ~0xfff, word3),
      },
    };
  }

  private handle({ rid, fault }: { rid: number; fault: PageFault }): void {
    this.requests++;
    if (this.trace.enabled) {
      const { pasid, group, last, address: iova, access } = fault;
      this.trace.emit({ name: 'prq_report', rid, pasid, group, last, iova, access });
    }
    const wanted = fault.access & (ACCESS_READ | ACCESS_WRITE);
    const device = this.find(rid);
    if (device === null || !isSupported(fault)) {
      if (fault.last) this.respond(rid, fault, PRG_INVALID_REQUEST);
      return;
    }
    // A stop marker: the device has stopped using the PASID. It is not answered.
    if (fault.last && wanted === 0) return;
    try {
      device.device.faults.report(fault);
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
    }
  }

  /** Answers the group that `fault` closed. Never fails. */
  respond(rid: number, fault: PageFault, code: number): void {
    const { pasid, group } = fault;
    if (this.trace.enabled) this.trace.emit({ name: 'page_response', rid, pasid, group, code });
    this.queue.add(describe.pageGroupResponse(rid, pasid, group, code)).submit();
  }
}

/** Requests that no handler could serve: outside the address space, privileged, or to execute. */
function isSupported(fault: PageFault): boolean {
  const { access, address } = fault;
  const signExtended = BigInt.asUintN(64, BigInt.asIntN(57, address));
  if (signExtended !== address) return false;
  if ((access & ACCESS_PRIVILEGED) !== 0 && (access & (ACCESS_READ | ACCESS_WRITE)) !== 0) return false;
  return (access & ACCESS_EXECUTE) === 0 || (access & ACCESS_READ) === 0;
}
