/**
 * Who hears of what happens to IOASIDs, and in which order (the notification chapter of the V4 proposal, February
 * 2021). One chain for all ids, one for each set.
 *
 * The chains are for observing. No id is reused too early when nobody listens: references and parking see to that.
 *
 * A handler runs inside the call that changed the id, as an atomic notifier does: it does not wait, it does not throw,
 * and it starts no other notification. It may drop references. What it has to do beyond that it gives to
 * `kernel.queueWork`, which is the one ordered work queue that all of them share; so the work for a later event of an
 * id cannot overtake the work for an earlier one.
 */

import type { IoasidSet } from './ioasid-set.ts';

/** Priorities, the highest is called first: a CPU stops sending a PASID before an IOMMU stops translating it. */
export const IOASID_PRIO_LAST = 0;
export const IOASID_PRIO_DEVICE = 1;
export const IOASID_PRIO_IOMMU = 2;
export const IOASID_PRIO_CPU = 3;

/** `alloc`, `bind` and `unbind` go to the chain of the id's set; `free` to it and to the chain of all ids. */
export type IoasidEvent = {
  kind: 'alloc' | 'free' | 'bind' | 'unbind';
  id: number;
  /** INVALID_IOASID for none. In `unbind` the one that goes. */
  spid: number;
  set: IoasidSet;
  /** What is attached to the id, or null. */
  data: unknown;
};

/** A subscriber; the object is its identity. */
export type IoasidNotifier = {
  /** IOASID_PRIO_. */
  readonly priority: number;
  notify(event: IoasidEvent): void;
};

export class NotifierChain {
  /** By priority, then by time of registration. Replaced, never changed, so that a handler may change the chain. */
  private ordered: readonly IoasidNotifier[] = [];

  get members(): readonly IoasidNotifier[] {
    return this.ordered;
  }

  has(notifier: IoasidNotifier): boolean {
    return this.ordered.includes(notifier);
  }

  add(notifier: IoasidNotifier): void {
    const after = this.ordered.findIndex(({ priority }) => priority < notifier.priority);
    this.ordered = this.ordered.toSpliced(after < 0 ? this.ordered.length : after, 0, notifier);
  }

  /** Takes a subscriber out; an event that is under way does not reach it any more. Never fails. */
  remove(notifier: IoasidNotifier): void {
    this.ordered = this.ordered.filter((member) => member !== notifier);
  }
}

/**
 * Hands `event` to those who were on either chain when it began. Priority orders both chains together, and `first` is
 * first where it is equal: a virtual machine's CPU, which listens to its set, comes before an IOMMU, which listens to
 * all ids.
 */
export function callChains(event: IoasidEvent, first: NotifierChain, second: NotifierChain | null): void {
  const [left, right] = [first.members, second?.members ?? []];
  for (let i = 0, j = 0; i < left.length || j < right.length; ) {
    const fromFirst = j === right.length || (i < left.length && left[i]!.priority >= right[j]!.priority);
    const notifier = fromFirst ? left[i++]! : right[j++]!;
    if ((fromFirst ? first : second!).has(notifier)) notifier.notify(event);
  }
}
