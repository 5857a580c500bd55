/**
 * The IOASID allocator of the V4 proposal (iommu/ioasid series, February 2021): sets with quotas, ids with references,
 * private numbers, notifications.
 *
 * Ids are global PASIDs, so that they never meet those of shared virtual addressing. One whose last reference is
 * dropped is given back there, and is parked while a table, a route or a page request still names it.
 *
 * History dropped sets as what decides who may use a PASID, and so does this: a set is a name space, a quota and an
 * owner to emulate a virtual command interface with. Whoever authorises a device looks at files.
 *
 * Where the proposal had faults: a quota returns with its set; a set exists until `freeSet`; nothing comes between
 * reading what is available and taking it; freed ids that are referenced stay in their set, counted and found, and
 * cannot be referenced anew; a call that fails after it has a number gives INVALID_IOASID, never that number; and an
 * SPID holds a reference, so that no id is reclaimed between `bind` and `unbind`.
 *
 * Calls that cannot refuse and have nothing to do, of which the proposal wrote a line to the log, leave the trace event
 * `ioasid_ignored`.
 */

import { hex, noTrace, type TraceSink } from '@iommukit/hw';
import { SysError } from '../errno.ts';
import type { GlobalPasids } from '../global-pasids.ts';
import type { Kernel } from '../kernel.ts';
import type { AddressSpace } from '../process/address-space.ts';
import type { IommuEvent } from '../trace.ts';
import { IOASID_CAPACITY } from './capacity.ts';
import { INVALID_IOASID, Ioasid, type IoasidState } from './ioasid.ts';
import { IOASID_SET_TYPE_MM, type IoasidSet } from './ioasid-set.ts';
import { IoasidSets } from './ioasid-sets.ts';
import { callChains, type IoasidEvent } from './notifier-chain.ts';

export class Ioasids extends IoasidSets {
  private readonly pasids: GlobalPasids;
  private readonly ids = new Map<number, Ioasid>();
  private notifying = false;

  constructor(options: { kernel: Kernel; pasids: GlobalPasids; trace?: TraceSink<IommuEvent> }) {
    super(options.kernel, options.trace ?? noTrace);
    this.pasids = options.pasids;
  }

  /** Calls `visit` for the ids that the set has when the call begins, ascending. It may free them. */
  forEach(set: IoasidSet, visit: (id: number) => void): void {
    for (const id of idsOf(set)) visit(id);
  }

  /**
   * Allocates the lowest free IOASID of min..max, which its owner holds until `free`. Only PASIDs a device can send
   * are given: 1..2^20-1.
   *
   * INVALID_IOASID: the set does not exist, its address space is gone, its quota is used up, or the range is full.
   * @param current who asks, for the control of who allocates in a process's set; by default not asked
   * @throws {SysError} EPERM `current` is not the process of the set; EAGAIN a control group is full; ENOMEM
   */
  alloc(
    set: IoasidSet,
    min: number,
    max: number,
    data: unknown = null,
    current: AddressSpace | null = set.token,
  ): number {
    const call = 'ioasid_alloc';
    this.checkNoHandler(call);
    if (!this.mayGrow(set)) return INVALID_IOASID;
    if (set.token !== null && set.token !== current) {
      throw new SysError('EPERM', call, `set ${set.id} is that of address space ${set.token.id}`);
    }
    set.charged?.admit();
    this.kernel.checkpoint('ioasid_data');
    const id = this.takeNumber(Math.max(1, Math.ceil(min)), Math.min(IOASID_CAPACITY - 1, Math.floor(max)));
    if (id === INVALID_IOASID) return id;
    const ioasid = new Ioasid(id, set, data);
    this.ids.set(id, ioasid);
    set.members.set(id, ioasid);
    set.charged?.charge(1);
    this.notify('alloc', ioasid);
    return id;
  }

  /**
   * Takes a reference. Without a set, whichever it is in.
   * @throws {SysError} EINVAL no such id; EBUSY its owner has freed it; EACCES it is in another set
   */
  get(set: IoasidSet | null, id: number): void {
    const call = 'ioasid_get';
    const ioasid = this.ids.get(id);
    if (ioasid === undefined) throw new SysError('EINVAL', call, `no IOASID ${hex(id)}`);
    this.checkNotFreed(call, ioasid);
    checkMember(call, set, ioasid);
    ioasid.taken++;
  }

  /**
   * Drops a reference; true when it was the last, and the id is reclaimed. False too when there is no such id, when it
   * is in another set, or when only its SPID holds it.
   */
  put(set: IoasidSet | null, id: number): boolean {
    const ioasid = this.ids.get(id);
    if (ioasid === undefined || (set !== null && ioasid.set !== set) || ioasid.taken === 0) return false;
    ioasid.taken--;
    return this.reclaimUnreferenced(ioasid);
  }

  /**
   * The owner drops the id. Without other users it is free at once, and nobody hears of it. Else these are told, once,
   * and it is free when the last reference is dropped; until then a further call does nothing. An id that does not
   * exist or is in another set is ignored; no set is another set. Never fails.
   */
  free(set: IoasidSet | null, id: number): void {
    const call = 'ioasid_free';
    this.checkNoHandler(call);
    const ioasid = this.ids.get(id);
    if (ioasid === undefined) this.ignore(call, id, 'unknown');
    else if (ioasid.set !== set) this.ignore(call, id, 'wrong_set');
    else this.freeOwned(ioasid);
  }

  /** Frees every id of a set, ascending. Those that have users remain in it until these are gone. Never fails. */
  freeAllInSet(set: IoasidSet): void {
    const call = 'ioasid_free_all_in_set';
    this.checkNoHandler(call);
    if (!this.isSet(set)) {
      this.ignore(call, set.id, 'unknown');
      return;
    }
    for (const id of idsOf(set)) {
      const ioasid = this.ids.get(id);
      if (ioasid !== undefined) this.freeOwned(ioasid);
    }
  }

  /**
   * What is attached to an id; null for nothing, or when `getter` does not want it.
   * @throws {SysError} ENOENT no such id; EACCES it is in another set than the one given
   */
  find(set: IoasidSet | null, id: number, getter?: (data: unknown) => boolean): unknown {
    const call = 'ioasid_find';
    const ioasid = this.lookUp(call, id);
    checkMember(call, set, ioasid);
    return getter === undefined || getter(ioasid.data) ? ioasid.data : null;
  }

  /** The set of an id. @throws {SysError} ENOENT no such id */
  findSet(id: number): IoasidSet {
    return this.lookUp('ioasid_find_set', id).set;
  }

  /**
   * Takes a reference for the process that owns the set. It is what the proposal asked when a process named a PASID;
   * here it keeps processes from each other's numbers and authorises nothing.
   * @throws {SysError} ENOENT no such id; EINVAL it is not in the set of a process; EPERM the process is another; EBUSY
   * its owner has freed it
   */
  getIfOwned(id: number, mm: AddressSpace): void {
    const call = 'ioasid_get_if_owned';
    const ioasid = this.lookUp(call, id);
    const { set } = ioasid;
    if (set.type !== IOASID_SET_TYPE_MM) throw new SysError('EINVAL', call, `IOASID ${hex(id)} is the kernel's`);
    if (set.token !== mm) throw new SysError('EPERM', call, `IOASID ${hex(id)} is not of address space ${mm.id}`);
    this.checkNotFreed(call, ioasid);
    ioasid.taken++;
  }

  /** Attaches data to an id. @throws {SysError} ENOENT no such id; EBUSY it has data */
  attachData(id: number, data: unknown): void {
    const call = 'ioasid_attach_data';
    const ioasid = this.lookUp(call, id);
    if (ioasid.data !== null) throw new SysError('EBUSY', call, `IOASID ${hex(id)} has data`);
    ioasid.data = data ?? null;
  }

  /** Takes the data off an id; no reader has it after the call but those that kept it. Never fails. */
  detachData(id: number): void {
    const ioasid = this.ids.get(id);
    if (ioasid === undefined) this.ignore('ioasid_detach_data', id, 'unknown');
    else ioasid.data = null;
  }

  /**
   * Gives an id a private number within its set, which holds a reference, and publishes `bind`.
   * @throws {SysError} EINVAL no private number, or one that the set has given already; ENOENT no such id; EBUSY the id
   * has another, or its owner has freed it; ENOMEM
   */
  attachSpid(id: number, spid: number): void {
    const call = 'ioasid_attach_spid';
    this.checkNoHandler(call);
    if (!Number.isInteger(spid) || spid < 0 || spid >= INVALID_IOASID) {
      throw new SysError('EINVAL', call, `no SPID ${hex(spid)}`);
    }
    const ioasid = this.lookUp(call, id);
    const { set } = ioasid;
    const other = set.spids.get(spid);
    if (other !== undefined) {
      throw new SysError('EINVAL', call, `SPID ${hex(spid)} of set ${set.id} is IOASID ${hex(other.id)}`);
    }
    this.checkNotFreed(call, ioasid);
    if (ioasid.isBound) throw new SysError('EBUSY', call, `IOASID ${hex(id)} has SPID ${hex(ioasid.spid)}`);
    this.kernel.checkpoint('ioasid_spid');
    ioasid.spid = spid;
    set.spids.set(spid, ioasid);
    this.notify('bind', ioasid);
  }

  /** Publishes `unbind`, and then takes the private number off an id and drops its reference. Never fails. */
  detachSpid(id: number): void {
    const call = 'ioasid_detach_spid';
    this.checkNoHandler(call);
    const ioasid = this.ids.get(id);
    if (ioasid === undefined || !ioasid.isBound) {
      this.ignore(call, id, ioasid === undefined ? 'unknown' : 'no_spid');
      return;
    }
    try {
      this.notify('unbind', ioasid);
    } finally {
      ioasid.set.spids.delete(ioasid.spid);
      ioasid.spid = INVALID_IOASID;
      this.reclaimUnreferenced(ioasid);
    }
  }

  /**
   * The id that has a private number within a set, or INVALID_IOASID. With `get` the caller has a reference to it, and
   * one that its owner has freed is not found.
   */
  findBySpid(set: IoasidSet, spid: number, get: boolean): number {
    const ioasid = set.spids.get(spid);
    if (ioasid === undefined || (get && ioasid.freed)) return INVALID_IOASID;
    if (get) ioasid.taken++;
    return ioasid.id;
  }

  /** The private number of an id, or INVALID_IOASID. */
  spidOf(id: number): number {
    return this.ids.get(id)?.spid ?? INVALID_IOASID;
  }

  /** The state of an id; null when it is free. */
  stateOf(id: number): IoasidState | null {
    return this.ids.get(id)?.state ?? null;
  }

  /** References to an id, those of its owner and of its SPID included. */
  referencesTo(id: number): number {
    return this.ids.get(id)?.references ?? 0;
  }

  private freeOwned(ioasid: Ioasid): void {
    if (ioasid.freed) return;
    ioasid.freed = true;
    try {
      // The owner's reference goes after the handlers' ones: none of them finds the id reclaimed by another.
      if (ioasid.isShared) this.notify('free', ioasid);
    } finally {
      if (ioasid.taken > 0) ioasid.taken--;
      this.reclaimUnreferenced(ioasid);
    }
  }

  private reclaimUnreferenced(ioasid: Ioasid): boolean {
    const { id, set } = ioasid;
    if (ioasid.references > 0 || this.ids.get(id) !== ioasid) return false;
    this.ids.delete(id);
    set.members.delete(id);
    set.charged?.charge(-1);
    this.pasids.free(id);
    if (this.trace.enabled) this.trace.emit({ name: 'ioasid_reclaim', id, set: set.id });
    return true;
  }

  private takeNumber(min: number, max: number): number {
    try {
      return this.pasids.allocate({ first: min, end: max + 1 });
    } catch (error) {
      if (error instanceof SysError && error.code === 'ENOSPC') return INVALID_IOASID;
      throw error;
    }
  }

  private notify(kind: IoasidEvent['kind'], { id, spid, set, data }: Ioasid): void {
    if (this.trace.enabled) this.trace.emit({ name: 'ioasid_notify', kind, id, spid, set: set.id });
    this.notifying = true;
    try {
      callChains({ kind, id, spid, set, data }, set.chain, kind === 'free' ? this.chain : null);
    } finally {
      this.notifying = false;
    }
  }

  private checkNoHandler(call: string): void {
    if (this.notifying) throw new Error(`${call} entered inside a notification; queue it with Kernel.queueWork`);
  }

  private lookUp(call: string, id: number): Ioasid {
    const ioasid = this.ids.get(id);
    if (ioasid === undefined) throw new SysError('ENOENT', call, `no IOASID ${hex(id)}`);
    return ioasid;
  }

  private checkNotFreed(call: string, { freed, id, references }: Ioasid): void {
    if (freed) throw new SysError('EBUSY', call, `IOASID ${hex(id)} is freed, ${references} references remain`);
  }
}

function idsOf(set: IoasidSet): number[] {
  return [...set.members.keys()].sort((a, b) => a - b);
}

function checkMember(call: string, set: IoasidSet | null, ioasid: Ioasid): void {
  if (set === null || ioasid.set === set) return;
  throw new SysError('EACCES', call, `IOASID ${hex(ioasid.id)} is in set ${ioasid.set.id}, not in set ${set.id}`);
}
