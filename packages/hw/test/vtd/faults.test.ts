import { describe, expect, test } from 'vitest';
import * as f from '../../src/vtd/fault-reason.ts';
import type { VtdFeatures } from '../../src/vtd/features.ts';
import * as reg from '../../src/vtd/registers.ts';
import { Bench, type BenchOptions, INTERRUPT_TABLE, PAGE, RID, ROOT } from './bench.ts';

const READ = 1;
const WRITE = 2;
const EXECUTE = 4;
const PRIVILEGED = 8;
/** An address with memory behind nothing. */
const NOWHERE = 0x7000_0000n;
const IOVA = 0x12_3456_7000n;
const LEGACY = 0;
const SCALABLE = 1;

/** PASID entry words: kind, address width, flags of word 0; flags of words 1 and 2. */
type Entry = { kind: bigint; width?: bigint; flags0?: bigint; flags1?: bigint; flags2?: bigint };

/** A function with PASID 5, first stage with 4 levels and second stage with 4 levels (width 2). */
class Scene extends Bench {
  readonly first: bigint;
  readonly second: bigint;
  readonly data: bigint;
  contextAt = 0n;
  entryAt = 0n;

  constructor(mode: number, options: BenchOptions = {}) {
    super(options);
    this.first = this.frame() * PAGE;
    this.second = this.frame() * PAGE;
    this.data = this.frame() * PAGE;
    this.enable(mode);
  }

  legacy(type = 0n, width = 2n): this {
    this.contextAt = this.legacyContext(RID, this.second | (type << 2n) | 1n, width | (7n << 8n));
    return this;
  }

  pasid(entry: Entry): this {
    this.contextAt = this.context(RID, 0x1dn, 5n);
    const word0 = this.second | ((entry.width ?? 2n) << 2n) | (entry.kind << 6n) | (entry.flags0 ?? 0n) | 1n;
    const word1 = 7n | (entry.flags1 ?? 1n << 23n);
    this.entryAt = this.pasidEntry(this.contextAt, 5, [word0, word1, this.first | (entry.flags2 ?? 0n)]);
    return this;
  }

  map1(leaf = this.data | 0x67n, table = 0x27n): this {
    this.map(this.first, 4, IOVA, leaf, table);
    return this;
  }

  map2(address: bigint, leaf = 7n, table = 7n): this {
    this.map(this.second, 4, address, leaf, table);
    return this;
  }

  /** Maps everything that a nested walk of IOVA meets, one to one. */
  mapNested(): this {
    this.map1();
    for (let frame = 16n; frame < 64n; frame++) this.map2(frame * PAGE, (frame * PAGE) | 7n);
    return this;
  }

  /** Address of the first-stage entry of IOVA at a level. */
  entry1(level: number): bigint {
    let table = this.first;
    for (let at = 3; at > level; at--) table = this.get64(table + slot(IOVA, at)) & 0x000ffffffffff000n;
    return table + slot(IOVA, level);
  }

  entry2(address: bigint, level: number): bigint {
    let table = this.second;
    for (let at = 3; at > level; at--) table = this.get64(table + slot(address, at)) & 0x000ffffffffff000n;
    return table + slot(address, level);
  }

  change(address: bigint, change: (value: bigint) => bigint): this {
    this.put64(address, change(this.get64(address)));
    return this;
  }
}

function slot(address: bigint, level: number): bigint {
  return 8n * ((address >> BigInt(12 + 9 * level)) & 511n);
}

type Case = {
  reason: number;
  /** Which of several conditions with the same code. */
  when?: string;
  mode?: number;
  options?: BenchOptions;
  features?: Partial<VtdFeatures>;
  prepare: (scene: Scene) => void;
  access?: number;
  pasid?: number;
  address?: bigint;
  /** 0 untranslated (default), 1 translation request, 2 translated, 3 page request. */
  request?: number;
};

const FIRST: Entry = { kind: 1n };
const SECOND: Entry = { kind: 2n };
const NESTED: Entry = { kind: 3n };
const PASS: Entry = { kind: 4n };
const BEYOND_46 = 1n << 50n;

const legacyCases: Case[] = [
  { reason: f.LRT_1, prepare: (s) => s.setRoot(LEGACY, NOWHERE) },
  { reason: f.LRT_2, prepare: () => {} },
  { reason: f.LRT_3, prepare: (s) => s.legacy().change((ROOT + 0n) * PAGE + 16n, (v) => v | 2n) },
  {
    reason: f.LRT_3,
    when: 'address beyond the host width',
    features: { hostAddressWidth: 46 },
    prepare: (s) => s.legacy().change(ROOT * PAGE + 16n, (v) => v | BEYOND_46),
  },
  { reason: f.LCT_1, prepare: (s) => s.put64(ROOT * PAGE + 16n, NOWHERE | 1n) },
  { reason: f.LCT_2, prepare: (s) => s.legacy().change(s.contextAt, (v) => v & ~1n) },
  { reason: f.LCT_3, prepare: (s) => s.legacy().change(s.contextAt, (v) => v | 0x10n) },
  { reason: f.LCT_3, when: 'high half', prepare: (s) => s.legacy().change(s.contextAt + 8n, (v) => v | (1n << 40n)) },
  { reason: f.LCT_4, when: 'address width', prepare: (s) => s.legacy(0n, 5n) },
  { reason: f.LCT_4, when: 'translation type 3', prepare: (s) => s.legacy(3n) },
  {
    reason: f.LCT_4,
    when: 'device TLB not advertised',
    features: { deviceTlb: false },
    prepare: (s) => s.legacy(1n),
  },
  {
    reason: f.LCT_4,
    when: 'pass-through not advertised',
    features: { passThrough: false },
    prepare: (s) => s.legacy(2n),
  },
  { reason: f.LCT_5, when: 'translation request', request: 1, prepare: (s) => s.legacy(0n) },
  { reason: f.LCT_5, when: 'translated request', request: 2, prepare: (s) => s.legacy(2n) },
  { reason: f.LSS_1, prepare: (s) => s.legacy().put64(s.second + slot(IOVA, 3), NOWHERE | 3n) },
  { reason: f.LSS_2, prepare: (s) => s.legacy().map2(IOVA, s.data | 3n | (1n << 62n)) },
  { reason: f.LGN_1, address: 1n << 48n, prepare: (s) => s.legacy() },
  {
    reason: f.LGN_1,
    when: 'pass-through',
    features: { hostAddressWidth: 46 },
    address: 1n << 46n,
    prepare: (s) => s.legacy(2n),
  },
  {
    reason: f.LGN_1,
    when: 'translated',
    features: { hostAddressWidth: 46 },
    address: 1n << 46n,
    request: 2,
    prepare: (s) => s.legacy(1n),
  },
  { reason: f.LGN_2, access: WRITE, prepare: (s) => s.legacy().map2(IOVA, s.data | 1n) },
  { reason: f.LGN_2, when: 'not present', access: WRITE, prepare: (s) => s.legacy() },
  { reason: f.LGN_3, prepare: (s) => s.legacy().map2(IOVA, s.data | 2n) },
  { reason: f.LGN_4, prepare: (s) => s.legacy().map2(IOVA, 0xfee01000n | 3n) },
  { reason: f.LGN_4, when: 'translated', request: 2, address: 0xfee01000n, prepare: (s) => s.legacy(1n) },
  { reason: f.RTA_2, pasid: 5, prepare: (s) => s.legacy() },
  { reason: f.RTA_3, request: 3, prepare: (s) => s.legacy() },
];

const scalableCases: Case[] = [
  { reason: f.RTA_1, prepare: (s) => s.setRoot(2) },
  {
    reason: f.RTA_1,
    when: 'scalable mode not advertised',
    options: {},
    features: { scalableMode: false },
    prepare: (s) => s.setRoot(1),
  },
  { reason: f.RTA_4, prepare: (s) => s.setRoot(3) },
  { reason: f.SRT_1, prepare: (s) => s.setRoot(SCALABLE, NOWHERE) },
  { reason: f.SRT_2, prepare: () => {} },
  { reason: f.SRT_3, prepare: (s) => s.pasid(FIRST).change(ROOT * PAGE + 16n, (v) => v | 4n) },
  { reason: f.SCT_1, prepare: (s) => s.put64(ROOT * PAGE + 16n, NOWHERE | 1n) },
  { reason: f.SCT_2, prepare: (s) => s.pasid(FIRST).change(s.contextAt, (v) => v & ~1n) },
  { reason: f.SCT_3, prepare: (s) => s.pasid(FIRST).change(s.contextAt, (v) => v | 0x20n) },
  { reason: f.SCT_3, when: 'high words', prepare: (s) => s.pasid(FIRST).put64(s.contextAt + 24n, 1n) },
  {
    reason: f.SCT_3,
    when: 'RID_PRIV not advertised',
    features: { ridPrivileged: false },
    prepare: (s) => s.pasid(FIRST).change(s.contextAt + 8n, (v) => v | (1n << 20n)),
  },
  {
    reason: f.SCT_4,
    features: { pasidBits: 16 },
    prepare: (s) => s.pasid(FIRST).change(s.contextAt, (v) => v | (7n << 9n)),
  },
  { reason: f.SCT_5, when: 'translation request', request: 1, prepare: noDeviceTlb },
  { reason: f.SCT_5, when: 'translated request', request: 2, pasid: -1, prepare: noDeviceTlb },
  { reason: f.SCT_6, prepare: (s) => s.pasid(FIRST).change(s.contextAt, (v) => v & ~8n) },
  { reason: f.SCT_7, pasid: 0x2000, prepare: (s) => s.pasid(FIRST) },
  { reason: f.SCT_8, request: 3, prepare: (s) => s.pasid(FIRST).change(s.contextAt, (v) => v & ~16n) },
  { reason: f.SCT_9, pasid: -1, prepare: (s) => s.pasid(FIRST).put64(s.contextAt + 8n, 0x2000n) },
  { reason: f.SPD_1, prepare: (s) => s.pasid(FIRST).change(s.contextAt, (v) => (v & 0xfffn) | NOWHERE) },
  { reason: f.SPD_2, pasid: 64, prepare: (s) => s.pasid(FIRST) },
  { reason: f.SPD_3, prepare: (s) => s.pasid(FIRST).change(directory(s), (v) => v | 4n) },
  { reason: f.SPT_1, prepare: (s) => s.pasid(FIRST).put64(directory(s), NOWHERE | 1n) },
  { reason: f.SPT_2, pasid: 6, prepare: (s) => s.pasid(FIRST) },
  { reason: f.SPT_3, prepare: (s) => s.pasid(FIRST).change(s.entryAt, (v) => v | 0x400n) },
  { reason: f.SPT_3, when: 'last word', prepare: (s) => s.pasid(FIRST).put64(s.entryAt + 56n, 1n << 63n) },
  {
    reason: f.SPT_3,
    when: 'SRE not advertised',
    features: { supervisorRequests: false },
    prepare: (s) => s.pasid({ kind: 1n, flags2: 1n }),
  },
  {
    reason: f.SPT_3,
    when: 'EAFE not advertised',
    features: { extendedAccessed: false },
    prepare: (s) => s.pasid({ kind: 1n, flags2: 0x80n }),
  },
  {
    reason: f.SPT_3,
    when: 'SSADE not advertised',
    features: { secondStageAccessedDirty: false },
    prepare: (s) => s.pasid({ kind: 2n, flags0: 0x200n }),
  },
  {
    reason: f.SPT_3,
    when: 'PGSNP not advertised',
    features: { snoopControl: false },
    prepare: (s) => s.pasid({ kind: 2n, flags1: 1n << 24n }),
  },
  { reason: f.SPT_4, when: 'PGTT 0', prepare: (s) => s.pasid({ kind: 0n }) },
  { reason: f.SPT_4, when: 'PGTT 7', prepare: (s) => s.pasid({ kind: 7n }) },
  { reason: f.SPT_4, when: 'address width', prepare: (s) => s.pasid({ kind: 2n, width: 0n }) },
  { reason: f.SPT_4, when: 'paging mode', prepare: (s) => s.pasid({ kind: 1n, flags2: 8n }) },
  { reason: f.SPT_4, when: 'nesting not advertised', features: { nested: false }, prepare: (s) => s.pasid(NESTED) },
  {
    reason: f.SPT_4,
    when: '5 levels not advertised',
    features: { firstStage5Level: false },
    prepare: (s) => s.pasid({ kind: 1n, flags2: 4n }),
  },
  { reason: f.SPT_5, access: READ | EXECUTE, prepare: (s) => s.pasid(FIRST).map1() },
  { reason: f.SPT_6, access: READ | PRIVILEGED, prepare: (s) => s.pasid(FIRST).map1() },
  { reason: f.SFS_1, prepare: (s) => s.pasid(FIRST).put64(s.first + slot(IOVA, 3), NOWHERE | 0x27n) },
  { reason: f.SFS_2, prepare: (s) => s.pasid(FIRST).map1(0n) },
  { reason: f.SFS_2, when: 'upper level', prepare: (s) => s.pasid(FIRST) },
  { reason: f.SFS_3, when: 'XD without NXE', prepare: (s) => s.pasid(FIRST).map1(s.data | 0x67n | (1n << 63n)) },
  { reason: f.SFS_3, when: 'large PML4 entry', prepare: (s) => s.pasid(FIRST).map1(undefined, 0xa7n) },
  {
    reason: f.SFS_3,
    when: '1 GiB leaf that the unit does not have, whose flags it could not set either',
    features: { firstStage1G: false },
    prepare: (s) => {
      s.pasid({ kind: 1n, flags1: 0n }).map1();
      s.put64(s.entry1(2), 0x87n);
    },
  },
  { reason: f.SFS_4, prepare: (s) => s.pasid(FIRST).put64(s.entryAt + 16n, NOWHERE) },
  {
    reason: f.SFS_5,
    prepare: (s) =>
      s
        .pasid(NESTED)
        .mapNested()
        .put64(s.entryAt + 16n, 1n << 49n),
  },
  {
    reason: f.SFS_6,
    prepare: (s) =>
      s
        .pasid(NESTED)
        .mapNested()
        .change(s.entry2(s.first, 0), (v) => v & ~1n),
  },
  {
    reason: f.SFS_7,
    prepare: (s) =>
      s
        .pasid(NESTED)
        .mapNested()
        .change(s.entry2(s.entry1(1), 0), (v) => v & ~1n),
  },
  {
    reason: f.SFS_8,
    prepare: (s) =>
      s
        .pasid(NESTED)
        .mapNested()
        .change(s.entry1(0), (v) => v & ~0x20n)
        .change(s.entry2(s.entry1(0), 0), (v) => v & ~2n),
  },
  {
    reason: f.SFS_9,
    when: 'accessed',
    prepare: (s) => s.pasid({ kind: 1n, flags1: 0n }).map1(s.data | 7n),
  },
  {
    reason: f.SFS_9,
    when: 'dirty',
    access: WRITE,
    prepare: (s) => s.pasid({ kind: 1n, flags1: 0n }).map1(s.data | 0x27n),
  },
  {
    reason: f.SFS_10,
    options: { atomics: (pfn) => pfn < 20 },
    prepare: (s) => s.pasid(FIRST).map1(s.data | 7n),
  },
  { reason: f.SSS_1, prepare: (s) => s.pasid(SECOND).put64(s.second + slot(IOVA, 3), NOWHERE | 3n) },
  { reason: f.SSS_2, prepare: (s) => s.pasid(SECOND).map2(IOVA, 0n) },
  { reason: f.SSS_2, when: 'levels together', prepare: (s) => s.pasid(SECOND).map2(IOVA, s.data | 2n, 5n) },
  { reason: f.SSS_2, when: 'nested', prepare: (s) => s.pasid(NESTED).map1() },
  { reason: f.SSS_3, prepare: (s) => s.pasid(SECOND).map2(IOVA, s.data | 7n, 7n | (1n << 11n)) },
  { reason: f.SSS_4, prepare: (s) => s.pasid(SECOND).change(s.entryAt, (v) => (v & 0xfffn) | NOWHERE) },
  {
    reason: f.SSS_5,
    prepare: (s) => s.pasid({ kind: 2n, flags0: 0x200n, flags1: 0n }).map2(IOVA, s.data | 7n),
  },
  {
    reason: f.SSS_6,
    options: { atomics: (pfn) => pfn < 20 },
    prepare: (s) => s.pasid({ kind: 2n, flags0: 0x200n }).map2(IOVA, s.data | 7n, 0x107n),
  },
  { reason: f.SGN_1, address: 1n << 47n, prepare: (s) => s.pasid(FIRST) },
  { reason: f.SGN_2, prepare: (s) => s.pasid(FIRST).map1(s.data | 0x63n) },
  {
    reason: f.SGN_3,
    access: READ | EXECUTE,
    prepare: (s) => s.pasid({ kind: 1n, flags2: 0x22n }).map1(s.data | 0x67n | (1n << 63n)),
  },
  {
    reason: f.SGN_3,
    when: 'SMEP',
    access: READ | EXECUTE | PRIVILEGED,
    prepare: (s) => s.pasid({ kind: 1n, flags2: 0x43n }).map1(),
  },
  {
    reason: f.SGN_3,
    when: 'second stage',
    access: READ | EXECUTE,
    prepare: (s) => s.pasid({ kind: 2n, flags0: 0x20n }).map2(IOVA, s.data | 3n),
  },
  {
    reason: f.SGN_4,
    when: 'pass-through',
    features: { hostAddressWidth: 46 },
    address: 1n << 46n,
    prepare: (s) => s.pasid(PASS),
  },
  {
    reason: f.SGN_4,
    when: 'translated',
    features: { hostAddressWidth: 46 },
    address: 1n << 46n,
    request: 2,
    pasid: -1,
    prepare: (s) => s.pasid(PASS),
  },
  { reason: f.SGN_5, address: 1n << 48n, prepare: (s) => s.pasid(SECOND) },
  {
    reason: f.SGN_5,
    when: 'nested',
    prepare: (s) =>
      s
        .pasid(NESTED)
        .mapNested()
        .map1((1n << 49n) | 0x67n),
  },
  { reason: f.SGN_6, access: WRITE, prepare: (s) => s.pasid(FIRST).map1(s.data | 0x65n) },
  {
    reason: f.SGN_6,
    when: 'supervisor with WPE',
    access: WRITE | PRIVILEGED,
    prepare: (s) => s.pasid({ kind: 1n, flags2: 0x11n }).map1(s.data | 0x65n),
  },
  { reason: f.SGN_6, when: 'second stage', access: WRITE, prepare: (s) => s.pasid(SECOND).map2(IOVA, s.data | 1n) },
  { reason: f.SGN_7, prepare: (s) => s.pasid(SECOND).map2(IOVA, s.data | 2n) },
  {
    reason: f.SGN_7,
    when: 'nested',
    prepare: (s) =>
      s
        .pasid(NESTED)
        .mapNested()
        .change(s.entry2(s.data, 0), (v) => v & ~1n),
  },
  { reason: f.SGN_8, prepare: (s) => s.pasid(FIRST).map1(0xfee00067n) },
  { reason: f.SGN_8, when: 'pass-through', address: 0xfee00000n, prepare: (s) => s.pasid(PASS) },
];

function noDeviceTlb(scene: Scene): void {
  scene.pasid(FIRST).change(scene.contextAt, (v) => v & ~4n);
}

function directory(scene: Scene): bigint {
  return scene.get64(scene.contextAt) & ~0xfffn;
}

function run(scene: Scene, entry: Case, pasid: number): number {
  const { access = READ, address = IOVA, request = 0 } = entry;
  if (request === 1) return scene.atsRequest(RID, pasid, access, address);
  if (request !== 3) return scene.dma(RID, pasid, access, address, request);
  scene.pageRequest({ pasid, access, address });
  scene.run();
  expect(scene.responses).toEqual([{ rid: RID, pasid, group: 0, code: 1 }]);
  return -1;
}

function title(entry: Case): string {
  const when = entry.when === undefined ? '' : ` (${entry.when})`;
  return `${entry.reason.toString(16)}h ${f.describeFault(entry.reason)}${when}`;
}

describe.each([
  { mode: LEGACY, name: 'legacy mode', cases: legacyCases, defaultPasid: -1 },
  { mode: SCALABLE, name: 'scalable mode', cases: scalableCases, defaultPasid: 5 },
])('$name', ({ mode, cases, defaultPasid }) => {
  test.each(cases.map((entry) => [title(entry), entry] as const))('%s', (_title, entry) => {
    const scene = new Scene(mode, { ...entry.options, ...(entry.features ? { features: entry.features } : {}) });
    entry.prepare(scene);
    const { access = READ, address = IOVA, request = 0, pasid = defaultPasid } = entry;
    expect(run(scene, entry, pasid)).not.toBe(0);
    const kind = request === 3 ? 'page request' : (access & WRITE) !== 0 ? 'write' : 'read';
    expect(scene.faults()).toEqual([
      {
        reason: entry.reason,
        rid: RID,
        pasid,
        address: address & ~0xfffn,
        addressType: request === 3 ? 0 : request,
        kind,
        execute: (access & EXECUTE) !== 0,
        privileged: (access & PRIVILEGED) !== 0,
      },
    ]);
    expect(scene.messages).toEqual([{ address: 0xfee00000, data: 0x31 }]);
  });
});

type InterruptCase = {
  reason: number;
  when?: string;
  prepare: (bench: Bench) => void;
  index?: number;
  address?: number;
  data?: number;
};

/** Address of a remappable-format message with a handle. */
function handle(index: number): number {
  return (0xfee00000 | ((index & 0x7fff) << 5) | ((index >> 15) << 2) | 0x10) >>> 0;
}

function interruptEntry(bench: Bench, index: number, low: bigint, high = 0n): void {
  bench.put64(INTERRUPT_TABLE * PAGE + 16n * BigInt(index), low);
  bench.put64(INTERRUPT_TABLE * PAGE + 16n * BigInt(index) + 8n, high);
}

const interruptCases: InterruptCase[] = [
  { reason: f.IR_REQUEST_RESERVED, prepare: () => {}, data: 0x10000 },
  { reason: f.IR_INDEX_BEYOND_TABLE, prepare: () => {}, index: 256 },
  {
    reason: f.IR_INDEX_BEYOND_TABLE,
    when: 'subhandle',
    prepare: () => {},
    address: handle(3) | 8,
    data: 253,
    index: 256,
  },
  { reason: f.IR_ENTRY_NOT_PRESENT, prepare: (b) => interruptEntry(b, 3, 0x410000n) },
  { reason: f.IR_TABLE_ACCESS, prepare: (b) => b.unit.setInterruptTable(NOWHERE, 256, false) },
  { reason: f.IR_ENTRY_RESERVED, prepare: (b) => interruptEntry(b, 3, 0x411001n) },
  { reason: f.IR_ENTRY_RESERVED, when: 'posted format', prepare: (b) => interruptEntry(b, 3, 0x418001n) },
  { reason: f.IR_COMPATIBILITY_BLOCKED, prepare: () => {}, address: 0xfee00000, index: 0 },
  { reason: f.IR_SOURCE_ID, when: 'SID', prepare: (b) => interruptEntry(b, 3, 0x410001n, (1n << 18n) | 0x109n) },
  { reason: f.IR_SOURCE_ID, when: 'bus range', prepare: (b) => interruptEntry(b, 3, 0x410001n, (2n << 18n) | 0x0205n) },
];

describe('interrupt remapping', () => {
  const names = interruptCases.map((entry) => {
    const when = entry.when === undefined ? '' : ` (${entry.when})`;
    return [`${entry.reason.toString(16)}h ${f.describeFault(entry.reason)}${when}`, entry] as const;
  });
  test.each(names)('%s', (_title, entry) => {
    const bench = new Bench();
    bench.enable(SCALABLE);
    bench.write64(reg.REG_IRTA, (INTERRUPT_TABLE * PAGE) | 7n);
    bench.command(reg.GCMD_SIRTP);
    bench.command(reg.GCMD_IRE);
    entry.prepare(bench);
    const index = entry.index ?? 3;
    bench.unit.writeInterrupt(RID, entry.address ?? handle(index), 0, entry.data ?? 0);
    const [record] = bench.faults();
    expect(record).toMatchObject({ reason: entry.reason, rid: RID, pasid: -1, address: BigInt(index) << 48n });
    expect(bench.messages).toEqual([{ address: 0xfee00000, data: 0x31 }]);
  });
});

test('every fault reason of the model is produced above', () => {
  const produced = [...legacyCases, ...scalableCases, ...interruptCases].map((entry) => entry.reason);
  expect([...new Set(produced)].sort()).toEqual([...f.FAULT_REASONS].sort());
});

describe('Fault Processing Disable', () => {
  const pfd = 2n;
  test.each([
    ['context entry', (s: Scene) => s.pasid(FIRST).change(s.contextAt, (v) => v | pfd)],
    ['PASID directory entry', (s: Scene) => s.pasid(FIRST).change(directory(s), (v) => v | pfd)],
    ['PASID entry', (s: Scene) => s.pasid(FIRST).change(s.entryAt, (v) => v | pfd)],
  ])('in the %s keeps qualified faults out of the log', (_where, prepare) => {
    const scene = new Scene(SCALABLE);
    prepare(scene);
    expect(scene.dma(RID, 5, READ, IOVA)).not.toBe(0);
    expect(scene.faults()).toEqual([]);
  });

  test('in a legacy context entry, also when it is not present', () => {
    const scene = new Scene(LEGACY);
    scene.legacy().change(scene.contextAt, (v) => (v & ~1n) | pfd);
    expect(scene.dma(RID, -1, READ, IOVA)).not.toBe(0);
    expect(scene.faults()).toEqual([]);
  });

  test('does not hide an unqualified fault', () => {
    const scene = new Scene(SCALABLE);
    scene.pasid(FIRST).change(scene.contextAt, (v) => (v & 0xfffn) | NOWHERE | pfd);
    scene.dma(RID, 5, READ, IOVA);
    expect(scene.faults().map((fault) => fault.reason)).toEqual([f.SPD_1]);
  });

  test('in an interrupt entry', () => {
    const bench = new Bench();
    bench.enable(SCALABLE);
    bench.write64(reg.REG_IRTA, (INTERRUPT_TABLE * PAGE) | 7n);
    bench.command(reg.GCMD_SIRTP);
    bench.command(reg.GCMD_IRE);
    interruptEntry(bench, 3, 0x410002n);
    bench.unit.writeInterrupt(RID, handle(3), 0, 0);
    expect(bench.faults()).toEqual([]);
  });
});

describe('the fault log', () => {
  test('overflows: what finds no free register is lost, until software clears PFO', () => {
    const scene = new Scene(SCALABLE, { features: { faultRecords: 2 } });
    scene.pasid(FIRST);
    for (let i = 0n; i < 4n; i++) scene.dma(RID, 5, READ, i * PAGE);
    expect(scene.read32(reg.REG_FSTS)).toBe(reg.FSTS_PFO | reg.FSTS_PPF);
    expect(scene.messages.length).toBe(1);
    expect(scene.faults().map((fault) => fault.address)).toEqual([0n, PAGE]);
    expect(scene.read32(reg.REG_FSTS)).toBe(0);
    scene.dma(RID, 5, READ, 9n * PAGE);
    expect(scene.faults().map((fault) => fault.address)).toEqual([9n * PAGE]);
    expect(scene.messages.length).toBe(2);
  });

  test('goes on at the next register and tells in FRI where the first pending fault is', () => {
    const scene = new Scene(SCALABLE, { features: { faultRecords: 3 } });
    scene.pasid(FIRST);
    scene.dma(RID, 5, READ, PAGE);
    scene.faults();
    scene.dma(RID, 5, READ, 2n * PAGE);
    scene.dma(RID, 5, READ, 3n * PAGE);
    expect((scene.read32(reg.REG_FSTS) & reg.FSTS_FRI) >> 8).toBe(1);
    expect(scene.faults().map((fault) => fault.address)).toEqual([2n * PAGE, 3n * PAGE]);
  });

  test('keeps a masked event pending and sends it when unmasked; servicing withdraws it', () => {
    const scene = new Scene(SCALABLE);
    scene.pasid(FIRST);
    scene.write32(reg.REG_FECTL, reg.EVENT_CONTROL_IM);
    scene.dma(RID, 5, READ, IOVA);
    expect(scene.messages).toEqual([]);
    expect(scene.read32(reg.REG_FECTL) >>> 0).toBe((reg.EVENT_CONTROL_IM | reg.EVENT_CONTROL_IP) >>> 0);
    scene.write32(reg.REG_FECTL, 0);
    expect(scene.messages).toEqual([{ address: 0xfee00000, data: 0x31 }]);
    scene.faults();
    scene.write32(reg.REG_FECTL, reg.EVENT_CONTROL_IM);
    scene.dma(RID, 5, READ, IOVA);
    scene.faults();
    scene.write32(reg.REG_FECTL, 0);
    expect(scene.messages.length).toBe(1);
  });
});
