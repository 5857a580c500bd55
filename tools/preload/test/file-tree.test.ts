import { existsSync, mkdtempSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { FileTree } from '../src/file-tree.ts';
import { createModel } from '../src/machine.ts';

const folder = mkdtempSync(join(tmpdir(), 'iommukit-tree-'));
afterEach(() => rmSync(folder, { recursive: true }));

test('virtual functions and their physical one lead to each other', () => {
  const devices = [
    { type: 'test', slot: '00:02.0', virtualFunctions: 2 },
    { type: 'test', slot: '00:03.0' },
  ] as const;
  new FileTree(folder, createModel({ iommu: { type: 'vtd' }, devices }), false);
  const at = (...path: string[]): string => join(folder, 'sys/bus/pci/devices', ...path);
  for (const index of [0, 1]) {
    const name = readlinkSync(at('0000:00:02.0', `virtfn${index}`)).replace('../', '');
    expect(name).toBe(`0000:00:02.${index + 1}`);
    expect(readFileSync(at(name, 'device'), 'utf8')).toBe('0x0002\n');
    expect(readlinkSync(at(name, 'physfn'))).toBe('../0000:00:02.0');
    expect(readFileSync(at('0000:00:02.0', `virtfn${index}`, 'physfn/device'), 'utf8')).toBe('0x0001\n');
  }
  expect(existsSync(at('0000:00:02.0', 'virtfn2'))).toBe(false);
  expect(existsSync(at('0000:00:02.0', 'physfn'))).toBe(false);
  expect(existsSync(at('0000:00:03.0', 'virtfn0'))).toBe(false);
});
