import {
  COMPLETION_UNSUPPORTED_REQUEST,
  NO_PASID,
  TEST_BUFFER_SIZE,
  TEST_COMMAND,
  TEST_DEVICE_ID,
  TEST_REGISTER,
  TEST_RESULT_REFUSED,
  TEST_VENDOR_ID,
} from '@iommukit/hw';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IOVA, type MdevUser, PAGE, refusal, Site } from './support.ts';

const CONFIG = 7;

/** A register of the parent's function, as its driver reads it. */
function hardware(site: Site, register: number): number {
  const bar = site.device.pci.resource(0)!.address;
  return Number(site.machine.memory.load(bar + BigInt(register), 4));
}

function attached(type: 'default' | 'pasids' = 'default'): { site: Site; user: MdevUser; va: bigint } {
  const site = new Site();
  const user = site.user(site.create(type));
  const { ioasId, va } = user.space();
  user.vfio.attach(ioasId);
  return { site, user, va };
}

describe('the function that the user sees', () => {
  test('is one of PCI, with a BAR, a reset and MSI-X, and nothing that can be mapped', () => {
    const { user } = attached();
    expect(user.vfio.info()).toEqual({ flags: 3, regions: 9, irqs: 5 });
    expect(user.vfio.readConfig(0, 4)).toBe((TEST_DEVICE_ID << 16) | TEST_VENDOR_ID);
    const bar = user.vfio.regionInfo(0);
    expect([bar.flags, bar.size, bar.offset]).toEqual([3, 0x10000n, 0n]);
    expect(user.vfio.regionInfo(CONFIG).size).toBe(4096n);
    expect(user.vfio.regionInfo(2).size).toBe(0n);
    for (const none of [8, 9, 0xffffffff]) expect(refusal(() => user.vfio.regionInfo(none))).toBe('EINVAL');
    expect([0, 1, 2, 3, 4].map((index) => user.vfio.irqInfo(index).count)).toEqual([0, 0, 8, 0, 0]);
    expect(refusal(() => user.vfio.irqInfo(5))).toBe('EINVAL');
    expect(refusal(() => user.vfio.map(0, 0, PAGE))).toBe('EINVAL');
    expect(user.load(TEST_REGISTER.identity)).toBe(0x54534554);
  });

  test('its BAR is sized and moved in configuration space, and answers with memory decode on', () => {
    const { user } = attached();
    user.vfio.writeConfig(0x10, 4, 0xffffffff);
    expect(user.vfio.readConfig(0x10, 4)).toBe(0xffff0004);
    user.vfio.writeConfig(4, 2, 4);
    expect(refusal(() => user.load(0))).toBe('EIO');
    expect(refusal(() => user.store(8, 2))).toBe('EIO');
    user.vfio.writeConfig(4, 2, 6);
    expect(user.load(TEST_REGISTER.identity)).toBe(0x54534554);
    expect(refusal(() => user.vfio.read(CONFIG, 4094, new Uint8Array(4)))).toBe('EFAULT');
    expect(refusal(() => user.vfio.read(0, 0x10000, new Uint8Array(1)))).toBe('EINVAL');
    expect(refusal(() => user.vfio.write(3, 0, new Uint8Array(1)))).toBe('EINVAL');
    expect(user.vfio.read(0, 0xfffe, new Uint8Array(16))).toBe(2);
  });

  test('accesses of any place and length give the bytes that single ones give', () => {
    const { user } = attached();
    const pattern = Array.from({ length: 64 }, (_, i) => (i * 7 + 1) & 0xff);
    user.setBuffer(pattern);
    for (const [from, length] of [
      [0, 64],
      [1, 7],
      [3, 13],
      [5, 1],
      [6, 2],
    ] as const) {
      const bytes = new Uint8Array(length);
      user.vfio.read(0, TEST_REGISTER.buffer + from, bytes);
      expect([...bytes]).toEqual(pattern.slice(from, from + length));
    }
    user.vfio.write(0, TEST_REGISTER.buffer + 3, Uint8Array.from([1, 2, 3, 4, 5, 6, 7]));
    expect(user.buffer(11).slice(3, 10)).toEqual([1, 2, 3, 4, 5, 6, 7]);
    user.vfio.write(0, TEST_REGISTER.length, Uint8Array.from([1, 2, 3]));
    expect(user.load(TEST_REGISTER.length)).toBe(0);
  });

  test('interrupts signal its own eventfds', () => {
    const { site, user } = attached();
    const { fd, event } = user.eventfd();
    expect(refusal(() => user.vfio.raise({ index: 2 }))).toBe('EINVAL');
    expect(refusal(() => user.vfio.setTriggers({ index: 2, start: 7 }, [fd, fd]))).toBe('EINVAL');
    expect(refusal(() => user.vfio.setTriggers({ index: 0 }, [fd]))).toBe('EINVAL');
    user.vfio.setTriggers({ index: 2, start: 3 }, [fd]);
    user.store(TEST_REGISTER.vector, 3);
    user.run(IOVA, { flags: TEST_COMMAND.interruptWhenDone });
    expect(event.take()).toBe(1n);
    user.run(IOVA, { operation: TEST_COMMAND.interrupt });
    expect(event.take()).toBe(1n);
    user.vfio.raise({ index: 2, start: 3 });
    expect(event.take()).toBe(1n);
    user.store(TEST_REGISTER.vector, 0xffffffff);
    expect(user.run(IOVA, { operation: TEST_COMMAND.interrupt })).toBe(0);
    user.store(TEST_REGISTER.vector, 3);
    user.vfio.disableIrqs(2);
    user.run(IOVA, { flags: TEST_COMMAND.interruptWhenDone });
    expect(event.take()).toBe(0n);
    expect(site.pasids.size).toBe(1);
  });

  test('a reset clears registers and buffer and keeps the attachment; so does one through configuration space', () => {
    const { user, va } = attached();
    user.setBuffer([1]);
    user.store(TEST_REGISTER.vector, 4);
    user.vfio.reset();
    expect([user.load(TEST_REGISTER.vector), user.buffer(1)]).toEqual([0, [0]]);
    expect([user.write(IOVA, 6), user.byteAt(va)]).toEqual([true, 6]);
    const express = 0x40;
    expect(user.vfio.readConfig(express, 1)).toBe(0x10);
    user.vfio.writeConfig(express + 8, 2, 0x8000);
    expect(user.vfio.readConfig(4, 2) & 6).toBe(0);
    user.vfio.writeConfig(4, 2, 6);
    expect(user.buffer(1)).toEqual([0]);
    expect([user.write(IOVA, 8), user.byteAt(va)]).toEqual([true, 8]);
  });
});

describe('hostile commands', () => {
  test('what is not offered is refused, and the parent never hears of it', () => {
    const { site, user, va } = attached();
    const { translated, cached, withPasid, privileged, execute, wantWrite } = TEST_COMMAND;
    const { translate, pageRequest, stopMarker, write } = TEST_COMMAND;
    const before = hardware(site, TEST_REGISTER.command);
    const bad = [translated, translated | cached, withPasid, privileged, execute, wantWrite, 0x1000, 0x80000000];
    for (const flags of bad) expect([flags, user.run(IOVA, { flags })]).toEqual([flags, TEST_RESULT_REFUSED]);
    for (const operation of [translate, pageRequest, stopMarker, 7, 15]) {
      expect([operation, user.run(IOVA, { operation })]).toEqual([operation, TEST_RESULT_REFUSED]);
    }
    for (const length of [TEST_BUFFER_SIZE + 1, 0x80000000, 0xffffffff]) {
      expect(user.run(IOVA, { length })).toBe(TEST_RESULT_REFUSED);
    }
    for (const offset of [TEST_BUFFER_SIZE, 0xffffffff]) {
      user.start(IOVA, { operation: 0 });
      user.store(TEST_REGISTER.bufferOffset, offset);
      user.store(TEST_REGISTER.command, write);
      expect(user.result).toBe(TEST_RESULT_REFUSED);
    }
    expect(hardware(site, TEST_REGISTER.command)).toBe(before);
    expect(user.byteAt(va)).toBe(0);
  });

  test('the PASID register of a device without PASIDs takes nothing', () => {
    const { user } = attached();
    user.store(TEST_REGISTER.pasid, 5);
    expect(user.load(TEST_REGISTER.pasid)).toBe(0);
  });

  test('no other register of the parent can be reached, read or written', () => {
    const { site, user } = attached();
    for (const register of [
      TEST_REGISTER.control,
      TEST_REGISTER.status,
      TEST_REGISTER.result,
      TEST_REGISTER.identity,
    ]) {
      user.store(register, 0xffffffff);
    }
    expect(hardware(site, TEST_REGISTER.control)).toBe(0);
    expect(user.load(TEST_REGISTER.control)).toBe(0);
    expect(user.load(TEST_REGISTER.identity)).toBe(0x54534554);
    user.run(IOVA, { flags: TEST_COMMAND.cached });
    for (const register of [TEST_REGISTER.frame, TEST_REGISTER.frame + 4, TEST_REGISTER.granted]) {
      expect(user.load(register)).toBe(0);
    }
  });

  test('while bus mastering is off nothing leaves', () => {
    const { user, va } = attached();
    const { fd, event } = user.eventfd();
    user.vfio.setTriggers({ index: 2 }, [fd]);
    user.vfio.writeConfig(4, 2, 2);
    user.setBuffer([9]);
    expect(user.run(IOVA, { flags: TEST_COMMAND.interruptWhenDone })).toBe(COMPLETION_UNSUPPORTED_REQUEST);
    expect([user.byteAt(va), event.take()]).toEqual([0, 0n]);
  });

  test('a read that fails half-way gives the bytes moved, and none of what others left in the parent', () => {
    const { site, user, va } = attached();
    const other = site.user();
    const theirs = other.space(2);
    other.vfio.attach(theirs.ioasId);
    other.setBuffer(Array.from({ length: 200 }, () => 0x5a));
    expect(other.run(IOVA, { length: 200 })).toBe(0);
    user.memory.write(va + BigInt(PAGE - 4), Uint8Array.from([1, 2, 3, 4]));
    const result = user.run(IOVA + BigInt(PAGE - 4), { operation: TEST_COMMAND.read, length: 100 });
    expect(result).not.toBe(0);
    expect(user.load(TEST_REGISTER.bytes)).toBe(4);
    expect(user.load(TEST_REGISTER.fault)).toBe(Number(IOVA) + PAGE);
    expect(user.buffer(100)).toEqual([1, 2, 3, 4, ...new Array(96).fill(0)]);
  });

  test('X3 whatever a user writes, hardware sees read and write commands with his own PASIDs only', {
    timeout: 60_000,
  }, () => {
    const site = new Site();
    const user = site.user(site.create('pasids'));
    const victim = site.user();
    const theirs = victim.space();
    victim.vfio.attach(theirs.ioasId);
    const { ioasId } = user.space();
    user.vfio.attach(ioasId);
    user.vfio.attach(user.table(ioasId), { pasid: 2 });
    const mine = [NO_PASID, 2].map((pasid) => user.mdev.dma!.physical(pasid));
    const word = fc.oneof(fc.integer({ min: 0, max: 63 }), fc.integer({ min: 0, max: 0xffffffff }));
    const raw = fc.record({
      at: fc.oneof(
        fc.constantFrom(0x08, 0x0c, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24),
        fc.integer({ min: 0, max: 0xffff }),
      ),
      words: fc.array(word, { minLength: 1, maxLength: 4 }),
      cut: fc.integer({ min: 0, max: 3 }),
    });
    // A command that is close to a good one, with the registers that it looks at.
    const { cached, withPasid, translated, privileged, pageRequestOnDenial } = TEST_COMMAND;
    const near = fc
      .record({
        operation: fc.constantFrom(1, 2),
        flags: fc.subarray([cached, withPasid, pageRequestOnDenial, translated, privileged]),
        pasid: fc.constantFrom(1, 2, ...mine.map((wire) => wire!)),
        shape: fc.constantFrom([8, 0], [0x8000, 0], [8, 0x7ffc]),
      })
      .map(({ operation, flags, pasid, shape }) => [
        { at: 0x0c, words: [pasid], cut: 0 },
        { at: 0x18, words: shape, cut: 0 },
        { at: 0x08, words: [flags.reduce<number>((all, flag) => all | flag, operation)], cut: 0 },
      ]);
    const write = fc.oneof(
      raw.map((one) => [one]),
      near,
    );
    let ran = 0;
    fc.assert(
      fc.property(fc.array(write, { maxLength: 20 }), (writes) => {
        for (const { at, words, cut } of writes.flat()) {
          const bytes = new Uint8Array(Uint32Array.from(words).buffer);
          user.vfio.write(0, at, bytes.subarray(0, bytes.length - cut));
          const busy = user.busy;
          if (busy) {
            ran++;
            const command = hardware(site, TEST_REGISTER.command);
            expect(command & ~(TEST_COMMAND.cached | TEST_COMMAND.pageRequestOnDenial)).toSatisfy((rest: number) =>
              [1, 2].map((op) => op | TEST_COMMAND.withPasid | TEST_COMMAND.interruptWhenDone).includes(rest),
            );
            expect(mine).toContain(hardware(site, TEST_REGISTER.pasid));
            expect(hardware(site, TEST_REGISTER.vector)).toBe(0);
          }
          site.settle();
          expect(user.busy).toBe(false);
        }
        expect(hardware(site, TEST_REGISTER.control)).toBe(0);
      }),
      { numRuns: 150 },
    );
    expect(ran).toBeGreaterThan(50);
    expect(victim.byteAt(theirs.va)).toBe(0);
    expect([victim.write(IOVA, 1), victim.byteAt(theirs.va)]).toEqual([true, 1]);
  });
});
