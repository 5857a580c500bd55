/** First in, first out, in constant time at both ends however long it gets. */

export class Fifo<T> {
  private items: T[] = [];
  /** Items before this one are gone. */
  private head = 0;

  get length(): number {
    return this.items.length - this.head;
  }

  /** What `shift` gives next; undefined when there is nothing. */
  get first(): T | undefined {
    return this.items[this.head];
  }

  push(item: T): void {
    this.items.push(item);
  }

  shift(): T | undefined {
    const item = this.items[this.head];
    if (item === undefined) return undefined;
    this.head++;
    if (this.head * 2 > this.items.length) {
      this.items = this.items.slice(this.head);
      this.head = 0;
    }
    return item;
  }
}
