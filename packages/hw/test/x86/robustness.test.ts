/** Whatever lies in memory, the core stays inside its budget and its map. */

import { type AccessWidth, IoApic, LocalApic, Scheduler, Uart16550 } from '@iommukit/hw';
import { expect, test } from 'vitest';
import { CODE, CpuFixture, HLT, PRESENT, USER, WRITABLE } from '../support/cpu-fixture.ts';
import { Random } from '../support/random.ts';

/** The RAM that no guest frame maps is as it was filled. */
function outsideIsUntouched(fixture: CpuFixture): boolean {
  const outside = fixture.memory.bytes.subarray(OUTSIDE, fixture.memory.ramFrames * 4096);
  return Buffer.compare(outside, UNTOUCHED.subarray(0, outside.length)) === 0;
}

const EXITS = ['budget', 'halt', 'dead', 'requested', 'triple-fault', 'pasid'];

/** Bytes of RAM that no guest frame maps. */
const OUTSIDE = 4 << 20;
const UNTOUCHED = new Uint8Array(8 << 20).fill(0x5c);

test('random bytes as code, in both rings', { timeout: 60_000 }, () => {
  const seen = new Set<string>();
  for (let seed = 1; seed <= 150; seed++) {
    const random = new Random(seed);
    const fixture = new CpuFixture();
    fixture.bus.read = () => BigInt(random.bits() >>> 0);
    fixture.memory.bytes.fill(0x5c, OUTSIDE, fixture.memory.ramFrames * 4096);
    const code = Uint8Array.from({ length: 4096 * 4 }, () => random.below(256));
    if (random.chance(50)) {
      // Many real instructions begin with these.
      for (let i = 0; i < code.length; i += 1 + random.below(6)) {
        code[i] = random.pick([0x0f, 0x48, 0x66, 0xf3, 0x8b, 0x89, 0xff, 0xf2, 0x65, 0xc4, 0xcd, 0x67, 0xf0]);
      }
    }
    fixture.load(CODE, code);
    fixture.map(0x7f00_0000_0000n, 0xc000_0000n | USER | WRITABLE | PRESENT);
    fixture.reset(CODE);
    const start = fixture.cpu.readRegisters();
    let exit = '';
    // The tables are as the attempts before left them. A shutdown lasts.
    for (let attempt = 0; attempt < 60 && exit !== 'triple-fault'; attempt++) {
      const registers = { ...start, gpr: start.gpr.slice(), cpl: random.pick([0, 3]) };
      for (let i = 0; i < 16; i++) {
        registers.gpr[i] = BigInt(
          random.pick([0x40000, 0x7f00_0000_0000, random.bits() >>> 0, 0xfff, 0x2000 * random.below(512)]),
        );
      }
      registers.rip = CODE + BigInt(random.below(code.length));
      registers.rflags = 2n | BigInt(random.bits() & 0x244dd5);
      fixture.cpu.writeRegisters(registers);
      const before = fixture.cpu.instructions;
      exit = fixture.cpu.run(200);
      seen.add(exit);
      expect(EXITS).toContain(exit);
      expect(fixture.cpu.instructions - before).toBeLessThanOrEqual(200n);
    }
    expect(outsideIsUntouched(fixture), `seed ${seed}`).toBe(true);
  }
  // Those that random code reaches.
  expect([...seen].sort()).toEqual(expect.arrayContaining(['budget', 'dead', 'triple-fault']));
});

test('random page tables, descriptor tables and a random TSS', { timeout: 60_000 }, () => {
  for (let seed = 1; seed <= 100; seed++) {
    const random = new Random(seed);
    const fixture = new CpuFixture();
    fixture.memory.bytes.fill(0x5c, OUTSIDE, fixture.memory.ramFrames * 4096);
    fixture.start([0x0f, 0x0b, HLT]);
    for (let i = 0; i < 40; i++) {
      // Anything from the PML4 to the stacks, and the tables that the fixture took.
      const where = random.chance(50) ? 0x1000 + random.below(0x7000) : 0x100000 + random.below(0x8000);
      fixture.memory.bytes[where] = random.below(256);
    }
    fixture.cpu.flushTlb();
    if (random.chance(50)) fixture.enterUser(CODE);
    expect(EXITS).toContain(fixture.cpu.run(500));
    expect(outsideIsUntouched(fixture), `seed ${seed}`).toBe(true);
  }
});

test('random register accesses of the interrupt controllers and the serial port', () => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = new Random(seed);
    const scheduler = new Scheduler();
    const local = new LocalApic({ scheduler, others: { deliver: () => {} } });
    const io = new IoApic(local);
    local.onEoi = (vector) => io.endOfInterrupt(vector);
    const uart = new Uart16550({ line: (asserted) => io.setLine(4, asserted) });
    for (let step = 0; step < 2000; step++) {
      const handler = random.pick([local, io, uart]);
      const width = random.pick([1, 2, 4, 8] as const satisfies AccessWidth[]);
      const offset = handler === local ? random.below(0x440) : random.below(0x44);
      const value = (BigInt(random.bits() >>> 0) << 32n) | BigInt(random.bits() >>> 0);
      if (random.chance(60)) handler.write(offset, width, BigInt.asUintN(width * 8, value));
      else expect(handler.read(offset, width)).toBeGreaterThanOrEqual(0n);
      if (random.chance(20)) local.deliver(random.bits(), random.bits());
      if (random.chance(20)) io.setLine(random.below(24), random.chance(50));
      if (random.chance(20)) uart.receive([random.below(256)]);
      if (random.chance(20)) scheduler.advance(random.below(100_000));
      const vector = local.pending();
      expect(vector === -1 || (vector >= 16 && vector <= 255)).toBe(true);
      if (vector >= 0) local.acknowledge(vector);
    }
  }
});
