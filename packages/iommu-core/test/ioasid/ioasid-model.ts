/**
 * What the allocator should do, written down slowly: arrays that are searched, and every number counted anew when it is
 * asked for. It shares no code with what it checks; sets, address spaces and subscribers are known to it by name.
 */

import type { ErrnoCode } from '../../src/index.ts';

export const NONE = 0xffff_ffff;
/** IOASIDs of the modelled system, and the highest number that is asked for. */
export const CAPACITY = 10;
export const NUMBERS = 7;

export type ModelMm = {
  exited: boolean;
  pending: number[];
};
export type ModelGroup = { parent: ModelGroup | null; max: number; events: number };
export type ModelSet = {
  name: number;
  number: number;
  exists: boolean;
  type: number;
  mm: ModelMm | null;
  quota: number;
  group: ModelGroup | null;
  /** Subscribers in the order they came to this set, and how they came. */
  chain: { who: number; viaMm: boolean }[];
};
type ModelId = { id: number; set: ModelSet; gets: number; owned: boolean; freed: boolean; spid: number; data: unknown };

/** The call was refused with an errno. */
export class Refused extends Error {
  readonly code: ErrnoCode;

  constructor(code: ErrnoCode) {
    super(code);
    this.code = code;
  }
}

export class IoasidModel {
  readonly mms: ModelMm[] = [];
  readonly groups: ModelGroup[] = [];
  readonly sets: ModelSet[] = [];
  /** PASIDs that somebody else has allocated, those that something names, and those parked. */
  readonly foreign: Set<number> = new Set();
  readonly named: Set<number> = new Set();
  readonly parked: Set<number> = new Set();
  readonly globalChain: number[] = [];
  readonly heard: string[] = [];
  private readonly priorities: readonly number[];
  private ids: ModelId[] = [];
  private reserved = 0;

  constructor(priorities: readonly number[]) {
    this.priorities = priorities;
  }

  get available(): number {
    let left = CAPACITY - this.reserved;
    for (const set of this.sets) if (set.exists) left -= set.quota;
    return left;
  }

  reserve(count: number): number {
    if (count > this.available) throw new Refused('ENOSPC');
    const taken = count === 0 ? this.available : count;
    this.reserved += taken;
    return taken;
  }

  cancel(count: number): number {
    if (count > this.reserved) throw new Refused('EINVAL');
    this.reserved -= count;
    return this.available;
  }

  get reservedNow(): number {
    return this.reserved;
  }

  allocSet(mm: ModelMm | null, quota: number, type: number, group: ModelGroup | null): ModelSet {
    if (type > 2) throw new Refused('EINVAL');
    if (quota > this.available) throw new Refused('ENOSPC');
    if (type === 0) throw new Refused('EINVAL');
    if (type === 2 && mm === null) throw new Refused('EINVAL');
    if (type === 1 && mm !== null) throw new Refused('EINVAL');
    if (mm !== null && this.mmSet(mm) !== null) throw new Refused('EEXIST');
    if (mm?.exited) throw new Refused('EINVAL');
    const taken = this.sets.filter((set) => set.exists).map((set) => set.number);
    let number = 0;
    while (taken.includes(number)) number++;
    const granted = quota === 0 ? this.available : quota;
    const chain = (mm?.pending ?? []).map((who) => ({ who, viaMm: true }));
    const set = { name: this.sets.length, number, exists: true, type, mm, quota: granted, group, chain };
    this.sets.push(set);
    if (mm !== null) mm.pending = [];
    return set;
  }

  freeSet(set: ModelSet): void {
    if (!set.exists) throw new Refused('EINVAL');
    if (this.members(set).length > 0) throw new Refused('EBUSY');
    set.exists = false;
    if (set.mm !== null && !set.mm.exited) {
      set.mm.pending = set.chain.filter(({ viaMm }) => viaMm).map(({ who }) => who);
    }
    set.chain = [];
  }

  mmSet(mm: ModelMm): ModelSet | null {
    return this.sets.find((set) => set.exists && set.mm === mm) ?? null;
  }

  moveSet(set: ModelSet, group: ModelGroup | null): void {
    if (!set.exists) throw new Refused('EINVAL');
    set.group = group;
  }

  exit(mm: ModelMm): void {
    if (mm.exited) return;
    mm.exited = true;
    mm.pending = [];
  }

  setMax(group: ModelGroup, max: number): void {
    if (group.parent === null) throw new Refused('ENOENT');
    if (max < 0 || max === group.max) throw new Refused('EINVAL');
    group.max = max;
  }

  charged(group: ModelGroup): number {
    return this.ids.filter(({ set }) => set.type === 2 && this.ancestry(set.group).includes(group)).length;
  }

  alloc(set: ModelSet, min: number, max: number, data: unknown, current: ModelMm | null): number {
    if (!set.exists || set.mm?.exited) return NONE;
    if (this.members(set).length >= set.quota) return NONE;
    if (set.mm !== null && current !== set.mm) throw new Refused('EPERM');
    const groups = set.type === 2 ? this.ancestry(set.group) : [];
    if (groups.some((group) => this.charged(group) >= group.max)) {
      set.group!.events++;
      throw new Refused('EAGAIN');
    }
    for (let id = Math.max(min, 1); id <= max; id++) {
      if (this.at(id) !== null || this.foreign.has(id) || this.parked.has(id)) continue;
      const fresh = { id, set, gets: 0, owned: true, freed: false, spid: NONE, data };
      this.ids.push(fresh);
      this.tell('alloc', fresh);
      return id;
    }
    return NONE;
  }

  get(set: ModelSet | null, id: number): void {
    const entry = this.at(id);
    if (entry === null) throw new Refused('EINVAL');
    if (entry.freed) throw new Refused('EBUSY');
    if (set !== null && set !== entry.set) throw new Refused('EACCES');
    entry.gets++;
  }

  put(set: ModelSet | null, id: number): boolean {
    const entry = this.at(id);
    if (entry === null || (set !== null && set !== entry.set)) return false;
    if (entry.gets > 0) entry.gets--;
    else entry.owned = false;
    return this.reclaim(entry);
  }

  free(set: ModelSet | null, id: number): void {
    const entry = this.at(id);
    if (entry === null || entry.set !== set || entry.freed) return;
    entry.freed = true;
    // References are not told apart: after a put too many the last user's stands for the owner's.
    if (this.referencesBesideSpid(id) > 1 || entry.spid !== NONE) this.tell('free', entry);
    if (entry.owned) entry.owned = false;
    else if (entry.gets > 0) entry.gets--;
    this.reclaim(entry);
  }

  freeAll(set: ModelSet): void {
    for (const id of this.members(set)) this.free(set, id);
  }

  find(set: ModelSet | null, id: number, wanted: boolean): unknown {
    const entry = this.at(id);
    if (entry === null) throw new Refused('ENOENT');
    if (set !== null && set !== entry.set) throw new Refused('EACCES');
    return wanted ? entry.data : null;
  }

  findSet(id: number): ModelSet {
    const entry = this.at(id);
    if (entry === null) throw new Refused('ENOENT');
    return entry.set;
  }

  getIfOwned(id: number, mm: ModelMm): void {
    const entry = this.at(id);
    if (entry === null) throw new Refused('ENOENT');
    if (entry.set.type !== 2) throw new Refused('EINVAL');
    if (entry.set.mm !== mm) throw new Refused('EPERM');
    if (entry.freed) throw new Refused('EBUSY');
    entry.gets++;
  }

  attachData(id: number, data: unknown): void {
    const entry = this.at(id);
    if (entry === null) throw new Refused('ENOENT');
    if (entry.data !== null) throw new Refused('EBUSY');
    entry.data = data;
  }

  detachData(id: number): void {
    const entry = this.at(id);
    if (entry !== null) entry.data = null;
  }

  attachSpid(id: number, spid: number): void {
    if (spid === NONE) throw new Refused('EINVAL');
    const entry = this.at(id);
    if (entry === null) throw new Refused('ENOENT');
    if (this.ids.some((other) => other.set === entry.set && other.spid === spid)) throw new Refused('EINVAL');
    if (entry.freed || entry.spid !== NONE) throw new Refused('EBUSY');
    entry.spid = spid;
    this.tell('bind', entry);
  }

  detachSpid(id: number): void {
    const entry = this.at(id);
    if (entry === null || entry.spid === NONE) return;
    this.tell('unbind', entry);
    entry.spid = NONE;
    this.reclaim(entry);
  }

  findBySpid(set: ModelSet, spid: number, get: boolean): number {
    const entry = this.ids.find((other) => other.set === set && other.spid === spid && spid !== NONE);
    if (entry === undefined || (get && entry.freed)) return NONE;
    if (get) entry.gets++;
    return entry.id;
  }

  register(set: ModelSet | null, who: number): void {
    if (set === null) {
      if (this.globalChain.includes(who)) throw new Refused('EEXIST');
      this.globalChain.push(who);
      return;
    }
    if (!set.exists) throw new Refused('EINVAL');
    if (set.chain.some((member) => member.who === who)) throw new Refused('EEXIST');
    set.chain.push({ who, viaMm: false });
  }

  unregister(set: ModelSet | null, who: number): void {
    if (set !== null) set.chain = set.chain.filter((member) => member.who !== who || member.viaMm);
    else if (this.globalChain.includes(who)) this.globalChain.splice(this.globalChain.indexOf(who), 1);
  }

  registerMm(mm: ModelMm, who: number): void {
    const set = this.mmSet(mm);
    if (mm.pending.includes(who) || set?.chain.some((member) => member.who === who)) throw new Refused('EBUSY');
    if (set !== null && this.members(set).length > 0) throw new Refused('EBUSY');
    if (mm.exited) throw new Refused('EINVAL');
    if (set === null) mm.pending.push(who);
    else set.chain.push({ who, viaMm: true });
  }

  unregisterMm(mm: ModelMm, who: number): void {
    mm.pending = mm.pending.filter((other) => other !== who);
    const set = this.mmSet(mm);
    if (set !== null) set.chain = set.chain.filter((member) => member.who !== who || !member.viaMm);
  }

  /** Somebody else takes, gives back, or names a PASID. */
  foreignAlloc(pasid: number): number {
    if (this.at(pasid) !== null || this.foreign.has(pasid) || this.parked.has(pasid)) throw new Refused('ENOSPC');
    this.foreign.add(pasid);
    return pasid;
  }

  foreignFree(pasid: number): void {
    if (this.foreign.delete(pasid) && this.named.has(pasid)) this.parked.add(pasid);
  }

  name(pasid: number): void {
    this.named.add(pasid);
  }

  unname(pasid: number): void {
    this.named.delete(pasid);
    this.parked.delete(pasid);
  }

  members(set: ModelSet): number[] {
    return this.ids
      .filter((entry) => entry.set === set)
      .map(({ id }) => id)
      .sort((a, b) => a - b);
  }

  look(id: number): unknown {
    const entry = this.at(id);
    if (entry === null) return [null, 0, NONE, null, null];
    const { set, spid, data, freed } = entry;
    const references = this.references(entry);
    const others = references - (entry.owned || entry.gets > 0 ? 1 : 0);
    const state = freed ? 'free_pending' : others > 0 ? 'active' : 'idle';
    return [state, references, spid, data, set.name];
  }

  referencesBesideSpid(id: number): number {
    const entry = this.at(id);
    return entry === null ? 0 : entry.gets + (entry.owned ? 1 : 0);
  }

  get pasidsInUse(): number {
    return this.ids.length + this.foreign.size;
  }

  private at(id: number): ModelId | null {
    return this.ids.find((entry) => entry.id === id) ?? null;
  }

  private references({ gets, owned, spid }: ModelId): number {
    return gets + (owned ? 1 : 0) + (spid === NONE ? 0 : 1);
  }

  private reclaim(entry: ModelId): boolean {
    if (this.references(entry) > 0) return false;
    this.ids = this.ids.filter((other) => other !== entry);
    if (this.named.has(entry.id)) this.parked.add(entry.id);
    return true;
  }

  /** A group and those above it, without the root. */
  private ancestry(group: ModelGroup | null): ModelGroup[] {
    return group === null || group.parent === null ? [] : [group, ...this.ancestry(group.parent)];
  }

  private tell(kind: string, { id, spid, set }: ModelId): void {
    const hearers = set.chain.map(({ who }) => who);
    if (kind === 'free') hearers.push(...this.globalChain);
    const wanted = [...new Set(this.priorities)].sort((a, b) => b - a);
    for (const priority of wanted) {
      for (const who of hearers) {
        if (this.priorities[who] === priority) this.heard.push(`${who} ${kind} ${id} ${spid} ${set.number}`);
      }
    }
  }
}
