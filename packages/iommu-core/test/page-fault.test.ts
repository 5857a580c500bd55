import { NO_PASID, PRG_INVALID_REQUEST, PRG_RESPONSE_FAILURE, PRG_SUCCESS } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import {
  attachDevicePasid,
  attachGroup,
  detachDevicePasid,
  detachGroup,
  type FaultGroup,
  type PageFault,
  replaceDevicePasid,
  SysError,
} from '../src/index.ts';
import { FakeDriver, fakeGroup, refusal } from './support/fake-driver.ts';

function fault(pasid: number, group: number, last: boolean, address = 0n): PageFault {
  return { pasid, group, last, address, access: 1 };
}

function setUp() {
  const driver = new FakeDriver();
  const group = fakeGroup(driver, [16]);
  const device = group.devices[0]!;
  const delivered: FaultGroup[] = [];
  const domain = driver.domain();
  domain.faultHandler = (one) => delivered.push(one);
  return { driver, group, device, delivered, domain };
}

describe('page faults', () => {
  test('D17 nothing is delivered before the last request of a group, then all in order', () => {
    const { device, delivered, domain, driver } = setUp();
    attachDevicePasid(device, 5, { domain });
    device.faults.report(fault(5, 1, false, 0x1000n));
    device.faults.report(fault(5, 2, false, 0x9000n));
    device.faults.report(fault(5, 1, false, 0x2000n));
    expect(delivered).toHaveLength(0);
    device.faults.report(fault(5, 1, true, 0x3000n));
    expect(delivered[0]!.faults.map((one) => one.address)).toEqual([0x1000n, 0x2000n, 0x3000n]);
    expect(device.faults.partialFaults).toBe(1);
    expect(driver.responses).toEqual([]);
  });

  test('a group is answered once', () => {
    const { device, delivered, domain, driver } = setUp();
    attachDevicePasid(device, 5, { domain });
    device.faults.report(fault(5, 3, true));
    expect(delivered[0]!.respond(PRG_SUCCESS)).toBe(true);
    expect(delivered[0]!.respond(PRG_INVALID_REQUEST)).toBe(false);
    expect(driver.responses).toEqual([{ rid: 8, pasid: 5, group: 3, code: PRG_SUCCESS }]);
    expect(device.faults.pendingGroups).toBe(0);
  });

  test('D18 what is pending at detach and at replace is answered INVALID, once', () => {
    const { device, delivered, domain, driver } = setUp();
    attachDevicePasid(device, 5, { domain });
    device.faults.report(fault(5, 1, true));
    replaceDevicePasid(device, 5, { domain });
    expect(driver.responses.map((one) => one.code)).toEqual([PRG_INVALID_REQUEST]);
    expect(delivered[0]!.respond(PRG_SUCCESS)).toBe(false);
    device.faults.report(fault(5, 2, false));
    device.faults.report(fault(5, 2, true));
    detachDevicePasid(device, 5);
    expect(driver.responses.map((one) => one.group)).toEqual([1, 2]);
    expect(device.faults.pendingGroups).toBe(0);
  });

  test('X4 part of a group that was sent to one attachment is not delivered to the next at the same PASID', () => {
    const { device, delivered, domain } = setUp();
    attachDevicePasid(device, 5, { domain });
    attachDevicePasid(device, 6, { domain });
    device.faults.report(fault(6, 2, false));
    for (const leave of ['detach', 'replace'] as const) {
      device.faults.report(fault(5, 1, false, 0x1000n));
      if (leave === 'replace') replaceDevicePasid(device, 5, { domain });
      else {
        detachDevicePasid(device, 5);
        attachDevicePasid(device, 5, { domain });
      }
      expect(device.faults.partialFaults).toBe(1);
      device.faults.report(fault(5, 1, true, 0x2000n));
      expect(delivered.pop()!.faults.map((one) => one.address)).toEqual([0x2000n]);
    }
  });

  test('faults go to the PASID, else to an attachment of all PASIDs, else they are answered INVALID', () => {
    const { device, delivered, domain, driver, group } = setUp();
    expect(refusal(() => device.faults.report(fault(5, 1, true)))).toBe('EINVAL');
    expect(driver.responses.pop()!.code).toBe(PRG_INVALID_REQUEST);
    const all = driver.domain(['all-pasids'], 'nested');
    all.faultHandler = domain.faultHandler;
    const handle = { domain: all };
    attachGroup(group, handle, 'all-pasids');
    device.faults.report(fault(5, 1, true));
    device.faults.report(fault(NO_PASID, 2, true));
    expect(delivered.map((one) => one.handle)).toEqual([handle, handle]);
  });

  test('an attachment of a RID alone takes no faults of PASIDs', () => {
    const { device, delivered, domain, group } = setUp();
    attachGroup(group, { domain });
    expect(refusal(() => device.faults.report(fault(5, 1, true)))).toBe('EINVAL');
    expect(delivered).toHaveLength(0);
  });

  test("a nested table takes the faults of PASIDs without an attachment where their table is the user's", () => {
    const { device, delivered, domain, driver, group } = setUp();
    driver.capabilities.add('user-pasid-table');
    attachGroup(group, { domain });
    expect(refusal(() => device.faults.report(fault(5, 1, true)))).toBe('EINVAL');
    detachGroup(group);
    const nested = driver.domain(['rid', 'pasid'], 'nested');
    nested.faultHandler = domain.faultHandler;
    const handle = { domain: nested };
    attachGroup(group, handle);
    attachDevicePasid(device, 6, { domain });
    device.faults.report(fault(5, 1, true));
    device.faults.report(fault(6, 2, true));
    expect(delivered.map((one) => one.handle)).toEqual([handle, group.pasidHandles.get(6)]);
    driver.capabilities.clear();
    expect(refusal(() => device.faults.report(fault(5, 3, true)))).toBe('EINVAL');
  });

  test('a handler that fails, or memory that does, answers FAILURE', () => {
    const { device, domain, driver, group } = setUp();
    attachDevicePasid(device, 5, { domain });
    domain.faultHandler = () => {
      throw new SysError('ENOMEM', 'test', 'no');
    };
    device.faults.report(fault(5, 1, true));
    group.kernel.failpoints.arm(1);
    device.faults.report(fault(5, 2, true));
    expect(driver.responses.map((one) => one.code)).toEqual([PRG_RESPONSE_FAILURE, PRG_RESPONSE_FAILURE]);
    expect(device.faults.pendingGroups).toBe(0);
  });

  test('an overflow forgets partial groups; close answers everything', () => {
    const { device, delivered, domain, driver } = setUp();
    attachDevicePasid(device, 5, { domain });
    device.faults.report(fault(5, 1, false));
    device.faults.discardPartial();
    device.faults.report(fault(5, 1, true));
    expect(delivered[0]!.faults).toHaveLength(1);
    device.faults.report(fault(5, 2, true));
    device.faults.close();
    expect(driver.responses.map((one) => one.code)).toEqual([PRG_INVALID_REQUEST, PRG_INVALID_REQUEST]);
  });
});
