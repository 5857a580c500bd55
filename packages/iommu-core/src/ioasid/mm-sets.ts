/**
 * Which set belongs to which process, and who wants to hear of it before it exists (ioasid_find_mm_set and the pending
 * notifiers of the V4 proposal, February 2021).
 *
 * When an address space goes away its set and ids stay, because others hold them: whoever allocated them frees them.
 * But the set gives out no more ids, and neither a new set nor a subscription is possible. Subscriptions go at once
 * where there is no set, and else with the set.
 */

import { SysError } from '../errno.ts';
import type { Kernel } from '../kernel.ts';
import type { AddressSpace, AddressSpaceNotifier } from '../process/address-space.ts';
import type { IoasidSet } from './ioasid-set.ts';
import type { IoasidNotifier } from './notifier-chain.ts';

type MmUse = {
  set: IoasidSet | null;
  /** On the chain of the set while there is one, pending while there is none. */
  readonly notifiers: Set<IoasidNotifier>;
  readonly watch: AddressSpaceNotifier;
};

export class MmSets {
  private readonly kernel: Kernel;
  private readonly uses = new Map<AddressSpace, MmUse>();

  constructor(kernel: Kernel) {
    this.kernel = kernel;
  }

  find(mm: AddressSpace): IoasidSet | null {
    return this.uses.get(mm)?.set ?? null;
  }

  /** Makes room for a set of `mm`. @throws {SysError} EEXIST it has one; EINVAL it is gone; ENOMEM */
  prepare(call: string, mm: AddressSpace): void {
    const present = this.find(mm);
    if (present !== null) throw new SysError('EEXIST', call, `address space ${mm.id} has set ${present.id}`);
    this.use(call, mm);
  }

  /** `set` is now the set of its token, for which `prepare` made room. Moves the pending subscriptions to it. */
  adopt(set: IoasidSet): void {
    const use = this.uses.get(set.token!)!;
    use.set = set;
    for (const notifier of use.notifiers) set.chain.add(notifier);
  }

  /** The set of `mm` is freed: its subscriptions are pending again. Never fails. */
  release(mm: AddressSpace): void {
    const use = this.uses.get(mm)!;
    use.set = null;
    if (!mm.alive) use.notifiers.clear();
    this.dropUnused(mm, use);
  }

  /**
   * Subscribes to the set that `mm` has or will have.
   * @throws {SysError} EBUSY the same subscription exists, or the set has ids, of which the subscriber would have
   * missed events; EINVAL the address space is gone; ENOMEM
   */
  subscribe(mm: AddressSpace, notifier: IoasidNotifier): void {
    const call = 'ioasid_register_notifier_mm';
    const present = this.uses.get(mm);
    if (present?.notifiers.has(notifier) || present?.set?.chain.has(notifier)) {
      throw new SysError('EBUSY', call, `registered for address space ${mm.id}`);
    }
    if (present?.set != null && present.set.count > 0) {
      throw new SysError('EBUSY', call, `set ${present.set.id} of address space ${mm.id} has ${present.set.count} ids`);
    }
    this.kernel.checkpoint('ioasid_notifier');
    const { set, notifiers } = this.use(call, mm);
    notifiers.add(notifier);
    set?.chain.add(notifier);
  }

  /** Ends a subscription, pending or not; one that does not exist is passed over. Never fails. */
  unsubscribe(mm: AddressSpace, notifier: IoasidNotifier): void {
    const use = this.uses.get(mm);
    if (use === undefined || !use.notifiers.delete(notifier)) return;
    use.set?.chain.remove(notifier);
    this.dropUnused(mm, use);
  }

  /** True when `notifier` is on the chain of `set` because it subscribed to the address space. */
  isSubscribed(set: IoasidSet, notifier: IoasidNotifier): boolean {
    return set.token !== null && this.uses.get(set.token)!.notifiers.has(notifier);
  }

  private use(call: string, mm: AddressSpace): MmUse {
    if (!mm.alive) throw new SysError('EINVAL', call, `address space ${mm.id} is gone`);
    const present = this.uses.get(mm);
    if (present !== undefined) return present;
    this.kernel.checkpoint('ioasid_mm');
    const watch = { release: () => this.lose(mm) };
    const use: MmUse = { set: null, notifiers: new Set(), watch };
    mm.addNotifier(watch);
    this.uses.set(mm, use);
    return use;
  }

  private lose(mm: AddressSpace): void {
    if (this.find(mm) === null) this.uses.delete(mm);
  }

  private dropUnused(mm: AddressSpace, use: MmUse): void {
    if (use.set !== null || use.notifiers.size > 0) return;
    this.uses.delete(mm);
    mm.removeNotifier(use.watch);
  }
}
