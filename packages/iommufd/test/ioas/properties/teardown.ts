/** Property 12: whatever was done, unmapping everything and giving up the accesses leaves no pin and no charge. */

import { Ioas } from '../../../src/ioas/ioas.ts';
import type { Run } from './run.ts';
import { ensure } from './violation.ts';

export function teardown(run: Run): void {
  const { world } = run;
  const { counts } = world.processes;
  run.lines.push('teardown');
  for (const locked of world.locks.values()) locked.release();
  for (const { access } of world.accesses) access.close();
  for (const { index } of world.model.ioas) {
    const ioas = world.context.objects.get(index, Ioas);
    ioas.table.unmapAll(() => {});
    ensure(ioas.table.space.areaCount === 0, 12, () => `IOAS ${index} has ${ioas.table.space.areaCount} areas`);
  }
  ensure(counts.pinned === 0, 12, () => `${counts.pinned} pins are left`);
  for (const { system } of world.running) {
    const { addressSpace, credentials } = system.process;
    const left = [addressSpace.pinnedPages, addressSpace.lockedPages, credentials.user.lockedPages];
    ensure(left.join() === '0,0,0', 12, () => `process ${system.process.name} has ${left} pages pinned and locked`);
  }
  for (const ioas of world.model.ioas) {
    for (const domain of ioas.domains.map((model) => world.domains.get(model)!)) {
      world.table(ioas).removeDomain(domain);
      domain.free();
    }
    const { iovaAlignment, hugePages, space } = world.table(ioas);
    const alignment = hugePages ? 1 : 4096;
    ensure(iovaAlignment === alignment, 8, () => `IOAS ${ioas.index} has alignment ${iovaAlignment} without users`);
    for (const { owner } of [...space.reservedRanges]) {
      ensure(!('granule' in owner), 12, () => `IOAS ${ioas.index} keeps the reserved ranges of a domain`);
    }
  }
  for (const { system } of world.running) if (!system.process.hasExited) system.exit();
  world.context.release();
  ensure(world.context.objects.size === 0, 16, () => `${world.context.objects.size} objects outlive their file`);
  ensure(world.kernel.frames.allocated === world.framesBefore, 12, () => {
    return `${world.kernel.frames.allocated - world.framesBefore} frames are left`;
  });
}
