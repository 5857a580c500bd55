import { LOCAL_APIC_BASE, LocalApic, Scheduler } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import { CODE, CpuFixture, HLT, movImmediate, PRESENT, RAX, RBX, USER, WRITABLE } from '../support/cpu-fixture.ts';

const ID = 0x20;
const TPR = 0x80;
const PPR = 0xa0;
const EOI = 0xb0;
const LDR = 0xd0;
const DFR = 0xe0;
const SVR = 0xf0;
const ISR = 0x100;
const TMR = 0x180;
const IRR = 0x200;
const ESR = 0x280;
const ICR_LOW = 0x300;
const ICR_HIGH = 0x310;
const LVT_TIMER = 0x320;
const LVT_LINT0 = 0x350;
const LVT_ERROR = 0x370;
const INITIAL = 0x380;
const CURRENT = 0x390;
const DIVIDE = 0x3e0;

function make(options: { id?: number; others?: { deliver(address: number, data: number): void } } = {}) {
  const scheduler = new Scheduler();
  const apic = new LocalApic({ scheduler, ...options });
  const read = (offset: number): number => Number(apic.read(offset, 4));
  const write = (offset: number, value: number): void => apic.write(offset, 4, BigInt(value >>> 0));
  write(SVR, 0x1ff);
  return { apic, scheduler, read, write };
}

describe('registers', () => {
  test('after reset', () => {
    const apic = new LocalApic({ scheduler: new Scheduler(), id: 3 });
    const read = (offset: number): number => Number(apic.read(offset, 4));
    expect([read(ID), read(0x30), read(SVR), read(DFR), read(TPR), read(LVT_TIMER), read(LVT_ERROR)]).toEqual([
      0x03000000, 0x50014, 0xff, 0xffffffff, 0, 0x10000, 0x10000,
    ]);
  });

  test('only the writable bits are written, and narrow writes are ignored', () => {
    const { apic, read, write } = make();
    write(LVT_TIMER, 0xffffffff);
    write(LVT_LINT0, 0xffffffff);
    write(LDR, 0xffffffff);
    write(DFR, 0);
    write(0x30, 0);
    write(IRR, 0xffffffff);
    expect([read(LVT_TIMER), read(LVT_LINT0), read(LDR), read(DFR), read(0x30), read(IRR)]).toEqual([
      0x300ff, 0x1a7ff, 0xff000000, 0x0fffffff, 0x50014, 0,
    ]);
    apic.write(TPR, 1, 0x50n);
    apic.write(TPR + 4, 4, 0x50n);
    expect(read(TPR)).toBe(0);
    expect(apic.read(0x400, 4)).toBe(0n);
    expect(apic.read(LDR + 3, 1)).toBe(0xffn);
  });

  test('disabled by software: entries are masked, nothing is accepted', () => {
    const { apic, read, write } = make();
    write(LVT_ERROR, 0x44);
    write(SVR, 0xff);
    expect(read(LVT_ERROR)).toBe(0x10044);
    write(LVT_ERROR, 0x44);
    expect(read(LVT_ERROR)).toBe(0x10044);
    apic.accept(0x80);
    expect(apic.pending()).toBe(-1);
  });
});

describe('priorities', () => {
  test('the highest vector first; one in service holds back its class and those below', () => {
    const { apic, read, write } = make();
    let asked = 0;
    apic.onPending = () => asked++;
    apic.accept(0x41);
    apic.accept(0x52);
    apic.accept(0x45);
    expect(asked).toBe(3);
    expect(apic.pending()).toBe(0x52);
    apic.acknowledge(0x52);
    expect([read(ISR + 0x20), read(IRR + 0x20), read(PPR)]).toEqual([1 << 0x12, (1 << 1) | (1 << 5), 0x50]);
    expect(apic.pending()).toBe(-1);
    apic.accept(0x5f);
    expect(apic.pending()).toBe(-1);
    apic.accept(0x60);
    expect(apic.pending()).toBe(0x60);
    apic.acknowledge(0x60);
    write(EOI, 0);
    expect(apic.pending()).toBe(-1);
    write(EOI, 0);
    expect(apic.pending()).toBe(0x5f);
  });

  test('the task priority, also as CR8', () => {
    const { apic, read, write } = make();
    apic.accept(0x85);
    write(TPR, 0x90);
    expect([apic.pending(), read(PPR), apic.taskPriority]).toEqual([-1, 0x90, 9]);
    let asked = 0;
    apic.onPending = () => asked++;
    apic.taskPriority = 8;
    expect([apic.pending(), asked, read(TPR)]).toEqual([-1, 0, 0x80]);
    apic.taskPriority = 7;
    expect([apic.pending(), asked]).toEqual([0x85, 1]);
  });

  test('a level-triggered vector tells the I/O APIC at EOI, an edge-triggered one does not', () => {
    const { apic, read, write } = make();
    const ended: number[] = [];
    apic.onEoi = (vector) => ended.push(vector);
    apic.accept(0x70, true);
    expect(read(TMR + 0x30)).toBe(1 << 0x10);
    apic.acknowledge(0x70);
    write(EOI, 0);
    apic.accept(0x70);
    apic.acknowledge(0x70);
    write(EOI, 0);
    write(EOI, 0);
    expect(ended).toEqual([0x70]);
  });
});

describe('messages', () => {
  const address = (destination: number, logical: boolean): number =>
    LOCAL_APIC_BASE | (destination << 12) | (logical ? 4 : 0) | 0;

  test.each([
    ['its id', 5, false, true],
    ['another id', 4, false, false],
    ['everybody', 0xff, false, true],
    ['a logical set with it', 0x0c, true, true],
    ['a logical set without it', 0x03, true, false],
    ['everybody, logically', 0xff, true, true],
  ])('to %s', (_, destination, logical, taken) => {
    const { apic, write } = make({ id: 5 });
    write(LDR, 0x04000000);
    apic.deliver(address(destination, logical), 0x4031);
    expect(apic.pending()).toBe(taken ? 0x31 : -1);
  });

  test('logical destinations of the cluster model', () => {
    const { apic, write } = make();
    write(DFR, 0x0fffffff);
    write(LDR, 0x24000000);
    apic.deliver(address(0x14, true), 0x31);
    apic.deliver(address(0x22, true), 0x32);
    expect(apic.pending()).toBe(-1);
    apic.deliver(address(0x26, true), 0x33);
    expect(apic.pending()).toBe(0x33);
  });

  test('lowest priority is accepted, level is remembered, NMI and INIT are not taken', () => {
    const { apic, read } = make();
    apic.deliver(address(0, false), 0x0140);
    apic.deliver(address(0, false), 0xc041);
    apic.deliver(address(0, false), 0x0400);
    apic.deliver(address(0, false), 0x0500);
    expect(read(IRR + 0x20)).toBe(3);
    expect(read(TMR + 0x20)).toBe(2);
  });

  test('a vector below 16 is an error, which has an interrupt of its own', () => {
    const { apic, read, write } = make();
    write(LVT_ERROR, 0x33);
    apic.deliver(address(0, false), 0x05);
    expect(apic.pending()).toBe(0x33);
    expect(read(ESR)).toBe(0);
    write(ESR, 0);
    expect(read(ESR)).toBe(0x40);
    write(ESR, 0);
    expect(read(ESR)).toBe(0);
  });
});

describe('IPIs', () => {
  test.each([
    ['to itself by shorthand', 0x40000, 0, true, 0],
    ['to itself by id', 0, 1, true, 1],
    ['to another', 0, 2, false, 1],
    ['to all', 0x80000, 0, true, 1],
    ['to all others', 0xc0000, 0, false, 1],
  ])('%s', (_, shorthand, destination, self, others) => {
    const sent: number[][] = [];
    const { apic, read, write } = make({ id: 1, others: { deliver: (...message) => sent.push(message) } });
    write(ICR_HIGH, destination << 24);
    write(ICR_LOW, shorthand | 0x4055);
    expect(apic.pending()).toBe(self ? 0x55 : -1);
    expect(sent).toHaveLength(others);
    if (others === 1) {
      const to = shorthand === 0 ? destination : 0xff;
      expect(sent[0]).toEqual([LOCAL_APIC_BASE | (to << 12) | 0, 0x4055]);
    }
    expect(read(ICR_LOW)).toBe(shorthand | 0x4055);
  });

  test('an illegal vector is not sent', () => {
    const { apic, read, write } = make();
    write(ICR_LOW, 0x4000f);
    write(ESR, 0);
    expect([apic.pending(), read(ESR)]).toEqual([-1, 0x20]);
  });
});

describe('timer', () => {
  test('one-shot: counts down by the divided clock and fires once', () => {
    const { apic, scheduler, read, write } = make();
    write(DIVIDE, 0b0010); // by 8
    write(LVT_TIMER, 0x61);
    write(INITIAL, 1000);
    scheduler.advance(4000);
    expect([read(CURRENT), read(INITIAL), apic.pending()]).toEqual([500, 1000, -1]);
    scheduler.advance(4000);
    expect([read(CURRENT), apic.pending()]).toEqual([0, 0x61]);
    apic.acknowledge(0x61);
    write(EOI, 0);
    scheduler.advance(100_000);
    expect(apic.pending()).toBe(-1);
  });

  test.each([
    [0b0000, 2],
    [0b0001, 4],
    [0b0010, 8],
    [0b0011, 16],
    [0b1000, 32],
    [0b1001, 64],
    [0b1010, 128],
    [0b1011, 1],
  ])('divide configuration %i is by %i', (configuration, divisor) => {
    const { scheduler, read, write } = make();
    write(DIVIDE, configuration);
    write(INITIAL, 10_000);
    scheduler.advance(128 * 50);
    expect(read(CURRENT)).toBe(10_000 - (128 * 50) / divisor);
  });

  test('periodic: fires every period until it is stopped', () => {
    const { apic, scheduler, write } = make();
    write(DIVIDE, 0b1011);
    write(LVT_TIMER, 0x20062);
    write(INITIAL, 5000);
    let fired = 0;
    apic.onPending = () => {
      fired++;
      apic.acknowledge(apic.pending());
      write(EOI, 0);
    };
    scheduler.advance(5000 * 10);
    expect(fired).toBe(10);
    write(INITIAL, 0);
    scheduler.advance(5000 * 10);
    expect(fired).toBe(10);
    expect(scheduler.nextDue).toBe(Number.POSITIVE_INFINITY);
  });

  test('masked it counts but does not fire; the shortest period is bounded', () => {
    const { apic, scheduler, write } = make();
    write(DIVIDE, 0b1011);
    write(LVT_TIMER, 0x30062);
    write(INITIAL, 1);
    let events = 0;
    while (scheduler.nextDue <= 1_000_000) {
      scheduler.runNext();
      events++;
    }
    expect(apic.pending()).toBe(-1);
    expect(events).toBeLessThanOrEqual(1001);
  });
});

test('a core sets its timer, halts, wakes by it and ends the interrupt', () => {
  const scheduler = new Scheduler();
  const apic = new LocalApic({ scheduler });
  const fixture = new CpuFixture({ interrupts: apic });
  fixture.bus.read = (gpa, width) => apic.read(Number(gpa) - LOCAL_APIC_BASE, width as 4);
  fixture.bus.onEvent = () => {
    const event = fixture.bus.events.at(-1)!;
    if (event.kind === 'write') apic.write(Number(event.address) - LOCAL_APIC_BASE, event.width as 4, event.value!);
  };
  fixture.map(BigInt(LOCAL_APIC_BASE), BigInt(LOCAL_APIC_BASE) | PRESENT | WRITABLE | USER);
  const store = (offset: number, value: number): number[] => [
    ...[0xc7, 0x83, offset & 0xff, offset >> 8, 0, 0], // mov dword [rbx + offset], value
    ...[value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, value >> 24],
  ];
  // The handler: inc rax; EOI; iretq.
  fixture.load(CODE + 0x800n, [0x48, 0xff, 0xc0, ...store(EOI, 0), 0x48, 0xcf]);
  fixture.setGate(0x61, CODE + 0x800n);
  fixture.start([
    ...movImmediate(RBX, BigInt(LOCAL_APIC_BASE)),
    ...store(SVR, 0x1ff),
    ...store(DIVIDE, 0b1011),
    ...store(LVT_TIMER, 0x20061),
    ...store(INITIAL, 10_000),
    0xfb, // sti
    HLT,
    ...[0x48, 0x83, 0xf8, 0x03, 0x75, 0xf9], // cmp rax, 3; jne hlt
    0xfa,
    HLT,
  ]);
  let slices = 0;
  while (fixture.cpu.run(1000) === 'halt' && slices++ < 10) scheduler.runNext();
  expect(slices).toBe(3);
  expect(fixture.cpu.readRegisters().gpr[RAX]).toBe(3n);
  expect(scheduler.now).toBe(30_000);
  expect(apic.read(ISR + 0x30, 4)).toBe(0n);
});

test('a core masks by CR8 what it lets through later', () => {
  const apic = new LocalApic({ scheduler: new Scheduler() });
  apic.write(SVR, 4, 0x1ffn);
  const fixture = new CpuFixture({ interrupts: apic });
  // mov eax, 8; mov cr8, rax; sti; nop; nop; mov eax, 5; mov cr8, rax; nop
  fixture.start([
    ...[0xb8, 8, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc0, 0xfb, 0x90, 0x90],
    ...[0xb8, 5, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc0, 0x90, HLT],
  ]);
  apic.accept(0x80);
  fixture.cpu.run(20);
  expect(fixture.haltedVector()).toBe(0x80);
  expect(fixture.frame(false).rip).toBe(CODE + 21n);
  expect(apic.taskPriority).toBe(5);
});
