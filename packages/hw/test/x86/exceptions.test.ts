import { describe, expect, test } from 'vitest';
import {
  CODE,
  CpuFixture,
  GDT,
  HLT,
  IDT,
  IST1_STACK,
  IST2_STACK,
  KERNEL_CS,
  KERNEL_SS,
  KERNEL_STACK,
  movImmediate,
  R11,
  RAX,
  RCX,
  RSP,
  STUBS,
  TSS,
  TSS_SELECTOR,
  USER_CS,
  USER_SS,
  USER_STACK,
  writeMsr,
} from '../support/cpu-fixture.ts';

/** An address that no table maps. */
const NOWHERE = 0x7000_0000_0000n;
/** mov al, [NOWHERE] by way of RBX. */
const FAULT = [...movImmediate(3, NOWHERE), 0x8a, 0x03];
const stub = (vector: number): bigint => STUBS + 16n * BigInt(vector);

function run(code: number[], prepare: (fixture: CpuFixture) => void = () => {}, user = false): CpuFixture {
  const fixture = new CpuFixture();
  prepare(fixture);
  fixture.start(code);
  if (user) fixture.enterUser(CODE);
  fixture.cpu.run(100);
  return fixture;
}

describe('delivery', () => {
  test('from ring 3: the stack of the TSS, everything pushed, IF cleared by an interrupt gate', () => {
    const fixture = new CpuFixture();
    fixture.start([0x0f, 0x0b]);
    fixture.enterUser(CODE);
    const before = fixture.cpu.readRegisters();
    before.rflags = 0x202n | 1n;
    fixture.cpu.writeRegisters(before);
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.haltedVector()).toBe(6);
    const after = fixture.cpu.readRegisters();
    expect(after.gpr[RSP]).toBe(KERNEL_STACK - 40n);
    expect(after.cpl).toBe(0);
    // RF is set in the image of a fault.
    expect(fixture.frame(false)).toEqual({
      error: 0n,
      rip: CODE,
      cs: BigInt(USER_CS),
      rflags: 0x10203n,
      rsp: USER_STACK,
      ss: BigInt(USER_SS),
    });
    expect(after.rflags & 0x10200n).toBe(0n);
  });

  test('a trap gate leaves IF', () => {
    const fixture = new CpuFixture();
    fixture.setGate(6, stub(6), { trap: true });
    fixture.start([0x0f, 0x0b]);
    const before = fixture.cpu.readRegisters();
    before.rflags = 0x202n;
    fixture.cpu.writeRegisters(before);
    expect(fixture.cpu.run(10)).toBe('halt');
  });

  test('in ring 0 the stack stays and is aligned to 16 bytes', () => {
    const fixture = run([0x48, 0x83, 0xec, 0x03, 0x0f, 0x0b]); // sub rsp, 3; ud2
    expect(fixture.cpu.readRegisters().gpr[RSP]).toBe(KERNEL_STACK - 16n - 40n);
    expect(fixture.frame(false)).toMatchObject({
      rsp: KERNEL_STACK - 3n,
      ss: BigInt(KERNEL_SS),
      cs: BigInt(KERNEL_CS),
    });
  });

  test('interrupt stacks, also in ring 0', () => {
    const one = run([0x0f, 0x0b], (fixture) => fixture.setGate(6, stub(6), { ist: 1 }));
    expect(one.cpu.readRegisters().gpr[RSP]).toBe(IST1_STACK - 40n);
    const two = run(FAULT, (fixture) => fixture.setGate(14, stub(14), { ist: 2 }), true);
    expect(two.cpu.readRegisters().gpr[RSP]).toBe(IST2_STACK - 48n);
    expect(two.frame(true).error).toBe(4n);
  });

  test('INT3 and INT n are traps: RIP is behind them', () => {
    const three = run([0xcc], (fixture) => fixture.setGate(3, stub(3), { dpl: 3 }), true);
    expect(three.haltedVector()).toBe(3);
    expect(three.frame(false)).toMatchObject({ rip: CODE + 1n });
    const eighty = run([0xcd, 0x80], (fixture) => fixture.setGate(0x80, stub(0x80), { dpl: 3 }), true);
    expect(eighty.haltedVector()).toBe(0x80);
    expect(eighty.frame(false)).toMatchObject({ rip: CODE + 2n });
  });

  test('INT n through a gate of ring 0 is #GP at the instruction', () => {
    const fixture = run([0xcd, 0x80], () => {}, true);
    expect(fixture.haltedVector()).toBe(13);
    expect(fixture.frame(true)).toMatchObject({ error: 0x80n * 8n + 2n, rip: CODE, cs: BigInt(USER_CS) });
  });

  test('division errors and precise state', () => {
    // mov ecx, 7; xor edx, edx; div edx
    const fixture = run([0xb9, 7, 0, 0, 0, 0x31, 0xd2, 0xf7, 0xf2]);
    expect(fixture.haltedVector()).toBe(0);
    expect(fixture.frame(false).rip).toBe(CODE + 7n);
    expect(fixture.cpu.readRegisters().gpr[RCX]).toBe(7n);
  });

  test.each([
    ['not present: #NP', { present: false }, 11, 6n * 8n + 3n],
    ['without a code selector: #GP', { cs: 0 }, 13, 1n],
    ['with a data selector: #GP', { cs: KERNEL_SS }, 13, BigInt(KERNEL_SS) + 1n],
    ['with a selector beyond the GDT: #GP', { cs: 0x50 }, 13, 0x51n],
    ['with a 32-bit code selector: #GP', { cs: 0x20 }, 13, 0x21n],
  ] as const)('a gate %s', (_, options, vector, error) => {
    const fixture = run([0x0f, 0x0b], (each) => each.setGate(6, stub(6), options));
    expect(fixture.haltedVector()).toBe(vector);
    expect(fixture.frame(true)).toMatchObject({ error, rip: CODE });
  });

  test('a vector beyond the IDT limit is #GP', () => {
    const fixture = new CpuFixture();
    // lidt [0x4090] with a limit that ends before vector 0x20; int 0x20
    fixture.start([0x0f, 0x01, 0x1c, 0x25, 0x90, 0x40, 0, 0, 0xcd, 0x20]);
    fixture.memory.store(0x4090n, 2, 0x1ff);
    fixture.cpu.run(10);
    expect(fixture.haltedVector()).toBe(13);
    expect(fixture.frame(true)).toMatchObject({ error: 0x102n, rip: CODE + 8n });
  });
});

describe('double and triple faults', () => {
  test('contributory in contributory is a double fault with error code 0', () => {
    // #GP (CLI in ring 3), whose gate is not present.
    const fixture = run([0xfa], (each) => each.setGate(13, stub(13), { present: false }), true);
    expect(fixture.haltedVector()).toBe(8);
    expect(fixture.frame(true)).toMatchObject({ error: 0n, rip: CODE, cs: BigInt(USER_CS) });
  });

  test('a page fault while delivering a page fault is one, on its interrupt stack', () => {
    const fixture = new CpuFixture();
    fixture.setGate(8, stub(8), { ist: 2 });
    fixture.start(FAULT);
    const registers = fixture.cpu.readRegisters();
    registers.gpr[RSP] = NOWHERE + 0x2000n;
    fixture.cpu.writeRegisters(registers);
    fixture.cpu.run(10);
    expect(fixture.haltedVector()).toBe(8);
    expect(fixture.cpu.readRegisters().gpr[RSP]).toBe(IST2_STACK - 48n);
    expect(fixture.cpu.readRegisters().cr2).toBe(NOWHERE + 0x1ff8n);
  });

  test('a page fault while delivering a contributory exception is delivered as itself', () => {
    const fixture = run([0xcc, HLT], (each) => {
      each.setGate(3, stub(3), { present: false });
      each.setGate(11, stub(11), { ist: 1 });
      // The interrupt stack of #NP is nowhere.
      each.write64(TSS + 36n, NOWHERE + 0x1000n);
    });
    expect(fixture.haltedVector()).toBe(14);
    expect(fixture.frame(true).error).toBe(2n);
  });

  test('an invalid opcode is benign: what fails in its delivery is delivered next', () => {
    const fixture = run([0x0f, 0x0b], (each) => each.setGate(6, stub(6), { present: false }));
    expect(fixture.haltedVector()).toBe(11);
  });

  test('a fault while delivering a double fault ends in shutdown, which lasts', () => {
    const fixture = new CpuFixture();
    fixture.setGate(13, stub(13), { present: false });
    fixture.setGate(8, stub(8), { present: false });
    fixture.start([0xfa]);
    fixture.enterUser(CODE);
    expect(fixture.cpu.run(10)).toBe('triple-fault');
    fixture.interrupts.vector = 0x40;
    expect(fixture.cpu.run(10)).toBe('triple-fault');
    fixture.setGate(8, stub(8));
    fixture.start([HLT]);
    expect(fixture.cpu.run(10)).toBe('dead');
  });

  test('exceptions that only cause exceptions use the budget up', () => {
    const fixture = new CpuFixture();
    fixture.setGate(6, CODE, { ist: 1 });
    fixture.start([0x0f, 0x0b]);
    const before = fixture.cpu.instructions;
    expect(fixture.cpu.run(1000)).toBe('budget');
    expect(fixture.cpu.instructions).toBe(before);
  });
});

describe('IRETQ', () => {
  const frame = (rip: bigint, cs: number, rflags: bigint, rsp: bigint, ss: number): number[] =>
    [BigInt(ss), rsp, rflags, BigInt(cs), rip].flatMap((value) => [...movImmediate(RAX, value), 0x50]);
  const iret = [0x48, 0xcf];

  test('to ring 3 and back by an exception', () => {
    const fixture = new CpuFixture();
    fixture.load(CODE + 0x800n, [0x0f, 0x0b]);
    fixture.start([...frame(CODE + 0x800n, USER_CS, 0x202n | 0x8d5n, USER_STACK - 8n, USER_SS), ...iret]);
    expect(fixture.cpu.run(100)).toBe('dead');
    expect(fixture.haltedVector()).toBe(6);
    expect(fixture.frame(false)).toEqual({
      error: 0n,
      rip: CODE + 0x800n,
      cs: BigInt(USER_CS),
      rflags: 0x10000n | 0x202n | 0x8d5n,
      rsp: USER_STACK - 8n,
      ss: BigInt(USER_SS),
    });
  });

  test('in ring 0 also takes the stack pointer', () => {
    const fixture = new CpuFixture();
    fixture.load(CODE + 0x800n, [HLT]);
    fixture.start([...frame(CODE + 0x800n, KERNEL_CS, 2n, 0x11000n, KERNEL_SS), ...iret]);
    expect(fixture.cpu.run(100)).toBe('dead');
    expect(fixture.cpu.readRegisters()).toMatchObject({ rip: CODE + 0x801n, cpl: 0 });
    expect(fixture.cpu.readRegisters().gpr[RSP]).toBe(0x11000n);
  });

  test.each([
    ['a null code selector', frame(CODE, 0, 2n, USER_STACK, USER_SS), 13, 0n],
    ['a data selector', frame(CODE, USER_SS, 2n, USER_STACK, USER_SS), 13, 0x28n],
    ['a selector beyond the GDT', frame(CODE, 0x53, 2n, USER_STACK, USER_SS), 13, 0x50n],
    ['compatibility mode', frame(CODE, 0x23, 2n, USER_STACK, USER_SS), 13, 0x20n],
    ['a stack selector of another ring', frame(CODE, USER_CS, 2n, USER_STACK, KERNEL_SS), 13, 0x18n],
    ['a null stack selector for ring 3', frame(CODE, USER_CS, 2n, USER_STACK, 3), 13, 0n],
    ['an address that is not canonical', frame(0x8000_0000_0000n, USER_CS, 2n, USER_STACK, USER_SS), 13, 0n],
  ] as const)('%s is #GP and changes nothing', (_, code, vector, error) => {
    const fixture = run([...code, ...iret]);
    expect(fixture.haltedVector()).toBe(vector);
    expect(fixture.frame(true)).toMatchObject({
      error,
      rip: CODE + BigInt(code.length),
      cs: BigInt(KERNEL_CS),
      rsp: KERNEL_STACK - 40n,
    });
  });

  test('NT set is #GP', () => {
    // pushf; or dword [rsp], 0x4000; popf
    const fixture = run([0x9c, 0x81, 0x0c, 0x24, 0x00, 0x40, 0, 0, 0x9d, ...iret]);
    expect(fixture.haltedVector()).toBe(13);
  });

  test('from ring 3 to ring 0 is #GP', () => {
    const fixture = run([...frame(CODE, KERNEL_CS, 2n, USER_STACK, KERNEL_SS), ...iret], () => {}, true);
    expect(fixture.haltedVector()).toBe(13);
    expect(fixture.frame(true).error).toBe(BigInt(KERNEL_CS));
  });

  test('in ring 3 leaves IF and IOPL alone', () => {
    const fixture = run(
      [...frame(CODE + 0x800n, USER_CS, 0x3202n, USER_STACK, USER_SS), ...iret],
      (each) => {
        each.load(CODE + 0x800n, [0x0f, 0x0b]);
      },
      true,
    );
    expect(fixture.haltedVector()).toBe(6);
    expect(fixture.frame(false).rflags & 0x3200n).toBe(0n);
  });
});

describe('SYSCALL and SYSRET', () => {
  const STAR = (0x20n << 48n) | (BigInt(KERNEL_CS) << 32n);
  const setUp = [
    ...writeMsr(0xc0000081, STAR),
    ...writeMsr(0xc0000082, CODE + 0x900n),
    ...writeMsr(0xc0000084, 0x4400n | 0x200n | 1n),
    ...writeMsr(0xc0000080, 0xd01n),
  ];

  test('there and back', () => {
    const fixture = new CpuFixture();
    fixture.load(CODE + 0x800n, [0xf9, 0x0f, 0x05, 0x0f, 0x0b]); // stc; syscall; ud2
    fixture.load(CODE + 0x900n, [0x9c, 0x5b, 0x48, 0x0f, 0x07]); // pushf; pop rbx; sysretq
    fixture.start([
      ...setUp,
      ...movImmediate(RCX, CODE + 0x800n),
      ...movImmediate(R11, 0x202n),
      ...movImmediate(RSP, USER_STACK),
      0x48,
      0x0f,
      0x07,
    ]);
    expect(fixture.cpu.run(100)).toBe('dead');
    expect(fixture.haltedVector()).toBe(6);
    const registers = fixture.cpu.readRegisters();
    expect(registers.gpr[RCX]).toBe(CODE + 0x803n);
    expect(registers.gpr[R11]).toBe(0x203n);
    // FMASK cleared CF and IF.
    expect(registers.gpr[3]).toBe(2n);
    expect(fixture.frame(false)).toMatchObject({
      rip: CODE + 0x803n,
      cs: BigInt(USER_CS),
      ss: BigInt(USER_SS),
      rflags: 0x10203n,
      rsp: USER_STACK,
    });
  });

  test('without EFER.SCE they are invalid', () => {
    expect(run([0x0f, 0x05]).haltedVector()).toBe(6);
    expect(run([0x48, 0x0f, 0x07]).haltedVector()).toBe(6);
  });

  test('SYSRET is #GP in ring 3 and to an address that is not canonical', () => {
    const bad = [...setUp, ...movImmediate(RCX, 0x8000_0000_0000n), 0x48, 0x0f, 0x07];
    const fixture = run(bad);
    expect(fixture.haltedVector()).toBe(13);
    expect(fixture.cpu.readRegisters().cpl).toBe(0);
    expect(fixture.frame(true).cs).toBe(BigInt(KERNEL_CS));
  });

  test('SYSRET to compatibility mode is not implemented', () => {
    expect(run([...setUp, 0x0f, 0x07]).haltedVector()).toBe(6);
  });
});

describe('single step', () => {
  test('#DB after each instruction while TF is set, with DR6.BS', () => {
    const fixture = new CpuFixture();
    // inc rax; iretq
    fixture.load(CODE + 0x800n, [0x48, 0xff, 0xc0, 0x48, 0xcf]);
    fixture.setGate(1, CODE + 0x800n);
    fixture.start([0x9c, 0x81, 0x0c, 0x24, 0x00, 0x01, 0, 0, 0x9d, 0x90, 0x90, 0x90, 0x0f, 0x21, 0xf1, 0x0f, 0x0b]);
    fixture.cpu.run(100);
    const { gpr } = fixture.cpu.readRegisters();
    // Three NOPs and the read of DR6; not POPF itself, nor an instruction that faults.
    expect(gpr[RAX]).toBe(4n);
    expect(gpr[RCX]).toBe(0xffff4ff0n);
    expect(fixture.haltedVector()).toBe(6);
    expect(fixture.frame(false).rflags & 0x100n).toBe(0x100n);
  });
});

describe('alignment checks', () => {
  test.each([
    [2, [0x66, 0x8b, 0x03]],
    [4, [0x8b, 0x03]],
    [8, [0x48, 0x8b, 0x03]],
    [8, [0x48, 0x89, 0x03]],
  ] as const)('%i bytes in ring 3 with AM and AC', (size, code) => {
    for (const aligned of [true, false]) {
      const fixture = new CpuFixture();
      fixture.start([...code, HLT]);
      fixture.enterUser(CODE);
      const registers = fixture.cpu.readRegisters();
      registers.gpr[3] = USER_STACK - (aligned ? 64n : 64n - BigInt(size >> 1));
      registers.rflags |= 0x40000n;
      registers.cr0 |= 0x40000n;
      fixture.cpu.writeRegisters(registers);
      fixture.cpu.run(10);
      expect(fixture.haltedVector()).toBe(aligned ? 13 : 17);
      expect(fixture.frame(true)).toMatchObject({ error: 0n, rip: aligned ? CODE + BigInt(code.length) : CODE });
    }
  });
});

describe('segments', () => {
  test('loading a data segment in ring 3 keeps it; the way to ring 3 drops those of ring 0', () => {
    // mov ax, KERNEL_SS; mov ds, ax; mov fs, ax, then IRETQ to ring 3
    const iretFrame = [BigInt(USER_SS), USER_STACK, 2n, BigInt(USER_CS), CODE + 0x800n].flatMap((value) => [
      ...movImmediate(RAX, value),
      0x50,
    ]);
    const fixture = new CpuFixture();
    // mov eax, ds; mov ecx, es; ud2
    fixture.load(CODE + 0x800n, [0x8c, 0xd8, 0x8c, 0xc1, 0x0f, 0x0b]);
    fixture.start([
      ...[0x66, 0xb8, KERNEL_SS, 0, 0x8e, 0xd8, 0x66, 0xb8, USER_SS, 0, 0x8e, 0xc0],
      ...iretFrame,
      ...[0x48, 0xcf],
    ]);
    fixture.cpu.run(100);
    expect(fixture.haltedVector()).toBe(6);
    const { gpr } = fixture.cpu.readRegisters();
    expect([gpr[RAX], gpr[RCX]]).toEqual([0n, BigInt(USER_SS)]);
  });

  test.each([
    ['beyond the table', 0x50, false, 13, 0x50n],
    ['a system descriptor', TSS_SELECTOR, false, 13, BigInt(TSS_SELECTOR)],
    ['of ring 0 in ring 3', KERNEL_SS, true, 13, BigInt(KERNEL_SS)],
  ] as const)('a data selector %s is refused', (_, selector, user, vector, error) => {
    const fixture = run([0x66, 0xb8, selector, 0, 0x8e, 0xd8], () => {}, user);
    expect(fixture.haltedVector()).toBe(vector);
    expect(fixture.frame(true).error).toBe(error);
  });

  test('not present is #NP for data and #SS for the stack', () => {
    const absent = (fixture: CpuFixture): void => fixture.write64(GDT + BigInt(KERNEL_SS), 0x00cf13000000ffffn);
    const reload = (segment: number): number[] => [0x66, 0xb8, KERNEL_SS, 0, 0x8e, 0xc0 | (segment << 3)];
    for (const [segment, vector] of [
      [3, 11],
      [2, 12],
    ] as const) {
      const fixture = new CpuFixture();
      fixture.start(reload(segment));
      absent(fixture);
      fixture.cpu.run(10);
      expect(fixture.haltedVector()).toBe(vector);
    }
  });

  test('LTR marks the TSS busy and refuses a busy one', () => {
    const fixture = run([0x66, 0xb8, TSS_SELECTOR, 0, 0x0f, 0x00, 0xd8]);
    expect(fixture.haltedVector()).toBe(13);
    expect(fixture.frame(true).error).toBe(BigInt(TSS_SELECTOR));
    expect(fixture.memory.bytes[Number(GDT) + TSS_SELECTOR + 5]).toBe(0x8b);
  });

  test('SGDT, SIDT, STR and SMSW tell; with UMIP not in ring 3', () => {
    const fixture = new CpuFixture();
    // sgdt [0x30000]; sidt [0x30010]; str ecx; hlt
    const code = [0x0f, 0x01, 0x04, 0x25, 0, 0, 3, 0, 0x0f, 0x01, 0x0c, 0x25, 0x10, 0, 3, 0, 0x0f, 0x00, 0xc9, HLT];
    fixture.start(code);
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.memory.load(0x30000n, 2)).toBe(0x4fn);
    expect(fixture.memory.load(0x30002n, 8)).toBe(GDT);
    expect(fixture.memory.load(0x30012n, 8)).toBe(IDT);
    expect(fixture.cpu.readRegisters().gpr[RCX]).toBe(BigInt(TSS_SELECTOR));
    fixture.start(code);
    fixture.enterUser(CODE);
    const registers = fixture.cpu.readRegisters();
    registers.cr4 |= 0x800n;
    fixture.cpu.writeRegisters(registers);
    fixture.cpu.run(10);
    expect(fixture.haltedVector()).toBe(13);
  });
});
