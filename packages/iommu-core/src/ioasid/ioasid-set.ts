/**
 * A set of IOASIDs: what one virtual machine, or one user in the kernel, has of the system's (struct ioasid_set of the
 * V4 proposal, February 2021).
 *
 * A set is a name space for SPIDs, a quota, and a way to free many ids at once. It says who asked for a PASID and
 * nothing about who may use it: that is decided by the files that a process holds.
 */

import type { AddressSpace } from '../process/address-space.ts';
import type { Ioasid } from './ioasid.ts';
import type { IoasidCgroup } from './ioasid-cgroup.ts';
import { NotifierChain } from './notifier-chain.ts';

/** A set of the host's kernel: no token, and any number of them. */
export const IOASID_SET_TYPE_NULL = 1;
/** The set of a process, whose address space is its token: one for each. */
export const IOASID_SET_TYPE_MM = 2;
/** First number that is no type of set. */
export const IOASID_SET_TYPE_NR = 3;

/** Made by `Ioasids.allocSet`; exists until `Ioasids.freeSet`, whether it has ids or not. */
export class IoasidSet {
  /** The lowest that no other set had when this one was made. */
  readonly id: number;
  /** IOASID_SET_TYPE_. */
  readonly type: number;
  readonly token: AddressSpace | null;
  /** IOASIDs that the set may have at a time. */
  readonly quota: number;
  /** What its ids are charged to, if it is the set of a process; changed by `Ioasids.moveSet`. */
  cgroup: IoasidCgroup | null;
  /** Its ids, freed ones included until they are reclaimed. */
  readonly members: Map<number, Ioasid> = new Map();
  /** Those of its ids that have an SPID, by SPID. */
  readonly spids: Map<number, Ioasid> = new Map();
  readonly chain: NotifierChain = new NotifierChain();

  constructor(id: number, type: number, token: AddressSpace | null, quota: number, cgroup: IoasidCgroup | null) {
    this.id = id;
    this.type = type;
    this.token = token;
    this.quota = quota;
    this.cgroup = cgroup;
  }

  /** IOASIDs that it has now, freed ones included while somebody refers to them. */
  get count(): number {
    return this.members.size;
  }

  /** What its ids are charged to now, or null: only sets of processes are charged. */
  get charged(): IoasidCgroup | null {
    return this.type === IOASID_SET_TYPE_MM ? this.cgroup : null;
  }
}
