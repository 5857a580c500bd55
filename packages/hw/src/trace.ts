/**
 * Tracepoints: typed events that the layers emit and that cost one test of a flag while nobody listens.
 *
 * Emit as `if (trace.enabled) trace.emit({ name: 'map', ... })`. Every layer declares the union of its own events; one
 * Trace object carries the events of all layers, in order, each with the virtual time at which it happened.
 */

import type { Scheduler } from './scheduler.ts';

/** What an emitter needs: a `Trace` of any union that contains `Event`. */
export type TraceSink<Event> = {
  readonly enabled: boolean;
  emit(event: Event): void;
};

export type TraceListener<Event> = (event: Event, time: number) => void;

export class Trace<Event extends { readonly name: string }> implements TraceSink<Event> {
  private readonly scheduler: Scheduler;
  /** Replaced, never changed, so that a listener may come or go while an event is handed out. */
  private listeners: readonly TraceListener<Event>[] = [];

  constructor(scheduler: Scheduler) {
    this.scheduler = scheduler;
  }

  get enabled(): boolean {
    return this.listeners.length > 0;
  }

  /** Calls `listener` for every event from now on, until the function that is given back is called. */
  listen(listener: TraceListener<Event>): () => void {
    const own: TraceListener<Event> = (event, time) => listener(event, time);
    this.listeners = [...this.listeners, own];
    return () => {
      this.listeners = this.listeners.filter((other) => other !== own);
    };
  }

  emit(event: Event): void {
    for (const listener of this.listeners) listener(event, this.scheduler.now);
  }
}

/** A sink that nobody listens to. */
export const noTrace: TraceSink<unknown> = { enabled: false, emit() {} };
