import { describe, expect, test } from 'vitest';
import {
  ACCESSED,
  CODE,
  CpuFixture,
  DIRTY,
  GLOBAL,
  HLT,
  LARGE,
  movImmediate,
  NO_EXECUTE,
  PRESENT,
  RAX,
  RBX,
  RCX,
  USER,
  WRITABLE,
} from '../support/cpu-fixture.ts';

/** A page that the tests map as they like, and what is behind it. */
const PAGE = 0x7f00_0000_1000n;
const FRAME = 0x60000n;
const ALL = PRESENT | WRITABLE | USER;

const LOAD = [0x8a, 0x03, HLT]; // mov al, [rbx]
const STORE = [0x88, 0x03, HLT]; // mov [rbx], al
const FETCH = [0xff, 0xe3, HLT]; // jmp rbx

type Access = 'read' | 'write' | 'fetch';
const CODES: Record<Access, number[]> = { read: LOAD, write: STORE, fetch: FETCH };

type Change = { cr0?: bigint; cr4?: bigint; efer?: bigint; rflags?: bigint };

/** One access to PAGE. Gives the error code of its page fault, or null when it went well. */
function attempt(fixture: CpuFixture, access: Access, user: boolean, change: Change = {}): number | null {
  fixture.start(CODES[access]);
  fixture.memory.bytes[Number(FRAME)] = HLT;
  if (user) fixture.enterUser(CODE);
  const registers = fixture.cpu.readRegisters();
  registers.gpr[RBX] = PAGE;
  registers.gpr[RAX] = BigInt(HLT);
  fixture.cpu.writeRegisters({
    ...registers,
    cr0: change.cr0 ?? registers.cr0,
    cr4: change.cr4 ?? registers.cr4,
    efer: change.efer ?? registers.efer,
    rflags: change.rflags ?? registers.rflags,
  });
  fixture.cpu.run(10);
  const vector = fixture.haltedVector();
  // In ring 3 HLT itself is #GP.
  if (vector === -1 || vector === 13) return null;
  expect(vector).toBe(14);
  expect(fixture.cpu.readRegisters().cr2).toBe(PAGE);
  const frame = fixture.frame(true);
  expect(frame.rip).toBe(access === 'fetch' ? PAGE : CODE);
  return Number(frame.error);
}

const WP_OFF = 0x80000011n;
const SMEP = 0x100020n;
const SMAP = 0x200020n;
const NO_NXE = 0x500n;

type Row = [title: string, leaf: bigint, access: Access, user: boolean, error: number | null, change?: Change];

const ROWS: Row[] = [
  ['kernel read, not present', 0n, 'read', false, 0x0],
  ['kernel write, not present', 0n, 'write', false, 0x2],
  ['kernel fetch, not present', 0n, 'fetch', false, 0x10],
  ['user read, not present', 0n, 'read', true, 0x4],
  ['user write, not present', 0n, 'write', true, 0x6],
  ['user fetch, not present', 0n, 'fetch', true, 0x14],
  ['fetch without NXE and SMEP has no I bit', 0n, 'fetch', true, 0x4, { efer: NO_NXE }],
  ['fetch with SMEP has it', 0n, 'fetch', true, 0x14, { efer: NO_NXE, cr4: SMEP }],
  ['user read of a supervisor page', FRAME | WRITABLE | PRESENT, 'read', true, 0x5],
  ['user write of a supervisor page', FRAME | WRITABLE | PRESENT, 'write', true, 0x7],
  ['user fetch of a supervisor page', FRAME | WRITABLE | PRESENT, 'fetch', true, 0x15],
  ['user write of a read-only page', FRAME | USER | PRESENT, 'write', true, 0x7],
  ['user read of a read-only page', FRAME | USER | PRESENT, 'read', true, null],
  ['kernel write of a read-only page', FRAME | PRESENT, 'write', false, 0x3],
  ['kernel write of a read-only page, WP off', FRAME | PRESENT, 'write', false, null, { cr0: WP_OFF }],
  ['user write of a read-only page, WP off', FRAME | USER | PRESENT, 'write', true, 0x7, { cr0: WP_OFF }],
  ['kernel fetch of an NX page', FRAME | PRESENT | NO_EXECUTE, 'fetch', false, 0x11],
  ['user fetch of an NX page', FRAME | USER | PRESENT | NO_EXECUTE, 'fetch', true, 0x15],
  ['user read of an NX page', FRAME | USER | PRESENT | NO_EXECUTE, 'read', true, null],
  ['NX is reserved without NXE', FRAME | USER | PRESENT | NO_EXECUTE, 'read', true, 0xd, { efer: NO_NXE }],
  ['kernel fetch of a user page with SMEP', FRAME | ALL, 'fetch', false, 0x11, { cr4: SMEP }],
  ['kernel fetch of a user page without SMEP', FRAME | ALL, 'fetch', false, null],
  ['kernel read of a user page with SMAP', FRAME | ALL, 'read', false, 0x1, { cr4: SMAP }],
  ['kernel write of a user page with SMAP', FRAME | ALL, 'write', false, 0x3, { cr4: SMAP }],
  ['kernel read of a user page with SMAP and AC', FRAME | ALL, 'read', false, null, { cr4: SMAP, rflags: 0x40002n }],
  ['address above MAXPHYADDR, read', FRAME | ALL | (1n << 40n), 'read', false, 0x9],
  ['address above MAXPHYADDR, user write', FRAME | ALL | (1n << 51n), 'write', true, 0xf],
  ['ignored bits', FRAME | ALL | (0x7ffn << 52n) | 0xe00n, 'read', true, null],
];

describe('page faults', () => {
  test.each(ROWS)('%s', (_, leaf, access, user, error, change) => {
    const fixture = new CpuFixture({ physicalAddressBits: 40 });
    // SMAP and SMEP need supervisor pages for the kernel's own use.
    for (let frame = 0n; frame < 0x80n; frame++) {
      const own = frame === CODE >> 12n && user ? USER : 0n;
      fixture.map(frame << 12n, (frame << 12n) | own | WRITABLE | PRESENT);
    }
    fixture.map(PAGE, leaf);
    expect(attempt(fixture, access, user, change)).toBe(error);
  });

  test.each([
    ['PML4 entry', 3, 0x9],
    ['PDPT entry (1 GiB pages are not advertised)', 2, 0x9],
  ])('PS is reserved in a %s', (_, level, error) => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, FRAME | ALL);
    const at = fixture.entryAddress(PAGE, level);
    fixture.write64(at, fixture.read64(at) | LARGE);
    expect(attempt(fixture, 'read', false)).toBe(error);
  });

  test('rights of all levels count', () => {
    for (const level of [1, 2, 3]) {
      const fixture = new CpuFixture();
      fixture.map(PAGE, FRAME | ALL);
      const at = fixture.entryAddress(PAGE, level);
      fixture.write64(at, fixture.read64(at) & ~WRITABLE);
      expect(attempt(fixture, 'write', true)).toBe(7);
      expect(attempt(fixture, 'read', true)).toBe(null);
      fixture.write64(at, (fixture.read64(at) | WRITABLE) & ~USER);
      expect(attempt(fixture, 'read', true)).toBe(5);
      fixture.write64(at, fixture.read64(at) | USER | NO_EXECUTE);
      expect(attempt(fixture, 'fetch', true)).toBe(0x15);
      fixture.write64(at, fixture.read64(at) & ~PRESENT);
      expect(attempt(fixture, 'write', true)).toBe(6);
    }
  });

  test('a table outside the memory map reads as ones: a reserved bit', () => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, FRAME | ALL);
    fixture.write64(fixture.entryAddress(PAGE, 1), (0x8_0000_0000n << 12n) | ALL);
    expect(attempt(fixture, 'read', false)).toBe(null);
    fixture.write64(fixture.entryAddress(PAGE, 2), (0x7_0000_0000n << 12n) | ALL);
    expect(attempt(fixture, 'read', false)).toBe(9);
  });
});

describe('accessed and dirty flags', () => {
  test('a read sets A at every level, a write D at the leaf, a fault nothing', () => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, FRAME | PRESENT | USER);
    const flags = (): bigint[] =>
      [3, 2, 1, 0].map((level) => fixture.read64(fixture.entryAddress(PAGE, level)) & (ACCESSED | DIRTY));
    expect(attempt(fixture, 'write', true)).toBe(7);
    expect(flags()).toEqual([0n, 0n, 0n, 0n]);
    expect(attempt(fixture, 'read', true)).toBe(null);
    expect(flags()).toEqual([ACCESSED, ACCESSED, ACCESSED, ACCESSED]);
    fixture.map(PAGE, FRAME | ALL);
    expect(attempt(fixture, 'write', true)).toBe(null);
    expect(flags()).toEqual([ACCESSED, ACCESSED, ACCESSED, ACCESSED | DIRTY]);
  });

  test('a write through a translation that a read cached sets D', () => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, FRAME | ALL);
    fixture.start([0x8a, 0x03, 0x88, 0x03, HLT]);
    const registers = fixture.cpu.readRegisters();
    registers.gpr[RBX] = PAGE;
    fixture.cpu.writeRegisters(registers);
    fixture.cpu.run(1);
    expect(fixture.read64(fixture.entryAddress(PAGE, 0)) & DIRTY).toBe(0n);
    fixture.cpu.run(1);
    expect(fixture.read64(fixture.entryAddress(PAGE, 0)) & DIRTY).toBe(DIRTY);
  });
});

describe('large pages', () => {
  const BIG = 0x7f00_0020_0000n;

  test('2 MiB pages translate, and have A and D of their own', () => {
    const fixture = new CpuFixture();
    fixture.write64(fixture.entryAddress(BIG, 1), LARGE | ALL);
    fixture.start([0x88, 0x03, HLT]);
    const registers = fixture.cpu.readRegisters();
    registers.gpr[RBX] = BIG + FRAME + 0x123n;
    registers.gpr[RAX] = 0x5an;
    fixture.cpu.writeRegisters(registers);
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.memory.bytes[Number(FRAME) + 0x123]).toBe(0x5a);
    expect(fixture.read64(fixture.entryAddress(BIG, 1))).toBe(LARGE | ALL | ACCESSED | DIRTY);
  });

  test.each([13n, 17n, 20n])('bit %i of the address is reserved', (bit) => {
    const fixture = new CpuFixture();
    fixture.write64(fixture.entryAddress(BIG, 1), LARGE | ALL | (1n << bit));
    fixture.reset(CODE);
    expect(fixture.cpu.translate(BIG, 'read', true)).toEqual({ errorCode: 0xd });
  });

  test('PAT of a large page, bit 12, is not', () => {
    const fixture = new CpuFixture();
    fixture.write64(fixture.entryAddress(BIG, 1), LARGE | ALL | (1n << 12n));
    fixture.reset(CODE);
    expect(fixture.cpu.translate(BIG + 0x1f_ffffn, 'read', true)).toEqual({ gpa: 0x1f_ffffn });
  });
});

describe('translation cache', () => {
  /** Reads PAGE, lets `between` run, reads again. */
  function readTwice(between: number[], leaf: bigint, change: (fixture: CpuFixture) => void): [bigint, bigint] {
    const fixture = new CpuFixture();
    fixture.map(PAGE, leaf);
    fixture.memory.bytes[Number(FRAME)] = 0x11;
    fixture.memory.bytes[Number(FRAME) + 4096] = 0x22;
    fixture.start([...movImmediate(RBX, PAGE), 0x8a, 0x03, ...between, 0x8a, 0x0b, HLT]);
    fixture.cpu.run(2);
    change(fixture);
    expect(fixture.cpu.run(100)).toBe('dead');
    const { gpr } = fixture.cpu.readRegisters();
    return [gpr[RAX]! & 0xffn, gpr[RCX]! & 0xffn];
  }

  const remap = (fixture: CpuFixture): void => fixture.map(PAGE, (FRAME + 4096n) | ALL);

  test('is used until it is invalidated', () => {
    expect(readTwice([], FRAME | ALL, remap)).toEqual([0x11n, 0x11n]);
  });

  test('INVLPG', () => {
    expect(readTwice([0x0f, 0x01, 0x3b], FRAME | ALL, remap)).toEqual([0x11n, 0x22n]);
  });

  test('INVLPG of another page', () => {
    // invlpg [rbx + 0x1000]
    expect(readTwice([0x0f, 0x01, 0xbb, 0x00, 0x10, 0, 0], FRAME | ALL, remap)).toEqual([0x11n, 0x11n]);
  });

  test('MOV CR3', () => {
    // mov rdx, cr3; mov cr3, rdx
    expect(readTwice([0x0f, 0x20, 0xda, 0x0f, 0x22, 0xda], FRAME | ALL, remap)).toEqual([0x11n, 0x22n]);
  });

  test('INVLPG of a global page', () => {
    expect(readTwice([0x0f, 0x01, 0x3b], FRAME | ALL | GLOBAL, remap)).toEqual([0x11n, 0x22n]);
  });

  test('flushTlb of the host', () => {
    const flush = (fixture: CpuFixture): void => {
      remap(fixture);
      fixture.cpu.flushTlb();
    };
    expect(readTwice([], FRAME | ALL, flush)).toEqual([0x11n, 0x22n]);
  });

  test('a change of the memory map', () => {
    const swap = (fixture: CpuFixture): void =>
      fixture.cpu.mapMemory(Number(FRAME >> 12n), [Number(FRAME >> 12n) + 1], true);
    expect(readTwice([], FRAME | ALL, swap)).toEqual([0x11n, 0x22n]);
  });
});

describe('split accesses', () => {
  test('bytes of both pages, whatever frames they are', () => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, (FRAME + 0x5000n) | ALL);
    fixture.map(PAGE + 4096n, FRAME | ALL);
    // mov rax, [rbx]; add [rbx], rax; hlt
    fixture.start([...movImmediate(RBX, PAGE + 4093n), 0x48, 0x8b, 0x03, 0x48, 0x01, 0x03, HLT]);
    fixture.memory.write(FRAME + 0x5000n + 4093n, Uint8Array.of(1, 2, 3));
    fixture.memory.write(FRAME, Uint8Array.of(4, 5, 6, 7, 8));
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.cpu.readRegisters().gpr[RAX]).toBe(0x0807060504030201n);
    expect([...fixture.memory.bytes.slice(Number(FRAME) + 0x5ffd, Number(FRAME) + 0x6000)]).toEqual([2, 4, 6]);
    expect([...fixture.memory.bytes.slice(Number(FRAME), Number(FRAME) + 5)]).toEqual([8, 10, 12, 14, 16]);
  });

  test('a fault in the second page writes nothing to the first', () => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, FRAME | ALL);
    fixture.map(PAGE + 4096n, 0n);
    fixture.start([...movImmediate(RBX, PAGE + 4093n), 0x48, 0x89, 0x1b, HLT]);
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.haltedVector()).toBe(14);
    expect(fixture.cpu.readRegisters().cr2).toBe(PAGE + 4096n);
    expect(fixture.frame(true).error).toBe(2n);
    expect([...fixture.memory.bytes.slice(Number(FRAME) + 4093, Number(FRAME) + 4096)]).toEqual([0, 0, 0]);
  });

  test('an instruction across two pages is fetched from both, and faults on the second', () => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, FRAME | ALL);
    fixture.map(PAGE + 4096n, (FRAME + 0x3000n) | ALL);
    fixture.start([...movImmediate(RBX, PAGE + 4094n), 0xff, 0xe3]);
    fixture.memory.write(FRAME + 4094n, Uint8Array.of(0xb8, 0x78)); // mov eax, 0x12345678; hlt
    fixture.memory.write(FRAME + 0x3000n, Uint8Array.of(0x56, 0x34, 0x12, HLT));
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.cpu.readRegisters().gpr[RAX]).toBe(0x12345678n);
    fixture.map(PAGE + 4096n, 0n);
    fixture.start([...movImmediate(RBX, PAGE + 4094n), 0xff, 0xe3]);
    fixture.cpu.run(10);
    expect(fixture.haltedVector()).toBe(14);
    expect(fixture.cpu.readRegisters().cr2).toBe(PAGE + 4096n);
    expect(fixture.frame(true)).toMatchObject({ error: 0x10n, rip: PAGE + 4094n });
  });
});

describe('memory map', () => {
  test('frames that are not RAM go to the bus, in naturally aligned pieces', () => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, 0xc000_0000n | ALL);
    fixture.bus.read = (gpa) => gpa & 0xffn;
    // mov rax, [rbx]; mov [rbx + 1], eax
    fixture.start([...movImmediate(RBX, PAGE + 8n), 0x48, 0x8b, 0x03, 0x89, 0x43, 0x01, HLT]);
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.cpu.readRegisters().gpr[RAX]).toBe(8n);
    expect(fixture.bus.events).toEqual([
      { kind: 'read', address: 0xc000_0008n, width: 8, value: 8n },
      { kind: 'write', address: 0xc000_0009n, width: 1, value: 8n },
      { kind: 'write', address: 0xc000_000an, width: 2, value: 0n },
      { kind: 'write', address: 0xc000_000cn, width: 1, value: 0n },
    ]);
  });

  test('read-modify-write of a register reads once and writes once', () => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, 0xc000_0000n | ALL);
    fixture.bus.read = () => 41n;
    fixture.start([...movImmediate(RBX, PAGE), 0xff, 0x03, HLT]); // inc dword [rbx]
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.bus.events.map(({ kind, value }) => [kind, value])).toEqual([
      ['read', 41n],
      ['write', 42n],
    ]);
  });

  test('read-only frames are read as RAM and written through the bus', () => {
    const fixture = new CpuFixture();
    fixture.cpu.mapMemory(Number(FRAME >> 12n), [Number(FRAME >> 12n)], false);
    fixture.map(PAGE, FRAME | ALL);
    fixture.memory.bytes[Number(FRAME)] = 0x77;
    fixture.start([...movImmediate(RBX, PAGE), 0x8a, 0x03, 0xfe, 0xc0, 0x88, 0x03, HLT]);
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.memory.bytes[Number(FRAME)]).toBe(0x77);
    expect(fixture.bus.events).toEqual([{ kind: 'write', address: FRAME, width: 1, value: 0x78n }]);
  });

  test('host frames anywhere in RAM stand behind guest frames', () => {
    const fixture = new CpuFixture({ guestFrames: 2048 });
    fixture.cpu.mapMemory(1500, [0x7f0, 0x7e0], true);
    fixture.map(PAGE, (1500n << 12n) | ALL);
    fixture.map(PAGE + 4096n, (1501n << 12n) | ALL);
    fixture.start([...movImmediate(RBX, PAGE), 0x88, 0x1b, 0x88, 0xbb, 0x00, 0x10, 0, 0, HLT]);
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.memory.bytes[0x7f0 << 12]).toBe(0x00);
    expect(fixture.memory.bytes[0x7e0 << 12]).toBe(0x10);
    fixture.cpu.unmapMemory(1500, 1);
    fixture.reset(CODE);
    fixture.cpu.run(10);
    expect(fixture.bus.events).toHaveLength(1);
  });

  test('mapMemory refuses frames that are not RAM and guest frames beyond the map', () => {
    const { cpu, memory } = new CpuFixture();
    expect(() => cpu.mapMemory(0, [memory.ramFrames], true)).toThrow(RangeError);
    expect(() => cpu.mapMemory(0, [-1], true)).toThrow(RangeError);
    expect(() => cpu.mapMemory(1024, [1], true)).toThrow(RangeError);
    expect(() => cpu.unmapMemory(1023, 2)).toThrow(RangeError);
  });
});

describe('canonical addresses', () => {
  test.each([
    ['#GP(0) for data', [0x8a, 0x03], RBX, 13],
    ['#SS(0) relative to RBP', [0x8a, 0x45, 0x00], 5, 12],
    ['#SS(0) for a push', [0x53], 4, 12],
    ['#GP(0) for a jump', [0xff, 0xe3], RBX, 13],
  ] as const)('%s', (_, code, register, vector) => {
    const fixture = new CpuFixture();
    fixture.setGate(vector, 0x8000n + 16n * BigInt(vector), { ist: 1 });
    fixture.start([...code, HLT]);
    const registers = fixture.cpu.readRegisters();
    registers.gpr[register] = 0x8000_0000_0000n + 8n;
    fixture.cpu.writeRegisters(registers);
    fixture.cpu.run(10);
    expect(fixture.haltedVector()).toBe(vector);
    expect(fixture.frame(true)).toMatchObject({ error: 0n, rip: CODE });
  });
});
