import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { TEST_REGISTER, TestFunction } from '../../src/devices/test-function.ts';
import { RootPort } from '../../src/pci/root-port.ts';
import {
  ACCESS_EXECUTE,
  ACCESS_PRIVILEGED,
  ACCESS_READ,
  ACCESS_WRITE,
  AT_TRANSLATED,
  AT_UNTRANSLATED,
  COMPLETION_ABORT,
  COMPLETION_SUCCESS,
  COMPLETION_UNSUPPORTED_REQUEST,
  NO_PASID,
} from '../../src/pci/transaction.ts';
import { AT_CACHED, TRANSLATION_DENIED } from '../../src/pci/upstream-port.ts';
import { Config, enableAll, machine } from './support.ts';

const RID = 0x28;

function setUp() {
  const test = machine();
  const { memory, scheduler, fabric, agent } = test;
  fabric.setAgent(agent);
  const fn = fabric.plug(new TestFunction({ memory, scheduler, totalVfs: 0 }), RID);
  const config = enableAll(memory, fn);
  return { ...test, fn, config, port: fn.upstream, buffer: memory.reserve(65536) };
}

describe('UpstreamPort', () => {
  test('transfers agree with a byte-wise model, whatever the mapping, address, length and alignment', () => {
    const pages = fc.uniqueArray(fc.integer({ min: 0x100, max: 0x110 }), { minLength: 4, maxLength: 4 });
    const mapped = fc.array(fc.boolean(), { minLength: 4, maxLength: 4 });
    const { memory, agent, port, buffer } = setUp();
    let faults = 0;
    fc.assert(
      fc.property(
        pages,
        mapped,
        fc.nat(0x3fff),
        fc.oneof(fc.nat(0x3fff), fc.nat(160)),
        fc.nat(70),
        fc.boolean(),
        fc.boolean(),
        fc.integer(),
        (frames, present, start, wanted, align, write, external, seed) => {
          const length = Math.min(wanted, 0x4000 - start);
          agent.mappings.clear();
          for (let i = 0; i < 4; i++) if (present[i]) agent.map(RID, NO_PASID, i, frames[i]!);
          for (let at = 0x100000; at < 0x111000; at++) memory.bytes[at] = (at * 31 + seed) >> 3;
          const data = Uint8Array.from({ length: 0x4100 }, (_, i) => i * 7 + seed);
          const held = external ? data.slice() : memory.bytes.subarray(buffer, buffer + 0x4100);
          held.set(data);
          const before = memory.bytes.slice(0x100000, 0x111000);
          const expectedRam = before.slice();
          const expectedBuffer = data.slice();
          let moved = 0;
          for (; moved < length && present[(start + moved) >> 12]; moved++) {
            const byte = frames[(start + moved) >> 12]! * 4096 + ((start + moved) & 0xfff) - 0x100000;
            if (write) expectedRam[byte] = data[align + moved]!;
            else expectedBuffer[align + moved] = before[byte]!;
          }
          const part = held.subarray(align, align + length);
          const status = external
            ? write
              ? port.writeFrom(AT_UNTRANSLATED, NO_PASID, 0, start, 0, part)
              : port.readInto(AT_UNTRANSLATED, NO_PASID, 0, start, 0, part)
            : write
              ? port.write(AT_UNTRANSLATED, NO_PASID, 0, start, 0, length, buffer + align)
              : port.read(AT_UNTRANSLATED, NO_PASID, 0, start, 0, length, buffer + align);
          expect(port.transferred).toBe(moved);
          expect(status).toBe(moved === length ? COMPLETION_SUCCESS : COMPLETION_ABORT);
          if (moved < length) {
            faults++;
            expect(port.faultLow).toBe(start + moved);
          }
          expect(Buffer.compare(memory.bytes.subarray(0x100000, 0x111000), expectedRam)).toBe(0);
          expect(Buffer.compare(held, expectedBuffer)).toBe(0);
        },
      ),
      { numRuns: 200 },
    );
    expect(faults).toBeGreaterThan(20);
  });

  test('a fault in the middle leaves the bytes before it moved and names the page', () => {
    const { memory, agent, port, buffer } = setUp();
    agent.map(RID, 5, 0x7fff_ffff, 0x100);
    agent.map(RID, 5, 0x8000_0000, 0x101, ACCESS_READ);
    memory.bytes.fill(0x5a, buffer, buffer + 0x2000);
    expect(port.write(AT_UNTRANSLATED, 5, 0, -0xff0, 0x7ff, 0x2000, buffer)).toBe(COMPLETION_ABORT);
    expect(port.transferred).toBe(0xff0);
    expect([port.faultHigh, port.faultLow]).toEqual([0x800, 0]);
    expect(memory.bytes[0x10_0010]).toBe(0x5a);
    expect(memory.bytes[0x10_0fff]).toBe(0x5a);
    expect(memory.bytes[0x10_1000]).toBe(0);
    expect(agent.translations.map(({ page }) => page)).toEqual([0x7fff_ffff, 0x8000_0000]);
  });

  test('the same in cached mode is a denied translation', () => {
    const { agent, port, buffer } = setUp();
    agent.map(RID, 5, 0, 0x100);
    expect(port.read(AT_CACHED, 5, 0, 0xf00, 0, 0x200, buffer)).toBe(TRANSLATION_DENIED);
    expect([port.transferred, port.faultLow, port.granted]).toEqual([0x100, 0x1000, 0]);
  });

  test('without bus master nothing goes up', () => {
    const { config, agent, port, fn, buffer } = setUp();
    agent.map(RID, NO_PASID, 1, 0x100);
    config.write(4, 2, 2);
    expect(port.read(AT_UNTRANSLATED, NO_PASID, 0, 0x1000, 0, 4, buffer)).toBe(COMPLETION_UNSUPPORTED_REQUEST);
    expect(port.requestTranslation(NO_PASID, ACCESS_READ, 0, 1)).toBe(COMPLETION_UNSUPPORTED_REQUEST);
    port.writeMessage(0xfee0_0000 | 0, 0, 1);
    expect(fn.busMaster).toBe(false);
    expect([agent.translations.length, agent.translationRequests, agent.interrupts.length]).toEqual([0, 0, 0]);
    config.write(4, 2, 6);
    expect(port.read(AT_UNTRANSLATED, NO_PASID, 0, 0x1000, 0, 4, buffer)).toBe(COMPLETION_SUCCESS);
  });

  test('PASID, execute and privileged go with a request only as far as they are enabled', () => {
    const { config, agent, port, buffer } = setUp();
    agent.map(RID, 5, 1, 0x100, ACCESS_READ | ACCESS_EXECUTE);
    const read = (modifiers: number) => port.read(AT_UNTRANSLATED, 5, modifiers, 0x1000, 0, 4, buffer);
    expect(read(ACCESS_EXECUTE | ACCESS_PRIVILEGED)).toBe(COMPLETION_SUCCESS);
    expect(agent.translations.at(-1)).toMatchObject({ access: ACCESS_READ | ACCESS_EXECUTE | ACCESS_PRIVILEGED });
    config.pasid(1);
    expect(read(0)).toBe(COMPLETION_SUCCESS);
    expect(read(ACCESS_EXECUTE)).toBe(COMPLETION_UNSUPPORTED_REQUEST);
    expect(read(ACCESS_PRIVILEGED)).toBe(COMPLETION_UNSUPPORTED_REQUEST);
    config.pasid(0);
    expect(read(0)).toBe(COMPLETION_UNSUPPORTED_REQUEST);
    expect(port.read(AT_UNTRANSLATED, 1 << 20, 0, 0x1000, 0, 4, buffer)).toBe(COMPLETION_UNSUPPORTED_REQUEST);
  });

  test('without a PASID the modifiers stay behind', () => {
    const { agent, port, buffer } = setUp();
    agent.map(RID, NO_PASID, 1, 0x100);
    expect(port.read(AT_UNTRANSLATED, NO_PASID, ACCESS_EXECUTE | ACCESS_PRIVILEGED, 0x1000, 0, 4, buffer)).toBe(0);
    expect(agent.translations[0]!.access).toBe(ACCESS_READ);
  });

  test('a translated request carries its address as it is, and no PASID', () => {
    const { agent, port, buffer } = setUp();
    expect(port.write(AT_TRANSLATED, 5, 0, 0x10_0000, 0, 8, buffer)).toBe(COMPLETION_SUCCESS);
    expect(agent.translations).toEqual([
      { rid: RID, pasid: NO_PASID, access: ACCESS_WRITE, addressType: AT_TRANSLATED, page: 0x100 },
    ]);
  });

  test('one aligned word into the interrupt range is an interrupt; other writes there are refused, reads translate', () => {
    const { agent, port } = setUp();
    const word = Uint8Array.from([0x78, 0x56, 0x34, 0x12]);
    const lo = 0xfee0_1000 | 0;
    expect(port.writeFrom(AT_UNTRANSLATED, NO_PASID, 0, lo, 0, word)).toBe(COMPLETION_SUCCESS);
    expect(port.writeFrom(AT_CACHED, NO_PASID, 0, lo, 0, word)).toBe(COMPLETION_SUCCESS);
    expect(agent.interrupts).toEqual([
      { rid: RID, address: 0xfee0_1000, data: 0x12345678 },
      { rid: RID, address: 0xfee0_1000, data: 0x12345678 },
    ]);
    expect(port.writeFrom(AT_UNTRANSLATED, NO_PASID, 0, lo + 1, 0, word)).toBe(COMPLETION_UNSUPPORTED_REQUEST);
    expect(port.writeFrom(AT_UNTRANSLATED, NO_PASID, 0, lo, 0, new Uint8Array(8))).toBe(COMPLETION_UNSUPPORTED_REQUEST);
    expect(port.writeFrom(AT_UNTRANSLATED, NO_PASID, 0, lo, 0, new Uint8Array(2))).toBe(COMPLETION_UNSUPPORTED_REQUEST);
    expect(agent.translations).toEqual([]);
    port.readInto(AT_UNTRANSLATED, NO_PASID, 0, lo, 0, new Uint8Array(4));
    port.writeFrom(AT_UNTRANSLATED, 5, 0, lo, 0, word);
    port.writeFrom(AT_TRANSLATED, NO_PASID, 0, lo, 0, word);
    expect(agent.translations.map(({ page }) => page)).toEqual([0xfee01, 0xfee01, 0xfee01]);
    expect(agent.interrupts.length).toBe(2);
  });

  test('a frame with nothing behind it is an unsupported request', () => {
    const { agent, port, buffer } = setUp();
    agent.map(RID, NO_PASID, 1, 0xc0000);
    expect(port.read(AT_UNTRANSLATED, NO_PASID, 0, 0x1000, 0, 4, buffer)).toBe(COMPLETION_UNSUPPORTED_REQUEST);
    expect(port.transferred).toBe(0);
  });

  test('registers of another function are reached through translation', () => {
    const { memory, scheduler, fabric, agent, port, buffer } = setUp();
    const peer = fabric.plug(new TestFunction({ memory, scheduler, totalVfs: 0 }), 0x30);
    const config = new Config(memory, 0x30);
    config.write(0x10, 4, 0xd000_0000);
    config.enable();
    agent.map(RID, NO_PASID, 1, 0xd0000);
    agent.map(RID, NO_PASID, 9, 0xd0000 + TEST_REGISTER.buffer / 4096);
    expect(port.read(AT_UNTRANSLATED, NO_PASID, 0, 0x1000, 0, 8, buffer)).toBe(COMPLETION_SUCCESS);
    expect(memory.bytes[buffer]).toBe(0x54);
    expect(port.write(AT_UNTRANSLATED, NO_PASID, 0, 0x9003, 0, 5, buffer)).toBe(COMPLETION_SUCCESS);
    expect(memory.load(0xd000_0000 + TEST_REGISTER.buffer, 8) & 0xff00_0000n).toBe(0x5400_0000n);
    expect(peer.memoryEnabled).toBe(true);
    expect(memory.load(0xd000_0000 + TEST_REGISTER.status, 4)).toBe(0n);
  });

  test('a transfer does not wrap at the top of the address space', () => {
    const { agent, port, buffer } = setUp();
    agent.map(RID, NO_PASID, 2 ** 52 - 1, 0x100);
    agent.map(RID, NO_PASID, 0, 0x101);
    expect(port.read(AT_UNTRANSLATED, NO_PASID, 0, -0x10, -1, 0x10, buffer)).toBe(COMPLETION_SUCCESS);
    expect(port.read(AT_UNTRANSLATED, NO_PASID, 0, -0x10, -1, 0x11, buffer)).toBe(COMPLETION_UNSUPPORTED_REQUEST);
    expect(port.transferred).toBe(0x10);
  });

  test('no bytes need no translation', () => {
    const { agent, port, buffer } = setUp();
    expect(port.read(AT_UNTRANSLATED, NO_PASID, 0, 0x1000, 0, 0, buffer)).toBe(COMPLETION_SUCCESS);
    expect(agent.translations).toEqual([]);
  });

  test('writes to frames with decoded code are noticed', () => {
    const { memory, agent, port, buffer } = setUp();
    const written: number[] = [];
    memory.onFlaggedWrite((pfn) => written.push(pfn));
    memory.frameFlags[0x101] = 1;
    agent.map(RID, NO_PASID, 1, 0x100);
    agent.map(RID, NO_PASID, 2, 0x101);
    port.write(AT_UNTRANSLATED, NO_PASID, 0, 0x1ff0, 0, 0x20, buffer);
    port.read(AT_UNTRANSLATED, NO_PASID, 0, 0x1ff0, 0, 0x20, buffer);
    expect(written).toEqual([0x101]);
  });

  test('the pass-through is identity for untranslated requests and refuses ATS', () => {
    const { memory, fabric, port, delivered, buffer } = setUp();
    fabric.setAgent(null);
    memory.bytes[0x1234] = 7;
    expect(port.read(AT_UNTRANSLATED, NO_PASID, 0, 0x1234, 0, 1, buffer)).toBe(COMPLETION_SUCCESS);
    expect(memory.bytes[buffer]).toBe(7);
    expect(port.read(AT_CACHED, NO_PASID, 0, 0x1234, 0, 1, buffer)).toBe(COMPLETION_UNSUPPORTED_REQUEST);
    expect(port.read(AT_TRANSLATED, NO_PASID, 0, 0x1234, 0, 1, buffer)).toBe(COMPLETION_UNSUPPORTED_REQUEST);
    port.writeMessage(0xfee0_0000 | 0, 0, 0x41);
    expect(delivered).toEqual([{ address: 0xfee0_0000, data: 0x41 }]);
  });

  test('a root port stops requests without bus master, and translated ones with ACS translation blocking', () => {
    const { memory, scheduler, fabric, agent } = machine();
    fabric.setAgent(agent);
    fabric.plug(new RootPort({ vendorId: 1, deviceId: 1, secondary: 1 }), 8);
    const fn = fabric.plug(new TestFunction({ memory, scheduler, totalVfs: 0 }), 0x100);
    enableAll(memory, fn);
    agent.map(0x100, NO_PASID, 1, 0x100);
    const bytes = new Uint8Array(4);
    const read = (addressing: number) => fn.upstream.readInto(addressing, NO_PASID, 0, 0x1000, 0, bytes);
    expect(read(AT_CACHED)).toBe(COMPLETION_SUCCESS);
    const port = new Config(memory, 8);
    port.write(port.extended().get(0x0d)! + 6, 2, 2);
    expect(read(AT_CACHED)).toBe(COMPLETION_UNSUPPORTED_REQUEST);
    expect(read(AT_TRANSLATED)).toBe(COMPLETION_UNSUPPORTED_REQUEST);
    expect(read(AT_UNTRANSLATED)).toBe(COMPLETION_SUCCESS);
    port.write(4, 2, 2);
    expect(read(AT_UNTRANSLATED)).toBe(COMPLETION_UNSUPPORTED_REQUEST);
  });
});
