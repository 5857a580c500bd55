/** Operations of drivers on what is mapped: accesses and locks. */

import { lockPages } from '../../../src/access.ts';
import { Ioas } from '../../../src/ioas/ioas.ts';
import { type AccessModel, checkLast, type IoasModel, type PinModel } from './ioas-model.ts';
import { Refusal } from './memory-model.ts';
import { type Draw, hexOf, pick, type Run } from './run.ts';
import { ensure } from './violation.ts';
import { type AccessPair, filled } from './world.ts';

/** What the model fills with one number. */
const HALF = 2048n;

export function attach(run: Run, draw: Draw): void {
  const { model, access } = pick(run.world.accesses, draw.who)!;
  const ioas = run.ioas(draw);
  const name = model.ioas === null ? 'attach' : 'replace';
  const wrong = draw.flags === 7;
  run.call(wrong ? 'attach-wrongly' : name, {
    text: `access ${model.index} to IOAS ${ioas.index}`,
    fail: draw.fail,
    real: () => {
      if ((name === 'attach') === wrong) access.replace(ioas.index);
      else access.attach(ioas.index);
    },
    model: () => {
      if (wrong) throw new Refusal(name === 'attach' ? 'ENOENT' : 'EINVAL');
      run.world.model.attach(model, ioas);
    },
  });
}

export function detach(run: Run, draw: Draw): void {
  const { model, access } = pick(run.world.accesses, draw.who)!;
  run.call('detach', {
    text: `access ${model.index}`,
    real: () => access.detach(),
    model: () => run.world.model.detach(model),
  });
}

export function pin(run: Run, draw: Draw): void {
  const { model, pin: pinPages } = accessOf(run, draw);
  const { iova, length } = rangeOf(run, draw, model.ioas);
  const write = (draw.flags & 2) !== 0;
  let frames: number[] = [];
  const done = run.call('pin', {
    text: `access ${model.index} IOAS ${model.ioas?.index} ${hexOf(iova)} +${hexOf(length)}${write ? ' to write' : ''}`,
    fail: draw.fail,
    real: () => {
      frames = pinPages(iova, length, write);
    },
    model: () => {
      model.pins.push(run.world.model.pin(attached(model, iova, length), iova, length, write, false));
    },
  });
  if (done) checkFrames(run, model.pins.at(-1)!, frames);
}

export function unpin(run: Run, draw: Draw): void {
  const holding = run.world.accesses.filter(({ pins }) => pins.length > 0);
  const chosen = pick(holding, draw.who);
  if (chosen === undefined) return;
  const { model, access, pins } = chosen;
  const index = draw.at % pins.length;
  const { iova, length } = pins[index]!;
  run.call('unpin', {
    text: `access ${model.index} ${hexOf(iova)} +${hexOf(length)}`,
    real: () => {
      pins.splice(index, 1);
      access.unpinPages(iova, length);
    },
    model: () => {
      const gone = model.pins.findIndex(
        (candidate) => candidate.iova === iova && candidate.last === iova + length - 1n,
      );
      model.pins.splice(gone, 1);
    },
  });
}

export function lock(run: Run, draw: Draw): void {
  const { world } = run;
  const { ioas } = run.area(draw);
  const held = pick(ioas.locks, draw.at);
  if (held !== undefined && draw.who > 0) {
    run.call('unlock', {
      text: `IOAS ${ioas.index} ${hexOf(held.iova)}`,
      real: () => world.locks.get(held)!.release(),
      model: () => {
        ioas.locks = ioas.locks.filter((other) => other !== held);
        world.locks.delete(held);
      },
    });
    return;
  }
  const { iova, length } = rangeOf(run, draw, ioas);
  let locked: ReturnType<typeof lockPages> | undefined;
  run.call('lock', {
    text: `IOAS ${ioas.index} ${hexOf(iova)} +${hexOf(length)}`,
    fail: draw.fail,
    real: () => {
      locked = lockPages(world.context.objects.get(ioas.index, Ioas), iova, length);
    },
    model: () => {
      checkLast(iova, length);
      ioas.checkAlignment(Math.max(4096, ioas.alignment));
      const made = world.model.pin(ioas, iova, length, false, true);
      ioas.locks.push(made);
      world.locks.set(made, locked!);
    },
  });
}

export function readWrite(run: Run, draw: Draw): void {
  const { world } = run;
  const { model, access } = accessOf(run, draw);
  const { iova, length } = rangeOf(run, draw, model.ioas);
  const area = model.ioas?.areaAt(iova);
  // What is written is whole halves of pages, whose content is one number each.
  const last = iova + length - 1n;
  const met = model.ioas?.areas.filter((other) => other.iova <= last && iova <= other.last) ?? [];
  const halves = met.every((part) => part.byteAt(iova) % HALF === 0n && (part.byteAt(part.last) + 1n) % HALF === 0n);
  const stamp = (draw.flags & 2) !== 0 && halves && length % HALF === 0n ? world.nextStamp() : null;
  const asker = [null, ...world.alive][draw.place % (1 + world.alive.length)] ?? null;
  const data = stamp === null ? new Uint8Array(Number(length)) : filled(Number(length), stamp);
  const expected = new Uint8Array(data.length);
  // What lies before a failing area has been copied; a failpoint would leave the model behind.
  const whole = area !== undefined && last <= area.last;
  const done = run.call(stamp === null ? 'read' : 'write', {
    text: `access ${model.index} IOAS ${model.ioas?.index} ${hexOf(iova)} +${hexOf(length)} by ${asker?.model.name ?? 'the kernel'}`,
    fail: whole ? draw.fail : 0,
    partial: true,
    real: () => {
      const by = asker?.system.process.addressSpace ?? null;
      if (stamp === null) access.read(iova, data, by);
      else access.write(iova, data, by);
    },
    model: () => {
      world.model.readWrite(attached(model, iova, length), iova, expected, stamp, asker?.model ?? null);
    },
  });
  if (!done || stamp !== null) return;
  ensure(
    Buffer.compare(data, expected) === 0,
    13,
    () => `access ${model.index} reads ${data.subarray(0, 8)}, not ${expected.subarray(0, 8)}`,
  );
}

/** The IOAS of an access, as a call on a range finds it. */
function attached({ ioas }: AccessModel, iova: bigint, length: bigint): IoasModel {
  checkLast(iova, length);
  if (ioas === null) throw new Refusal('ENOENT');
  return ioas;
}

/** An access; most of the time one of an IOAS with areas. */
function accessOf(run: Run, draw: Draw): AccessPair {
  const { accesses } = run.world;
  const useful = accesses.filter(({ model }) => model.ioas !== null && model.ioas.areas.length > 0);
  return (draw.flags === 0 ? undefined : pick(useful, draw.who)) ?? pick(accesses, draw.who)!;
}

/** A range in some area, or over its end, or anywhere. */
function rangeOf(run: Run, draw: Draw, ioas: IoasModel | null): { iova: bigint; length: bigint } {
  const area = ioas === null ? undefined : pick(ioas.areas, draw.at);
  const length = BigInt(draw.length * draw.unit);
  if (area === undefined || draw.flags >= 14) return { iova: run.iova(draw), length };
  const skip = draw.flags % 4 === 0 ? BigInt((draw.place % 5) * draw.unit + draw.odd) : 0n;
  const rest = area.last - area.iova + 1n - skip;
  return { iova: area.iova + skip, length: (draw.flags & 12) !== 0 && rest > 0n ? rest : length };
}

/** A pin gives the frames that hardware tables show. */
function checkFrames(run: Run, { parts }: PinModel, frames: readonly number[]): void {
  const expected = parts.flatMap(({ area, first, last }) => {
    const stored = run.world.groups.get(area.group)!.frames;
    return Array.from({ length: last - first + 1 }, (_, index) => stored.get(first + index));
  });
  ensure(frames.join() === expected.join(), 6, () => `a pin gives frames ${frames}, where ${expected} are`);
}
