import { NO_PASID, requesterId } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import {
  ALLOC_NEST_PARENT,
  attachDevicePasid,
  attachGroup,
  authorizePasid,
  deauthorizePasid,
  detachDevicePasid,
  detachGroup,
  replaceDevicePasid,
  routePasid,
  unroutePasid,
} from '../../src/index.ts';
import { GuestTable, mapPage, nestedDomain, pagingDomain, unmapPage } from '../support/domains.ts';
import { refusal } from '../support/fake-driver.ts';
import { Machine } from '../support/machine.ts';
import type { TestDevice } from '../support/test-device.ts';

const IOVA = 0x40_0000n;

/** A domain with one page that holds `byte`. */
function pageOf(machine: Machine, device: TestDevice, byte: number) {
  const domain = pagingDomain(device);
  mapPage(domain, IOVA, machine.frame(byte));
  return domain;
}

describe('authorisation and map', () => {
  test('V6 a PASID that is routed to a table is blocked for a device that is not authorised', () => {
    const machine = new Machine();
    const device = machine.add();
    routePasid(device.device.group, 5, { domain: pageOf(machine, device, 0x51) });
    expect(device.read(IOVA, { pasid: 5 })).toBeNull();
    expect(device.read(IOVA, { pasid: 5, addressing: 'cached' })).toBeNull();
    authorizePasid(device.device, 5);
    expect(device.read(IOVA, { pasid: 5 })).toBe(0x51);
  });

  test('V7 an authorised device reaches nothing while nothing is mapped', () => {
    const machine = new Machine();
    const device = machine.add();
    authorizePasid(device.device, 5);
    expect(device.read(IOVA, { pasid: 5 })).toBeNull();
    const domain = pagingDomain(device);
    routePasid(device.device.group, 5, { domain });
    expect(device.read(IOVA, { pasid: 5 })).toBeNull();
    mapPage(domain, IOVA, machine.frame(0x52));
    expect(device.read(IOVA, { pasid: 5 })).toBe(0x52);
    unroutePasid(device.device.group, 5);
    expect(device.read(IOVA, { pasid: 5 })).toBeNull();
  });

  test.each([undefined, 'cached'] as const)(
    'V8 taking the authorisation away blocks one device at once and no other of the same map (%s)',
    (addressing) => {
      const machine = new Machine();
      const pf = machine.add();
      const [first, second] = machine.addVirtual(pf, 2) as [TestDevice, TestDevice];
      const domain = pageOf(machine, pf, 0x53);
      const dma = addressing === undefined ? { pasid: 5 } : { pasid: 5, addressing };
      for (const device of [first, second]) {
        authorizePasid(device.device, 5);
        routePasid(device.device.group, 5, { domain });
        expect(device.read(IOVA, dma)).toBe(0x53);
      }
      deauthorizePasid(first.device, 5);
      expect(first.read(IOVA, dma)).toBeNull();
      expect(second.read(IOVA, dma)).toBe(0x53);
      authorizePasid(first.device, 5);
      expect(first.read(IOVA, dma)).toBe(0x53);
    },
  );
});

describe('PASIDs', () => {
  test('requests without PASID and with each PASID go their own ways', () => {
    const machine = new Machine();
    const device = machine.add();
    attachGroup(device.device.group, { domain: pageOf(machine, device, 1) });
    for (const pasid of [2, 63, 64, 0xfffff]) {
      attachDevicePasid(device.device, pasid, { domain: pageOf(machine, device, pasid & 0xff) });
    }
    for (const pasid of [2, 63, 64, 0xfffff]) expect(device.read(IOVA, { pasid })).toBe(pasid & 0xff);
    expect(device.read(IOVA)).toBe(1);
    detachDevicePasid(device.device, 63);
    expect(device.read(IOVA, { pasid: 63 })).toBeNull();
    expect(device.read(IOVA, { pasid: 64 })).toBe(64);
    expect(device.read(IOVA)).toBe(1);
  });

  test('what was unmapped while a domain was attached nowhere is gone when it is attached again', () => {
    const machine = new Machine();
    const device = machine.add();
    for (const flags of [0, ALLOC_NEST_PARENT]) {
      const domain = pagingDomain(device, flags);
      for (const pasid of [NO_PASID, 5]) {
        const attach = (): void => {
          if (pasid === NO_PASID) attachGroup(device.device.group, { domain });
          else attachDevicePasid(device.device, pasid, { domain });
        };
        const detach = (): void => {
          if (pasid === NO_PASID) detachGroup(device.device.group);
          else detachDevicePasid(device.device, pasid);
        };
        mapPage(domain, IOVA, machine.frame(0x61));
        attach();
        expect(device.read(IOVA, { pasid })).toBe(0x61);
        detach();
        unmapPage(domain, IOVA);
        attach();
        expect(device.read(IOVA, { pasid })).toBeNull();
        detach();
      }
    }
  });

  test('an unmap reaches every PASID and every device that the domain is attached to', () => {
    const machine = new Machine();
    const pf = machine.add();
    const [vf] = machine.addVirtual(pf, 1) as [TestDevice];
    for (const flags of [0, ALLOC_NEST_PARENT]) {
      const domain = pagingDomain(pf, flags);
      mapPage(domain, IOVA, machine.frame(0x62));
      const users = [pf, vf].flatMap((device) => [5, 6, 64].map((pasid) => ({ device, pasid })));
      for (const { device, pasid } of users) {
        attachDevicePasid(device.device, pasid, { domain });
        expect(device.read(IOVA, { pasid })).toBe(0x62);
        expect(device.read(IOVA, { pasid, addressing: 'cached' })).toBe(0x62);
      }
      unmapPage(domain, IOVA);
      for (const { device, pasid } of users) {
        expect(device.read(IOVA, { pasid })).toBeNull();
        expect(device.read(IOVA, { pasid, addressing: 'cached' })).toBeNull();
        detachDevicePasid(device.device, pasid);
      }
    }
  });

  test('V10 two functions use the same PASID and reach each its own memory', () => {
    const machine = new Machine();
    const pf = machine.add();
    const [first, second] = machine.addVirtual(pf, 2) as [TestDevice, TestDevice];
    expect(first.device.group).not.toBe(second.device.group);
    attachDevicePasid(first.device, 5, { domain: pageOf(machine, first, 0x11) });
    attachDevicePasid(second.device, 5, { domain: pageOf(machine, second, 0x22) });
    expect(first.read(IOVA, { pasid: 5 })).toBe(0x11);
    expect(second.read(IOVA, { pasid: 5 })).toBe(0x22);
    expect(machine.core.pasids.size).toBe(0);
    detachDevicePasid(first.device, 5);
    expect(first.read(IOVA, { pasid: 5 })).toBeNull();
    expect(second.read(IOVA, { pasid: 5 })).toBe(0x22);
  });

  test('V11 a virtual function’s PASID is the one on the wire, on both stages', () => {
    const machine = new Machine();
    const pf = machine.add();
    const [device] = machine.addVirtual(pf, 1) as [TestDevice];
    const parent = pagingDomain(device, ALLOC_NEST_PARENT);
    const base = machine.frames.allocateRun(16)!;
    for (let gfn = 0; gfn < 16; gfn++) mapPage(parent, BigInt(gfn) << 12n, base + gfn);
    const table = new GuestTable(machine.memory, base, 1);
    table.set(IOVA, 10);
    machine.memory.bytes[(base + 10) << 12] = 0x99;
    attachDevicePasid(device.device, 9, { domain: nestedDomain(device, parent, table.root) });
    expect(device.read(IOVA, { pasid: 9 })).toBe(0x99);
    expect(device.read(IOVA, { pasid: 8 })).toBeNull();
    expect(machine.core.pasids.size).toBe(0);
  });

  test('A21 three functions of one group: when the third fails, the first two are blocked again and the PASID is free', () => {
    const rids = [0, 1, 2].map((fn) => requesterId(1, 0, fn));
    const machine = new Machine({
      plug: (host) => {
        host.plugPort(requesterId(0, 1, 0), 1);
        for (const rid of rids) host.plug(host.testFunction({ totalVfs: 0 }), rid);
      },
    });
    const devices = rids.map((rid) => machine.add(rid));
    const [first] = devices as [TestDevice];
    expect(machine.core.groups).toHaveLength(1);
    expect(first.device.group.devices).toHaveLength(3);
    const domain = pageOf(machine, first, 0x41);
    const { failpoints } = machine.kernel;
    failpoints.arm(3);
    expect(refusal(() => attachDevicePasid(first.device, 5, { domain }))).toBe('ENOMEM');
    expect(failpoints.hit).toBe('pasid_entry');
    failpoints.arm(0);
    for (const device of devices) expect(device.read(IOVA, { pasid: 5 })).toBeNull();
    expect(first.device.group.pasidHandles.size).toBe(0);
    attachDevicePasid(first.device, 5, { domain });
    for (const device of devices) expect(device.read(IOVA, { pasid: 5 })).toBe(0x41);
    detachDevicePasid(first.device, 5);
    for (const device of devices) expect(device.read(IOVA, { pasid: 5 })).toBeNull();
  });

  test('A22 a replace that the driver refuses leaves the old domain translating, without a gap', () => {
    const machine = new Machine();
    const device = machine.add();
    const old = pageOf(machine, device, 0x31);
    const next = pageOf(machine, device, 0x32);
    attachDevicePasid(device.device, 7, { domain: old });
    const { kernel } = machine;
    for (let nth = 1; ; nth++) {
      kernel.failpoints.arm(nth);
      const outcome = refusal(() => replaceDevicePasid(device.device, 7, { domain: next }));
      const reached = kernel.failpoints.hit !== null;
      kernel.failpoints.arm(0);
      if (!reached) {
        expect(outcome).toBeNull();
        break;
      }
      expect(outcome).toBe('ENOMEM');
      expect(device.read(IOVA, { pasid: 7 })).toBe(0x31);
    }
    expect(device.read(IOVA, { pasid: 7 })).toBe(0x32);
  });

  test('A22 DMA that runs while a PASID is replaced always reaches one of the two', () => {
    const machine = new Machine();
    const device = machine.add();
    const [first, second] = [pageOf(machine, device, 1), pageOf(machine, device, 2)];
    attachDevicePasid(device.device, 7, { domain: first });
    const seen: (number | null)[] = [];
    const probe = (): void => {
      if (seen.length >= 200) return;
      seen.push(device.probe(IOVA, 7));
      machine.scheduler.schedule(20, probe);
    };
    probe();
    for (let round = 0; round < 5; round++) {
      replaceDevicePasid(device.device, 7, { domain: round % 2 === 0 ? second : first });
    }
    expect(seen.length).toBeGreaterThan(20);
    expect(new Set(seen)).toEqual(new Set([1, 2]));
  });
});

describe('the entry of requests without PASID', () => {
  test.each(['unmap', 'detach'] as const)('is out of reach of PASID 0, cached by the device, after an %s', (end) => {
    const machine = new Machine();
    const device = machine.add();
    const domain = pageOf(machine, device, 0x57);
    attachGroup(device.device.group, { domain });
    expect(device.read(IOVA, { pasid: 0, addressing: 'cached' })).toBe(0x57);
    if (end === 'unmap') unmapPage(domain, IOVA);
    else detachGroup(device.device.group);
    expect(device.read(IOVA, { pasid: 0, addressing: 'cached' })).toBeNull();
  });
});
