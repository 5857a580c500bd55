/** Operations that map and unmap, and say where. */

import { U64_MAX } from '@iommukit/hw';
import type { Area } from '../../../src/ioas/area.ts';
import { addressOf } from './group-model.ts';
import { type AreaModel, checkLast, type IoasModel, type RangeModel } from './ioas-model.ts';
import { type Draw, hexOf, pick, type Run } from './run.ts';
import type { Target } from './system-model.ts';
import { ensure, spell } from './violation.ts';
import { MEMORY_PAGE } from './world.ts';

export function map(run: Run, draw: Draw): void {
  const { world } = run;
  const process = run.process(draw);
  const target = targetOf(run, draw);
  const userVa = BigInt(MEMORY_PAGE) * 4096n + BigInt(draw.at * draw.unit + draw.odd);
  const length = lengthOf(draw);
  const startByte = userVa % 4096n;
  const source = { kind: 'user', process: process.model, page: Number(userVa / 4096n) } as const;
  run.call('map', {
    text: `${process.model.name} ${hexOf(userVa)} +${hexOf(length)} to ${spellTarget(target)}`,
    fail: draw.fail,
    real: () => process.client.ioasMap({ ...request(target), userVa, length }),
    model: () => world.model.map(process.model, source, startByte, length, target),
    agreed: (iova) => {
      bind(run, target.ioas, iova);
      checkPlace(target, userVa, iova, length);
    },
  });
}

export function mapFile(run: Run, draw: Draw): void {
  const { world } = run;
  const process = run.process(draw);
  const target = targetOf(run, draw);
  const kind = draw.place % 8;
  const file = kind < 5 ? pick(world.files, kind) : undefined;
  const buffer = kind < 7 && file === undefined ? pick(world.buffers, kind) : undefined;
  const fd = file?.fd ?? buffer?.fd ?? world.notMemory;
  const start = BigInt((draw.at % 10) * draw.unit + draw.odd);
  const length = lengthOf(draw);
  const page = Number(start / 4096n);
  const source =
    buffer === undefined
      ? ({ kind: 'file', file: file?.model ?? null, page } as const)
      : ({ kind: 'dma-buf', buffer: buffer.model, page } as const);
  run.call('map-file', {
    text: `${process.model.name} ${(file ?? buffer)?.model.name ?? 'eventfd'} ${hexOf(start)} +${hexOf(length)} to ${spellTarget(target)}`,
    fail: draw.fail,
    real: () => process.client.ioasMapFile({ ...request(target), fd, start, length }),
    model: () => world.model.map(process.model, source, start % 4096n, length, target),
    agreed: (iova) => {
      bind(run, target.ioas, iova);
      checkPlace(target, start, iova, length);
    },
  });
}

export function copy(run: Run, draw: Draw): void {
  const { world } = run;
  const { ioas: from, area } = run.area(draw);
  const target = targetOf(run, draw);
  const size = area === undefined ? 0n : area.last - area.iova + 1n;
  const skip = size > draw.unit && draw.who % 2 === 1 ? BigInt(draw.unit) : 0n;
  const iova = (area?.iova ?? 0n) + skip;
  const length = size > 0n && draw.length % 4 > 0 ? size - skip : lengthOf(draw);
  const { counts } = world.processes;
  const before = [counts.pinned, ...world.running.map(({ model }) => model.locked + model.user.locked)].join();
  const wasPinned = isPinned(from, iova, length);
  const origin = from.areaAt(iova);
  const source = origin === undefined ? 0n : addressOf({ group: origin.group, startByte: origin.byteAt(iova) });
  const { client } = run.process(draw);
  const done = run.call('copy', {
    text: `IOAS ${from.index} ${hexOf(iova)} +${hexOf(length)} to ${spellTarget(target)}`,
    fail: draw.fail,
    real: () => {
      const { ioasId, iova: dstIova, readable, writable } = request(target);
      const place = dstIova === undefined ? {} : { dstIova };
      return client.ioasCopy({
        srcIoasId: from.index,
        srcIova: iova,
        length,
        dstIoasId: ioasId,
        readable,
        writable,
        ...place,
      });
    },
    model: () => world.model.copy(from, iova, length, target),
    agreed: (place) => checkPlace(target, source, place, length),
  });
  const after = [counts.pinned, ...world.running.map(({ model }) => model.locked + model.user.locked)].join();
  ensure(
    !done || !wasPinned || before === after,
    13,
    () => `a copy of pinned pages moved pins and charges ${before} to ${after}`,
  );
}

export function unmap(run: Run, draw: Draw): void {
  const { world } = run;
  const { ioas, area } = run.area(draw);
  const exact = area !== undefined && (draw.flags & 1) === 0;
  const iova = exact ? area.iova : run.iova(draw);
  const length = exact ? area.last - area.iova + 1n : lengthOf(draw) * 4n;
  run.call('unmap', {
    text: `IOAS ${ioas.index} ${hexOf(iova)} +${hexOf(length)}`,
    partial: true,
    real: () => world.table(ioas).unmap(iova, length, () => {}),
    model: () => world.model.unmap(ioas, iova, checkLast(iova, length)),
  });
}

export function unmapAll(run: Run, draw: Draw): void {
  const ioas = run.ioas(draw);
  run.call('unmap-all', {
    text: `IOAS ${ioas.index}`,
    partial: true,
    real: () => run.process(draw).client.ioasUnmapAll(ioas.index),
    model: () => run.world.model.unmap(ioas, 0n, U64_MAX),
  });
}

export function allow(run: Run, draw: Draw): void {
  const ioas = run.ioas(draw);
  const ranges: RangeModel[] = [];
  for (let index = 0; index < draw.who % 3; index++) {
    const start = BigInt((draw.place + index * draw.at * 2) * draw.unit);
    // Of one address, which is refused, when the length is 0.
    const bytes = draw.length === 0 ? 1n : BigInt(draw.length * draw.unit * 2);
    ranges.push({ start, last: start + bytes - 1n });
  }
  run.call('allow', {
    text: `IOAS ${ioas.index} ${ranges.map(({ start, last }) => spell(start, last)).join(' ')}`,
    fail: draw.fail,
    real: () => run.process(draw).client.ioasAllowIovas(ioas.index, ranges),
    model: () => ioas.allow(ranges),
  });
}

function lengthOf({ length, unit, at, odd }: Draw): bigint {
  return BigInt(length * unit + (at % 2 === 0 ? odd : 0));
}

function targetOf(run: Run, draw: Draw): Target {
  const writable = (draw.flags & 2) !== 0;
  const iova = (draw.flags & 1) === 0 ? null : run.iova(draw);
  return { ioas: run.ioas(draw), iova, readable: !writable || (draw.flags & 4) === 0, writable };
}

function request({ ioas, iova, readable, writable }: Target): {
  ioasId: number;
  readable: boolean;
  writable: boolean;
  iova?: bigint;
} {
  return { ioasId: ioas.index, readable, writable, ...(iova === null ? {} : { iova }) };
}

function spellTarget({ ioas, iova, readable, writable }: Target): string {
  const place = iova === null ? 'any place' : hexOf(iova);
  return `IOAS ${ioas.index} ${place} ${readable ? 'r' : ''}${writable ? 'w' : ''}`;
}

/** Ties the group that a map has made to the model's. */
function bind(run: Run, ioas: IoasModel, iova: bigint): void {
  const { world } = run;
  const area: Area = world.table(ioas).space.areaFrom(iova)!;
  world.remember(ioas.areaAt(iova)!.group, area.pages);
}

/** Property 9, as it reads, of a place that was chosen for memory at `address`; which one is for the model to say. */
function checkPlace({ ioas, iova: fixed }: Target, address: bigint, iova: bigint, length: bigint): void {
  if (fixed !== null) return;
  const last = iova + length - 1n;
  const where = spell(iova, last);
  const offset = address % 4096n;
  ensure(iova !== 0n, 9, () => 'address 0 is given');
  ensure((iova & offset) === offset, 9, () => `${where} has not the page offset ${hexOf(offset)}`);
  const inside = ioas.allowed.length === 0 || ioas.allowed.some((range) => range.start <= iova && last <= range.last);
  ensure(inside, 9, () => `${where} is not allowed`);
}

function isPinned(ioas: IoasModel, iova: bigint, length: bigint): boolean {
  for (let at = iova; at < iova + length; at += 2048n) {
    const area: AreaModel | undefined = ioas.areaAt(at);
    if (area === undefined || !area.group.cells.has(area.indexAt(at))) return false;
  }
  return true;
}
