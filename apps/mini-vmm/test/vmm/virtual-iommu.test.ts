import {
  AW_48,
  CONTEXT0_PASIDE,
  CONTEXT0_PRESENT,
  DESCRIPTOR_PASID_CACHE,
  DESCRIPTOR_PASID_IOTLB,
  DIRECTORY0_PRESENT,
  type DsaFunction,
  fieldPrep,
  GCMD_QIE,
  GCMD_SRTP,
  GCMD_TE,
  IQA_LO_DW,
  NO_PASID,
  PASID_CACHE_GLOBAL,
  PASID_CACHE_PASID,
  PASID0_AW,
  PASID0_PGTT,
  PASID0_PRESENT,
  PASID2_DID,
  PGTT_FIRST_STAGE,
  PGTT_PASS_THROUGH,
  REG_GCMD,
  REG_IQA,
  REG_IQT,
  REG_RTADDR,
  TTM_SCALABLE,
} from '@iommukit/hw';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DSA_RID } from '../../src/host/machine.ts';
import { INTERFACES, type InterfaceKind } from '../../src/vmm/interfaces/open.ts';
import { GUEST_BYTES, GUEST_RID, VirtualUnit } from '../support/virtual-unit.ts';

const QUEUE = 0x1000;
const ROOT = 0x2000;
const CONTEXTS = 0x3000;
const DIRECTORY = 0x4000;
const TABLE = 0x5000;
const STAGE1 = 0x10000;
const NOTHING = { pins: 0, pasids: 0, objects: 0, mappings: 0, frames: 0 };

/** A guest's driver: scalable-mode tables for one function, with PASIDs 0..63 in one table. */
class GuestDriver {
  readonly unit: VirtualUnit;
  private tail = 0;

  constructor(kind: InterfaceKind) {
    this.unit = new VirtualUnit(kind);
    this.words(ROOT, [CONTEXTS | 1, 0]);
    this.words(CONTEXTS + GUEST_RID * 32, [DIRECTORY | CONTEXT0_PRESENT | CONTEXT0_PASIDE, 0, 0, 0]);
    this.words(DIRECTORY, [TABLE | DIRECTORY0_PRESENT, 0]);
    this.passThrough();
    const { registers } = this.unit;
    registers.write(REG_IQA, 8, BigInt(QUEUE | IQA_LO_DW));
    registers.write(REG_GCMD, 4, BigInt(GCMD_QIE >>> 0));
    this.unit.settle();
    registers.write(REG_RTADDR, 8, BigInt(ROOT | (TTM_SCALABLE << 10)));
    registers.write(REG_GCMD, 4, BigInt((GCMD_QIE | GCMD_SRTP) >>> 0));
    this.unit.settle();
    registers.write(REG_GCMD, 4, BigInt((GCMD_QIE | GCMD_TE) >>> 0));
    this.unit.settle();
  }

  words(address: number, values: readonly number[]): void {
    this.unit.memory.write(address, new Uint8Array(Int32Array.from(values).buffer));
  }

  entry(pasid: number, values: readonly number[]): void {
    this.words(TABLE + pasid * 64, [...values, ...new Array<number>(16 - values.length).fill(0)]);
  }

  /** The entry of requests without PASID lets them reach guest memory. */
  passThrough(): void {
    this.entry(0, [PASID0_PRESENT | fieldPrep(PASID0_PGTT, PGTT_PASS_THROUGH) | fieldPrep(PASID0_AW, AW_48)]);
  }

  firstStage(pasid: number, table = STAGE1): void {
    const head = PASID0_PRESENT | fieldPrep(PASID0_PGTT, PGTT_FIRST_STAGE);
    this.entry(pasid, [head, 0, fieldPrep(PASID2_DID, 1), 0, table, 0]);
  }

  submit(words: readonly number[]): void {
    this.words(QUEUE + this.tail, [...words, 0, 0, 0, 0]);
    this.tail = (this.tail + 32) % 4096;
    this.unit.registers.write(REG_IQT, 4, BigInt(this.tail));
    this.unit.settle();
  }

  flush(pasid: number | null): void {
    const granularity = pasid === null ? PASID_CACHE_GLOBAL : PASID_CACHE_PASID;
    this.submit([DESCRIPTOR_PASID_CACHE | (granularity << 4) | (1 << 16), pasid ?? 0, 0, 0]);
  }
}

/** PASIDs that the host has entries for, and ENQCMD a host PASID: none that the guest could name, and no two the same. */
function expectShadows({ unit }: GuestDriver, pasids: readonly number[]): void {
  expect([...unit.enqcmd.keys()].sort((a, b) => a - b)).toEqual(pasids);
  const hostPasids = new Set(unit.enqcmd.values());
  expect(hostPasids.size).toBe(pasids.length);
  expect(Math.min(...hostPasids)).toBeGreaterThanOrEqual(2 ** unit.pasidBits);
  expect(unit.host.usage.pasids).toBe(2 * pasids.length);
}

/** Requests of the function without PASID reach guest memory. */
function reachesMemory({ unit }: GuestDriver): boolean {
  const { domain } = unit.host.device(DSA_RID).group;
  return domain.kind === 'unmanaged' && domain.iovaToPhys(0n) !== null;
}

describe.each(INTERFACES)('a guest PASID entry, with %s,', (kind) => {
  test('V1 has no effect until its PASID cache is flushed', () => {
    const driver = new GuestDriver(kind);
    driver.firstStage(5);
    driver.unit.settle();
    expectShadows(driver, []);
    driver.flush(5);
    expectShadows(driver, [5]);
  });

  test('V5 that is cleared and flushed takes both host entries with it', () => {
    const driver = new GuestDriver(kind);
    for (const pasid of [5, 6]) {
      driver.firstStage(pasid);
      driver.flush(pasid);
    }
    driver.entry(5, []);
    expectShadows(driver, [5, 6]);
    driver.flush(5);
    expectShadows(driver, [6]);
  });

  test('that changes is replaced at the flush, and keeps its PASIDs', () => {
    const driver = new GuestDriver(kind);
    driver.firstStage(5);
    driver.flush(5);
    driver.firstStage(5, STAGE1 + 4096);
    driver.flush(5);
    expectShadows(driver, [5]);
  });

  test('is found by a global flush too', () => {
    const driver = new GuestDriver(kind);
    driver.firstStage(3);
    driver.firstStage(63);
    driver.flush(null);
    expectShadows(driver, [3, 63]);
    driver.entry(63, []);
    driver.flush(null);
    expectShadows(driver, [3]);
  });

  test.each([
    ['a reserved bit in word 0', 0, 1 << 11],
    ['a reserved bit in word 2', 2, 1 << 17],
    ['a reserved bit in word 4', 4, 1 << 9],
    ['a reserved word', 9, 1],
    ['a second-stage type', 0, PASID0_PRESENT ^ (PASID0_PRESENT | (3 << 6))],
    ['five levels, which are not shown', 4, 1 << 2],
  ])('with %s is not shadowed, and what was there before is blocked', (_what, word, bits) => {
    const driver = new GuestDriver(kind);
    driver.firstStage(5);
    driver.flush(5);
    const good = [PASID0_PRESENT | fieldPrep(PASID0_PGTT, PGTT_FIRST_STAGE), 0, 1, 0, STAGE1, 0, 0, 0, 0, 0];
    good[word] = good[word]! ^ bits;
    driver.entry(5, good);
    driver.flush(5);
    expectShadows(driver, []);
    expect(driver.unit.iommu.hasGuestEntry(5)).toBe(true);
  });

  test('without PASID, that is first stage, nests requests without PASID where that can be done, else blocks them', () => {
    const driver = new GuestDriver(kind);
    const { shadowed, refusals } = driver.unit;
    driver.firstStage(0);
    driver.flush(0);
    expect([...shadowed]).toEqual(kind === 'gpasid' ? [] : [NO_PASID]);
    expect(refusals.length).toBe(kind === 'gpasid' ? 1 : 0);
    expect(reachesMemory(driver)).toBe(false);
    driver.firstStage(0, STAGE1 + 4096);
    driver.flush(0);
    expect(reachesMemory(driver)).toBe(false);
    driver.passThrough();
    driver.flush(0);
    expect(reachesMemory(driver)).toBe(true);
    expect(driver.unit.exit()).toEqual(NOTHING);
  });

  test('without PASID, that is not there, blocks requests without PASID, and leaves the others their entries', () => {
    const driver = new GuestDriver(kind);
    driver.firstStage(5);
    driver.flush(5);
    driver.entry(0, []);
    driver.flush(0);
    expect(driver.unit.shadowed).not.toContain(NO_PASID);
    expect(reachesMemory(driver)).toBe(false);
    expectShadows(driver, [5]);
    driver.passThrough();
    driver.flush(0);
    expect(reachesMemory(driver)).toBe(true);
    expect(driver.unit.exit()).toEqual(NOTHING);
  });

  test('without PASID, that is malformed, blocks them, also where they reached guest memory before', () => {
    const driver = new GuestDriver(kind);
    expect(reachesMemory(driver)).toBe(true);
    driver.entry(0, [PASID0_PRESENT | (1 << 11)]);
    driver.flush(0);
    expect(driver.unit.refusals.length).toBe(1);
    expect(reachesMemory(driver)).toBe(false);
    expect(driver.unit.exit()).toEqual(NOTHING);
  });

  test.each([
    ['that is new', false],
    ['that replaces another', true],
  ])('%s is blocked when the host runs out of memory at any step, and made when it has some', (_what, replaces) => {
    const driver = new GuestDriver(kind);
    const { failpoints } = driver.unit.host.kernel;
    const idle = driver.unit.host.usage.objects;
    const names: string[] = [];
    for (let nth = 1; ; nth++) {
      if (replaces) {
        driver.firstStage(5);
        driver.flush(5);
      }
      driver.firstStage(5, STAGE1 + 4096);
      failpoints.arm(nth);
      driver.flush(5);
      const { hit } = failpoints;
      failpoints.arm(0);
      if (hit === null) break;
      names.push(hit);
      expectShadows(driver, []);
      expect(driver.unit.host.usage.objects).toBe(idle);
      driver.flush(5);
      expectShadows(driver, [5]);
      driver.entry(5, []);
      driver.flush(5);
    }
    expectShadows(driver, [5]);
    expect(names.length).toBeGreaterThan(3);
    expect(driver.unit.exit()).toEqual(NOTHING);
  });

  test('what the host cannot invalidate is blocked: a device that does not answer', () => {
    const driver = new GuestDriver(kind);
    driver.firstStage(5);
    driver.flush(5);
    const { fabric } = driver.unit.host.machine;
    (fabric.functionAt(DSA_RID) as DsaFunction).answersInvalidations = false;
    driver.submit([DESCRIPTOR_PASID_IOTLB | (2 << 4) | (1 << 16), 5, 0, 0]);
    expectShadows(driver, []);
    expect(driver.unit.refusals.length).toBe(1);
    expect(driver.unit.exit()).toEqual(NOTHING);
  });
});

describe.each<[InterfaceKind, number]>([
  ['iommufd', 150],
  ['ioasid', 50],
  ['gpasid', 50],
])('a hostile guest, with %s,', (kind, numRuns) => {
  const address = fc.oneof(
    fc.constantFrom(QUEUE, ROOT, CONTEXTS + GUEST_RID * 32, DIRECTORY, TABLE, TABLE + 64, TABLE + 128, STAGE1),
    fc.integer({ min: 0, max: GUEST_BYTES / 4 - 16 }).map((word) => word * 4),
  );
  const word = fc.oneof(fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }), fc.integer({ min: 0, max: 255 }));
  const step = fc.oneof(
    fc.record({
      kind: fc.constant('memory' as const),
      address,
      words: fc.array(word, { minLength: 1, maxLength: 16 }),
    }),
    fc.record({ kind: fc.constant('entry' as const), pasid: fc.integer({ min: 0, max: 8 }) }),
    fc.record({ kind: fc.constant('flush' as const), pasid: fc.option(fc.integer({ min: 0, max: 8 })) }),
    fc.record({ kind: fc.constant('descriptor' as const), words: fc.array(word, { minLength: 4, maxLength: 4 }) }),
    fc.record({
      kind: fc.constant('register' as const),
      offset: fc.integer({ min: 0, max: 0x3ff }).map((index) => index * 4),
      value: fc.bigInt({ min: 0n, max: 0xffff_ffffn }),
    }),
  );

  test('X6 can write what it likes: nothing throws, nothing outside its PASIDs is attached, nothing is left', () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 40 }), (steps) => {
        const driver = new GuestDriver(kind);
        const { unit } = driver;
        for (const action of steps) {
          if (action.kind === 'memory') driver.words(action.address, action.words);
          else if (action.kind === 'entry') driver.firstStage(action.pasid);
          else if (action.kind === 'flush') driver.flush(action.pasid);
          else if (action.kind === 'descriptor') driver.submit(action.words);
          else unit.registers.write(action.offset, 4, action.value);
          unit.settle();
          expect(unit.host.usage.pasids).toBe(2 * unit.enqcmd.size);
          for (const [guest, hostPasid] of unit.enqcmd) {
            expect(guest).toBeLessThan(2 ** unit.pasidBits);
            expect(hostPasid).toBeGreaterThanOrEqual(2 ** unit.pasidBits);
          }
        }
        expect(unit.exit()).toEqual(NOTHING);
      }),
      { numRuns },
    );
  });
});
