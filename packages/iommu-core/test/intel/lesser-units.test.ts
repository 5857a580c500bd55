/** The driver on units that lack one thing of what the model can have: it does without, or refuses the unit. */

import { DEFAULT_FEATURES, type VtdFeatures } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import { attachDevicePasid, attachGroup, detachDevicePasid, detachGroup, Processes } from '../../src/index.ts';
import { mapPage, pagingDomain } from '../support/domains.ts';
import { refusal } from '../support/fake-driver.ts';
import { Machine } from '../support/machine.ts';

const IOVA = 0x40_0000n;
const PASID = 5;

/** Without these there is no driver. */
const NEEDED: readonly string[] = ['scalableMode', 'queuedInvalidation', 'coherentWalks'];
const switches = Object.entries(DEFAULT_FEATURES)
  .filter(([, value]) => value === true)
  .map(([name]) => name);

function without(name: string): Partial<VtdFeatures> {
  return { [name]: false };
}

describe.each(switches.filter((name) => !NEEDED.includes(name)))('a unit without %s', (name) => {
  test('translates for a device and for a PASID of it, and lets go of both', () => {
    const machine = new Machine({ features: without(name) });
    const device = machine.add();
    const domain = pagingDomain(device);
    mapPage(domain, IOVA, machine.frame(0x21));
    attachGroup(device.device.group, { domain });
    expect(device.read(IOVA)).toBe(0x21);
    expect(device.write(IOVA, 0x22)).toBe(true);
    if (device.device.maxPasids > 0) {
      attachDevicePasid(device.device, PASID, { domain });
      expect(device.read(IOVA, { pasid: PASID })).toBe(0x22);
      detachDevicePasid(device.device, PASID);
      expect(device.read(IOVA, { pasid: PASID })).toBeNull();
    }
    detachGroup(device.device.group);
    expect(device.read(IOVA)).toBeNull();
  });
});

test.each(NEEDED)('a unit without %s is refused', (name) => {
  expect(refusal(() => new Machine({ features: without(name) }))).toBe('ENODEV');
});

test.each(['firstStage', 'scalableCoherentWalks', 'executeRequests'])(
  'without %s no address space is shared',
  (name) => {
    const machine = new Machine({ features: without(name) });
    const device = machine.add();
    const process = new Processes(machine.kernel).spawn();
    expect(refusal(() => machine.core.sva.bind(device.device, process.addressSpace))).toBe('ENODEV');
  },
);
