/**
 * Page requests on the file of a /dev/ioasid: records by read(2), answers by write(2), and an eventfd that tells of them
 * (RFC, section 5.6, and C.4 of the systems specification; the RFC leaves the interface open, so it is this project's).
 *
 * Every IOASID that takes page requests has a fault queue of its own. The file reads them in the order in which groups
 * arrived, and names in each record the IOASID, the device by its cookie, and the PASID that its user gave.
 */

import { type FaultGroup, SysError } from '@iommukit/iommu-core';
import { EventFd } from '../files/eventfd.ts';
import { type Descriptors, POLLIN, POLLOUT } from '../files/file.ts';
import { IOMMU_PGFAULT_FLAGS_LAST_PAGE, IOMMU_PGFAULT_FLAGS_PASID_VALID, iommuHwptPgfault } from '../uapi/iommufd.ts';
import type { Ioasid } from './ioasid.ts';
import type { IoasidContext } from './ioasid-context.ts';
import { IOASID_FAULT_LAST_PAGE, IOASID_FAULT_PASID_VALID, ioasidFault, ioasidFaultResponse } from './uapi.ts';

type Waiting = { readonly ioasid: Ioasid; readonly group: FaultGroup; readonly arrival: number };

export class IoasidFaults {
  private readonly context: IoasidContext;
  /** When each group that a queue may hold arrived. */
  private readonly arrivals = new WeakMap<FaultGroup, number>();
  private arrivalCount = 0;
  /** Signalled for each group; null for none. */
  eventfd: EventFd | null = null;

  constructor(context: IoasidContext) {
    this.context = context;
  }

  /** A group waits in the queue of an IOASID. */
  arrived(group: FaultGroup): void {
    this.arrivals.set(group, this.arrivalCount++);
    this.eventfd?.signal();
  }

  /**
   * Fills `into` with the records of whole groups, oldest first. @returns bytes filled; 0 when no group waits
   * @throws {SysError} ESPIPE not a multiple of a record; EINVAL the first group does not fit; ENOMEM
   */
  read(into: Uint8Array): number {
    checkLength('read', into, ioasidFault.size);
    let done = 0;
    for (let next = this.next(); next !== null; next = this.next()) {
      const { ioasid, group } = next;
      const bytes = new Uint8Array(group.faults.length * iommuHwptPgfault.size);
      const size = group.faults.length * ioasidFault.size;
      if (size > into.length - done) {
        if (done > 0 || into.length === 0) break;
        throw new SysError('EINVAL', 'read', `the group has ${size} bytes, the buffer ${into.length}`);
      }
      try {
        ioasid.faults!.readRecords(bytes);
      } catch (error) {
        if (done > 0 && error instanceof SysError) break;
        throw error;
      }
      for (let at = 0; at < bytes.length; at += iommuHwptPgfault.size) {
        this.convert(ioasid, bytes, at, into, done);
        done += ioasidFault.size;
      }
    }
    return done;
  }

  /**
   * Carries out answers in order. @returns bytes of the answers before the first bad one
   * @throws {SysError} ESPIPE not a multiple of an answer; EINVAL the first names no group that waits, or has a bad code
   */
  write(from: Uint8Array): number {
    const { size } = ioasidFaultResponse;
    checkLength('write', from, size);
    for (let done = 0; done < from.length; done += size) {
      const { ioasid, token, code, reserved } = ioasidFaultResponse.read(from, done);
      try {
        const queue = this.context.all.find(({ handle }) => handle === ioasid)?.faults ?? null;
        if (queue === null || reserved !== 0) {
          throw new SysError('EINVAL', 'write', `IOASID ${ioasid} takes no page requests, or reserved ${reserved}`);
        }
        queue.respond(token, code);
      } catch (error) {
        if (done > 0 && error instanceof SysError) return done;
        throw error;
      }
    }
    return from.length;
  }

  poll(): number {
    return POLLOUT | (this.next() === null ? 0 : POLLIN);
  }

  /** The group that waits longest of all queues, or null. */
  private next(): Waiting | null {
    let oldest: Waiting | null = null;
    for (const ioasid of this.context.all) {
      const group = ioasid.faults?.next ?? null;
      if (group === null) continue;
      const arrival = this.arrivals.get(group)!;
      if (oldest === null || arrival < oldest.arrival) oldest = { ioasid, group, arrival };
    }
    return oldest;
  }

  private convert({ handle }: Ioasid, bytes: Uint8Array, at: number, into: Uint8Array, to: number): void {
    const { flags, devId, pasid, grpid, perm, addr, cookie } = iommuHwptPgfault.read(bytes, at);
    const device = [...this.context.devices].find(({ bound }) => bound.id === devId);
    const tagged = (flags & IOMMU_PGFAULT_FLAGS_PASID_VALID) === 0 ? 0 : IOASID_FAULT_PASID_VALID;
    const last = (flags & IOMMU_PGFAULT_FLAGS_LAST_PAGE) === 0 ? 0 : IOASID_FAULT_LAST_PAGE;
    const record = { ioasid: handle, flags: tagged | last, cookie: device?.cookie ?? 0n, pasid, group: grpid, perm };
    ioasidFault.write({ ...record, token: cookie, addr }, into, to);
  }
}

/** Has an eventfd signalled for each group; -1 for none. @throws {SysError} EBADF; EINVAL it is another file */
export function setFaultEventfd({ faults }: IoasidContext, descriptors: Descriptors, fd: number): void {
  const file = fd === -1 ? null : descriptors.get(fd);
  if (file !== null && !(file instanceof EventFd)) {
    throw new SysError('EINVAL', 'IOASID_SET_FAULT_EVENTFD', `${file.name} is not an eventfd`);
  }
  faults.eventfd = file;
}

function checkLength(call: string, bytes: Uint8Array, size: number): void {
  if (bytes.length % size === 0) return;
  throw new SysError('ESPIPE', call, `${bytes.length} bytes are not a multiple of ${size}`);
}
