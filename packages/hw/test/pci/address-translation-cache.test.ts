import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { TestFunction } from '../../src/devices/test-function.ts';
import { AddressTranslationCache } from '../../src/pci/address-translation-cache.ts';
import {
  ACCESS_EXECUTE,
  ACCESS_PRIVILEGED,
  ACCESS_READ,
  ACCESS_WRITE,
  AT_TRANSLATED,
  type AtsInvalidation,
  COMPLETION_SUCCESS,
  NO_PASID,
  type TranslationCompletion,
} from '../../src/pci/transaction.ts';
import { AT_CACHED, TRANSLATION_DENIED } from '../../src/pci/upstream-port.ts';
import { enableAll, machine } from './support.ts';

function completion(pfn: number, access = ACCESS_READ | ACCESS_WRITE, global = false): TranslationCompletion {
  return { pfn, sizeLg2: 12, access, global, noSnoop: false, untranslatedOnly: false };
}

function invalidation(request: Partial<AtsInvalidation>): AtsInvalidation {
  return { rid: 0x28, pasid: NO_PASID, global: false, pageHigh: 0, pageLow: 0, sizeLg2: 64, ...request };
}

describe('AddressTranslationCache', () => {
  test('never gives a translation that the naive model does not hold', () => {
    const page = fc.record({ high: fc.constantFrom(0, 0x1ffffff), low: fc.constantFrom(0, 1, 8, 0x7ffffff) });
    const pasid = fc.constantFrom(NO_PASID, 0, 0xfffff);
    const privilege = fc.constantFrom(0, ACCESS_PRIVILEGED);
    const access = fc.constantFrom(1, 3, 7);
    const pfn = fc.nat(2 ** 40 - 1);
    const fill = { kind: fc.constant('fill' as const), page, pasid, privilege, access, pfn, global: fc.boolean() };
    const lookup = { kind: fc.constant('lookup' as const), page, pasid, privilege, access };
    const sizeLg2 = fc.integer({ min: 12, max: 64 });
    const invalidate = { kind: fc.constant('invalidate' as const), page, pasid, global: fc.boolean(), sizeLg2 };
    const step = fc.oneof(
      { weight: 10, arbitrary: fc.record(fill) },
      { weight: 20, arbitrary: fc.record(lookup) },
      { weight: 2, arbitrary: fc.record(invalidate) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('flush' as const) }) },
    );
    type Entry = { page: bigint; pasid: number; privilege: number; access: number; pfn: number; global: boolean };
    let hits = 0;
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80, size: 'max' }), (steps) => {
        const cache = new AddressTranslationCache({ sets: 8, ways: 4 });
        let model: Entry[] = [];
        for (const step of steps) {
          if (step.kind === 'fill') {
            const { page, pasid, privilege, access, pfn } = step;
            const vpn = (BigInt(page.high) << 27n) | BigInt(page.low);
            const global = step.global && pasid !== NO_PASID;
            model = model.filter((e) => e.page !== vpn || e.pasid !== pasid || e.privilege !== privilege);
            model.push({ page: vpn, pasid, privilege, access, pfn, global });
            cache.fill(pasid, access | privilege, page.high, page.low, completion(pfn, access, step.global));
            expect(cache.lookup(pasid, access | privilege, page.high, page.low)).toBe(true);
          } else if (step.kind === 'lookup') {
            const { page, pasid, privilege, access } = step;
            const vpn = (BigInt(page.high) << 27n) | BigInt(page.low);
            const held = model.filter(
              (e) =>
                e.page === vpn &&
                e.privilege === privilege &&
                (e.access & access) === access &&
                (e.pasid === pasid || (e.global && pasid !== NO_PASID)),
            );
            if (cache.lookup(pasid, access | privilege, page.high, page.low)) {
              hits++;
              expect(held.map((e) => e.pfn)).toContain(cache.pfn);
            }
          } else if (step.kind === 'invalidate') {
            const { page, pasid, global, sizeLg2 } = step;
            const vpn = (BigInt(page.high) << 27n) | BigInt(page.low);
            const bits = BigInt(sizeLg2 - 12);
            model = model.filter(
              (e) =>
                e.page >> bits !== vpn >> bits ||
                !(e.pasid === pasid || (global && pasid !== NO_PASID && e.pasid !== NO_PASID)),
            );
            cache.invalidate(invalidation({ pasid, global, pageHigh: page.high, pageLow: page.low, sizeLg2 }));
          } else {
            model = [];
            cache.flush();
          }
        }
      }),
      { numRuns: 500 },
    );
    expect(hits).toBeGreaterThan(200);
  });

  test('holds sets x ways pages and replaces round robin', () => {
    const cache = new AddressTranslationCache({ sets: 4, ways: 2 });
    for (let page = 0; page < 8; page++) cache.fill(NO_PASID, ACCESS_READ, 0, page, completion(page + 100));
    for (let page = 0; page < 8; page++) {
      expect(cache.lookup(NO_PASID, ACCESS_READ, 0, page)).toBe(true);
      expect(cache.pfn).toBe(page + 100);
    }
    cache.fill(NO_PASID, ACCESS_READ, 0, 8, completion(1));
    expect([0, 4, 8].map((page) => cache.lookup(NO_PASID, ACCESS_READ, 0, page)).filter(Boolean).length).toBe(2);
    expect(cache.lookup(NO_PASID, ACCESS_READ, 0, 8)).toBe(true);
  });

  test('frame numbers keep all 40 bits', () => {
    const cache = new AddressTranslationCache();
    cache.fill(1, ACCESS_READ, 0x1ffffff, 0x7ffffff, completion(2 ** 40 - 1));
    expect(cache.lookup(1, ACCESS_READ, 0x1ffffff, 0x7ffffff)).toBe(true);
    expect(cache.pfn).toBe(2 ** 40 - 1);
  });
});

describe('ATS through the fabric', () => {
  function setUp() {
    const test = machine({ messageLatency: 400, invalidationTimeout: 10_000 });
    const { memory, scheduler, fabric, agent } = test;
    fabric.setAgent(agent);
    const fn = fabric.plug(new TestFunction({ memory, scheduler, totalVfs: 0 }), 0x28);
    const config = enableAll(memory, fn);
    memory.bytes.fill(0xaa, 0x10000, 0x11000);
    memory.bytes.fill(0xbb, 0x11000, 0x12000);
    return { ...test, fn, config, readByte };

    /** One byte from `page`, or the negative status. */
    function readByte(page: number, pasid = 5): number {
      const byte = new Uint8Array(1);
      const status = fn.upstream.readInto(AT_CACHED, pasid, 0, page << 12, 0, byte);
      return status === COMPLETION_SUCCESS ? byte[0]! : -status;
    }
  }

  test('a changed mapping stays in use until the invalidation has completed', () => {
    const { fabric, agent, scheduler, named, readByte } = setUp();
    agent.map(0x28, 5, 3, 0x10);
    expect(readByte(3)).toBe(0xaa);
    agent.map(0x28, 5, 3, 0x11);
    expect(readByte(3)).toBe(0xaa);
    const completions: boolean[] = [];
    fabric.invalidate(invalidation({ pasid: 5, pageLow: 3, sizeLg2: 12 }), (done) => completions.push(done));
    expect(completions).toEqual([]);
    expect(readByte(3)).toBe(0xaa);
    scheduler.advance(400);
    expect(completions).toEqual([true]);
    expect(readByte(3)).toBe(0xbb);
    expect(named('ats_invalidate')).toMatchObject([
      { rid: 0x28, pasid: 5, iova: 0x3000n, sizeLg2: 12, completed: true },
    ]);
  });

  test('hits are translated requests without PASID; only misses ask', () => {
    const { agent, readByte } = setUp();
    agent.map(0x28, 5, 3, 0x10);
    readByte(3);
    readByte(3);
    expect(agent.translationRequests).toBe(1);
    expect(agent.translations).toEqual([
      { rid: 0x28, pasid: NO_PASID, access: ACCESS_READ, addressType: AT_TRANSLATED, page: 0x10 },
      { rid: 0x28, pasid: NO_PASID, access: ACCESS_READ, addressType: AT_TRANSLATED, page: 0x10 },
    ]);
  });

  test('an invalidation of another page, PASID or function leaves the entry alone', () => {
    const { fabric, agent, scheduler, readByte } = setUp();
    agent.map(0x28, 5, 3, 0x10);
    readByte(3);
    agent.unmap(0x28, 5, 3);
    const run = (request: Partial<AtsInvalidation>) => {
      fabric.invalidate(invalidation(request), () => {});
      scheduler.advance(400);
    };
    run({ pasid: 5, pageLow: 4, sizeLg2: 12 });
    run({ pasid: 6 });
    run({ pasid: NO_PASID });
    run({ pasid: 5, pageLow: 0, pageHigh: 1, sizeLg2: 38 });
    expect(readByte(3)).toBe(0xaa);
    run({ pasid: 6, global: true });
    expect(readByte(3)).toBe(-TRANSLATION_DENIED);
  });

  test.each([
    ['a range', { pasid: 5, pageLow: 0, sizeLg2: 14 }],
    ['a whole PASID', { pasid: 5 }],
    ['every PASID', { pasid: 0, global: true }],
  ])('an invalidation of %s takes the page with it', (_, request) => {
    const { fabric, agent, scheduler, readByte } = setUp();
    agent.map(0x28, 5, 3, 0x10);
    readByte(3);
    agent.unmap(0x28, 5, 3);
    fabric.invalidate(invalidation(request), () => {});
    scheduler.advance(400);
    expect(readByte(3)).toBe(-TRANSLATION_DENIED);
  });

  test('a function that does not answer lets the invalidation time out, and stays stale', () => {
    const { fabric, agent, fn, scheduler, named, readByte } = setUp();
    agent.map(0x28, 5, 3, 0x10);
    readByte(3);
    agent.unmap(0x28, 5, 3);
    fn.answersInvalidations = false;
    const completions: boolean[] = [];
    fabric.invalidate(invalidation({ pasid: 5 }), (done) => completions.push(done));
    scheduler.advance(9_999);
    expect(completions).toEqual([]);
    scheduler.advance(1);
    expect(completions).toEqual([false]);
    expect(named('ats_invalidate').at(-1)!.completed).toBe(false);
    expect(readByte(3)).toBe(0xaa);
  });

  test('absent functions, and functions with ATS off, never complete', () => {
    const { fabric, config, scheduler } = setUp();
    const completions: boolean[] = [];
    fabric.invalidate(invalidation({ rid: 0x30 }), (done) => completions.push(done));
    config.ats(false);
    fabric.invalidate(invalidation({}), (done) => completions.push(done));
    scheduler.advance(10_000);
    expect(completions).toEqual([false, false]);
  });

  test('disabling ATS, and function-level reset, empty the cache', () => {
    const { memory, agent, config, fn, readByte } = setUp();
    agent.map(0x28, 5, 3, 0x10);
    readByte(3);
    agent.unmap(0x28, 5, 3);
    config.ats(false);
    config.ats(true);
    expect(readByte(3)).toBe(-TRANSLATION_DENIED);
    agent.map(0x28, 5, 3, 0x10);
    readByte(3);
    agent.unmap(0x28, 5, 3);
    config.write(config.standard().get(0x10)! + 8, 2, 0x8000);
    expect(fn.ats!.enabled).toBe(false);
    enableAll(memory, fn);
    expect(readByte(3)).toBe(-TRANSLATION_DENIED);
  });

  test('a cached read-only page is asked for again when it is to be written', () => {
    const { agent, fn, readByte } = setUp();
    agent.map(0x28, 5, 3, 0x10, ACCESS_READ);
    readByte(3);
    const write = () => fn.upstream.writeFrom(AT_CACHED, 5, 0, 3 << 12, 0, new Uint8Array(1));
    expect(write()).toBe(TRANSLATION_DENIED);
    agent.map(0x28, 5, 3, 0x10, ACCESS_READ | ACCESS_WRITE);
    expect(write()).toBe(COMPLETION_SUCCESS);
    expect(agent.translationRequests).toBe(3);
  });

  test('execute and privilege are part of the request; privilege of the entry too', () => {
    const { agent, fn } = setUp();
    agent.map(0x28, 5, 3, 0x10, ACCESS_READ);
    const read = (modifiers: number) => fn.upstream.readInto(AT_CACHED, 5, modifiers, 3 << 12, 0, new Uint8Array(1));
    expect(read(0)).toBe(COMPLETION_SUCCESS);
    expect(read(ACCESS_PRIVILEGED)).toBe(COMPLETION_SUCCESS);
    expect(agent.translationRequests).toBe(2);
    expect(read(ACCESS_EXECUTE)).toBe(TRANSLATION_DENIED);
    agent.map(0x28, 5, 3, 0x10, ACCESS_READ | ACCESS_EXECUTE);
    expect(read(ACCESS_EXECUTE)).toBe(COMPLETION_SUCCESS);
  });

  test('a global translation serves every PASID, none without', () => {
    const { agent, readByte } = setUp();
    agent.global = true;
    agent.map(0x28, 5, 3, 0x10);
    readByte(3, 5);
    expect(readByte(3, 6)).toBe(0xaa);
    expect(readByte(3, NO_PASID)).toBe(-TRANSLATION_DENIED);
    expect(agent.translationRequests).toBe(2);
  });

  test('a translation for untranslated use only is not cached', () => {
    const { agent, readByte } = setUp();
    agent.untranslatedOnly = true;
    agent.map(0x28, 5, 3, 0x10);
    expect(readByte(3)).toBe(0xaa);
    agent.unmap(0x28, 5, 3);
    expect(readByte(3)).toBe(-TRANSLATION_DENIED);
  });

  test('a completion that only echoes the privilege grants nothing and is not cached', () => {
    const { agent, fn } = setUp();
    agent.map(0x28, 5, 3, 0x10, ACCESS_PRIVILEGED);
    expect(fn.upstream.requestTranslation(5, ACCESS_READ | ACCESS_PRIVILEGED, 0, 3)).toBe(COMPLETION_SUCCESS);
    expect(fn.upstream.pfn).toBe(-1);
    expect(fn.ats!.cache.lookup(5, ACCESS_PRIVILEGED, 0, 3)).toBe(false);
  });

  test('with ATS off the cached mode is untranslated', () => {
    const { config, agent, readByte } = setUp();
    config.ats(false);
    agent.map(0x28, 5, 3, 0x10);
    expect(readByte(3)).toBe(0xaa);
    expect(agent.translationRequests).toBe(0);
    agent.unmap(0x28, 5, 3);
    expect(readByte(3)).toBeLessThan(0);
  });

  test('ATS control keeps its smallest translation unit', () => {
    const { config } = setUp();
    const at = config.extended().get(0x0f)!;
    config.write(at + 6, 2, 0xffff);
    expect(config.read(at + 6, 2)).toBe(0x801f);
    expect(config.read(at + 4, 2)).toBe(0x60);
  });
});
