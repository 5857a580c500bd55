/** The properties that hold after every call, each under its number, of the world and its model side by side. */

import { IOMMU_CACHE, IOMMU_MMIO, IOMMU_READ, IOMMU_WRITE, type PagingDomain } from '@iommukit/iommu-core';
import type { Area } from '../../../src/ioas/area.ts';
import { FakeDomain } from '../../support/fakes.ts';
import type { GroupModel } from './group-model.ts';
import { type AreaModel, type IoasModel, meets, toRange } from './ioas-model.ts';
import { ensure, spell, Violation } from './violation.ts';
import type { World } from './world.ts';

const UNIT = 2048;

export function checkInvariants(world: World): void {
  for (const ioas of world.model.ioas) checkAddresses(world, ioas);
  checkPins(world);
  checkAccounting(world);
  for (const ioas of world.model.ioas) checkTranslations(world, ioas);
}

/** Properties 7 and 8, and that the areas are those of the model. */
function checkAddresses(world: World, ioas: IoasModel): void {
  const table = world.table(ioas);
  const { space, iovaAlignment } = table;
  const name = `IOAS ${ioas.index}`;
  ensure(iovaAlignment === ioas.alignment, 8, () => `${name} has alignment ${iovaAlignment}, not ${ioas.alignment}`);
  const areas: Area[] = [];
  space.forEachArea((area) => areas.push(area));
  let end = -1n;
  const { reservedRanges, allowedRanges } = space;
  for (const area of areas) {
    const where = (): string => `${name}: the area ${spell(area.iova, area.last)}`;
    ensure(area.iova > end, 7, () => `${where()} meets the one before`);
    end = area.last;
    ensure(!reservedRanges.some((range) => meets(range, toRange(area as never))), 7, () => `${where()} is reserved`);
    const misaligned = (area.iova | (area.last + 1n) | area.startByte) & BigInt(iovaAlignment - 1);
    ensure(misaligned === 0n, 7, () => `${where()} is not aligned to ${iovaAlignment}`);
    ensure((area.prot & IOMMU_WRITE) === 0 || area.pages.writable, 13, () => `${where()} writes read-only pages`);
  }
  for (const range of allowedRanges) {
    ensure(!reservedRanges.some((other) => meets(range, other)), 7, () => `${name}: allowed and reserved meet`);
  }
  const same =
    areas.length === ioas.areas.length && areas.every((area, at) => isSame(world, ioas, area, ioas.areas[at]!));
  ensure(same, 'model', () => `${name} has ${areas.map((a) => spell(a.iova, a.last))}`);
  ensure(sameRanges(allowedRanges, ioas.allowed), 'model', () => `${name} allows ${spellAll(allowedRanges)}`);
  const reserved = [...ioas.reserved].sort((a, b) => (a.start < b.start ? -1 : 1));
  ensure(sameRanges(reservedRanges, reserved), 'model', () => `${name} reserves ${spellAll(reservedRanges)}`);
  const domains = ioas.domains.map((domain) => world.domains.get(domain));
  ensure(domains.length === table.domains.length && domains.every((d, at) => d === table.domains[at]), 5, () => {
    return `${name} has domains ${table.domains.map(({ id }) => id)}`;
  });
}

function isSame(world: World, ioas: IoasModel, area: Area, model: AreaModel): boolean {
  return (
    area.iova === model.iova &&
    area.last === model.last &&
    area.startByte === model.startByte &&
    area.prot === protOf(model) &&
    area.pages === world.groups.get(model.group)!.pages &&
    area.preventAccess === model.prevented &&
    area.accesses === ioas.users(model)
  );
}

/** Properties 1, 5 and 6: what is covered is pinned once, in one frame, which stays while it is. */
function checkPins(world: World): void {
  const pins = new Map<number, number>();
  let total = 0;
  for (const group of world.groups.keys()) if (!world.model.live.has(group)) world.groups.delete(group);
  for (const [group, { pages, frames }] of world.groups) {
    const name = `pages ${pages.id}`;
    ensure(pages.pinned === group.pinned, 1, () => `${name} has ${pages.pinned} pins, not ${group.pinned}`);
    const covered = framesOf(group, world);
    ensure(covered.size === group.cells.size, 1, () => `${name} covers ${[...covered.keys()]}`);
    for (const index of frames.keys()) if (!group.cells.has(index)) frames.delete(index);
    for (const [index, cell] of group.cells) {
      const pfn = covered.get(index);
      if (pfn === undefined) throw new Violation(1, `page ${index} of ${name} is used and not pinned`);
      const before = frames.get(index) ?? pfn;
      ensure(pfn === before, 6, () => `page ${index} of ${name} was in frame ${before} and is in ${pfn}`);
      frames.set(index, pfn);
      if (cell === null) continue;
      const [low, high] = world.halvesOf(pfn);
      ensure(low === cell.halves[0] && high === cell.halves[1], 13, () => {
        return `page ${index} of ${name} holds ${[low, high]}, not ${cell.halves}`;
      });
      pins.set(pfn, (pins.get(pfn) ?? 0) + 1);
      total++;
    }
  }
  const { counts } = world.processes;
  ensure(counts.pinned === total, 1, () => `${counts.pinned} pins, ${total} pages that are used`);
  for (const [pfn, count] of pins) {
    ensure(counts.pinCount(pfn) === count, 1, () => `frame ${pfn} has ${counts.pinCount(pfn)} pins, not ${count}`);
  }
}

/** The frame of each covered page of a group, from its store. */
function framesOf(group: GroupModel, world: World): Map<number, number> {
  const { pages } = world.groups.get(group)!;
  const found = new Map<number, number>();
  for (const { first, last } of pages.covered) {
    let index = first;
    pages.forEachRun(first, last, (pfn, count) => {
      for (let page = 0; page < count; page++) found.set(index++, pfn + page);
    });
    ensure(index === last + 1, 5, () => `pages ${pages.id} stores ${index - first} frames for ${first}..${last}`);
  }
  if (group.source.kind === 'dma-buf') {
    const { buffer, page } = group.source;
    for (const [index, pfn] of found)
      ensure(pfn === buffer.pfn + page + index, 2, () => `frame ${pfn} of ${buffer.name}`);
  }
  return found;
}

/** Property 1 in the counters: VmPin, VmLck and the user's locked pages are what the groups have pinned. */
function checkAccounting(world: World): void {
  const groups = [...world.model.live];
  for (const { model, system } of world.running) {
    const { addressSpace, credentials } = system.process;
    const pinned = groups.reduce((sum, group) => {
      const owner = group.source.kind === 'user' ? group.source.process : group.payer;
      return owner === model ? sum + group.pinned : sum;
    }, 0);
    const name = `${model.name} of uid ${credentials.user.uid}`;
    ensure(
      addressSpace.pinnedPages === pinned,
      1,
      () => `VmPin of ${name} is ${addressSpace.pinnedPages}, not ${pinned}`,
    );
    const { lockedPages } = addressSpace;
    ensure(lockedPages === model.locked, 1, () => `VmLck of ${name} is ${lockedPages}, not ${model.locked}`);
    const user = credentials.user.lockedPages;
    ensure(user === model.user.locked, 1, () => `the user of ${name} has ${user} locked, not ${model.user.locked}`);
  }
}

/** Properties 2 and 3: every hardware table shows every area, and nothing else; none has anything cached that is gone. */
function checkTranslations(world: World, ioas: IoasModel): void {
  if (ioas.domains.length === 0) return;
  const domains = ioas.domains.map((domain) => world.domains.get(domain)!);
  const expected = new Map<number, { phys: number; prot: number }>();
  for (const area of ioas.areas) {
    if (area.group.revoked) continue;
    const { frames } = world.groups.get(area.group)!;
    const start = Number(area.startByte);
    const unit = Number(area.iova / BigInt(UNIT));
    const prot = area.group.source.kind === 'dma-buf' ? (protOf(area) & ~IOMMU_CACHE) | IOMMU_MMIO : protOf(area);
    for (let done = 0; done < Number(area.last - area.iova) + 1; done += UNIT) {
      const byte = start + done;
      const phys = frames.get(Math.floor(byte / 4096))! * 4096 + (byte % 4096);
      expected.set(unit + done / UNIT, { phys, prot });
    }
  }
  for (const domain of domains) {
    if (domain instanceof FakeDomain) checkUnits(ioas, domain, domains[0] as FakeDomain, expected);
    else checkPages(ioas, domain, expected);
  }
}

function checkUnits(
  ioas: IoasModel,
  domain: FakeDomain,
  first: FakeDomain,
  expected: ReadonlyMap<number, { phys: number; prot: number }>,
): void {
  const name = `domain ${domain.id} of IOAS ${ioas.index}`;
  ensure(
    domain.cached.size === 0,
    11,
    () => `${name} may have ${domain.cached.size} translations cached that are gone`,
  );
  const alike =
    domain.units.size === first.units.size && [...domain.units.keys()].every((unit) => first.units.has(unit));
  ensure(alike, 3, () => `${name} and domain ${first.id} differ`);
  ensure(domain.units.size === expected.size, 2, () => `${name} maps ${domain.units.size} units, not ${expected.size}`);
  for (const [unit, { phys, prot }] of expected) {
    const found = domain.units.get(unit);
    ensure(found?.phys === phys && found.prot === prot, 2, () => {
      return `${name} at 0x${(unit * UNIT).toString(16)}: ${found?.phys} with ${found?.prot}, not ${phys} with ${prot}`;
    });
  }
}

/** A table that can only be asked, in the pages where maps go. */
function checkPages(
  ioas: IoasModel,
  domain: PagingDomain,
  expected: ReadonlyMap<number, { phys: number; prot: number }>,
): void {
  for (let unit = 0; unit < 256; unit++) {
    const found = domain.iovaToPhys(BigInt(unit * UNIT));
    const wanted = expected.get(unit)?.phys ?? null;
    ensure(found === (wanted === null ? null : BigInt(wanted)), 2, () => {
      return `a table of IOAS ${ioas.index} at 0x${(unit * UNIT).toString(16)}: ${found}, not ${wanted}`;
    });
  }
}

function protOf({ readable, writable }: AreaModel): number {
  return IOMMU_CACHE | (readable ? IOMMU_READ : 0) | (writable ? IOMMU_WRITE : 0);
}

type Range = { readonly start: bigint; readonly last: bigint };

function sameRanges(one: readonly Range[], other: readonly Range[]): boolean {
  return spellAll(one) === spellAll(other);
}

function spellAll(ranges: readonly Range[]): string {
  return ranges.map(({ start, last }) => spell(start, last)).join(' ');
}
