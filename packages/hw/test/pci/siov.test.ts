import { describe, expect, test } from 'vitest';
import { TestFunction } from '../../src/devices/test-function.ts';
import { DsaFunction } from '../../src/dsa/dsa-function.ts';
import type { PciFunction } from '../../src/pci/function.ts';
import { Config, machine } from './support.ts';

const PF = 0x28;

function plug(make: (test: ReturnType<typeof machine>) => PciFunction) {
  const test = machine();
  test.fabric.plug(make(test), PF);
  return { ...test, config: new Config(test.memory, PF) };
}

describe('SIOV', () => {
  test.each<[string, (test: ReturnType<typeof machine>) => PciFunction]>([
    ['a test function that is asked for it', (options) => new TestFunction({ ...options, siov: true })],
    ['a DSA', (options) => new DsaFunction(options)],
  ])('%s has the vendor-specific capability of Intel with id 5, last in its chain', (_name, make) => {
    const { config } = plug(make);
    const found = [...config.extended()];
    const [id, at] = found.at(-1)!;
    expect(id).toBe(0x23);
    expect(config.read(at)).toBe(0x0001_0023);
    expect(config.read(at + 4, 2)).toBe(0x8086);
    expect(config.read(at + 6, 2)).toBe(0x0180);
    expect(config.read(at + 8, 2)).toBe(5);
    expect([config.read(at + 0xa, 1), config.read(at + 0xb, 1)]).toEqual([0, 0]);
    expect([config.read(at + 0xc), config.read(at + 0x10), config.read(at + 0x14)]).toEqual([1, 1, 0]);
  });

  test('all of it is read-only', () => {
    const { config } = plug((options) => new TestFunction({ ...options, siov: true }));
    const at = config.extended().get(0x23)!;
    const registers = () => [0, 4, 8, 0xc, 0x10, 0x14].map((register) => config.read(at + register));
    const before = registers();
    for (let register = 0; register < 0x18; register += 4) {
      config.write(at + register, 4, 0xffff_ffff);
      config.write(at + register, 4, 0);
    }
    expect(registers()).toEqual(before);
  });

  test('a test function has none unless asked for, and a virtual function never has one', () => {
    const plain = plug((options) => new TestFunction(options));
    expect(plain.config.extended().has(0x23)).toBe(false);
    const { memory, config } = plug((options) => new TestFunction({ ...options, siov: true }));
    const sriov = config.extended().get(0x10)!;
    config.write(sriov + 0x10, 2, 2);
    config.write(sriov + 8, 2, 1);
    const virtual = new Config(memory, PF + 1);
    expect([...virtual.extended().keys()]).toEqual([0x0f]);
  });
});
