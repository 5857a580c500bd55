import { Scheduler, Trace } from '@iommukit/hw';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';

describe('Scheduler', () => {
  test('runs what is not cancelled in order of time, then of scheduling', () => {
    const event = fc.record({ delay: fc.nat(20), cancelled: fc.boolean() });
    fc.assert(
      fc.property(fc.array(event, { maxLength: 400, size: 'max' }), (events) => {
        const scheduler = new Scheduler();
        const ran: { index: number; at: number }[] = [];
        const handles = events.map(({ delay }, index) =>
          scheduler.schedule(delay, () => ran.push({ index, at: scheduler.now })),
        );
        events.forEach(({ cancelled }, index) => {
          if (cancelled) scheduler.cancel(handles[index]!);
        });
        while (scheduler.runNext());
        const expected = events
          .map(({ delay, cancelled }, index) => ({ index, at: delay, cancelled }))
          .filter(({ cancelled }) => !cancelled)
          .sort((a, b) => a.at - b.at || a.index - b.index)
          .map(({ index, at }) => ({ index, at }));
        expect(ran).toEqual(expected);
        expect(scheduler.nextDue).toBe(Number.POSITIVE_INFINITY);
      }),
    );
  });

  test('an event may schedule another for the same instant', () => {
    const scheduler = new Scheduler();
    const ran: string[] = [];
    scheduler.schedule(5, () => {
      ran.push('first');
      scheduler.schedule(0, () => ran.push('later'));
    });
    scheduler.schedule(5, () => ran.push('second'));
    scheduler.runUntil(5);
    expect(ran).toEqual(['first', 'second', 'later']);
    expect(scheduler.now).toBe(5);
  });

  test('time stands at the end of a span even when nothing happened in it', () => {
    const scheduler = new Scheduler();
    scheduler.advance(7);
    expect(scheduler.now).toBe(7);
    let at = -1;
    scheduler.schedule(3, () => {
      at = scheduler.now;
    });
    scheduler.advance(2);
    expect([at, scheduler.nextDue]).toEqual([-1, 10]);
    scheduler.advance(2);
    expect([at, scheduler.now]).toEqual([10, 11]);
  });

  test('cancelling after the event ran, or twice, does nothing', () => {
    const scheduler = new Scheduler();
    let count = 0;
    const event = scheduler.schedule(1, () => count++);
    scheduler.runNext();
    scheduler.cancel(event);
    scheduler.cancel(event);
    expect([count, scheduler.runNext()]).toEqual([1, false]);
  });

  test('timers that are set anew again and again leave nothing behind', () => {
    const scheduler = new Scheduler();
    const pending = (): number => (scheduler as unknown as { heap: unknown[] }).heap.length;
    let ran = 0;
    let timer = scheduler.schedule(1e12, () => ran++);
    for (let i = 0; i < 10_000; i++) {
      scheduler.cancel(timer);
      timer = scheduler.schedule(1e12 - i, () => ran++);
    }
    expect(pending()).toBeLessThan(200);
    while (scheduler.runNext());
    expect([ran, scheduler.now]).toEqual([1, 1e12 - 9999]);
  });

  test.each([-1, Number.NaN])('a delay of %s is refused', (delay) => {
    expect(() => new Scheduler().schedule(delay, () => {})).toThrow(RangeError);
  });
});

describe('Trace', () => {
  test('hands every event with its time to those who listen, and is off when nobody does', () => {
    const scheduler = new Scheduler();
    const trace = new Trace<{ name: 'map'; iova: number }>(scheduler);
    expect(trace.enabled).toBe(false);
    const seen: [number, number][] = [];
    const stop = trace.listen(({ iova }, time) => seen.push([iova, time]));
    trace.emit({ name: 'map', iova: 1 });
    scheduler.advance(4);
    trace.emit({ name: 'map', iova: 2 });
    stop();
    stop();
    trace.emit({ name: 'map', iova: 3 });
    expect(seen).toEqual([
      [1, 0],
      [2, 4],
    ]);
    expect(trace.enabled).toBe(false);
  });

  test('a listener that leaves while it hears an event takes nobody else along', () => {
    const trace = new Trace<{ name: 'map' }>(new Scheduler());
    const heard: string[] = [];
    const stop = trace.listen(() => {
      heard.push('first');
      stop();
    });
    trace.listen(() => heard.push('second'));
    trace.emit({ name: 'map' });
    trace.emit({ name: 'map' });
    expect(heard).toEqual(['first', 'second', 'second']);
  });
});
