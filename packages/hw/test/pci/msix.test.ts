import { describe, expect, test } from 'vitest';
import { TEST_COMMAND, TEST_REGISTER, TestFunction } from '../../src/devices/test-function.ts';
import { Config, machine } from './support.ts';

const BAR = 0xd000_0000;

function setUp() {
  const test = machine();
  const { memory, scheduler, fabric } = test;
  const fn = fabric.plug(new TestFunction({ memory, scheduler, totalVfs: 0 }), 0x28);
  const config = new Config(memory, 0x28);
  config.write(0x10, 4, BAR);
  config.enable();
  const control = config.standard().get(0x11)! + 2;
  return { ...test, fn, config, control, enable, entry, mask, pending };

  function enable(bits = 0x8000) {
    config.write(control, 2, bits);
  }
  function entry(vector: number, data: number, masked = 0) {
    const at = BAR + TEST_REGISTER.msixTable + 16 * vector;
    memory.store(at, 8, 0xfee0_1000);
    memory.store(at + 8, 4, data);
    memory.store(at + 12, 4, masked);
  }
  function mask(vector: number, masked: number) {
    memory.store(BAR + TEST_REGISTER.msixTable + 16 * vector + 12, 4, masked);
  }
  function pending() {
    return memory.load(BAR + TEST_REGISTER.msixPending, 8);
  }
}

describe('MSI-X', () => {
  test('a raised vector leaves as the message of its entry', () => {
    const { fn, enable, entry, delivered, named } = setUp();
    enable();
    entry(3, 0x41);
    fn.msix!.raise(3);
    expect(delivered).toEqual([{ address: 0xfee0_1000, data: 0x41 }]);
    expect(named('msi')).toEqual([{ name: 'msi', rid: 0x28, vector: 3, address: 0xfee0_1000n, data: 0x41 }]);
  });

  test('vectors are masked after reset; one raised while masked is pending and leaves when unmasked', () => {
    const { fn, enable, entry, mask, pending, delivered } = setUp();
    enable();
    entry(0, 0x40, 1);
    entry(1, 0x41, 1);
    fn.msix!.raise(1);
    fn.msix!.raise(1);
    expect(delivered).toEqual([]);
    expect(pending()).toBe(2n);
    mask(0, 0);
    expect(delivered).toEqual([]);
    mask(1, 0);
    expect(delivered).toEqual([{ address: 0xfee0_1000, data: 0x41 }]);
    expect(pending()).toBe(0n);
  });

  test('the function mask holds back every vector', () => {
    const { fn, enable, entry, pending, delivered } = setUp();
    entry(0, 0x40);
    entry(7, 0x47);
    enable(0xc000);
    fn.msix!.raise(7);
    fn.msix!.raise(0);
    expect(pending()).toBe(0x81n);
    enable(0x8000);
    expect(delivered.map(({ data }) => data)).toEqual([0x40, 0x47]);
    expect(pending()).toBe(0n);
  });

  test('nothing happens while disabled, and for vectors that do not exist', () => {
    const { fn, enable, entry, pending, delivered } = setUp();
    entry(0, 0x40);
    fn.msix!.raise(0);
    enable();
    fn.msix!.raise(8);
    fn.msix!.raise(-1);
    fn.msix!.raise(Number.NaN);
    expect(pending()).toBe(0n);
    expect(delivered).toEqual([]);
  });

  test('without bus master the interrupt waits', () => {
    const { fn, config, enable, entry, pending, delivered } = setUp();
    enable();
    entry(2, 0x42);
    config.write(4, 2, 2);
    fn.msix!.raise(2);
    expect(delivered).toEqual([]);
    expect(pending()).toBe(4n);
    config.write(4, 2, 6);
    expect(delivered.map(({ data }) => data)).toEqual([0x42]);
  });

  test('the pending array is read-only, address bits 1..0 and vector control 31..1 are zero', () => {
    const { memory, pending } = setUp();
    memory.store(BAR + TEST_REGISTER.msixPending, 8, 0xffn);
    expect(pending()).toBe(0n);
    for (let at = 0; at < 16; at += 8) memory.store(BAR + TEST_REGISTER.msixTable + at, 8, 0xffff_ffff_ffff_ffffn);
    expect(memory.load(BAR + TEST_REGISTER.msixTable, 8)).toBe(0xffff_ffff_ffff_fffcn);
    expect(memory.load(BAR + TEST_REGISTER.msixTable + 8, 8)).toBe(0x1_ffff_ffffn);
  });

  test('the agent gets the message with the requester id; an address outside the range is a plain write', () => {
    const { memory, fabric, agent, fn, enable, entry, delivered } = setUp();
    fabric.setAgent(agent);
    agent.map(0x28, -1, 5, 7);
    enable();
    entry(0, 0x40);
    entry(1, 0x1234_5678);
    memory.store(BAR + TEST_REGISTER.msixTable + 16, 8, 0x5010);
    fn.msix!.raise(0);
    fn.msix!.raise(1);
    expect(agent.interrupts).toEqual([{ rid: 0x28, address: 0xfee0_1000, data: 0x40 }]);
    expect(memory.load(0x7010, 4)).toBe(0x1234_5678n);
    expect(delivered).toEqual([]);
  });

  test('function-level reset masks all vectors and forgets what was pending', () => {
    const { memory, fn, config, enable, entry, pending } = setUp();
    enable();
    entry(0, 0x40, 1);
    fn.msix!.raise(0);
    config.write(config.standard().get(0x10)! + 8, 2, 0x8000);
    config.write(0x10, 4, BAR);
    config.enable();
    expect(pending()).toBe(0n);
    expect(memory.load(BAR + TEST_REGISTER.msixTable, 8)).toBe(0n);
    expect(memory.load(BAR + TEST_REGISTER.msixTable + 12, 4)).toBe(1n);
  });

  test('a message aimed at a doorbell starts the command, and does not recurse', () => {
    const { memory, scheduler, fn, enable, entry, named } = setUp();
    enable();
    entry(0, TEST_COMMAND.interrupt);
    memory.store(BAR + TEST_REGISTER.msixTable, 8, BAR + TEST_REGISTER.command);
    memory.store(BAR + TEST_REGISTER.vector, 4, 0);
    fn.msix!.raise(0);
    scheduler.advance(1000);
    // While the operation runs the function is busy, so its own message does not start another.
    expect(named('msi').length).toBe(2);
  });
});
