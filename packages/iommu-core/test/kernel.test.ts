import { describe, expect, test } from 'vitest';
import { refusal } from './support/fake-driver.ts';
import { Host } from './support/host.ts';

describe('the kernel', () => {
  test('calls do not nest, and one that fails, or whose work does, leaves the next possible', () => {
    const { kernel } = new Host();
    expect(() => kernel.call('outer', () => kernel.call('inner', () => 1))).toThrow(/inner entered/);
    expect(() =>
      kernel.call('first', () =>
        kernel.queueWork(() => {
          throw new RangeError('work');
        }),
      ),
    ).toThrow('work');
    expect(kernel.call('second', () => 2)).toBe(2);
  });

  test('work that was queued before a wait runs in it, not after it', () => {
    const { kernel } = new Host();
    let done = false;
    kernel.queueWork(() => {
      done = true;
    });
    kernel.relax('test', () => done, 1000);
    expect(kernel.scheduler.now).toBe(0);
  });

  test('while a piece of work waits for hardware, work that comes is kept and runs after it, in order', () => {
    const { kernel, scheduler } = new Host();
    const order: string[] = [];
    let answered = false;
    scheduler.schedule(100, () => kernel.queueWork(() => order.push('interrupt')));
    scheduler.schedule(200, () => {
      answered = true;
    });
    kernel.queueWork(() => {
      kernel.relax('test', () => answered);
      order.push('waited');
    });
    kernel.queueWork(() => order.push('next'));
    kernel.call('call', () => order.push('call'));
    expect(order).toEqual(['call', 'waited', 'next', 'interrupt']);
  });

  test('hardware that does not answer ends a wait at its time', () => {
    const { kernel, scheduler } = new Host();
    scheduler.schedule(5000, () => {});
    expect(refusal(() => kernel.relax('test', () => false, 1000))).toBe('ETIMEDOUT');
    expect(scheduler.now).toBe(1000);
  });
});
