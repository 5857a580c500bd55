/**
 * The TypeScript side: every job of c/translation.c in one process, after each walker, cache and editor has been used in
 * every way it can be, so that no job runs on code that has seen only its own types. Prints a line of JSON for each.
 */

import {
  ACCESS_EXECUTE,
  ACCESS_PRIVILEGED,
  ACCESS_READ,
  ACCESS_WRITE,
  AT_UNTRANSLATED,
  amdv1,
  amdv1Mock,
  COMPLETION_SUCCESS,
  CONTROL_EXTENDED_ACCESSED,
  CONTROL_NO_EXECUTE,
  CONTROL_SMEP,
  CONTROL_STAGE2_ACCESSED_DIRTY,
  CONTROL_STAGE2_EXECUTE,
  CONTROL_WRITE_PROTECT,
  type PageTableFormat,
  TranslationCache,
  VtdNestedWalker,
  VtdSecondStageWalker,
  vtdSecondStage,
  WALK_OK,
  X86Walker,
  x86_64,
} from '@iommukit/hw';
import { IOMMU_READ, IOMMU_WRITE, PageTableEditor } from '@iommukit/iommu-core';
import { measure, measureParts, print, type Sample } from '../measure.ts';
import { buildGuest } from './guest-loop.ts';
import {
  buildNested,
  buildTable,
  buildUnit,
  FIRST_PAGE,
  FIRST_PAGE_39,
  GUEST_ROOT,
  kernel,
  kinds,
  memory,
  order,
  RIDS,
  SOURCE,
  WALKS,
} from './machine.ts';

const CONTROL = CONTROL_WRITE_PROTECT | CONTROL_NO_EXECUTE;

const x86Table = buildTable(x86_64, 4, FIRST_PAGE);
const roots = [
  x86Table.rootPfn,
  buildTable(x86_64, 5, FIRST_PAGE).rootPfn,
  buildTable(vtdSecondStage, 3, FIRST_PAGE_39).rootPfn,
  buildTable(vtdSecondStage, 4, FIRST_PAGE).rootPfn,
  buildTable(vtdSecondStage, 5, FIRST_PAGE).rootPfn,
] as const;
const x86 = new X86Walker(memory);
const second = new VtdSecondStageWalker(memory);
const stage2 = buildNested(vtdSecondStage);
const nested = new VtdNestedWalker(memory, second);
const { unit, functions } = buildUnit(roots[0]);

/** Every format, every control bit, both styles of interface, hits and faults, small and large pages. */
function useEverything(): void {
  const controls = [
    0,
    CONTROL,
    CONTROL | CONTROL_SMEP | CONTROL_EXTENDED_ACCESSED,
    CONTROL | CONTROL_STAGE2_ACCESSED_DIRTY | CONTROL_STAGE2_EXECUTE,
  ];
  const accesses = [0, ACCESS_READ, ACCESS_WRITE, ACCESS_READ | ACCESS_EXECUTE, ACCESS_WRITE | ACCESS_PRIVILEGED];
  const caches = [new TranslationCache(64), new TranslationCache(8)];
  const tables: PageTableEditor[] = [x86_64, vtdSecondStage, amdv1, amdv1Mock].flatMap((format: PageTableFormat) =>
    format.levels.map((levels) => new PageTableEditor(kernel, format, levels)),
  );
  for (const [index, table] of tables.entries()) {
    const prot = IOMMU_READ | (index % 2 === 0 ? IOMMU_WRITE : 0);
    table.map(0, 32, 0, 32, 2 ** 30, prot);
    table.map(0, 33, 0x200000, 33, 2 ** 21, prot);
    table.map(0x201000, 33, 0x1000, 0, 3 * 4096, prot);
    // Beside what is mapped in the same table: pages, then leaves of 2 MiB and of 1 GiB.
    table.map(0x204000, 33, 0x4000, 0, 2 ** 22, prot);
    table.map(0, 34, 0, 34, 2 ** 22, prot);
    table.map(2 ** 22, 34, 2 ** 22, 34, 2 ** 21, prot);
    table.map(0x40000000, 32, 0x40000000, 32, 2 ** 30, prot);
  }
  const addresses = [0n, 32n << 32n, 33n << 32n, (33n << 32n) + 0x202000n, (1n << 47n) - 4096n];
  for (let round = 0; round < 400; round++) {
    for (const [index, table] of tables.entries()) {
      const control = controls[round % controls.length]!;
      const access = accesses[round % accesses.length]!;
      const address = addresses[round % addresses.length]!;
      const pageHigh = Number(address >> 39n);
      const pageLow = Number((address >> 12n) & 0x7ffffffn);
      const top = table.levels - 1;
      if (index < 2) x86.walk(table.rootPfn, top, pageHigh, pageLow, access, control);
      else if (index < 5) second.walk(table.rootPfn, top, pageHigh, pageLow, access & 7, control);
      nested.walk(GUEST_ROOT, 3, stage2.rootPfn, 3, pageHigh, pageLow, access, control);
      table.iovaToPhys(address);
      for (const cache of caches) {
        cache.insert(1 + index, pageHigh, pageLow, [12, 21, 30][round % 3]!, round * 4096, 0x77, 0);
        cache.probe(1 + index, pageHigh, pageLow ^ (round & 1));
      }
      unit.translate(RIDS[index % 4]!, index, access, AT_UNTRANSLATED, pageHigh, pageLow);
      memory.store(BigInt(SOURCE) << 12n, 8, address);
      memory.load(SOURCE * 4096, 4);
    }
  }
  for (const table of tables) {
    table.unmap(0, 32, 2 ** 33);
    table.freeGathered();
    table.free();
  }
}

/** One call site for each kind of walker: a site that sees several classes costs more than the walk. */
function walkKind(kind: number, index: number): number {
  const page = (kind === 2 ? FIRST_PAGE_39 : FIRST_PAGE) + index;
  const [high, low] = [page >>> 27, page & 0x7ffffff];
  switch (kind) {
    case 0:
      return x86.walk(roots[0], 3, high, low, ACCESS_READ, CONTROL) === WALK_OK ? x86.pfn + x86.rights : 0;
    case 1:
      return x86.walk(roots[1], 4, high, low, ACCESS_READ, CONTROL) === WALK_OK ? x86.pfn + x86.rights : 0;
    case 2:
      return second.walk(roots[2], 2, high, low, ACCESS_READ, CONTROL) === WALK_OK ? second.pfn + second.rights : 0;
    case 3:
      return second.walk(roots[3], 3, high, low, ACCESS_READ, CONTROL) === WALK_OK ? second.pfn + second.rights : 0;
    default:
      return second.walk(roots[4], 4, high, low, ACCESS_READ, CONTROL) === WALK_OK ? second.pfn + second.rights : 0;
  }
}

function walkFirstStage(): number {
  let sum = 0;
  for (let i = 0; i < WALKS; i++) {
    const page = FIRST_PAGE + order[i]!;
    if (x86.walk(roots[0], 3, page >>> 27, page & 0x7ffffff, ACCESS_READ, CONTROL) === WALK_OK) {
      sum = (sum + x86.pfn + x86.rights) | 0;
    }
  }
  return sum;
}

function walkMixed(): number {
  let sum = 0;
  for (let i = 0; i < WALKS; i++) sum = (sum + walkKind(kinds[i]!, order[i]!)) | 0;
  return sum;
}

function walkNested(): number {
  let sum = 0;
  const root2 = stage2.rootPfn;
  for (let i = 0; i < WALKS; i++) {
    const page = FIRST_PAGE + order[i]!;
    const code = nested.walk(GUEST_ROOT, 3, root2, 3, page >>> 27, page & 0x7ffffff, ACCESS_READ, CONTROL);
    if (code === WALK_OK) sum = (sum + nested.pfn + nested.rights) | 0;
  }
  return sum;
}

function fillIotlb(): void {
  for (let pick = 0; pick < 1024; pick++) {
    const page = FIRST_PAGE + pick;
    const [rid, pasid] = [8 * (1 + (pick >> 8)), 1 + ((pick >> 6) & 3)];
    unit.translate(rid, pasid, ACCESS_READ, AT_UNTRANSLATED, page >>> 27, page & 0x7ffffff);
  }
}

function hitIotlb(): number {
  let sum = 0;
  for (let i = 0; i < WALKS; i++) {
    const pick = order[i]! & 1023;
    const page = FIRST_PAGE + pick;
    const rid = 8 * (1 + (pick >> 8));
    const pasid = 1 + ((pick >> 6) & 3);
    const status = unit.translate(rid, pasid, ACCESS_READ, AT_UNTRANSLATED, page >>> 27, page & 0x7ffffff);
    if (status === COMPLETION_SUCCESS) sum = (sum + unit.pfn) | 0;
  }
  return sum;
}

function writeByDma(): number {
  let sum = 0;
  for (let i = 0; i < WALKS / 16; i++) {
    const pick = order[i]! & 1023;
    const page = FIRST_PAGE + pick;
    const { upstream } = functions[pick >> 8]!;
    const pasid = 1 + ((pick >> 6) & 3);
    const from = (SOURCE + (pick & 63)) * 4096;
    const status = upstream.write(AT_UNTRANSLATED, pasid, 0, page << 12, page >>> 20, 4096, from);
    if (status === COMPLETION_SUCCESS) sum = (sum + upstream.pfn) | 0;
  }
  return sum;
}

function mapAndUnmap(names: [string, string], level: number, leaves: number): Sample[] {
  const table = new PageTableEditor(kernel, vtdSecondStage, 4, [12, 21, 30].slice(0, level + 1));
  const bytes = leaves * 4096 * 512 ** level;
  return measureParts(names, leaves, (mark) => {
    table.map(0, 0, 0, 1, bytes, IOMMU_READ | IOMMU_WRITE);
    mark(0);
    const unmapped = table.unmap(0, 0, bytes);
    table.freeGathered();
    mark(1);
    return unmapped / 4096;
  });
}

useEverything();
print(measure('walk', WALKS, walkFirstStage));
print(measure('mixed', WALKS, walkMixed));
print(measure('nested', WALKS, walkNested));
fillIotlb();
const { iotlbHits, translations } = unit.counters;
print(measure('iotlb', WALKS, hitIotlb));
print(measure('dma', WALKS / 16, writeByDma));
const after = unit.counters;
const missed = after.translations - translations - (after.iotlbHits - iotlbHits);
// Writing takes one walk for each page that a read has cached without the right to write.
if (missed > 1024) throw new Error(`${missed} translations missed the IOTLB`);
print(...mapAndUnmap(['map-4k', 'unmap-4k'], 0, 262144));
print(...mapAndUnmap(['map-2m', 'unmap-2m'], 1, 32768));
print(...mapAndUnmap(['map-1g', 'unmap-1g'], 2, 4096));
const GUEST_SLICE = 2_000_000;
const runGuest = buildGuest();
print(measure('guest', GUEST_SLICE, () => runGuest(GUEST_SLICE)));
