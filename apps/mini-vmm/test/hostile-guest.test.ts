/** Whatever a guest does, the VMM neither throws nor hangs, and the host gets everything back. */

import { REG_FECTL, REG_GCMD, REG_IQA, REG_IQH, REG_PECTL } from '@iommukit/hw';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Report } from '../src/report/report.ts';
import { type RunOptions, run } from '../src/run.ts';
import type { InterfaceKind } from '../src/vmm/interfaces/open.ts';
import {
  absent,
  CONFIG,
  CONFIG_COMMAND,
  CONFIG_FLR,
  driven,
  ENTRY,
  enqcmd,
  FILL,
  FILL_UNMAPPED,
  PASID,
  PORTALS,
  placed,
  present,
  QUEUED,
  REGISTERS,
  ring,
  setPasid,
  spin,
  VTD,
  write32,
} from './support/hostile-driver.ts';
import { ACTION_KINDS, type Action, actionImage, executable } from './support/hostile-image.ts';

const RAM = 4 << 20;
const FLUSH = ring(1);
const ANSWER = ring(3);

function start(image: Uint8Array, options: Partial<RunOptions> = {}): Report {
  const boot = { ramBytes: RAM, processes: 1, bytesPerProcess: 65536, seed: 1 };
  return run({ image, boot, kill: (instructions) => instructions >= 60_000, ...options });
}

function expectNothingLeft({ leftovers, iommu }: Report): void {
  for (const [what, count] of Object.entries(leftovers)) expect(count, what).toBe(0);
  expect(iommu.pageResponses).toBe(iommu.pageRequests);
}

/** Runs `actions` after the driver's, to their end. Gives the names of the events and the zero flag of each ENQCMD. */
function attackWith(kind: InterfaceKind, actions: readonly Action[]) {
  const names: string[] = [];
  let zeroFlags = '';
  const report = start(actionImage([...driven, ...actions]), {
    interface: kind,
    hear: ({ event }) => names.push(event.name),
    console: (byte) => (zeroFlags += String.fromCharCode(byte)),
  });
  expect(report.guest.exitStatus).toBe(0);
  expectNothingLeft(report);
  return { names, zeroFlags, report };
}

describe.each<[InterfaceKind, number, number]>([
  ['iommufd', 100, 300],
  ['ioasid', 20, 60],
  ['gpasid', 20, 60],
])('a hostile guest, with %s,', (kind, imagesOfBytes, imagesOfWrites) => {
  const attack = (actions: readonly Action[]) => attackWith(kind, actions);

  test('has a driver that gets as far as DMA and page requests', () => {
    const { names, zeroFlags, report } = attack([
      FLUSH,
      spin(5000),
      enqcmd(FILL),
      spin(5000),
      enqcmd(FILL_UNMAPPED),
      spin(5000),
    ]);
    expect(zeroFlags).toBe('00');
    expect(names).toEqual(expect.arrayContaining(['shadow_set', 'dsa_complete', 'page_request_inject']));
    expect(report.iommu.pageRequests).toBe(1);
  });

  test('that resets the function while its unit has work to do waits for both', () => {
    const { names } = attack([FLUSH, ...present(0x20_9000), write32(CONFIG + CONFIG_FLR, 0x8000), spin(5000)]);
    expect(names).toContain('shadow_set');
    expect(names.filter((name) => name === 'pci_reset').length).toBe(3);
  });

  test('that answers a page request after it has reset the function is heard by nobody', () => {
    const { names } = attack([
      FLUSH,
      spin(5000),
      enqcmd(FILL_UNMAPPED),
      spin(8000),
      write32(CONFIG + CONFIG_FLR, 0x8000),
      ANSWER,
      spin(5000),
    ]);
    expect(names).toContain('page_response_forward');
  });

  test.each([
    ['its memory', 0n],
    ['its unit', BigInt(VTD)],
    ['configuration space', 0xe000_0000n],
    ['its interrupt controller', 0xfee0_0000n],
    ['its other BAR', BigInt(PORTALS)],
    ['the end of the address space', 0xf_ffff_ffff_0000n],
    ['what lies behind that', 0xffff_ffff_ffff_0000n],
  ])('that moves a BAR onto %s finds nothing moved', (_what, address) => {
    const move: Action[] = [
      { what: 'write64', address: CONFIG + 0x10, value: address },
      { what: 'write64', address: VTD + 0x58, value: 0n },
      { what: 'read32', address: VTD, value: 0n },
    ];
    const { zeroFlags } = attack([FLUSH, spin(5000), ...move, enqcmd(FILL), spin(5000)]);
    expect(zeroFlags).toBe('0');
  });

  test('V12 that sends a PASID without a host PASID leaves the guest and is answered with Retry', () => {
    const { names, zeroFlags } = attack([
      enqcmd(FILL), // before the flush: the VM has no host PASID for it
      FLUSH,
      spin(5000),
      enqcmd(FILL),
      setPasid(77),
      enqcmd(FILL),
      setPasid(2 ** 15 + PASID), // the host's own number for it
      enqcmd(FILL),
      setPasid(PASID),
      absent,
      ring(2),
      spin(5000),
      enqcmd(FILL),
    ]);
    expect(zeroFlags).toBe('10111');
    expect(names.filter((name) => name === 'command_refused').length).toBe(4);
    expect(names.filter((name) => name === 'dsa_submit').length).toBe(1);
  });

  test('X6 that runs random bytes leaves nothing', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 16, maxLength: 256 }), (code) => {
        const kill = (instructions: number): boolean => instructions >= 10_000;
        expectNothingLeft(start(executable(code), { interface: kind, kill }));
      }),
      { numRuns: imagesOfBytes },
    );
  });

  const within = (base: number, bytes: number) => fc.integer({ min: 0, max: bytes - 1 }).map((offset) => base + offset);
  const words = (base: number, bytes: number) => within(0, bytes / 4).map((index) => base + 4 * index);
  const value = fc.oneof(
    fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }),
    fc.bigInt({ min: 0n, max: 0xffn }),
    fc.nat({ max: 31 }).map((bit) => 1n << BigInt(bit)),
    fc.constantFrom(...[0xe000_0000, CONFIG + CONFIG_FLR, VTD, 0xfee0_0000, 0xfec0_0000, REGISTERS, ENTRY].map(BigInt)),
  );
  const address = fc.oneof(
    words(CONFIG, 0x100),
    words(CONFIG + 0x100, 0x100),
    within(CONFIG, 0x1000),
    words(VTD, 0x100),
    within(VTD, 0x1000),
    fc.constantFrom(REG_GCMD, REG_IQA, REG_IQH, REG_PECTL, REG_PECTL + 8, REG_FECTL + 8).map((offset) => VTD + offset),
    words(REGISTERS, 0x1000),
    words(REGISTERS + 0x2000, 0x100),
    within(REGISTERS, 0x1_0000),
    within(PORTALS, 0x2_0000),
    within(0xfee0_0000, 0x1000),
    within(0xfec0_0000, 0x1000),
    within(0xe000_0000, 0x1000_0000),
    within(0xc000_0000, 0x1000),
    words(0x20_0000, 0x9000),
    words(ENTRY, 64),
    fc.constantFrom(0xf5, 0x3f8, 0x3f9, 0x3fb, 0x2f8, 0x2f9, 0x80, 0xcf8, 0xffff),
  );
  const blind: fc.Arbitrary<Action> = fc
    .record({ what: fc.constantFrom(...ACTION_KINDS), address, value })
    .map((action) => {
      if (action.what === 'spin') return { ...action, value: (action.value % 3000n) + 1n };
      // The 64-byte writes read the guest's own memory, or the guest ends here.
      if (action.what === 'enqcmd' || action.what === 'movdir64b') {
        return { ...action, address: action.address - (action.address % 64), value: action.value % BigInt(RAM - 64) };
      }
      return action;
    });
  const skilled: fc.Arbitrary<readonly Action[]> = fc.oneof(
    fc.nat({ max: QUEUED.length + 1 }).map((slot) => [ring(slot)]),
    fc.constantFrom(
      [spin(2500)],
      [FLUSH, spin(3000), enqcmd(FILL), enqcmd(FILL_UNMAPPED)],
      [enqcmd(FILL_UNMAPPED), spin(4000)],
      [write32(CONFIG + CONFIG_FLR, 0x8000)],
      [write32(CONFIG + CONFIG_COMMAND, 0)],
      [write32(CONFIG + CONFIG_COMMAND, 6)],
      [...present(0x20_9000), ring(1)],
      [absent, ring(2)],
    ),
  );
  const actions = fc
    .array(fc.oneof(fc.array(blind, { minLength: 1, maxLength: 6 }), skilled), { minLength: 1, maxLength: 16 })
    .map((groups) => groups.flat());

  test('X6 that writes to every device it finds leaves nothing', () => {
    let ended = 0;
    const before = fc.constantFrom(driven, driven, driven, placed, []);
    fc.assert(
      fc.property(before, actions, (prefix, attempts) => {
        const report = start(actionImage([...prefix, ...attempts]), { interface: kind });
        expectNothingLeft(report);
        if (report.guest.exitStatus === 0) ended++;
      }),
      { numRuns: imagesOfWrites },
    );
    expect(ended).toBeGreaterThan(imagesOfWrites / 3);
  });
});
