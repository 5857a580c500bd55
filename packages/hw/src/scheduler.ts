/**
 * Discrete-event time of one machine, in virtual nanoseconds.
 *
 * Whatever hardware does later is an event here; nothing else makes time pass. Events due at the same instant run in
 * the order in which they were scheduled, so a run is a function of its inputs.
 */

/** A scheduled event; keep it to cancel it. */
export type ScheduledEvent = {
  /** Absolute virtual time in nanoseconds. */
  readonly due: number;
  readonly sequence: number;
  action: (() => void) | null;
};

/** Cancelled events that may stay in the heap beside as many live ones. */
const CANCELLED = 64;

function before(a: ScheduledEvent, b: ScheduledEvent): boolean {
  return a.due < b.due || (a.due === b.due && a.sequence < b.sequence);
}

export class Scheduler {
  private heap: ScheduledEvent[] = [];
  private sequence = 0;
  private time = 0;
  /** Events in the heap that have been cancelled. */
  private cancelled = 0;

  /** Virtual nanoseconds since the machine was made. */
  get now(): number {
    return this.time;
  }

  /** When the next event is due, or Infinity. */
  get nextDue(): number {
    this.dropCancelled();
    return this.heap[0]?.due ?? Number.POSITIVE_INFINITY;
  }

  /** Runs `action` after `delay` nanoseconds (>= 0) of virtual time. */
  schedule(delay: number, action: () => void): ScheduledEvent {
    if (!(delay >= 0)) throw new RangeError(`delay is not a time span: ${delay}`);
    const event: ScheduledEvent = { due: this.time + delay, sequence: this.sequence++, action };
    this.siftUp(this.heap.length, event);
    return event;
  }

  /** A cancelled event never runs; cancelling twice or after it ran is harmless. */
  cancel(event: ScheduledEvent): void {
    if (event.action === null) return;
    event.action = null;
    // Who sets a timer anew again and again leaves nothing behind.
    if (++this.cancelled > CANCELLED && 2 * this.cancelled > this.heap.length) this.sweep();
  }

  /** Runs the next event, moving time to it. False when there is none. */
  runNext(): boolean {
    this.dropCancelled();
    const event = this.heap[0];
    if (event === undefined) return false;
    this.pop();
    this.time = Math.max(this.time, event.due);
    const action = event.action!;
    event.action = null;
    action();
    return true;
  }

  /** Runs all events due until `until` (absolute), then moves time there. */
  runUntil(until: number): void {
    while (this.nextDue <= until) this.runNext();
    this.time = Math.max(this.time, until);
  }

  /** Lets `span` nanoseconds pass. */
  advance(span: number): void {
    this.runUntil(this.time + span);
  }

  private dropCancelled(): void {
    while (this.heap.length > 0 && this.heap[0]!.action === null) {
      this.pop();
      this.cancelled--;
    }
  }

  /** Throws the cancelled events out of the heap. */
  private sweep(): void {
    const live = this.heap.filter(({ action }) => action !== null);
    this.heap = [];
    this.cancelled = 0;
    for (const event of live) this.siftUp(this.heap.length, event);
  }

  private pop(): void {
    const last = this.heap.pop()!;
    if (this.heap.length > 0) this.siftDown(last);
  }

  private siftUp(start: number, event: ScheduledEvent): void {
    let index = start;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!before(event, this.heap[parent]!)) break;
      this.heap[index] = this.heap[parent]!;
      index = parent;
    }
    this.heap[index] = event;
  }

  private siftDown(event: ScheduledEvent): void {
    const length = this.heap.length;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= length) break;
      if (child + 1 < length && before(this.heap[child + 1]!, this.heap[child]!)) child++;
      if (!before(this.heap[child]!, event)) break;
      this.heap[index] = this.heap[child]!;
      index = child;
    }
    this.heap[index] = event;
  }
}
