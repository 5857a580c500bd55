import {
  attachGroup,
  claimDmaOwner,
  disableFeature,
  featureEnabled,
  type Kernel,
  SysError,
  unuseDefaultDomain,
  useDefaultDomain,
} from '@iommukit/iommu-core';
import { describe, expect, test } from 'vitest';
import { MdevBus, type MdevParent, TestFunctionParent, VfioDeviceClient } from '../../src/index.ts';
import { IOVA, refusal, Site, uuidOf } from './support.ts';

/** Software for all of the device: no IOMMU is behind it. */
function softwareParent(kernel: Kernel): MdevParent {
  const open = (): never => {
    throw new SysError('ENOMEM', 'open', 'nothing to open');
  };
  return {
    kernel,
    name: 'soft',
    types: [{ name: 'any', description: '' }],
    instances: 2,
    create: () => ({ dma: null, open }),
  };
}

describe('creating and removing', () => {
  test('refuses what is no type, no UUID, taken or too much, and changes nothing', () => {
    const site = new Site({ instances: 2 });
    const { mdevs, parent } = site;
    const first = mdevs.create(parent, 'default', uuidOf(0xabc));
    const paths = site.nodes.list();
    expect(mdevs.available(parent)).toBe(1);
    expect(refusal(() => mdevs.create(parent, 'large', uuidOf(2)))).toBe('ENOENT');
    for (const bad of ['', 'x', `${uuidOf(2)}0`, uuidOf(2).replaceAll('-', '')]) {
      expect(refusal(() => mdevs.create(parent, 'default', bad))).toBe('EINVAL');
    }
    expect(refusal(() => mdevs.create(parent, 'pasids', uuidOf(0xabc).toUpperCase()))).toBe('EEXIST');
    expect(site.nodes.list()).toEqual(paths);
    const second = mdevs.create(parent, 'pasids', uuidOf(2).toUpperCase());
    expect([second.uuid, mdevs.find(second.uuid.toUpperCase())]).toEqual([uuidOf(2), second]);
    expect(refusal(() => mdevs.create(parent, 'default', uuidOf(3)))).toBe('EUSERS');
    mdevs.remove(first);
    expect(refusal(() => mdevs.remove(first))).toBe('ENODEV');
    expect(mdevs.create(parent, 'default', uuidOf(0xabc)).iommuDevice).toBe(site.device);
  });

  test('a UUID is taken whatever the parent, and one without a parent is refused', () => {
    const site = new Site();
    const soft = softwareParent(site.host.kernel);
    expect(refusal(() => site.mdevs.create(soft, 'any', uuidOf(1)))).toBe('ENODEV');
    site.mdevs.registerParent(soft);
    expect(refusal(() => site.mdevs.registerParent(soft))).toBe('EEXIST');
    site.mdevs.create(soft, 'any', uuidOf(1));
    expect(refusal(() => site.mdevs.create(site.parent, 'default', uuidOf(1)))).toBe('EEXIST');
    site.mdevs.unregisterParent(soft);
    expect(site.mdevs.find(uuidOf(1))).toBeNull();
  });

  test('a device in use stays, and so does its parent', () => {
    const site = new Site();
    const user = site.user();
    const idle = site.create();
    expect(refusal(() => site.mdevs.remove(user.mdev))).toBe('EBUSY');
    expect(refusal(() => site.parent.remove())).toBe('EBUSY');
    expect(site.mdevs.children(site.parent)).toEqual([user.mdev, idle]);
    expect(featureEnabled(site.device, 'aux')).toBe(true);
    user.close();
    site.parent.remove();
    expect(site.mdevs.children(site.parent)).toEqual([]);
    expect(site.nodes.list().filter((path) => path.startsWith('/dev/vfio/devices/'))).toEqual([]);
    expect(refusal(() => site.mdevs.create(site.parent, 'default', uuidOf(9)))).toBe('ENODEV');
  });

  test('a file that was open when its device was removed cannot be bound any more', () => {
    const site = new Site();
    const mdev = site.create();
    const system = site.program();
    const vfio = new VfioDeviceClient(system, system.open(mdev.path));
    const iommufd = system.open('/dev/iommu');
    site.mdevs.remove(mdev);
    expect(refusal(() => vfio.bind(iommufd))).toBe('ENODEV');
    expect([mdev.iommuDevice, refusal(() => system.open(mdev.path))]).toEqual([null, 'ENOENT']);
    site.parent.remove();
  });

  test('no IOMMU behind a device that software makes: it cannot be bound', () => {
    const site = new Site();
    const soft = softwareParent(site.host.kernel);
    site.mdevs.registerParent(soft);
    const mdev = site.mdevs.create(soft, 'any', uuidOf(7));
    expect(mdev.iommuDevice).toBeNull();
    expect(refusal(() => site.user(mdev))).toBe('EINVAL');
  });

  test('a token is refused, as nothing would need one', () => {
    const site = new Site();
    const system = site.program();
    const vfio = new VfioDeviceClient(system, system.open(site.create().path));
    const iommufd = system.open('/dev/iommu');
    expect(refusal(() => vfio.bind(iommufd, new Uint8Array(16)))).toBe('EINVAL');
    vfio.bind(iommufd);
  });
});

describe('the parent', () => {
  test('takes a function that has the SIOV capability, and no other', () => {
    expect(refusal(() => new Site({ siov: false }))).toBe('ENODEV');
  });

  test('is a kernel driver: nobody owns its DMA, before or beside it', () => {
    const site = new Site();
    const { device } = site;
    expect(refusal(() => claimDmaOwner(device, {}))).toBe('EPERM');
    useDefaultDomain(device);
    unuseDefaultDomain(device);
    site.parent.remove();
    expect(device.group.ownerCount).toBe(0);
    claimDmaOwner(device, site);
    expect(refusal(() => site.divide())).toBe('EBUSY');
    expect([featureEnabled(device, 'aux'), device.group.ownerCount]).toEqual([false, 1]);
  });

  test('A9 A12 attached devices keep the whole function from a domain, and the feature from being disabled', () => {
    const site = new Site();
    const user = site.user();
    const { ioasId, va } = user.space();
    user.vfio.attach(ioasId);
    const primary = site.device.driver.allocPaging(site.device, 'unmanaged', 0);
    expect(refusal(() => attachGroup(site.device.group, { domain: primary }))).toBe('EBUSY');
    expect(refusal(() => disableFeature(site.device, 'aux'))).toBe('EBUSY');
    expect(refusal(() => site.parent.remove())).toBe('EBUSY');
    expect([user.write(IOVA, 5), user.byteAt(va)]).toEqual([true, 5]);
    user.vfio.detach();
    attachGroup(site.device.group, { domain: primary });
  });

  test('is refused the end of its feature by an auxiliary domain that is not of its devices', () => {
    const site = new Site();
    const mdev = site.create();
    const domain = site.device.driver.allocPaging(site.device, 'unmanaged', 0);
    site.host.core.aux.attach(domain, site.device);
    expect(refusal(() => site.parent.remove())).toBe('EBUSY');
    expect(site.mdevs.find(mdev.uuid)).toBe(mdev);
    site.host.core.aux.detach(domain, site.device);
    site.parent.remove();
  });

  test('X5 failing at any step leaves the function as it was; a second driver can take it', () => {
    const site = new Site();
    site.parent.remove();
    const { device, host } = site;
    const { kernel } = host;
    const state = (): unknown => [
      device.group.ownerCount,
      featureEnabled(device, 'aux'),
      host.driver.unit.interrupts?.size,
      host.machine.frames.allocated,
      device.pci.config.read(4, 2),
    ];
    const before = state();
    const bus = new MdevBus({ vfio: site.vfio });
    const names: string[] = [];
    for (let nth = 1; ; nth++) {
      kernel.failpoints.arm(nth);
      const outcome = refusal(() => new TestFunctionParent({ core: host.core, bus, device }));
      const { hit } = kernel.failpoints;
      kernel.failpoints.arm(0);
      if (hit === null) {
        expect(outcome).toBeNull();
        break;
      }
      names.push(hit);
      expect([hit, outcome, state()]).toEqual([hit, 'ENOMEM', before]);
    }
    expect(names).toContain('irte');
  });
});
