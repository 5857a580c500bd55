/**
 * A control group that limits the IOASIDs of processes (the `ioasids` controller of the V4 proposal, RFC of February
 * 2021; none was merged).
 *
 * As the review asked, a set is told its group when it is made; the group of whoever happens to allocate does not
 * matter. An id is charged when it is allocated and given back when it is reclaimed, to the group and to all groups
 * above it but the root, which has no limit and no files.
 */

import { SysError } from '../errno.ts';

export class IoasidCgroup {
  readonly parent: IoasidCgroup | null;
  readonly name: string;
  private limit = 0;
  private charges = 0;
  private refusals = 0;
  private readonly watchers = new Set<() => void>();

  /** A group below `parent`; null makes a root. */
  constructor(options: { parent: IoasidCgroup | null; name: string }) {
    this.parent = options.parent;
    this.name = options.name;
  }

  /** File `max`: ids that the group and those below it may have; 0 in a new group. @throws {SysError} ENOENT on the root */
  get max(): number {
    this.checkFile('max');
    return this.limit;
  }

  /**
   * Writes file `max`; Infinity is the word "max". Below `current`, no id goes, and none comes before enough are gone.
   * It reserves nothing of the capacity, of which the quota of a set is already a part.
   * @throws {SysError} EINVAL negative, not a whole number, or what it is already; ENOENT on the root
   */
  setMax(limit: number): void {
    this.checkFile('max');
    const valid = limit === Number.POSITIVE_INFINITY || (Number.isInteger(limit) && limit >= 0);
    if (!valid || limit === this.limit) {
      throw new SysError('EINVAL', 'ioasids.max', `${limit} for ${this.name}, where it is ${this.limit}`);
    }
    this.limit = limit;
  }

  /** File `current`: ids charged to the group and to those below it. @throws {SysError} ENOENT on the root */
  get current(): number {
    this.checkFile('current');
    return this.charges;
  }

  /** File `events`: times that a set of this very group was refused an id, by its limit or one above. @throws {SysError} ENOENT on the root */
  get events(): number {
    this.checkFile('events');
    return this.refusals;
  }

  /** Calls `watcher` when `events` changes, until the function given back is called. @throws {SysError} ENOENT on the root */
  watchEvents(watcher: () => void): () => void {
    this.checkFile('events');
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  }

  /** Lets one more id pass, or counts an event and tells its watchers. @throws {SysError} EAGAIN a group has no room */
  admit(): void {
    for (let group: IoasidCgroup = this; group.parent !== null; group = group.parent) {
      if (group.charges < group.limit) continue;
      this.refusals++;
      for (const watcher of [...this.watchers]) watcher();
      const { name, charges, limit } = group;
      throw new SysError('EAGAIN', 'ioasid_alloc', `${name} has ${charges} IOASIDs, and may have ${limit}`);
    }
  }

  /** Adds `count` ids, whatever the limits; negative takes them away. Never fails. */
  charge(count: number): void {
    for (let group: IoasidCgroup = this; group.parent !== null; group = group.parent) group.charges += count;
  }

  private checkFile(file: string): void {
    if (this.parent === null) throw new SysError('ENOENT', `ioasids.${file}`, `${this.name} is the root`);
  }
}
