/**
 * Page requests for user space: the fault object, and the file through which groups are read and answered (Linux:
 * drivers/iommu/iommufd/eventq.c).
 *
 * A group waits to be read, then, under a cookie, to be answered. It is answered once: by a write, with INVALID when
 * the attachment it came through goes, or when the object goes.
 */

import { hex, NO_PASID, PRG_INVALID_REQUEST, PRG_SUCCESS } from '@iommukit/hw';
import { type AttachHandle, type FaultGroup, type PageFault, SysError } from '@iommukit/iommu-core';
import type { IommufdContext } from './context.ts';
import { checkStream, EventFile, openEventFile } from './event-file.ts';
import { type Caller, type Descriptors, POLLIN, POLLOUT } from './files/file.ts';
import { IdMap } from './id-map.ts';
import { IommufdObject, type ObjectDetails } from './object-table.ts';
import {
  IOMMU_PGFAULT_FLAGS_LAST_PAGE,
  IOMMU_PGFAULT_FLAGS_PASID_VALID,
  IOMMUFD_PAGE_RESP_INVALID,
  IOMMUFD_PAGE_RESP_SUCCESS,
  iommuHwptPageResponse,
  iommuHwptPgfault,
} from './uapi/iommufd.ts';

/** What a device's attachments to a fault-capable page table carry. */
export type FaultSource = AttachHandle & {
  /** Object id of the device that `group` came from. */
  deviceId(group: FaultGroup): number;
  /** What the user calls the attachment's PASID, where it is not the one on the wire. */
  readonly userPasid?: number;
};

export class FaultQueue extends IommufdObject {
  readonly type = 'fault';
  readonly context: IommufdContext;
  private readonly waiting: FaultGroup[] = [];
  private readonly read = new IdMap<FaultGroup>();

  constructor(id: number, context: IommufdContext) {
    super(id);
    this.context = context;
  }

  get uses(): readonly IommufdObject[] {
    return [];
  }

  override details(): ObjectDetails {
    return { waiting: this.waiting.length, unanswered: this.read.size };
  }

  /** Groups not read yet. */
  get waitingGroups(): number {
    return this.waiting.length;
  }

  /** The group that is read next; null when none waits. */
  get next(): FaultGroup | null {
    return this.waiting[0] ?? null;
  }

  /** Groups read and not answered yet. */
  get unansweredGroups(): number {
    return this.read.size;
  }

  /** Takes a group from the core; the queue is from now on responsible for its answer. */
  deliver(group: FaultGroup): void {
    this.waiting.push(group);
    this.emit('fault_queue', group, 0);
  }

  /** Answers everything that came through an attachment that is gone, and forgets it. */
  dismiss(handle: AttachHandle): void {
    this.answerAll((group) => group.handle === handle);
  }

  destroy(): void {
    this.answerAll(() => true);
  }

  /**
   * Fills `into` with the records of whole groups, oldest first. @returns bytes filled; 0 when no group waits
   * @throws {SysError} ESPIPE not a multiple of a record; EINVAL the first group does not fit; ENOMEM
   */
  readRecords(into: Uint8Array): number {
    const recordSize = iommuHwptPgfault.size;
    if (into.length % recordSize !== 0) {
      throw new SysError('ESPIPE', 'read', `${into.length} bytes are not a multiple of ${recordSize}`);
    }
    let done = 0;
    for (let group = this.waiting[0]; group !== undefined; group = this.waiting[0]) {
      const size = group.faults.length * recordSize;
      if (size > into.length - done) {
        if (done === 0) {
          throw new SysError('EINVAL', 'read', `the group has ${size} bytes, the buffer ${into.length}`);
        }
        break;
      }
      if (done === 0) this.context.kernel.checkpoint('iommufd_fault_cookie');
      else if (this.context.kernel.failpoints.shouldFail('iommufd_fault_cookie')) break;
      this.waiting.shift();
      const cookie = this.read.reserve();
      this.read.set(cookie, group);
      for (const fault of group.faults) {
        iommuHwptPgfault.write(record(fault, group, cookie), into, done);
        done += recordSize;
      }
      this.emit('fault_read', group, cookie);
    }
    return done;
  }

  /**
   * Carries out answers in order. @returns bytes of the answers before the first bad one
   * @throws {SysError} ESPIPE not a multiple of an answer; EINVAL the first has a bad code or an unknown cookie
   */
  writeResponses(from: Uint8Array): number {
    const size = iommuHwptPageResponse.size;
    if (from.length % size !== 0) {
      throw new SysError('ESPIPE', 'write', `${from.length} bytes are not a multiple of ${size}`);
    }
    for (let done = 0; done < from.length; done += size) {
      const { cookie, code } = iommuHwptPageResponse.read(from, done);
      try {
        this.respond(cookie, code);
      } catch (error) {
        if (done > 0 && error instanceof SysError) return done;
        throw error;
      }
    }
    return from.length;
  }

  /** Answers one group. @throws {SysError} EINVAL a bad code, or no group has that cookie */
  respond(cookie: number, code: number): void {
    if (code !== IOMMUFD_PAGE_RESP_SUCCESS && code !== IOMMUFD_PAGE_RESP_INVALID) {
      throw new SysError('EINVAL', 'write', `no answer has the code ${code}`);
    }
    const group = this.read.get(cookie);
    if (group === undefined) throw new SysError('EINVAL', 'write', `no group waits under cookie ${hex(cookie)}`);
    this.read.delete(cookie);
    this.answer(group, cookie, code === IOMMUFD_PAGE_RESP_SUCCESS ? PRG_SUCCESS : PRG_INVALID_REQUEST);
  }

  poll(): number {
    return POLLOUT | (this.waiting.length > 0 ? POLLIN : 0);
  }

  private answerAll(concerned: (group: FaultGroup) => boolean): void {
    for (const group of this.waiting.splice(0)) {
      if (concerned(group)) this.answer(group, 0, PRG_INVALID_REQUEST);
      else this.waiting.push(group);
    }
    for (const [cookie, group] of [...this.read.entries()]) {
      if (!concerned(group)) continue;
      this.read.delete(cookie);
      this.answer(group, cookie, PRG_INVALID_REQUEST);
    }
  }

  /** The core drops an answer to a group that it has answered itself, at a reset or when the attachment went. */
  private answer(group: FaultGroup, cookie: number, code: number): void {
    group.respond(code);
    this.emit('fault_response', group, cookie, code);
  }

  private emit(name: 'fault_queue' | 'fault_read', group: FaultGroup, cookie: number): void;
  private emit(name: 'fault_response', group: FaultGroup, cookie: number, code: number): void;
  private emit(
    name: 'fault_queue' | 'fault_read' | 'fault_response',
    group: FaultGroup,
    cookie: number,
    code = 0,
  ): void {
    const { trace, id: context } = this.context;
    if (!trace.enabled) return;
    const last = group.faults[group.faults.length - 1]!;
    const where = { context, fault: this.id, device: deviceIdOf(group), pasid: last.pasid, group: last.group, cookie };
    if (name === 'fault_response') trace.emit({ name, ...where, code });
    else trace.emit({ name, ...where });
  }
}

/** The descriptor's side of a fault queue, which answers are written to. */
class FaultFile extends EventFile {
  private readonly queue: FaultQueue;

  constructor(queue: FaultQueue) {
    super('anon_inode:[iommufd-pgfault]', queue);
    this.queue = queue;
  }

  write(_caller: Caller, from: Uint8Array, position: bigint | null): number {
    checkStream('write', position);
    return this.queue.writeResponses(from);
  }
}

/**
 * Makes a fault queue and a descriptor of it among `descriptors`.
 * @throws {SysError} EOPNOTSUPP flags; ENOMEM; EMFILE
 */
export function openFaultQueue(
  context: IommufdContext,
  descriptors: Descriptors,
  flags: number,
): { readonly id: number; readonly fd: number } {
  if (flags !== 0) throw new SysError('EOPNOTSUPP', 'IOMMU_FAULT_QUEUE_ALLOC', `flags ${hex(flags)}`);
  const queue = context.objects.create((id) => new FaultQueue(id, context));
  return { id: queue.id, fd: openEventFile(queue, descriptors, () => new FaultFile(queue)) };
}

function deviceIdOf(group: FaultGroup): number {
  return (group.handle as FaultSource).deviceId(group);
}

function record(fault: PageFault, group: FaultGroup, cookie: number): Parameters<typeof iommuHwptPgfault.write>[0] {
  const { userPasid = fault.pasid } = group.handle as FaultSource;
  const tagged = userPasid !== NO_PASID;
  return {
    flags: (tagged ? IOMMU_PGFAULT_FLAGS_PASID_VALID : 0) | (fault.last ? IOMMU_PGFAULT_FLAGS_LAST_PAGE : 0),
    devId: deviceIdOf(group),
    pasid: tagged ? userPasid : 0,
    grpid: fault.group,
    // hw's ACCESS_ bits are the interface's PERM_ bits.
    perm: fault.access,
    reserved: 0,
    addr: fault.address,
    length: 0,
    cookie,
  };
}
