import { describe, expect, test } from 'vitest';
import {
  ALLOC_DIRTY_TRACKING,
  ALLOC_NEST_PARENT,
  attachDevicePasid,
  attachGroup,
  claimDmaOwner,
  type Domain,
  detachDevicePasid,
  detachGroup,
  IntelIommu,
  type PagingDomain,
  releaseDmaOwner,
  replaceDevicePasid,
  replaceGroup,
} from '../../src/index.ts';
import { mapPage, nestedDomain, pagingDomain } from '../support/domains.ts';
import { refusal } from '../support/fake-driver.ts';
import { DEVICE_RID } from '../support/host.ts';
import { Machine, VTD_BASE } from '../support/machine.ts';
import type { TestDevice } from '../support/test-device.ts';

const IOVA = 0x20_0000n;

/** Everything that a failed operation could have left changed. */
function snapshot(machine: Machine, device: TestDevice | null): unknown {
  const { unit } = machine.driver;
  const group = device?.device.group;
  return {
    frames: machine.frames.allocated,
    domainIds: unit.domainIds.used,
    devices: unit.devices.size,
    groups: machine.core.groups.length,
    vectors: machine.interrupts.allocated,
    remapped: unit.interrupts?.size,
    domain: group?.domain.id,
    handle: group?.ridHandle,
    pasids: group === undefined ? [] : [...group.pasidHandles.entries()],
    authorized: device === null ? [] : [...device.device.authorizedPasids],
    dma: device === null ? [] : [device.read(IOVA), device.read(IOVA, { pasid: 5 }), device.read(IOVA, { pasid: 6 })],
  };
}

/** Fails every failpoint of `operation` in turn; gives the names, in order. The last run must succeed. */
function sweep(machine: Machine, device: () => TestDevice | null, operation: () => void): string[] {
  const names: string[] = [];
  const { failpoints } = machine.kernel;
  for (let nth = 1; ; nth++) {
    const before = snapshot(machine, device());
    failpoints.arm(nth);
    const outcome = refusal(operation);
    const hit = failpoints.hit;
    failpoints.arm(0);
    if (hit === null) {
      expect(outcome).toBeNull();
      return names;
    }
    names.push(hit);
    expect([hit, outcome]).toEqual([hit, 'ENOMEM']);
    expect([hit, snapshot(machine, device())]).toEqual([hit, before]);
  }
}

function domainWith(machine: Machine, device: TestDevice, byte: number, flags = 0): Domain {
  const domain = pagingDomain(device, flags);
  mapPage(domain, IOVA, machine.frame(byte));
  return domain;
}

describe('failing at every step leaves everything as it was', () => {
  test('X5 taking a unit over', () => {
    const machine = new Machine();
    machine.driver.shutdown();
    const names = sweep(
      machine,
      () => null,
      () => new IntelIommu({ kernel: machine.kernel, registerBase: VTD_BASE }),
    );
    expect(names).toEqual(['qi_ring', 'qi_status', 'root_table', 'interrupt_remapping_table', 'prq']);
  });

  test('X5 taking a device under control', () => {
    const machine = new Machine({ defaultDomain: 'dma' });
    const names = sweep(
      machine,
      () => null,
      () => machine.core.addDevice(machine.bus.device(DEVICE_RID)!),
    );
    expect(names).toEqual(
      expect.arrayContaining(['iommu_probe_device', 'pasid_directory', 'pasid_table', 'domain_id']),
    );
  });

  test('X5 attaching, replacing and detaching without PASID', () => {
    const machine = new Machine();
    const device = machine.add();
    const [first, second] = [domainWith(machine, device, 1), domainWith(machine, device, 2, ALLOC_NEST_PARENT)];
    const { group } = device.device;
    expect(
      sweep(
        machine,
        () => device,
        () => attachGroup(group, { domain: first }),
      ),
    ).toContain('pasid_entry');
    expect(
      sweep(
        machine,
        () => device,
        () => replaceGroup(group, { domain: second }),
      ),
    ).toContain('pasid_entry');
    expect(device.read(IOVA)).toBe(2);
    expect(
      sweep(
        machine,
        () => device,
        () => detachGroup(group),
      ),
    ).toEqual([]);
  });

  test('X5 giving the DMA back to the kernel', () => {
    const machine = new Machine({ defaultDomain: 'dma' });
    const device = machine.add();
    const { group } = device.device;
    mapPage(group.defaultDomain as PagingDomain, IOVA, machine.frame(9));
    claimDmaOwner(device.device, machine);
    attachGroup(group, { domain: domainWith(machine, device, 1) });
    expect(device.read(IOVA)).toBe(1);
    detachGroup(group);
    expect(device.read(IOVA)).toBeNull();
    const release = (): void => releaseDmaOwner(device.device);
    expect(sweep(machine, () => device, release)).toEqual([]);
    expect(device.read(IOVA)).toBe(9);
  });

  test('X5 attaching, replacing and detaching a PASID', () => {
    const machine = new Machine();
    const device = machine.add();
    attachGroup(device.device.group, { domain: domainWith(machine, device, 1) });
    const [first, second] = [domainWith(machine, device, 2), domainWith(machine, device, 3)];
    const attach = (): void => attachDevicePasid(device.device, 5, { domain: first });
    expect(sweep(machine, () => device, attach)).toContain('pasid_entry');
    const far = (): void => attachDevicePasid(device.device, 70_000, { domain: first });
    expect(sweep(machine, () => device, far)).toContain('pasid_table');
    const replace = (): void => replaceDevicePasid(device.device, 5, { domain: second });
    expect(sweep(machine, () => device, replace)).toContain('pasid_entry');
    expect(device.read(IOVA, { pasid: 5 })).toBe(3);
    expect(
      sweep(
        machine,
        () => device,
        () => detachDevicePasid(device.device, 5),
      ),
    ).toEqual([]);
  });

  test('X5 allocating domains and interrupts, and mapping', () => {
    const machine = new Machine();
    const device = machine.add();
    const parent = pagingDomain(device, ALLOC_NEST_PARENT);
    sweep(
      machine,
      () => device,
      () => pagingDomain(device, ALLOC_DIRTY_TRACKING),
    );
    const nested = (): void => void nestedDomain(device, parent, 0x1000n);
    expect(sweep(machine, () => device, nested)).toEqual(['nested_domain', 'domain_id']);
    expect(
      sweep(
        machine,
        () => device,
        () => mapPage(parent, IOVA, 7),
      ).length,
    ).toBeGreaterThan(0);
    expect(parent.iovaToPhys(IOVA)).toBe(0x7000n);
    expect(
      sweep(
        machine,
        () => device,
        () => device.device.allocateMsi(() => {}),
      ),
    ).toEqual(['irte']);
  });
});
