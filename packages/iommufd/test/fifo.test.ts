import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Fifo } from '../src/fifo.ts';

test('gives what came first, as an array does', () => {
  fc.assert(
    fc.property(fc.array(fc.boolean(), { maxLength: 200, size: 'max' }), (steps) => {
      const fifo = new Fifo<number>();
      const model: number[] = [];
      steps.forEach((push, index) => {
        if (push) {
          fifo.push(index);
          model.push(index);
        } else expect(fifo.shift()).toBe(model.shift());
        expect([fifo.length, fifo.first]).toEqual([model.length, model[0]]);
      });
    }),
  );
});

test('holds little of what is gone, and takes no longer for being long', () => {
  const fifo = new Fifo<number>();
  for (let item = 0; item < 1 << 19; item++) fifo.push(item);
  for (let item = 0; item < 1 << 19; item++) if (fifo.shift() !== item) throw new Error(`${item} is not next`);
  expect([fifo.length, fifo.shift()]).toEqual([0, undefined]);
});
