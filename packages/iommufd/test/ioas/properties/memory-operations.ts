/** What happens to the memory behind the areas' back, and to those whose it is. */

import { type Draw, hexOf, pick, type Run } from './run.ts';
import { LAYOUT, MEMORY_PAGE } from './world.ts';

export function revoke(run: Run, draw: Draw): void {
  const { model, buffer } = pick(run.world.buffers, draw.who)!;
  if ((draw.flags & 1) === 0) {
    run.happens(`restore ${model.name}`, () => {
      buffer.restore();
      model.revoked = false;
    });
    return;
  }
  run.happens(`revoke ${model.name}`, () => {
    buffer.revoke();
    run.world.model.revoke(model);
  });
}

export function limit(run: Run, draw: Draw): void {
  const { model, system } = run.process(draw);
  const pages = draw.length === 0 ? 1000 : draw.length * 2;
  run.happens(`memlock ${model.name} ${pages} pages`, () => {
    model.memlock = pages;
    system.process.limits.memlock = pages * 4096 + draw.odd;
  });
}

export function exit(run: Run, draw: Draw): void {
  const process = run.process(draw);
  if (process === run.world.running[0]) return;
  run.happens(`exit ${process.model.name}`, () => {
    process.system.exit();
    process.model.exit();
  });
}

export function fork(run: Run, draw: Draw): void {
  if (run.world.running.length >= 6) return;
  const process = run.process(draw);
  run.happens(`fork ${process.model.name}`, () => run.world.fork(process));
}

/** The process changes its memory behind the back of what is mapped (C5). */
export function remap(run: Run, draw: Draw): void {
  const { world } = run;
  const process = run.process(draw);
  const first = MEMORY_PAGE + (draw.at % LAYOUT.end);
  const pages = 1 + (draw.length % 4);
  const address = BigInt(first) << 12n;
  const where = `${process.model.name} ${hexOf(address)} +${hexOf(pages * 4096)}`;
  const { memory } = process.system.process;
  if (draw.flags % 4 === 0) {
    run.happens(`munmap ${where}`, () => {
      memory!.unmap(address, pages * 4096);
      process.model.unmap(first, pages);
    });
  } else if (draw.flags % 4 === 1) run.happens(`mmap ${where}`, () => world.fill(process, first, pages));
  else if (draw.flags % 4 === 2) {
    const file = pick(world.files, draw.who)!;
    run.happens(`mmap ${where} of ${file.model.name}`, () => world.mapFile(process, first, pages, file));
  } else if (process.model.isMapped(first, pages)) {
    const writable = draw.who % 2 === 0;
    run.happens(`mprotect ${where} ${writable ? 'rw' : 'r'}`, () => world.protect(process, first, pages, writable));
  }
}

/** The process writes a page. */
export function store(run: Run, draw: Draw): void {
  const process = run.process(draw);
  const page = MEMORY_PAGE + (draw.at % LAYOUT.end);
  if (process.model.cellAt(page, true) === null) return;
  run.happens(`store ${process.model.name} 0x${page.toString(16)}000`, () => run.world.write(process, page));
}

export function truncate(run: Run, draw: Draw): void {
  const { model, file } = pick(run.world.files, draw.who)!;
  const pages = draw.length + (draw.who % 2) * 4;
  run.happens(`truncate ${model.name} ${pages} pages`, () => {
    file.resize(pages * 4096);
    model.resize(pages);
  });
}
