import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DEFAULT_FEATURES } from '@iommukit/hw';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import schema from '../machine.schema.json' with { type: 'json' };
import { loadMachine } from '../src/machine-file.ts';
import { UsageError } from '../src/usage-error.ts';

const EXAMPLES = fileURLToPath(new URL('../machines', import.meta.url));
const GUIDE = fileURLToPath(new URL('../../../docs/test-your-vmm.md', import.meta.url));

describe('machine files', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'iommukit-machine-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  function refusal(value: unknown): string {
    const path = join(folder, 'machine.json');
    writeFileSync(path, typeof value === 'string' ? value : JSON.stringify(value));
    try {
      loadMachine(path);
    } catch (error) {
      expect(error).toBeInstanceOf(UsageError);
      return (error as Error).message.replace(path, 'FILE');
    }
    throw new Error('the file was accepted');
  }

  test.each(readdirSync(EXAMPLES))('example %s describes a machine with devices on offer', (file) => {
    const { nodes } = loadMachine(join(EXAMPLES, file));
    expect(nodes.list()).toContain('/dev/vfio/devices/vfio0');
  });

  test('the machine of the guide has a device with two virtual functions', () => {
    const blocks = [...readFileSync(GUIDE, 'utf8').matchAll(/^```json\n(.*?)^```$/gms)];
    expect(blocks).toHaveLength(1);
    const path = join(folder, 'machine.json');
    writeFileSync(path, blocks[0]![1]!);
    expect(loadMachine(path).nodes.list()).toContain('/dev/vfio/devices/vfio2');
  });

  test('what a port without ACS is above shares a group; VFs are made and offered', () => {
    const { host, nodes } = loadMachine(join(EXAMPLES, 'groups.json'));
    const groupOf = (rid: number): number => host.device(rid).group.id;
    expect(groupOf(0x200)).toBe(groupOf(0x208));
    expect(groupOf(0x100)).not.toBe(groupOf(0x200));
    expect(nodes.list().filter((path) => path.startsWith('/dev/vfio/devices/'))).toHaveLength(4);
  });

  test('the schema names every feature of the unit', () => {
    const { properties } = schema.$defs.vtd.properties.features;
    expect(Object.keys(properties).sort()).toEqual(Object.keys(DEFAULT_FEATURES).sort());
  });

  test('a refusal says where the file is wrong', () => {
    const vtd = { type: 'vtd' };
    const dsa = { type: 'dsa', slot: '00:01.0' };
    expect(refusal('{')).toContain('FILE: ');
    expect(refusal([])).toContain('$ must be of type object');
    expect(refusal({ iommu: vtd, devices: [] })).toContain('$.devices must have at least 1 element');
    expect(refusal({ devices: [dsa] })).toContain('$.iommu is missing');
    expect(refusal({ iommu: { type: 'none' }, devices: [dsa] })).toContain('$.iommu.type must be "vtd"');
    expect(refusal({ iommu: vtd, devices: [{ type: 'gpu' }] })).toContain('$.devices[0].type must be one of');
    expect(refusal({ iommu: vtd, devices: [{ ...dsa, colour: 1 }] })).toContain('$.devices[0].colour is not known');
    expect(refusal({ iommu: vtd, devices: [{ ...dsa, slot: '1' }] })).toContain('$.devices[0].slot, "1", must match');
    expect(refusal({ iommu: vtd, devices: [{ ...dsa, queues: 99 }] })).toContain('must be in 1..16');
    expect(refusal({ iommu: { ...vtd, features: { pasid: 1 } }, devices: [dsa] })).toContain('of type boolean');
    expect(refusal({ iommu: vtd, devices: [dsa, dsa] })).toContain('there is no such machine: 00:01.0 is taken');
    expect(refusal({ iommu: { ...vtd, features: { hostAddressWidth: 39 } }, devices: [dsa] })).toContain('46..52');
    const port = (slot: string) => ({ type: 'root-port', slot, bus: 1 });
    expect(refusal({ iommu: vtd, devices: [port('00:1c.0'), port('00:1d.0')] })).toContain('bus 1 is below');
    const virtual = { type: 'test', slot: '00:01.0', virtualFunctions: 9 };
    const taken = 'VF 7 of 0000:00:01.0 would be at 0000:00:02.0';
    expect(refusal({ iommu: vtd, devices: [virtual, { ...dsa, slot: '00:02.0' }] })).toContain(taken);
    expect(refusal({ iommu: vtd, devices: [{ ...dsa, slot: '05:00.0' }] })).toContain('no root port above');
  });
});
