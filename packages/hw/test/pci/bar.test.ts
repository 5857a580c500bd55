import { describe, expect, test } from 'vitest';
import { Bar } from '../../src/pci/bar.ts';

function recorder() {
  const writes: string[] = [];
  const stores: number[] = [];
  return {
    writes,
    stores,
    read: () => 0n,
    write: (offset: number, width: number) => writes.push(`${offset}:${width}`),
    store64: (offset: number) => stores.push(offset),
  };
}

describe('a 64-byte store to a BAR', () => {
  test('reaches the device whole where nothing lies over it', () => {
    const device = recorder();
    const bar = new Bar(4096, device);
    bar.overlay(0x100, 0x40, recorder());
    bar.store64(0xc0, new Uint8Array(64));
    bar.store64(0x140, new Uint8Array(64));
    expect(device.stores).toEqual([0xc0, 0x140]);
    expect(device.writes).toEqual([]);
  });

  test('goes past no overlay: it becomes quadword writes to what lies there', () => {
    const device = recorder();
    const table = recorder();
    const bar = new Bar(4096, device);
    bar.overlay(0x120, 0x10, table);
    bar.store64(0x100, new Uint8Array(64));
    expect(device.stores).toEqual([]);
    expect(table.writes).toEqual(['0:8', '8:8']);
    expect(device.writes).toEqual(['256:8', '264:8', '272:8', '280:8', '304:8', '312:8']);
  });
});
