import { expect, test } from 'vitest';
// @boundaries-ignore the tests of this layer run on the test machine of the layer below
import { Machine } from '../../../../iommu-core/test/support/machine.ts';
import { runSequences } from './sequences.ts';
import type { DomainMaker } from './world.ts';

const SEQUENCES = Number(process.env['IOMMUKIT_SEQUENCES'] ?? 2000);

/** Tables of the VT-d driver, whatever is asked for. */
function vtdDomains(): DomainMaker {
  const machine = new Machine({ ramBytes: 4 << 20 });
  const { device } = machine.add();
  return { kernel: machine.kernel, make: () => machine.driver.allocPaging(device, 'unmanaged', 0) };
}

test('X1 X5 X6 properties 1 to 13 with the tables of the VT-d driver, in a shorter series', () => {
  const outcomes = runSequences({ sequences: Math.ceil(SEQUENCES / 20), seed: 1, maker: vtdDomains });
  expect([outcomes.has('add-domain ok'), outcomes.has('map ok'), outcomes.has('unmap ok')]).toEqual([true, true, true]);
}, 300_000);
