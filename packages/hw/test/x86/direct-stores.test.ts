import { describe, expect, test } from 'vitest';
import {
  CODE,
  CpuFixture,
  HLT,
  movImmediate,
  PRESENT,
  RAX,
  RBX,
  RDI,
  USER,
  WRITABLE,
  writeMsr,
} from '../support/cpu-fixture.ts';

const PORTAL = 0x7f00_0000_1000n;
const PORTAL_GPA = 0xc000_0000n;
const SOURCE = 0x40000n;
const ALL = PRESENT | WRITABLE | USER;
const ZF = 0x40n;
const OTHERS = 0x895n;

const MOVDIR64B = [0x66, 0x0f, 0x38, 0xf8, 0x03]; // movdir64b rax, [rbx]
const ENQCMD = [0xf2, 0x0f, 0x38, 0xf8, 0x03];
const ENQCMDS = [0xf3, 0x0f, 0x38, 0xf8, 0x03];

function portal(code: number[], head = 0): CpuFixture {
  const fixture = new CpuFixture();
  fixture.map(PORTAL, PORTAL_GPA | ALL);
  const descriptor = Uint8Array.from({ length: 64 }, (_, index) => index);
  new DataView(descriptor.buffer).setUint32(0, head, true);
  fixture.memory.write(SOURCE, descriptor);
  fixture.start([...movImmediate(RAX, PORTAL), ...movImmediate(RBX, SOURCE), ...code, HLT]);
  return fixture;
}

function setPasid(fixture: CpuFixture, value: bigint): void {
  fixture.load(0x21000n, [...writeMsr(0xd93, value), HLT]);
  const registers = fixture.cpu.readRegisters();
  fixture.cpu.writeRegisters({ ...registers, rip: 0x21000n });
  expect(fixture.cpu.run(10)).toBe('dead');
  fixture.cpu.writeRegisters(registers);
}

const head = (data: Uint8Array): number => new DataView(data.buffer, data.byteOffset).getUint32(0, true);

describe('MOVDIR64B', () => {
  test('gives the bus 64 bytes at once', () => {
    const fixture = portal(MOVDIR64B, 0x12345678);
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.bus.events).toHaveLength(1);
    const event = fixture.bus.events[0]!;
    expect(event).toMatchObject({ kind: 'store64', address: PORTAL_GPA });
    expect([...event.data!]).toEqual([...fixture.memory.bytes.slice(Number(SOURCE), Number(SOURCE) + 64)]);
  });

  test('stores to RAM, with a source across two pages', () => {
    const fixture = portal(MOVDIR64B);
    fixture.map(PORTAL, 0x50000n | ALL);
    const data = Uint8Array.from({ length: 64 }, (_, index) => 255 - index);
    fixture.memory.write(SOURCE + 4080n, data);
    const registers = fixture.cpu.readRegisters();
    fixture.start([...movImmediate(RAX, PORTAL + 64n), ...movImmediate(RBX, SOURCE + 4080n), ...MOVDIR64B, HLT]);
    expect(registers.cpl).toBe(0);
    expect(fixture.cpu.run(10)).toBe('dead');
    expect([...fixture.memory.bytes.slice(0x50040, 0x50080)]).toEqual([...data]);
    expect(fixture.bus.events).toEqual([]);
  });

  test('to code kills what was decoded of it', () => {
    const fixture = portal([]);
    fixture.load(CODE + 0x400n, [0xb0, 0x01, HLT]);
    const call = [...movImmediate(RDI, CODE + 0x400n), 0xff, 0xe7];
    const replacement = new Uint8Array(64).fill(HLT);
    replacement.set([0xb0, 0x02]);
    fixture.start(call);
    fixture.cpu.run(10);
    fixture.memory.write(SOURCE, replacement);
    fixture.start([...movImmediate(RAX, CODE + 0x400n), ...movImmediate(RBX, SOURCE), ...MOVDIR64B, ...call]);
    fixture.cpu.run(10);
    expect(fixture.cpu.readRegisters().gpr[RAX]! & 0xffn).toBe(2n);
  });

  test('needs a 64-byte aligned destination', () => {
    const fixture = portal([0x48, 0x83, 0xc0, 0x08, ...MOVDIR64B]); // add rax, 8
    fixture.cpu.run(10);
    expect(fixture.haltedVector()).toBe(13);
    expect(fixture.bus.events).toEqual([]);
  });

  test('a page fault of the destination is a write, one of the source a read', () => {
    const fixture = portal(MOVDIR64B);
    fixture.map(PORTAL, PORTAL_GPA | USER | PRESENT);
    fixture.cpu.run(10);
    expect(fixture.haltedVector()).toBe(14);
    expect(fixture.frame(true).error).toBe(3n);
    const other = portal(MOVDIR64B);
    other.map(SOURCE, 0n);
    other.cpu.run(10);
    expect(other.frame(true).error).toBe(0n);
  });

  test('MOVDIRI is a store', () => {
    const fixture = portal([0x0f, 0x38, 0xf9, 0x18, 0x48, 0x0f, 0x38, 0xf9, 0x58, 0x08]); // movdiri [rax], ebx ...
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.bus.events).toEqual([
      { kind: 'write', address: PORTAL_GPA, width: 4, value: SOURCE },
      { kind: 'write', address: PORTAL_GPA + 8n, width: 8, value: SOURCE },
    ]);
  });
});

describe('ENQCMD', () => {
  test('carries the PASID of IA32_PASID as a user command; ZF is the answer', () => {
    for (const accept of [true, false]) {
      const fixture = portal(ENQCMD);
      fixture.bus.accept = accept;
      setPasid(fixture, 0x800a_bcden);
      const registers = fixture.cpu.readRegisters();
      fixture.cpu.writeRegisters({ ...registers, rflags: 0x2n | OTHERS | ZF });
      expect(fixture.cpu.run(10)).toBe('dead');
      expect(fixture.cpu.readRegisters().rflags & (ZF | OTHERS)).toBe(accept ? 0n : ZF);
      const event = fixture.bus.events[0]!;
      expect(event).toMatchObject({ kind: 'enqueue64', address: PORTAL_GPA });
      expect(head(event.data!)).toBe(0xabcde);
      expect([...event.data!.slice(4)]).toEqual(Array.from({ length: 60 }, (_, index) => index + 4));
      // The source is only read.
      expect(fixture.memory.load(SOURCE, 4)).toBe(0n);
    }
  });

  test('works in ring 3', () => {
    const fixture = portal([...ENQCMD, 0x0f, 0x0b]);
    setPasid(fixture, 0x8000_0007n);
    fixture.enterUser(CODE);
    fixture.cpu.run(10);
    expect(fixture.haltedVector()).toBe(6);
    expect(head(fixture.bus.events[0]!.data!)).toBe(7);
  });

  test.each([
    ['without a valid PASID', 7n, 0, [] as number[]],
    ['with a source whose first word is not zero', 0x8000_0007n, 1, []],
    ['with an unaligned destination', 0x8000_0007n, 0, [0x48, 0x83, 0xc0, 0x20]],
  ])('%s is #GP(0)', (_, pasid, first, before) => {
    const fixture = portal([...before, ...ENQCMD], first);
    setPasid(fixture, pasid);
    fixture.cpu.run(10);
    expect(fixture.haltedVector()).toBe(13);
    expect(fixture.frame(true).error).toBe(0n);
    expect(fixture.bus.events).toEqual([]);
  });

  test('to memory is answered with retry', () => {
    const fixture = portal(ENQCMD);
    fixture.map(PORTAL, 0x50000n | ALL);
    setPasid(fixture, 0x8000_0007n);
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(fixture.cpu.readRegisters().rflags & ZF).toBe(ZF);
    expect(fixture.memory.load(0x50004n, 4)).toBe(0n);
  });

  test('the PASID goes through the table of the VM; without an entry the slice ends before the instruction', () => {
    const fixture = portal(ENQCMD);
    setPasid(fixture, 0x8000_0007n);
    fixture.cpu.setPasidTable(new Map([[8, 0x1008]]));
    const before = fixture.cpu.instructions;
    expect(fixture.cpu.run(10)).toBe('pasid');
    expect(fixture.cpu.faultingPasid).toBe(7);
    expect(fixture.cpu.instructions - before).toBe(2n);
    expect(fixture.cpu.readRegisters().rip).toBe(CODE + 20n);
    expect(fixture.bus.events).toEqual([]);
    fixture.cpu.setPasidTable(new Map([[7, 0x1007]]));
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(head(fixture.bus.events[0]!.data!)).toBe(0x1007);
  });

  test('ENQCMDS takes PASID and privilege from its source, translated too', () => {
    const fixture = portal(ENQCMDS, 0x80000005);
    fixture.cpu.setPasidTable(new Map([[5, 0x777]]));
    expect(fixture.cpu.run(10)).toBe('dead');
    expect(head(fixture.bus.events[0]!.data!)).toBe(0x80000777);
    const reserved = portal(ENQCMDS, 0x00100005);
    reserved.cpu.run(10);
    expect(reserved.haltedVector()).toBe(13);
  });
});
