import { describe, expect, test } from 'vitest';
import {
  type Device,
  type DeviceFeature,
  disableFeature,
  enableFeature,
  type FeatureOps,
  featureEnabled,
  hasFeature,
  SysError,
} from '../src/index.ts';
import { FakeDriver, fakeGroup, refusal } from './support/fake-driver.ts';

const FEATURES: readonly DeviceFeature[] = ['aux', 'sva', 'iopf'];

/** Operations of a driver that has `iopf` only, and what was called. */
function someFeatures(calls: string[]): FeatureOps {
  return {
    has: (_device, feature) => feature === 'iopf',
    enable: (_device, feature) => {
      calls.push(`enable ${feature}`);
      if (feature !== 'iopf') throw new SysError('EINVAL', 'test', `no ${feature}`);
    },
    disable: (_device, feature) => calls.push(`disable ${feature}`),
  };
}

describe('features', () => {
  test('A1 without operations of the driver nothing is there or enabled, and enable and disable answer ENODEV', () => {
    const device = fakeGroup(new FakeDriver(), [16]).devices[0]!;
    for (const feature of FEATURES) {
      expect(hasFeature(device, feature)).toBe(false);
      expect(featureEnabled(device, feature)).toBe(false);
      expect(refusal(() => enableFeature(device, feature))).toBe('ENODEV');
      expect(refusal(() => disableFeature(device, feature))).toBe('ENODEV');
    }
    expect(device.features.size).toBe(0);
  });

  test('a name that nobody knows is no feature, and does not reach the driver', () => {
    const driver = new FakeDriver();
    const calls: string[] = [];
    driver.features = { ...someFeatures(calls), has: () => true };
    const device = fakeGroup(driver, [16]).devices[0]!;
    const unknown = 'ats' as DeviceFeature;
    expect(hasFeature(device, unknown)).toBe(false);
    expect(featureEnabled(device, unknown)).toBe(false);
    expect(refusal(() => enableFeature(device, unknown))).toBe('ENODEV');
    expect(refusal(() => disableFeature(device, unknown))).toBe('ENODEV');
    expect(calls).toEqual([]);
  });

  test('the driver decides what can be enabled; what it refuses is not, and disabling that calls nobody', () => {
    const driver = new FakeDriver();
    const calls: string[] = [];
    driver.features = someFeatures(calls);
    const [device, other] = fakeGroup(driver, [16, 16]).devices as [Device, Device];
    expect(FEATURES.map((feature) => hasFeature(device, feature))).toEqual([false, false, true]);
    expect(refusal(() => enableFeature(device, 'aux'))).toBe('EINVAL');
    enableFeature(device, 'iopf');
    enableFeature(device, 'iopf');
    expect(FEATURES.map((feature) => featureEnabled(device, feature))).toEqual([false, false, true]);
    expect(featureEnabled(other, 'iopf')).toBe(false);
    disableFeature(device, 'aux');
    disableFeature(device, 'iopf');
    disableFeature(device, 'iopf');
    expect(device.features.size).toBe(0);
    expect(calls).toEqual(['enable aux', 'enable iopf', 'enable iopf', 'disable iopf']);
  });
});
