/** A naive model of who owns which PASID, and what is bound where; keys are `device/pasid`. */

/** The byte at an address, null where nothing is. */
export type Leaf = number | null;

/** What should be so: a PASID's owner, what is bound where, and what a device may read there. */
export class GuestPasidModel {
  readonly owners = new Map<number, number>();
  readonly spids = new Map<number, number>();
  readonly binds = new Map<string, { vm: number; table: number }>();
  /** Bytes that DMA at GVA may give: of the table as it is, or as it was since the last flush. */
  readonly visible = new Map<string, Set<Leaf>>();

  bindsOf(id: number): string[] {
    return [...this.binds.keys()].filter((key) => key.endsWith(`/${id}`));
  }

  /** The errno that a bind ends with. */
  refusesBind(key: string, id: number, vm: number, gpasid: number, hasParent: boolean): string | null {
    const owner = this.owners.get(id);
    if (owner === undefined) return 'ENOENT';
    if (owner !== vm) return 'EPERM';
    if (this.binds.has(key)) return 'EBUSY';
    if (!hasParent) return 'EINVAL';
    if (gpasid === 0 || this.spids.get(id) === gpasid) return null;
    const taken = this.spids.has(id) || [...this.spids].some(([i, g]) => g === gpasid && this.owners.get(i) === vm);
    return taken ? 'EINVAL' : null;
  }

  refusesUnbind(key: string, id: number, vm: number): string | null {
    const owner = this.owners.get(id);
    if (owner === undefined) return 'ENOENT';
    if (owner !== vm) return 'EPERM';
    return this.binds.has(key) ? null : 'ENOENT';
  }

  remove(key: string, id: number): void {
    this.binds.delete(key);
    this.visible.delete(key);
    if (this.bindsOf(id).length === 0) this.spids.delete(id);
  }

  forget(id: number): void {
    for (const key of this.bindsOf(id)) this.remove(key, id);
    this.owners.delete(id);
  }
}
