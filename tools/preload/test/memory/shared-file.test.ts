import { closeSync, openSync } from 'node:fs';
import { PhysicalMemory } from '@iommukit/hw';
import { expect, test } from 'vitest';
import { ForeignFrames } from '../../src/memory/foreign-frames.ts';
import { SharedFiles } from '../../src/memory/shared-file.ts';

function isMemory(name: string, open: () => number | null): boolean {
  const files = new SharedFiles(new ForeignFrames(new PhysicalMemory({ ramBytes: 1 << 20 })));
  return files.use(name, open, (file) => file.isMemory);
}

test('a file that cannot be opened is on a disk when its device is one', () => {
  expect(isMemory('00:01:5', () => null)).toBe(true);
  expect(isMemory('fe:00:5', () => null)).toBe(false);
});

test('a file that is opened is what its file system says, and is closed when nothing is pinned', () => {
  let descriptor = -1;
  const open = (): number => {
    descriptor = openSync('/proc/self/stat', 'r');
    return descriptor;
  };
  expect(isMemory('00:01:5', open)).toBe(false);
  expect(() => closeSync(descriptor)).toThrow('EBADF');
});
