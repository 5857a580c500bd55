/** Operations on an I/O address space as a whole: its hardware tables, what is reserved, cuts, and who pays. */

import { U64_MAX } from '@iommukit/hw';
import { type Draw, hexOf, pick, type Run } from './run.ts';
import { ensure, spell } from './violation.ts';

export function reserve(run: Run, draw: Draw): void {
  const ioas = run.ioas(draw);
  const { space } = run.world.table(ioas);
  const owner = OWNERS[draw.who % 2]!;
  if ((draw.flags & 1) === 0 || draw.length === 0) {
    run.happens(`unreserve IOAS ${ioas.index} owner ${draw.who % 2}`, () => {
      space.unreserve(owner);
      ioas.reserved = ioas.reserved.filter((range) => range.owner !== owner);
    });
    return;
  }
  const start = BigInt(draw.place * draw.unit + draw.odd);
  const last = start + BigInt(draw.length * draw.unit) - 1n;
  run.call('reserve', {
    text: `IOAS ${ioas.index} ${spell(start, last)} owner ${draw.who % 2}`,
    fail: draw.fail,
    real: () => space.reserve(start, last, owner),
    model: () => ioas.reserve(start, last, owner),
  });
}

export function addDomain(run: Run, draw: Draw): void {
  const { world } = run;
  const ioas = run.ioas(draw);
  if (ioas.domains.length >= 3) return;
  const smallestLg2 = draw.flags === 5 ? 13 : 11 + (draw.flags & 1);
  const aperture = APERTURES[draw.place % APERTURES.length]!;
  const domain = world.maker.make({ smallestLg2, aperture });
  const model = { granule: 2 ** domain.pageSizesLg2[0]!, aperture: domain.aperture };
  world.domains.set(model, domain);
  const done = run.call('add-domain', {
    text: `IOAS ${ioas.index} domain ${domain.id} pages of ${model.granule} in ${spell(aperture.first, aperture.last)}`,
    fail: draw.fail,
    real: () => world.table(ioas).addDomain(domain),
    model: () => ioas.addDomain(model),
  });
  if (done) return;
  ensure(isEmpty(domain), 4, () => `domain ${domain.id}, which was refused, is not empty`);
  world.domains.delete(model);
  domain.free();
}

export function removeDomain(run: Run, draw: Draw): void {
  const { world } = run;
  const ioas = run.ioas(draw);
  const model = pick(ioas.domains, draw.who);
  if (model === undefined) return;
  const domain = world.domains.get(model)!;
  run.call('remove-domain', {
    text: `IOAS ${ioas.index} domain ${domain.id}`,
    real: () => world.table(ioas).removeDomain(domain),
    model: () => ioas.removeDomain(model),
  });
  ensure(isEmpty(domain), 2, () => `domain ${domain.id}, which was removed, is not empty`);
  world.domains.delete(model);
  domain.free();
}

export function setHugePages(run: Run, draw: Draw): void {
  const ioas = run.ioas(draw);
  const on = draw.flags % 3 === 0;
  run.call('huge-pages', {
    text: `IOAS ${ioas.index} ${on ? 'on' : 'off'}`,
    fail: draw.fail,
    real: () => run.world.table(ioas).setHugePages(on),
    model: () => ioas.setHugePages(on),
  });
}

export function cut(run: Run, draw: Draw): void {
  const { ioas, area } = run.area(draw);
  const size = area === undefined ? 1n : area.last - area.iova + 1n;
  const iova = (area?.iova ?? 0n) + (BigInt(draw.length * draw.unit + draw.odd) % (size + 1n));
  if (iova > U64_MAX) return;
  run.call('cut', {
    text: `IOAS ${ioas.index} at ${hexOf(iova)}`,
    fail: draw.fail,
    real: () => run.world.table(ioas).cutAt(iova),
    model: () => ioas.cut(iova),
  });
}

export function changeProcess(run: Run, draw: Draw): void {
  const process = run.process(draw);
  run.call('change-process', {
    text: process.model.name,
    fail: draw.fail,
    real: () => process.client.ioasChangeProcess(),
    model: () => run.world.model.changeProcess(process.model),
  });
}

const OWNERS = [{ owner: 0 }, { owner: 1 }] as const;
const APERTURES = [
  { first: 0n, last: U64_MAX },
  { first: 0x1000n, last: 0xffff_ffffn },
  { first: 0n, last: 0x3_ffffn },
  { first: 0n, last: U64_MAX },
] as const;

function isEmpty(domain: object): boolean {
  if (!('units' in domain && 'cached' in domain)) return true;
  return (domain.units as Map<number, unknown>).size + (domain.cached as Map<number, unknown>).size === 0;
}
