/**
 * The sets of IOASIDs that exist, what of the system's capacity they have, and who listens to them.
 */

import type { TraceSink } from '@iommukit/hw';
import { SysError } from '../errno.ts';
import type { Kernel } from '../kernel.ts';
import type { AddressSpace } from '../process/address-space.ts';
import type { IommuEvent } from '../trace.ts';
import { IoasidCapacity } from './capacity.ts';
import type { IoasidCgroup } from './ioasid-cgroup.ts';
import { IOASID_SET_TYPE_MM, IOASID_SET_TYPE_NR, IOASID_SET_TYPE_NULL, IoasidSet } from './ioasid-set.ts';
import { MmSets } from './mm-sets.ts';
import { type IoasidNotifier, NotifierChain } from './notifier-chain.ts';

export type IoasidSetOptions = {
  /** The address space of a process for IOASID_SET_TYPE_MM, null for IOASID_SET_TYPE_NULL. */
  token: AddressSpace | null;
  /** IOASIDs the set may have; 0 for all that are available, which may be none. */
  quota: number;
  /** IOASID_SET_TYPE_. */
  type: number;
  /** What the ids of a process's set are charged to; by default nothing. */
  cgroup?: IoasidCgroup;
};

/** Half of the allocator: `Ioasids` adds the ids. */
export class IoasidSets {
  protected readonly kernel: Kernel;
  protected readonly trace: TraceSink<IommuEvent>;
  /** Hears of every id that is freed while it has users. */
  protected readonly chain: NotifierChain = new NotifierChain();
  private readonly pool = new IoasidCapacity();
  private readonly sets = new Map<number, IoasidSet>();
  private readonly mms: MmSets;

  protected constructor(kernel: Kernel, trace: TraceSink<IommuEvent>) {
    this.kernel = kernel;
    this.trace = trace;
    this.mms = new MmSets(kernel);
  }

  /** IOASIDs of the system: 2^20 before `installCapacity`. */
  get capacity(): number {
    return this.pool.total;
  }

  /** IOASIDs that are neither in the quota of a set nor reserved. */
  get available(): number {
    return this.pool.available;
  }

  /**
   * Says how many IOASIDs the system has, before anything is reserved; a later call is ignored.
   * @throws {SysError} EINVAL not 1..2^20
   */
  installCapacity(total: number): void {
    if (!this.pool.install(total)) this.ignore('ioasid_install_capacity', total, 'installed');
  }

  /**
   * Takes `count` IOASIDs from what is available, 0 for all that is left; gives how many.
   * @throws {SysError} ENOSPC more than is available; EINVAL no number
   */
  reserveCapacity(count: number): number {
    return this.pool.reserve(count);
  }

  /** Gives reserved IOASIDs back; gives how many are then available. @throws {SysError} EINVAL more than are reserved */
  cancelCapacity(count: number): number {
    return this.pool.cancel(count);
  }

  /**
   * Makes a set.
   * @throws {SysError} EINVAL an unknown type, a quota that is no number, a token missing for MM or given for NULL, or
   * an address space that is gone; ENOSPC the quota is more than is available; EEXIST the address space has a set;
   * ENOMEM
   */
  allocSet({ token, quota, type, cgroup }: IoasidSetOptions): IoasidSet {
    const call = 'ioasid_set_alloc';
    if (!(type < IOASID_SET_TYPE_NR)) throw new SysError('EINVAL', call, `no type ${type}`);
    const granted = this.pool.check(call, quota);
    if (type !== IOASID_SET_TYPE_NULL && type !== IOASID_SET_TYPE_MM) {
      throw new SysError('EINVAL', call, `no type ${type}`);
    }
    if ((token === null) === (type === IOASID_SET_TYPE_MM)) {
      throw new SysError('EINVAL', call, token === null ? 'MM without a token' : `NULL with address space ${token.id}`);
    }
    this.kernel.checkpoint('ioasid_set');
    if (token !== null) this.mms.prepare(call, token);
    let id = 0;
    while (this.sets.has(id)) id++;
    const set = new IoasidSet(id, type, token, granted, cgroup ?? null);
    this.pool.take(granted);
    this.sets.set(id, set);
    if (token !== null) this.mms.adopt(set);
    return set;
  }

  /**
   * Ends a set and gives its quota back. Its number can be used again at once.
   * @throws {SysError} EINVAL no such set; EBUSY it has ids, freed ones that are still referenced included
   */
  freeSet(set: IoasidSet): void {
    const call = 'ioasid_set_free';
    this.checkSet(call, set);
    if (set.count > 0) throw new SysError('EBUSY', call, `set ${set.id} has ${set.count} ids`);
    this.sets.delete(set.id);
    this.pool.take(-set.quota);
    if (set.token !== null) this.mms.release(set.token);
  }

  /** The set of a process, or null. */
  findMmSet(mm: AddressSpace): IoasidSet | null {
    return this.mms.find(mm);
  }

  /**
   * The process of `set` moves to another control group: its ids are charged there and no longer where they were, even
   * past the limit. @throws {SysError} EINVAL no such set
   */
  moveSet(set: IoasidSet, cgroup: IoasidCgroup | null): void {
    this.checkSet('ioasids_can_attach', set);
    set.charged?.charge(-set.count);
    set.cgroup = cgroup;
    set.charged?.charge(set.count);
  }

  /**
   * Subscribes to the ids of a set, or to all. What happened before is not told again.
   * @throws {SysError} EINVAL no such set; EEXIST registered there
   */
  registerNotifier(set: IoasidSet | null, notifier: IoasidNotifier): void {
    const call = 'ioasid_register_notifier';
    if (set !== null) this.checkSet(call, set);
    const chain = set?.chain ?? this.chain;
    if (chain.has(notifier)) throw new SysError('EEXIST', call, `registered for ${set ? `set ${set.id}` : 'all'}`);
    chain.add(notifier);
  }

  /** Ends such a subscription. One made with `registerNotifierMm`, or none, is passed over. Never fails. */
  unregisterNotifier(set: IoasidSet | null, notifier: IoasidNotifier): void {
    if (set === null) this.chain.remove(notifier);
    else if (this.isSet(set) && !this.mms.isSubscribed(set, notifier)) set.chain.remove(notifier);
  }

  /**
   * Subscribes to the ids of a process, which need not have a set yet: the subscription waits for one, and again when
   * the set is freed.
   * @throws {SysError} EBUSY subscribed already, or the set has ids, of which events would be missing; EINVAL the
   * address space is gone; ENOMEM
   */
  registerNotifierMm(mm: AddressSpace, notifier: IoasidNotifier): void {
    this.mms.subscribe(mm, notifier);
  }

  /** Ends such a subscription, waiting or not; none is passed over. Never fails. */
  unregisterNotifierMm(mm: AddressSpace, notifier: IoasidNotifier): void {
    this.mms.unsubscribe(mm, notifier);
  }

  protected isSet(set: IoasidSet): boolean {
    return this.sets.get(set.id) === set;
  }

  /** Whether the set exists, can have a further id, and belongs to nobody who is gone. */
  protected mayGrow(set: IoasidSet): boolean {
    if (!this.isSet(set) || set.count >= set.quota) return false;
    return set.token === null || set.token.alive;
  }

  /** A call that cannot refuse had nothing to do. */
  protected ignore(call: string, subject: number, reason: 'installed' | 'no_spid' | 'unknown' | 'wrong_set'): void {
    if (this.trace.enabled) this.trace.emit({ name: 'ioasid_ignored', call, subject, reason });
  }

  private checkSet(call: string, set: IoasidSet): void {
    if (!this.isSet(set)) throw new SysError('EINVAL', call, `set ${set.id} is freed`);
  }
}
