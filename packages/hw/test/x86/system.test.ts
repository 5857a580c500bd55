import { describe, expect, test } from 'vitest';
import {
  CODE,
  CpuFixture,
  HLT,
  movImmediate,
  NO_EXECUTE,
  PRESENT,
  RAX,
  RBX,
  RCX,
  RDI,
  RDX,
  RSI,
  RSP,
  TSS,
  TSS_SELECTOR,
  USER,
  WRITABLE,
  writeMsr,
} from '../support/cpu-fixture.ts';

const PAGE = 0x7f00_0000_1000n;
const FRAME = 0x60000n;
const ALL = PRESENT | WRITABLE | USER;
const DEVICE = 0xc000_0000n;

function run(code: number[], user = false): CpuFixture {
  const fixture = new CpuFixture();
  fixture.start(code);
  if (user) fixture.enterUser(CODE);
  fixture.cpu.run(200);
  return fixture;
}

describe('interrupts', () => {
  test('are taken between instructions while IF is set, and acknowledged once', () => {
    const fixture = new CpuFixture();
    fixture.start([0xfb, 0x90, 0x90, 0xeb, 0xfe]); // sti; nop; nop; jmp $
    expect(fixture.cpu.run(10)).toBe('budget');
    fixture.interrupts.vector = 0x51;
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.haltedVector()).toBe(0x51);
    expect(fixture.interrupts.taken).toEqual([0x51]);
    expect(fixture.frame(false)).toMatchObject({ rip: CODE + 3n, rflags: 0x202n });
  });

  test('wait while IF is clear', () => {
    const fixture = new CpuFixture();
    fixture.start([0xeb, 0xfe]);
    fixture.interrupts.vector = 0x51;
    expect(fixture.cpu.run(1000)).toBe('budget');
    expect(fixture.interrupts.taken).toEqual([]);
  });

  test('STI lets one more instruction pass', () => {
    const fixture = new CpuFixture();
    fixture.start([0xfb, 0x90, 0x90, HLT]);
    fixture.interrupts.vector = 0x51;
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.frame(false).rip).toBe(CODE + 2n);
  });

  test('STI before CLI never opens a window', () => {
    const fixture = new CpuFixture();
    fixture.start([0xfb, 0xfa, 0x90, HLT]);
    fixture.interrupts.vector = 0x51;
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.haltedVector()).toBe(-1);
    expect(fixture.interrupts.taken).toEqual([]);
  });

  test('MOV SS shadows one instruction', () => {
    const fixture = new CpuFixture();
    // mov eax, ss; sti; mov ss, eax; nop; nop: the shadow of STI lies over MOV SS, whose own lies over the first NOP
    fixture.start([0x8c, 0xd0, 0xfb, 0x8e, 0xd0, 0x90, 0x90, HLT]);
    fixture.interrupts.vector = 0x51;
    fixture.cpu.run(10);
    expect(fixture.frame(false).rip).toBe(CODE + 6n);
  });

  test('POPF and IRETQ open the window at once', () => {
    const fixture = new CpuFixture();
    fixture.start([0x68, 0x02, 0x02, 0, 0, 0x9d, 0x90, HLT]); // push 0x202; popf; nop
    fixture.interrupts.vector = 0x51;
    fixture.cpu.run(10);
    expect(fixture.frame(false).rip).toBe(CODE + 6n);
  });

  test('HLT waits for one, and goes on behind itself', () => {
    const fixture = new CpuFixture();
    fixture.load(CODE + 0x800n, [0x48, 0xff, 0xc3, 0x48, 0xcf]); // inc rbx; iretq
    fixture.setGate(0x51, CODE + 0x800n);
    fixture.start([0xfb, HLT, 0xfa, HLT]);
    expect(fixture.cpu.run(10)).toBe('halt');
    const before = fixture.cpu.instructions;
    expect(fixture.cpu.run(10)).toBe('halt');
    expect(fixture.cpu.instructions).toBe(before);
    fixture.interrupts.vector = 0x51;
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.cpu.readRegisters().gpr[RBX]).toBe(1n);
    expect(fixture.cpu.readRegisters().rip).toBe(CODE + 4n);
    expect(fixture.cpu.run(10)).toBe('dead');
  });

  test('one that a device raises during an access is taken right behind it', () => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, DEVICE | ALL);
    fixture.bus.onEvent = () => {
      fixture.interrupts.vector = 0x60;
    };
    fixture.start([...movImmediate(RBX, PAGE), 0xfb, 0x90, 0x89, 0x03, 0x90, 0x90, HLT]);
    fixture.cpu.run(20);
    expect(fixture.haltedVector()).toBe(0x60);
    expect(fixture.frame(false).rip).toBe(CODE + 14n);
    // The same code again, now from decoded blocks.
    fixture.reset(CODE);
    fixture.cpu.run(20);
    expect(fixture.frame(false).rip).toBe(CODE + 14n);
  });
});

describe('slices', () => {
  test('requestExit ends the slice after the instruction in progress', () => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, DEVICE | ALL);
    fixture.bus.onEvent = () => fixture.cpu.requestExit();
    fixture.start([...movImmediate(RBX, PAGE), 0x90, 0x89, 0x03, 0x90, 0x8b, 0x03, HLT]);
    const before = fixture.cpu.instructions;
    expect(fixture.cpu.run(100)).toBe('requested');
    expect(fixture.cpu.readRegisters().rip).toBe(CODE + 13n);
    expect(fixture.cpu.instructions - before).toBe(3n);
    expect(fixture.cpu.run(100)).toBe('requested');
    expect(fixture.cpu.readRegisters().rip).toBe(CODE + 16n);
    expect(fixture.cpu.run(100)).toBe('dead');
    expect(fixture.cpu.instructions - before).toBe(6n);
  });

  test('a budget is exact, across blocks and loops', () => {
    for (let budget = 1; budget < 40; budget++) {
      const fixture = new CpuFixture();
      fixture.start([0xff, 0xc0, 0xff, 0xc3, 0x83, 0xf9, 0x01, 0x75, 0xf7]); // inc eax; inc ebx; cmp ecx, 1; jne
      const before = fixture.cpu.instructions;
      expect(fixture.cpu.run(budget)).toBe('budget');
      expect(fixture.cpu.instructions - before).toBe(BigInt(budget));
      expect(fixture.cpu.readRegisters().gpr[RAX]).toBe(BigInt(Math.ceil(budget / 4)));
    }
  });

  test('a bus callback may not run the core', () => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, DEVICE | ALL);
    let message = '';
    fixture.bus.onEvent = () => {
      try {
        fixture.cpu.run(1);
      } catch (error) {
        message = String(error);
      }
    };
    fixture.start([...movImmediate(RBX, PAGE), 0x89, 0x03, HLT]);
    expect(fixture.cpu.run(100)).toBe('dead');
    expect(message).toContain('must not run it');
  });
});

describe('code that changes', () => {
  test('a store to the next instruction is seen by it', () => {
    // mov byte [rip + 2], 0xc3 (of the immediate of the mov below); nop; mov al, 0
    const fixture = run([0xc6, 0x05, 0x02, 0, 0, 0, 0x5a, 0x90, 0xb0, 0x00, HLT]);
    expect(fixture.cpu.readRegisters().gpr[RAX]).toBe(0x5an);
  });

  test('a loop that patches itself, with its data beside it', () => {
    // mov ecx, 50; L: add eax, imm8 (patched); inc byte [rip - 4 + ...]; loop L
    const fixture = run([0xb9, 50, 0, 0, 0, 0x83, 0xc0, 0x01, 0xfe, 0x05, 0xf9, 0xff, 0xff, 0xff, 0xe2, 0xf5, HLT]);
    let expected = 0;
    for (let i = 0; i < 50; i++) expected += 1 + i;
    expect(fixture.cpu.readRegisters().gpr[RAX]).toBe(BigInt(expected));
  });

  test('code written by a device or the host', () => {
    const fixture = new CpuFixture();
    fixture.start([0xb0, 0x11, HLT]);
    fixture.cpu.run(10);
    expect(fixture.cpu.readRegisters().gpr[RAX]).toBe(0x11n);
    fixture.memory.write(CODE + 1n, Uint8Array.of(0x22));
    fixture.reset(CODE);
    fixture.cpu.run(10);
    expect(fixture.cpu.readRegisters().gpr[RAX]).toBe(0x22n);
  });

  test('a device that writes the code that is calling it', () => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, DEVICE | ALL);
    fixture.bus.onEvent = () => {
      fixture.memory.write(CODE + 13n, Uint8Array.of(0x77));
    };
    fixture.start([...movImmediate(RBX, PAGE), 0x89, 0x03, 0xb0, 0x00, HLT]);
    fixture.cpu.run(10);
    expect(fixture.cpu.readRegisters().gpr[RAX]).toBe(0x77n);
  });

  test('code through a second mapping of its frame', () => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, CODE | ALL);
    // mov byte [rbx + disp8], 0x99; mov al, 0
    fixture.start([...movImmediate(RBX, PAGE), 0xc6, 0x43, 15, 0x99, 0xb0, 0x00, HLT]);
    fixture.cpu.run(10);
    expect(fixture.cpu.readRegisters().gpr[RAX]).toBe(0x99n);
  });

  test('the same address with another frame behind it', () => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, FRAME | ALL);
    fixture.load(FRAME, [0xb0, 0x01, HLT]);
    fixture.load(FRAME + 4096n, [0xb0, 0x02, HLT]);
    fixture.reset(PAGE);
    fixture.cpu.run(10);
    expect(fixture.cpu.readRegisters().gpr[RAX]).toBe(1n);
    fixture.map(PAGE, (FRAME + 4096n) | ALL);
    fixture.reset(PAGE);
    fixture.cpu.run(10);
    expect(fixture.cpu.readRegisters().gpr[RAX]).toBe(2n);
  });

  test('a page that is no longer executable is not executed from the cache', () => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, FRAME | ALL);
    fixture.load(FRAME, [0xb0, 0x01, HLT]);
    fixture.reset(PAGE);
    fixture.cpu.run(10);
    fixture.map(PAGE, FRAME | ALL | NO_EXECUTE);
    fixture.reset(PAGE);
    fixture.cpu.run(10);
    expect(fixture.haltedVector()).toBe(14);
  });

  test('more code than the cache holds', () => {
    const fixture = new CpuFixture();
    // 40 pages of one-instruction blocks: inc rax; jmp +0, and a jump back.
    const body = Array.from({ length: 800 }, () => [0x48, 0xff, 0xc0, 0xeb, 0x00]).flat();
    for (let page = 0n; page < 40n; page++) {
      fixture.load(CODE + page * 4096n, [...body, 0xe9, 0x5b, 0x00, 0, 0]);
    }
    fixture.load(CODE + 40n * 4096n, [HLT]);
    for (let round = 0; round < 3; round++) {
      fixture.reset(CODE);
      expect(fixture.cpu.run(1_000_000)).toBe('dead');
      expect(fixture.cpu.readRegisters().gpr[RAX]).toBe(32_000n);
    }
  });

  test('another core that writes it', () => {
    const fixture = new CpuFixture();
    const other = fixture.secondCore();
    fixture.start([0xb0, 0x11, HLT]);
    fixture.cpu.run(10);
    // The second core stores to CODE + 1: mov byte [CODE + 1], 0x44
    fixture.load(0x24000n, [0xc6, 0x04, 0x25, 1, 0, 2, 0, 0x44, HLT]);
    other.resetToLongMode({ rip: 0x24000n, cr3: 0x1000n, rsp: 0x12000n });
    expect(other.run(10)).toBe('dead');
    fixture.reset(CODE);
    fixture.cpu.run(10);
    expect(fixture.cpu.readRegisters().gpr[RAX]).toBe(0x44n);
  });
});

describe('string instructions', () => {
  test('REP MOVSB stops at a fault with its registers up to date, and goes on after it', () => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, FRAME | ALL);
    fixture.map(PAGE + 4096n, 0n);
    fixture.memory.write(0x40000n, new Uint8Array(8192).fill(0xab));
    const code = [
      ...movImmediate(RSI, 0x40000n),
      ...movImmediate(RDI, PAGE + 100n),
      ...movImmediate(RCX, 5000n),
      0xf3,
      0xa4,
      HLT,
    ];
    fixture.start(code);
    fixture.cpu.run(50);
    expect(fixture.haltedVector()).toBe(14);
    expect(fixture.frame(true)).toMatchObject({ error: 2n, rip: CODE + 30n });
    let { gpr } = fixture.cpu.readRegisters();
    expect([gpr[RCX], gpr[RSI], gpr[RDI]]).toEqual([5000n - 3996n, 0x40000n + 3996n, PAGE + 4096n]);
    fixture.map(PAGE + 4096n, (FRAME + 4096n) | ALL);
    const registers = fixture.cpu.readRegisters();
    registers.rip = CODE + 30n;
    fixture.cpu.writeRegisters(registers);
    expect(fixture.cpu.run(50)).toBe('dead');
    gpr = fixture.cpu.readRegisters().gpr;
    expect([gpr[RCX], gpr[RSI], gpr[RDI]]).toEqual([0n, 0x40000n + 5000n, PAGE + 5100n]);
    const written = fixture.memory.bytes.subarray(Number(FRAME) + 100, Number(FRAME) + 5100);
    expect(written.every((byte) => byte === 0xab)).toBe(true);
  });

  test('an endless REP leaves room for interrupts and budgets', () => {
    const fixture = new CpuFixture();
    // sti; mov rcx, -1; mov rsi, 0x1000; rep lodsb
    fixture.start([0xfb, ...movImmediate(RCX, (1n << 64n) - 1n), ...movImmediate(RSI, 0x1000n), 0xf3, 0xac, HLT]);
    expect(fixture.cpu.run(10)).toBe('budget');
    fixture.interrupts.vector = 0x70;
    fixture.cpu.run(10);
    expect(fixture.haltedVector()).toBe(0x70);
    expect(fixture.frame(false).rip).toBe(CODE + 21n);
  });

  test('overlapping REP MOVS repeats its pattern', () => {
    const fixture = new CpuFixture();
    fixture.memory.write(0x40000n, Uint8Array.of(1, 2, 3));
    fixture.start([
      ...movImmediate(RSI, 0x40000n),
      ...movImmediate(RDI, 0x40003n),
      ...movImmediate(RCX, 300n),
      0xf3,
      0xa4,
      HLT,
    ]);
    fixture.cpu.run(50);
    const bytes = fixture.memory.bytes.subarray(0x40000, 0x4012f);
    expect(bytes.every((byte, index) => byte === (index % 3) + 1)).toBe(true);
  });

  test('REP STOS to a device is made of single stores', () => {
    const fixture = new CpuFixture();
    fixture.map(PAGE, DEVICE | ALL);
    fixture.start([
      ...movImmediate(RDI, PAGE),
      ...movImmediate(RCX, 20n),
      ...movImmediate(RAX, 7n),
      ...[0xf3, 0xab, HLT],
    ]);
    expect(fixture.cpu.run(100)).toBe('dead');
    expect(fixture.bus.events).toHaveLength(20);
    expect(fixture.bus.events[19]).toEqual({ kind: 'write', address: DEVICE + 76n, width: 4, value: 7n });
  });
});

describe('ports', () => {
  test('IN and OUT of every size', () => {
    const fixture = new CpuFixture();
    fixture.bus.read = () => 0x11223344n;
    // in al, 0x60; mov ebx, eax; mov dx, 0x3f8; in eax, dx; out dx, ax; out 0x80, al
    fixture.start([0xe4, 0x60, 0x89, 0xc3, 0x66, 0xba, 0xf8, 0x03, 0xed, 0x66, 0xef, 0xe6, 0x80, HLT]);
    expect(fixture.cpu.run(20)).toBe('dead');
    expect(fixture.cpu.readRegisters().gpr[RBX]).toBe(0x44n);
    expect(fixture.bus.events.map(({ kind, address, width }) => [kind, address, width])).toEqual([
      ['in', 0x60n, 1],
      ['in', 0x3f8n, 4],
      ['out', 0x3f8n, 2],
      ['out', 0x80n, 1],
    ]);
    expect(fixture.bus.events[2]!.value).toBe(0x3344n);
  });

  test('ring 3 needs IOPL or the bitmap of the TSS', () => {
    expect(run([0xe6, 0x80], true).haltedVector()).toBe(13);

    const allowed = new CpuFixture();
    allowed.start([0xe6, 0x80, 0x0f, 0x0b]);
    allowed.enterUser(CODE);
    const registers = allowed.cpu.readRegisters();
    registers.rflags |= 0x3000n;
    allowed.cpu.writeRegisters(registers);
    allowed.cpu.run(10);
    expect(allowed.haltedVector()).toBe(6);

    for (const denied of [false, true]) {
      const fixture = new CpuFixture();
      // A TSS with room for a bitmap of 0x88 ports.
      fixture.write64(0x5000n + BigInt(TSS_SELECTOR), 0x0000890000000067n + 0x20n + (TSS << 16n));
      fixture.memory.bytes.fill(0, Number(TSS) + 104, Number(TSS) + 104 + 32);
      if (denied) fixture.memory.bytes[Number(TSS) + 104 + 0x10] = 1;
      fixture.start([0xe6, 0x80, 0x0f, 0x0b]);
      fixture.enterUser(CODE);
      fixture.cpu.run(10);
      expect(fixture.haltedVector()).toBe(denied ? 13 : 6);
    }
  });
});

describe('privilege', () => {
  test.each([
    ['hlt', [HLT]],
    ['cli', [0xfa]],
    ['sti', [0xfb]],
    ['mov cr0', [0x0f, 0x20, 0xc0]],
    ['mov to cr3', [0x0f, 0x22, 0xd8]],
    ['mov dr7', [0x0f, 0x21, 0xf8]],
    ['rdmsr', [0x0f, 0x32]],
    ['wrmsr', [0x0f, 0x30]],
    ['lgdt', [0x0f, 0x01, 0x17]],
    ['lidt', [0x0f, 0x01, 0x1f]],
    ['ltr', [0x0f, 0x00, 0xd8]],
    ['lldt', [0x0f, 0x00, 0xd0]],
    ['lmsw', [0x0f, 0x01, 0xf0]],
    ['clts', [0x0f, 0x06]],
    ['invlpg', [0x0f, 0x01, 0x3b]],
    ['wbinvd', [0x0f, 0x09]],
    ['swapgs', [0x0f, 0x01, 0xf8]],
    ['enqcmds', [0xf3, 0x0f, 0x38, 0xf8, 0x03]],
  ])('%s in ring 3 is #GP(0)', (_, code) => {
    const fixture = run(code, true);
    expect(fixture.haltedVector()).toBe(13);
    expect(fixture.frame(true)).toMatchObject({ error: 0n, rip: CODE });
  });

  test.each([
    ['x87', [0xd9, 0xe8]],
    ['SSE', [0x0f, 0x58, 0xc1]],
    ['FXSAVE', [0x0f, 0xae, 0x03]],
    ['XGETBV', [0x0f, 0x01, 0xd0]],
    ['RDPMC', [0x0f, 0x33]],
    ['SYSENTER', [0x0f, 0x34]],
    ['VMCALL', [0x0f, 0x01, 0xc1]],
    ['INVPCID', [0x66, 0x0f, 0x38, 0x82, 0x03]],
    ['UD2', [0x0f, 0x0b]],
    ['INTO', [0xce]],
    ['PUSH ES', [0x06]],
    ['far CALL', [0x9a, 0, 0, 0, 0, 0, 0]],
    ['MOV to CS', [0x8e, 0xc8]],
    ['MOV CR1', [0x0f, 0x20, 0xc8]],
    ['LOCK without a memory destination', [0xf0, 0x01, 0xc0]],
    ['LOCK MOV', [0xf0, 0x89, 0x03]],
    ['LEA of a register', [0x8d, 0xc0]],
    ['AVX', [0xc5, 0xf8, 0x77]],
  ])('%s is #UD', (_, code) => {
    const fixture = run(code);
    expect(fixture.haltedVector()).toBe(6);
    expect(fixture.frame(false).rip).toBe(CODE);
  });

  test('an instruction of more than 15 bytes is #GP(0)', () => {
    expect(run([...Array<number>(14).fill(0x2e), 0x90, HLT]).haltedVector()).toBe(-1);
    const fixture = run([...Array<number>(15).fill(0x2e), 0x90, HLT]);
    expect(fixture.haltedVector()).toBe(13);
    expect(fixture.frame(true)).toMatchObject({ error: 0n, rip: CODE });
  });
});

describe('control registers', () => {
  const setCr = (number: number, value: bigint): number[] => [
    ...movImmediate(RAX, value),
    0x0f,
    0x22,
    0xc0 | (number << 3),
    0x0f,
    0x20,
    0xc3 | (number << 3),
    HLT,
  ];

  test.each([
    ['CR0 keeps what it can', 0, 0x8005003bn, 0x8005003bn],
    ['CR4 bits that exist', 4, 0x3109fcn, 0x3109fcn],
    ['CR3', 3, 0x1018n, 0x1018n],
    ['CR2', 2, 0x1234n, 0x1234n],
  ] as const)('%s', (_, number, value, expected) => {
    const fixture = run(setCr(number, value));
    // With SMEP the code itself, which lies in a user page, is no longer to be fetched.
    if (number !== 4) expect(fixture.cpu.readRegisters().gpr[RBX]).toBe(expected);
    expect(fixture.cpu.readRegisters()[`cr${number}`]).toBe(expected);
  });

  test.each([
    ['paging off', 0, 0x11n],
    ['protection off', 0, 0x80000010n],
    ['NW without CD', 0, 0xa0000011n],
    ['upper half of CR0', 0, 0x1_8000_0011n],
    ['CR4 without PAE', 4, 0n],
    ['LA57', 4, 0x1020n],
    ['PCIDE', 4, 0x20020n],
    ['OSXSAVE', 4, 0x40020n],
    ['CR3 with bit 63', 3, (1n << 63n) | 0x1000n],
    ['CR8 above 15', 8, 16n],
  ] as const)('%s is #GP(0)', (_, number, value) => {
    const code =
      number === 8 ? [...movImmediate(RAX, value), 0x44, 0x0f, 0x22, 0xc0] : setCr(number, value).slice(0, 13);
    const fixture = run(code);
    expect(fixture.haltedVector()).toBe(13);
    expect(fixture.frame(true).rip).toBe(CODE + 10n);
  });

  test('CR8 without an APIC keeps its value', () => {
    const fixture = run([...movImmediate(RAX, 9n), 0x44, 0x0f, 0x22, 0xc0, 0x44, 0x0f, 0x20, 0xc3, HLT]);
    expect(fixture.cpu.readRegisters().gpr[RBX]).toBe(9n);
  });
});

describe('model-specific registers', () => {
  const READ_BACK = [0x0f, 0x32, HLT];

  test.each([
    ['LSTAR', 0xc0000082, 0xffff_8000_0000_1000n],
    ['FS base', 0xc0000100, 0x7fff_ffff_f000n],
    ['kernel GS base', 0xc0000102, 0xffff_ffff_8000_0000n],
    ['PAT', 0x277, 0x0506070401000605n],
    ['PASID', 0xd93, 0x800f_ffffn],
    ['EFER', 0xc0000080, 0xd01n],
  ])('%s', (_, index, value) => {
    const fixture = run([...writeMsr(index, value), ...READ_BACK]);
    const { gpr } = fixture.cpu.readRegisters();
    expect((gpr[RDX]! << 32n) | gpr[RAX]!).toBe(value);
  });

  test.each([
    ['an unknown one', 0x12345, 0n],
    ['LSTAR not canonical', 0xc0000082, 1n << 47n],
    ['GS base not canonical', 0xc0000101, 1n << 63n],
    ['PAT with type 2', 0x277, 2n],
    ['PASID reserved bit 20', 0xd93, 0x80100000n],
    ['PASID reserved bit 32', 0xd93, 1n << 32n],
    ['EFER reserved bit', 0xc0000080, 0xd03n],
    ['EFER without LME', 0xc0000080, 0xc01n],
    ['a moved APIC', 0x1b, 0xfee01900n],
  ])('%s is #GP(0)', (_, index, value) => {
    expect(run(writeMsr(index, value)).haltedVector()).toBe(13);
  });

  test('reading an unknown one is #GP(0)', () => {
    expect(run([...movImmediate(RCX, 0x9999n), 0x0f, 0x32]).haltedVector()).toBe(13);
  });

  test('SWAPGS, and addresses relative to FS and GS', () => {
    const fixture = new CpuFixture();
    fixture.memory.bytes.set([1, 0, 0, 0], 0x40010);
    fixture.memory.bytes.set([2, 0, 0, 0], 0x41010);
    fixture.start([
      ...writeMsr(0xc0000101, 0x40000n),
      ...writeMsr(0xc0000102, 0x41000n),
      ...[0x65, 0x8b, 0x1c, 0x25, 0x10, 0, 0, 0], // mov ebx, gs:[0x10]
      ...[0x0f, 0x01, 0xf8], // swapgs
      ...[0xb9, 4, 0, 0, 0],
      ...[0x65, 0x8b, 0x54, 0x89, 0x00], // mov edx, gs:[rcx + rcx * 4 + 0]
      HLT,
    ]);
    // rcx * 5 = 0x14 reads past it: put the value there.
    fixture.memory.bytes.set([3, 0, 0, 0], 0x41014);
    expect(fixture.cpu.run(50)).toBe('dead');
    expect(fixture.cpu.readRegisters().gpr[RBX]).toBe(1n);
    expect(fixture.cpu.readRegisters().gpr[RDX]).toBe(3n);
  });

  test('RDFSBASE and WRGSBASE need CR4.FSGSBASE', () => {
    expect(run([0xf3, 0x48, 0x0f, 0xae, 0xc0]).haltedVector()).toBe(6);
    const fixture = new CpuFixture();
    // wrgsbase rbx; rdgsbase rax
    fixture.start([0xf3, 0x48, 0x0f, 0xae, 0xdb, 0xf3, 0x48, 0x0f, 0xae, 0xc8, HLT]);
    const registers = fixture.cpu.readRegisters();
    registers.cr4 |= 0x10000n;
    registers.gpr[RBX] = 0x1234_5678_9000n;
    fixture.cpu.writeRegisters(registers);
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.cpu.readRegisters().gpr[RAX]).toBe(0x1234_5678_9000n);
  });
});

describe('time and identity', () => {
  test('the time-stamp counter counts instructions', () => {
    // rdtsc; mov ebx, eax; 3 nops; rdtsc
    const fixture = run([0x0f, 0x31, 0x89, 0xc3, 0x90, 0x90, 0x90, 0x0f, 0x31, HLT]);
    const { gpr } = fixture.cpu.readRegisters();
    expect(gpr[RAX]! - gpr[RBX]!).toBe(5n);
  });

  test('WRMSR sets it, advanceTsc moves it, RDTSCP brings the processor number', () => {
    const fixture = new CpuFixture();
    fixture.start([
      ...writeMsr(0x10, 1_000_000n),
      ...writeMsr(0xc0000103, 42n),
      ...[0xeb, 0x00, 0x0f, 0x01, 0xf9, HLT],
    ]);
    fixture.cpu.run(8);
    fixture.cpu.advanceTsc(500n);
    fixture.cpu.run(10);
    const { gpr } = fixture.cpu.readRegisters();
    // Six instructions from the write to RDTSCP: itself, four of the second WRMSR, the jump.
    expect(gpr[RAX]).toBe(1_000_506n);
    expect(gpr[RCX]).toBe(42n);
  });

  test('CPUID tells what is there, and nothing else', () => {
    const leaf = (number: number): bigint[] => {
      const { gpr } = run([...movImmediate(RAX, BigInt(number)), 0x31, 0xc9, 0x0f, 0xa2, HLT]).cpu.readRegisters();
      return [gpr[RAX]!, gpr[RBX]!, gpr[RCX]!, gpr[RDX]!];
    };
    const name = [leaf(0)[1]!, leaf(0)[3]!, leaf(0)[2]!].map((value) =>
      String.fromCharCode(...[0, 8, 16, 24].map((shift) => Number((value >> BigInt(shift)) & 255n))),
    );
    expect(name.join('')).toBe('GenuineIntel');
    // MOVDIRI, MOVDIR64B, ENQCMD.
    expect((leaf(7)[2]! >> 27n) & 7n).toBe(7n);
    // No FPU, no SSE, no 1 GiB pages, no PCID, no XSAVE.
    expect(leaf(1)[3]! & ((1n << 0n) | (1n << 25n) | (1n << 26n))).toBe(0n);
    expect(leaf(1)[2]! & ((1n << 17n) | (1n << 26n))).toBe(0n);
    expect(leaf(0x80000001)[3]! & (1n << 26n)).toBe(0n);
    expect(leaf(0x80000008)[0]).toBe(48n * 256n + 52n);
  });
});

describe('far transfers', () => {
  test('a far jump and a far call with its return stay in the ring', () => {
    const fixture = new CpuFixture();
    // [0x40000]: m16:64 of CODE + 0x800
    fixture.write64(0x40000n, CODE + 0x800n);
    fixture.memory.store(0x40008n, 2, 0x10);
    fixture.load(CODE + 0x800n, [0x48, 0xff, 0xc0, 0x48, 0xcb]); // inc rax; lretq
    fixture.start([...movImmediate(RBX, 0x40000n), 0x48, 0xff, 0x1b, 0x48, 0xff, 0xc0, HLT]); // lcall [rbx]; inc rax
    expect(fixture.cpu.run(20)).toBe('dead');
    expect(fixture.cpu.readRegisters().gpr[RAX]).toBe(2n);
    expect(fixture.cpu.readRegisters().gpr[RSP]).toBe(0x12000n);
  });
});

describe('SMAP and its flag', () => {
  test('CLAC and STAC are invalid without CR4.SMAP and in ring 3', () => {
    expect(run([0x0f, 0x01, 0xca]).haltedVector()).toBe(6);
    expect(run([0x0f, 0x01, 0xcb]).haltedVector()).toBe(6);
  });

  test('STAC opens user pages, CLAC closes them', () => {
    const fixture = new CpuFixture();
    for (let frame = 0n; frame < 0x80n; frame++) fixture.map(frame << 12n, (frame << 12n) | WRITABLE | PRESENT);
    fixture.map(PAGE, FRAME | ALL);
    fixture.start([0x0f, 0x01, 0xcb, 0x8a, 0x03, 0x0f, 0x01, 0xca, 0x8a, 0x03]);
    const registers = fixture.cpu.readRegisters();
    registers.gpr[RBX] = PAGE;
    registers.cr4 |= 1n << 21n;
    fixture.cpu.writeRegisters(registers);
    fixture.cpu.run(20);
    expect(fixture.haltedVector()).toBe(14);
    expect(fixture.frame(true)).toMatchObject({ error: 1n, rip: CODE + 8n });
  });

  test('exceptions from ring 3 read their tables and the kernel stack whatever AC says', () => {
    const fixture = new CpuFixture();
    for (let frame = 0n; frame < 0x80n; frame++) {
      const own = frame === CODE >> 12n ? USER : 0n;
      fixture.map(frame << 12n, (frame << 12n) | own | WRITABLE | PRESENT);
    }
    fixture.start([0x0f, 0x0b]);
    fixture.enterUser(CODE);
    const registers = fixture.cpu.readRegisters();
    registers.cr4 |= 1n << 21n;
    fixture.cpu.writeRegisters(registers);
    fixture.cpu.run(20);
    expect(fixture.haltedVector()).toBe(6);
  });
});

describe('descriptors that are asked about', () => {
  /** `0F opcode` of a selector in CX, result in RAX, ZF in BL. */
  const ask = (prefix: number[], selector: number): number[] => [
    ...movImmediate(RCX, BigInt(selector)),
    ...[0x0f, ...prefix],
    ...[0x0f, 0x94, 0xc3, HLT], // setz bl
  ];
  const LAR = [0x02, 0xc1];
  const LSL = [0x03, 0xc1];
  const VERR = [0x00, 0xe1];
  const VERW = [0x00, 0xe9];

  test.each([
    ['LAR of code', LAR, 0x10, true, 0xaf9b00n],
    ['LSL of data', LSL, 0x18, true, 0xffffffffn],
    ['LSL of a TSS', LSL, TSS_SELECTOR, true, 0x67n],
    ['LAR of null', LAR, 0, false, 0n],
    ['LSL beyond the table', LSL, 0x1000, false, 0n],
    ['VERR of code', VERR, 0x10, true, 0n],
    ['VERW of code', VERW, 0x10, false, 0n],
    ['VERW of data', VERW, 0x2b, true, 0n],
    ['VERR of a TSS', VERR, TSS_SELECTOR, false, 0n],
    ['VERR of ring-0 data with RPL 3', VERR, 0x1b, false, 0n],
  ] as const)('%s', (_, prefix, selector, visible, value) => {
    const { gpr } = run(ask([...prefix], selector)).cpu.readRegisters();
    expect([gpr[RBX], gpr[RAX]]).toEqual([visible ? 1n : 0n, value]);
  });
});

describe('the local descriptor table', () => {
  test('selectors with TI set come from it', () => {
    const fixture = new CpuFixture();
    // An LDT of two entries at 0x7800, its descriptor at 0x38 (which overlaps nothing else in use).
    const LDT = 0x7800n;
    fixture.write64(LDT + 8n, 0x12cff3400000ffffn);
    fixture.start([
      ...[0x66, 0xb8, 0x50, 0, 0x0f, 0x00, 0xd0], // lldt ax
      ...[0x66, 0xb8, 0x0f, 0, 0x8e, 0xe0], // mov fs, ax
      ...movImmediate(RCX, 0xc0000100n),
      ...[0x0f, 0x32, 0x0f, 0x00, 0xc3, HLT], // rdmsr; sldt ebx
    ]);
    fixture.write64(0x5050n, 0x0000820000000000n | (LDT << 16n) | 15n);
    fixture.write64(0x5058n, 0n);
    // lgdt with room for it.
    fixture.memory.store(0x4080n, 2, 0x5f);
    fixture.load(0x21000n, [0x0f, 0x01, 0x14, 0x25, 0x80, 0x40, 0, 0, 0xe9, 0xf3, 0xef, 0xff, 0xff]);
    fixture.cpu.writeRegisters({ ...fixture.cpu.readRegisters(), rip: 0x21000n });
    expect(fixture.cpu.run(20)).toBe('dead');
    const { gpr } = fixture.cpu.readRegisters();
    expect([gpr[RAX], gpr[RBX]]).toEqual([0x12400000n, 0x50n]);
  });

  test('without one they are #GP', () => {
    const fixture = run([0x66, 0xb8, 0x0f, 0, 0x8e, 0xe0]);
    expect(fixture.haltedVector()).toBe(13);
    expect(fixture.frame(true).error).toBe(0xcn);
  });
});

test('a far return to ring 3 brings its stack', () => {
  const fixture = new CpuFixture();
  fixture.load(CODE + 0x800n, [0x0f, 0x0b]);
  const frame = [0x2bn, 0x31000n, 0x33n, CODE + 0x800n].flatMap((value) => [...movImmediate(RAX, value), 0x50]);
  fixture.start([...frame, 0x48, 0xcb]);
  fixture.cpu.run(20);
  expect(fixture.haltedVector()).toBe(6);
  expect(fixture.frame(false)).toMatchObject({ rip: CODE + 0x800n, cs: 0x33n, rsp: 0x31000n, ss: 0x2bn });
});

test('debug registers keep what is written, with their fixed bits', () => {
  // mov dr0, rax; mov dr7, rax; mov dr6, rax; mov rbx, dr7; mov rcx, dr6; mov rdx, dr0
  const fixture = run([
    ...movImmediate(RAX, 0xffffffffn),
    ...[0x0f, 0x23, 0xc0, 0x0f, 0x23, 0xf8, 0x0f, 0x23, 0xf0],
    ...[0x0f, 0x21, 0xfb, 0x0f, 0x21, 0xf1, 0x0f, 0x21, 0xc2, HLT],
  ]);
  const { gpr } = fixture.cpu.readRegisters();
  expect([gpr[RBX], gpr[RCX], gpr[RDX]]).toEqual([0xffff2fffn, 0xffffefffn, 0xffffffffn]);
});

test('the storage of a core that is disposed of serves the next one', () => {
  const fixture = new CpuFixture();
  fixture.start([HLT]);
  for (let round = 0; round < 30; round++) {
    const other = fixture.secondCore();
    fixture.load(0x24000n, [0xb8, round, 0, 0, 0, HLT]);
    other.resetToLongMode({ rip: 0x24000n, cr3: 0x1000n, rsp: 0x12000n });
    expect(other.run(10)).toBe('dead');
    expect(other.readRegisters().gpr[RAX]).toBe(BigInt(round));
    other.dispose();
    expect(() => other.run(1)).toThrow();
  }
});
