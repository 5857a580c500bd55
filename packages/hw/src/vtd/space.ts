/**
 * What cached translations are tagged with: the domain for second-stage translations, domain and PASID for first-stage
 * and nested ones (VT-d Architecture Specification, revision 4.1, section 6.2.1).
 *
 * A space has an epoch, which no other space has; a cached translation carries the epoch it was made in, and a space is
 * invalidated by giving it a new one.
 */

import { PGTT_NESTED } from './tables.ts';

export type Space = {
  readonly did: number;
  /** -1: second stage, whatever the PASID. */
  readonly pasid: number;
  /** Nested translations may be cached under it. */
  nested: boolean;
  epoch: number;
};

/** Spaces kept at most; beyond that everything cached is dropped. */
const SPACES = 4096;

export class SpaceTable {
  private readonly spaces = new Map<number, Space>();
  private readonly newEpoch: () => number;
  private readonly dropAll: () => void;

  /** `dropAll` forgets everything that refers to a space or carries an epoch. */
  constructor(newEpoch: () => number, dropAll: () => void) {
    this.newEpoch = newEpoch;
    this.dropAll = dropAll;
  }

  /** Second-stage translations of a domain. */
  ofDomain(did: number): Space {
    return this.find(did, -1);
  }

  /** Translations of a PASID in a domain; `kind` is a PGTT_ value. */
  ofPasid(did: number, pasid: number, kind: number): Space {
    const space = this.find(did, pasid);
    if (kind === PGTT_NESTED) space.nested = true;
    return space;
  }

  /** The space if anything was ever cached under it; `pasid` -1 for the second stage. */
  existing(did: number, pasid: number): Space | null {
    return this.spaces.get(key(did, pasid)) ?? null;
  }

  /** Gives new epochs to the spaces of a domain: all, or those with nested translations. */
  renewDomain(did: number, nestedOnly: boolean): void {
    for (const space of this.spaces.values()) {
      if (space.did === did && (space.nested || !nestedOnly)) this.renew(space);
    }
  }

  renew(space: Space): void {
    space.epoch = this.newEpoch();
  }

  clear(): void {
    this.spaces.clear();
  }

  private find(did: number, pasid: number): Space {
    const at = key(did, pasid);
    const known = this.spaces.get(at);
    if (known !== undefined) return known;
    if (this.spaces.size >= SPACES) this.dropAll();
    const space: Space = { did, pasid, nested: false, epoch: this.newEpoch() };
    this.spaces.set(at, space);
    return space;
  }
}

function key(did: number, pasid: number): number {
  return (pasid + 1) * 65536 + did;
}
