/** Numbers for things, lowest free first, from 1 (Linux: an xarray with XA_FLAGS_ALLOC1). */

export class IdMap<T> {
  /** A reserved number holds null, a free one undefined. */
  private readonly slots: (T | null | undefined)[] = [undefined];
  private lowest = 1;
  private count = 0;

  /** Numbers in use, reserved ones too. */
  get size(): number {
    return this.count;
  }

  /** Takes the lowest free number without giving it a meaning yet. */
  reserve(): number {
    let id = this.lowest;
    while (id < this.slots.length && this.slots[id] !== undefined) id++;
    this.lowest = id + 1;
    this.slots[id] = null;
    this.count++;
    return id;
  }

  /** Gives a reserved number its meaning. */
  set(id: number, value: T): void {
    this.slots[id] = value;
  }

  /** Takes a number's meaning away; the number stays taken. */
  clear(id: number): void {
    this.slots[id] = null;
  }

  get(id: number): T | undefined {
    return this.slots[id] ?? undefined;
  }

  delete(id: number): void {
    if (this.slots[id] === undefined) return;
    this.slots[id] = undefined;
    this.count--;
    this.lowest = Math.min(this.lowest, id);
    while (this.slots.length > 1 && this.slots[this.slots.length - 1] === undefined) this.slots.pop();
  }

  /** What has a number now, in ascending order of the numbers. */
  *entries(): IterableIterator<[number, T]> {
    for (let id = 1; id < this.slots.length; id++) {
      const value = this.slots[id] ?? null;
      if (value !== null) yield [id, value];
    }
  }
}
