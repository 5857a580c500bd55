/**
 * One IOASID: who owns it, who uses it, and by which private number its set knows it (struct ioasid_data of the V4
 * proposal, February 2021).
 *
 * The state is not stored but follows from the references: the proposal had a state for ids in use that nothing ever
 * entered.
 */

import type { IoasidSet } from './ioasid-set.ts';

/** No IOASID; as an SPID, none. */
export const INVALID_IOASID = 0xffff_ffff;

/**
 * `idle`: allocated, and held by its owner alone. `active`: others hold it. `free_pending`: its owner has freed it and
 * others hold it. What is in none of them is free.
 */
export type IoasidState = 'idle' | 'active' | 'free_pending';

export class Ioasid {
  readonly id: number;
  readonly set: IoasidSet;
  /** The owner's reference, taken by `alloc` and dropped by `free`, and one for every `get`. */
  taken = 1;
  /** Number within the set, INVALID_IOASID for none. While there is one it holds a reference that no `put` can drop. */
  spid: number = INVALID_IOASID;
  /** Whatever the user wants to find by the id; null for nothing. */
  data: unknown;
  /** Freed by its owner: nobody can become a user any more. */
  freed = false;

  constructor(id: number, set: IoasidSet, data: unknown) {
    this.id = id;
    this.set = set;
    this.data = data;
  }

  get isBound(): boolean {
    return this.spid !== INVALID_IOASID;
  }

  /** References of all kinds; without any the id is reclaimed. */
  get references(): number {
    return this.taken + (this.isBound ? 1 : 0);
  }

  /** Somebody beside the owner holds it, and must hear when it is freed. */
  get isShared(): boolean {
    return this.taken > 1 || this.isBound;
  }

  get state(): IoasidState {
    if (this.freed) return 'free_pending';
    return this.isShared ? 'active' : 'idle';
  }
}
