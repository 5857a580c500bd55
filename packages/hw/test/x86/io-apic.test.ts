import { IoApic } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';

function make() {
  const sent: [address: number, data: number][] = [];
  const apic = new IoApic({ deliver: (address, data) => sent.push([address >>> 0, data]) });
  const read = (register: number): number => {
    apic.write(0, 4, BigInt(register));
    return Number(apic.read(0x10, 4));
  };
  const write = (register: number, value: number): void => {
    apic.write(0, 4, BigInt(register));
    apic.write(0x10, 4, BigInt(value >>> 0));
  };
  const setEntry = (pin: number, high: number, low: number): void => {
    write(0x11 + 2 * pin, high);
    write(0x10 + 2 * pin, low);
  };
  return { apic, sent, read, write, setEntry };
}

describe('registers', () => {
  test('id, version, masked entries', () => {
    const { read, write } = make();
    expect([read(1), read(0x10), read(0x11), read(0x3e)]).toEqual([0x170020, 0x10000, 0, 0x10000]);
    write(0, 0xffffffff);
    write(1, 0);
    write(0x12, 0xffffffff);
    expect([read(0), read(1), read(0x12)]).toEqual([0x0f000000, 0x170020, 0x1afff]);
    expect([read(2), read(0x40), read(0xff)]).toEqual([0, 0, 0]);
  });
});

describe('edge-triggered pins', () => {
  test('send one message for each rising edge', () => {
    const { apic, sent, setEntry } = make();
    setEntry(4, 0x03000000, 0x0044);
    apic.setLine(4, true);
    apic.setLine(4, true);
    apic.setLine(4, false);
    apic.setLine(4, true);
    expect(sent).toEqual([
      [0xfee03000, 0x44],
      [0xfee03000, 0x44],
    ]);
  });

  test('an edge while masked is lost', () => {
    const { apic, sent, setEntry } = make();
    setEntry(4, 0, 0x10044);
    apic.setLine(4, true);
    setEntry(4, 0, 0x44);
    expect(sent).toEqual([]);
  });

  test('delivery mode and logical destination', () => {
    const { apic, sent, setEntry } = make();
    setEntry(9, 0x0f000000, 0x0951);
    apic.setLine(9, true);
    expect(sent).toEqual([[0xfee0f004, 0x151]]);
  });
});

describe('level-triggered pins', () => {
  test('send once, and again at EOI while the line is asserted', () => {
    const { apic, sent, read, setEntry } = make();
    setEntry(10, 0, 0x8055);
    apic.setLine(10, true);
    apic.setLine(10, true);
    expect(sent).toEqual([[0xfee00000, 0xc055]]);
    expect(read(0x24)).toBe(0xc055);
    apic.endOfInterrupt(0x56);
    expect(sent).toHaveLength(1);
    apic.endOfInterrupt(0x55);
    expect(sent).toHaveLength(2);
    apic.setLine(10, false);
    apic.endOfInterrupt(0x55);
    expect(sent).toHaveLength(2);
    expect(read(0x24)).toBe(0x8055);
  });

  test('are sent when they are unmasked, and ended by the EOI register', () => {
    const { apic, sent, setEntry } = make();
    setEntry(10, 0, 0x18055);
    apic.setLine(10, true);
    expect(sent).toEqual([]);
    setEntry(10, 0, 0x8055);
    expect(sent).toHaveLength(1);
    apic.write(0x40, 4, 0x55n);
    expect(sent).toHaveLength(2);
  });
});

test('an entry in the remappable format becomes a remappable message', () => {
  const { apic, sent, setEntry } = make();
  // Handle 0x8123: bits 14:0 in 63:49, bit 15 in 11; format in 48.
  setEntry(2, ((0x123 << 17) | (1 << 16)) >>> 0, 0x0800 | 0x30);
  apic.setLine(2, true);
  const [address, data] = sent[0]!;
  expect((address >> 5) & 0x7fff).toBe(0x123);
  expect(address & 0x1c).toBe(0x14);
  expect(data).toBe(0x30);
});
