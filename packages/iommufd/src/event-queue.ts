/**
 * Events of a virtual IOMMU for user space: the VEVENTQ object (Linux: drivers/iommu/iommufd/eventq.c, and
 * iommufd_vevent_handler of iommufd_private.h).
 *
 * Events are numbered whether there is room for them or not. When there is none, one header at the end of the queue says
 * so, with the number of the last event that was lost; the next event that finds room takes its place, and leaves a gap
 * in the numbers.
 */

import { hex } from '@iommukit/hw';
import { SysError } from '@iommukit/iommu-core';
import type { IommufdContext } from './context.ts';
import { EventFile, openEventFile } from './event-file.ts';
import { Fifo } from './fifo.ts';
import { type Descriptors, POLLIN } from './files/file.ts';
import { IommufdObject, type ObjectDetails } from './object-table.ts';
import {
  IOMMU_VEVENTQ_FLAG_LOST_EVENTS,
  IOMMU_VEVENTQ_TYPE_DEFAULT,
  iommufdVeventHeader,
  VEVENTQ_DEPTH_MAX,
} from './uapi/viommu.ts';
import { Viommu } from './viommu.ts';

/** Sequence numbers are 0..this, then 0 again. */
const SEQUENCE_LAST = 0x7fff_ffff;
const HEADER = iommufdVeventHeader.size;

type VirtualEvent = { readonly sequence: number; readonly data: Uint8Array };

export class EventQueue extends IommufdObject {
  readonly type = 'veventq';
  readonly context: IommufdContext;
  readonly viommu: Viommu;
  /** Of enum iommu_veventq_type; a vIOMMU has one queue of each. */
  readonly eventType: number;
  private readonly depth: number;
  private readonly events = new Fifo<VirtualEvent>();
  /** Number of the last event lost since the last one kept; null when none was, or that has been read. */
  private lost: number | null = null;
  private nextSequence = 0;

  constructor(id: number, viommu: Viommu, eventType: number, depth: number) {
    super(id);
    this.context = viommu.context;
    this.viommu = viommu;
    this.eventType = eventType;
    this.depth = depth;
    viommu.users++;
    viommu.eventQueues.set(eventType, this);
  }

  get uses(): readonly IommufdObject[] {
    return [this.viommu];
  }

  override details(): ObjectDetails {
    return { eventType: hex(this.eventType), waiting: this.events.length, lost: this.lost !== null };
  }

  destroy(): void {
    this.viommu.eventQueues.delete(this.eventType);
    this.viommu.users--;
  }

  /** Takes an event, or notes that it is lost. @throws {SysError} ENOMEM, when it is lost */
  report(data: Uint8Array): void {
    // Memory is taken before it is known whether there is room.
    const noMemory = this.context.kernel.failpoints.shouldFail('iommufd_vevent');
    const sequence = this.nextSequence;
    this.nextSequence = sequence === SEQUENCE_LAST ? 0 : sequence + 1;
    const kept = !noMemory && this.events.length < this.depth;
    if (kept) this.events.push({ sequence, data: data.slice() });
    this.lost = kept ? null : sequence;
    const { trace, id: context } = this.context;
    if (trace.enabled) trace.emit({ name: 'vevent_report', context, veventq: this.id, sequence, lost: !kept });
    if (noMemory)
      throw new SysError('ENOMEM', 'iommufd_viommu_report_event', `event ${sequence} of ${this.id} is lost`);
  }

  /**
   * Fills `into` with headers and their data, oldest first. @returns bytes filled; 0 when there is no event
   * @throws {SysError} EINVAL less room than a header, or than the first event; ENOMEM
   */
  readRecords(into: Uint8Array): number {
    if (into.length < HEADER) throw new SysError('EINVAL', 'read', `a header has ${HEADER} bytes, not ${into.length}`);
    let done = 0;
    for (let event = this.events.first; event !== undefined; event = this.events.first) {
      const { sequence, data } = event;
      if (HEADER + data.length > into.length - done) {
        if (done > 0) return done;
        throw new SysError('EINVAL', 'read', `the event has ${HEADER + data.length} bytes, the buffer ${into.length}`);
      }
      iommufdVeventHeader.write({ flags: 0, sequence }, into, done);
      into.set(data, done + HEADER);
      done += HEADER + data.length;
      this.events.shift();
    }
    return this.lost === null ? done : this.readLost(this.lost, into, done);
  }

  poll(): number {
    return this.events.length > 0 || this.lost !== null ? POLLIN : 0;
  }

  private readLost(sequence: number, into: Uint8Array, done: number): number {
    const { kernel } = this.context;
    if (done === 0) kernel.checkpoint('iommufd_vevent_lost');
    else if (kernel.failpoints.shouldFail('iommufd_vevent_lost')) return done;
    if (HEADER > into.length - done) return done;
    iommufdVeventHeader.write({ flags: IOMMU_VEVENTQ_FLAG_LOST_EVENTS, sequence }, into, done);
    this.lost = null;
    return done + HEADER;
  }
}

export type VeventqAllocOptions = {
  flags: number;
  viommuId: number;
  /** Of enum iommu_veventq_type. */
  type: number;
  /** Events kept at most: 1..VEVENTQ_DEPTH_MAX. */
  depth: number;
};

/**
 * Makes an event queue of a vIOMMU and a descriptor of it among `descriptors`.
 * @throws {SysError} EOPNOTSUPP flags, type 0; EINVAL depth; ENOENT no vIOMMU; EEXIST it has a queue of the type; ENOMEM;
 * EMFILE
 */
export function veventqAlloc(
  context: IommufdContext,
  descriptors: Descriptors,
  { flags, viommuId, type, depth }: VeventqAllocOptions,
): { readonly id: number; readonly fd: number } {
  const call = 'IOMMU_VEVENTQ_ALLOC';
  if (flags !== 0 || type === IOMMU_VEVENTQ_TYPE_DEFAULT) {
    throw new SysError('EOPNOTSUPP', call, `type ${hex(type)} with flags ${hex(flags)}`);
  }
  if (depth === 0 || depth > VEVENTQ_DEPTH_MAX) throw new SysError('EINVAL', call, `depth ${depth}`);
  const viommu = context.objects.get(viommuId, Viommu);
  const present = viommu.eventQueues.get(type);
  if (present !== undefined) {
    throw new SysError('EEXIST', call, `vIOMMU ${viommuId} has queue ${present.id} of type ${hex(type)}`);
  }
  const queue = context.objects.create((id) => new EventQueue(id, viommu, type, depth));
  const open = (): EventFile => new EventFile('anon_inode:[iommufd-viommu-event]', queue);
  return { id: queue.id, fd: openEventFile(queue, descriptors, open) };
}
