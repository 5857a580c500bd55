/** What a program has to show before its VM sends a PASID. */

import { Machine, requesterId, TestFunction } from '@iommukit/hw';
import { Host as OperatingSystem } from '@iommukit/iommu-core';
import { DeviceNodes, SysError, SystemCalls } from '@iommukit/iommufd';
import { IoasidClient, registerIoasid } from '@iommukit/iommufd/ioasid';
import { MdevBus, TestFunctionParent, Vfio, VfioDeviceClient } from '@iommukit/vfio';
import { beforeEach, describe, expect, test } from 'vitest';
import { Host } from '../../src/host/host.ts';
import { hostMachine } from '../../src/host/machine.ts';
import { pasidAuthority } from '../../src/host/pasid-authority.ts';
import type { DmaInterface, DmaOptions } from '../../src/vmm/dma-interface.ts';
import { IoasidDma } from '../../src/vmm/interfaces/ioasid.ts';
import { IommufdDma } from '../../src/vmm/interfaces/iommufd.ts';
import type { InterfaceKind } from '../../src/vmm/interfaces/open.ts';

const BYTES = 1 << 20;
const GUEST_PASID = 5;

const TABLE = { root: 0n, addressWidth: 48, supervisorRequests: false, extendedAccessed: false, writeProtect: false };

let host: Host;
let system: SystemCalls;
let hostPasid: number;
let mapPasid: (pasid: number, fd: number) => void;

function refusal(action: () => void): string | null {
  try {
    action();
  } catch (error) {
    if (error instanceof SysError) return error.code;
    throw error;
  }
  return null;
}

/** A program with a VM, a device and a guest table at GUEST_PASID. */
function start<Dma extends DmaInterface>(kind: InterfaceKind, open: (options: DmaOptions) => Dma): Dma {
  host = new Host(hostMachine(16 << 20), kind);
  system = host.spawn('vmm');
  const vm = host.createVm(system);
  const memory = { address: system.mmap({ length: BYTES }), bytes: BYTES };
  const dma = open({ system, hypervisor: vm, device: host.deviceNames, memory });
  ({ hostPasid } = dma.nest(GUEST_PASID, TABLE, null));
  mapPasid = (pasid, fd) => vm.mapPasid(GUEST_PASID, pasid, fd);
  return dma;
}

describe('V9 a PASID for ENQCMD of a VFIO device', () => {
  let dma: IommufdDma;

  beforeEach(() => {
    dma = start('iommufd', (options) => new IommufdDma(options));
  });

  test('is given for the file that has the device, and for a duplicate of its descriptor', () => {
    expect(refusal(() => mapPasid(hostPasid, dma.vfio.fd))).toBeNull();
    expect(refusal(() => mapPasid(hostPasid, system.dup(dma.vfio.fd)))).toBeNull();
  });

  test.each<[string, string, () => number]>([
    ['EBADF', 'no file', () => 99],
    ['EPERM', 'a file of another kind', () => dma.iommufd.fd],
    ['EINVAL', 'another open file of the device', () => system.open(host.deviceNames.path)],
  ])('is %s for %s', (code, _what, fd) => {
    expect(refusal(() => mapPasid(hostPasid, fd()))).toBe(code);
  });

  test('is EPERM for one that the device was not given', () => {
    expect(refusal(() => mapPasid(hostPasid + 1, dma.vfio.fd))).toBe('EPERM');
  });

  test('is EPERM when the device has lost it', () => {
    dma.vfio.detach({ pasid: hostPasid });
    expect(refusal(() => mapPasid(hostPasid, dma.vfio.fd))).toBe('EPERM');
  });
});

describe('V9 a PASID for ENQCMD of a /dev/ioasid', () => {
  let dma: IoasidDma;

  beforeEach(() => {
    dma = start('ioasid', (options) => new IoasidDma(options));
  });

  test('is given for the file that the device is bound to, and for no other', () => {
    expect(refusal(() => mapPasid(hostPasid, dma.ioasids.fd))).toBeNull();
    expect(refusal(() => mapPasid(hostPasid, system.open('/dev/ioasid')))).toBe('EPERM');
  });

  test('is EPERM for one at which the device is not attached', () => {
    expect(refusal(() => mapPasid(hostPasid + 1, dma.ioasids.fd))).toBe('EPERM');
  });

  test('is given for one that the device is allowed, while it is', () => {
    const { ioasids, vfio, memory } = dma;
    const pasid = hostPasid + 1;
    vfio.allowIoasid(ioasids.fd, memory, pasid);
    expect(refusal(() => mapPasid(pasid, ioasids.fd))).toBeNull();
    vfio.disallowIoasid(ioasids.fd, memory, pasid);
    expect(refusal(() => mapPasid(pasid, ioasids.fd))).toBe('EPERM');
  });
});

describe('V9 a PASID for ENQCMD', () => {
  const RID = requesterId(0, 1, 0);
  const UUID = '00000000-0000-4000-8000-000000000001';

  /** A program with a /dev/ioasid, and the function that it can have. */
  function site() {
    const machine = new Machine({ debug: true });
    machine.plug(new TestFunction({ ...machine, siov: true, totalVfs: 0 }), RID);
    const os = new OperatingSystem(machine, { defaultDomain: 'blocked' });
    const { kernel, core, processes } = os;
    const nodes = new DeviceNodes();
    registerIoasid(nodes, { kernel, core, rules: 'v2' });
    const vfio = new Vfio({ nodes });
    const program = new SystemCalls({ kernel, processes, process: processes.spawn(), nodes });
    const ioasids = new IoasidClient(program, program.open('/dev/ioasid'));
    const bind = (path: string): VfioDeviceClient => {
      const client = new VfioDeviceClient(program, program.open(path));
      client.bindIoasid(ioasids.fd, 1);
      return client;
    };
    const check = (pasid: number) => refusal(() => pasidAuthority(program).checkPasid(ioasids.fd, pasid));
    return { core, device: os.device(RID), vfio, ioasids, bind, check };
  }

  test('is given for that of an address space which a device shares', () => {
    const { device, vfio, ioasids, bind, check } = site();
    const client = bind(vfio.register(device).path);
    const shared = ioasids.alloc({ shared: true });
    const pasid = client.attachIoasid(shared)!;
    expect([check(pasid), check(pasid + 1)]).toEqual([null, 'EPERM']);
    client.detachIoasid(shared);
    expect(check(pasid)).toBe('EPERM');
  });

  test('is EPERM for what the user of a mediated device calls one, and for what is on the wire in its place', () => {
    const { core, device, vfio, ioasids, bind, check } = site();
    const bus = new MdevBus({ vfio });
    const mdev = bus.create(new TestFunctionParent({ core, bus, device }), 'pasids', UUID);
    bind(mdev.path).attachIoasid(ioasids.alloc(), { pasid: GUEST_PASID });
    const wire = mdev.dma!.physical(GUEST_PASID)!;
    expect(device.authorizedPasids.has(wire)).toBe(true);
    expect([check(GUEST_PASID), check(wire)]).toEqual(['EPERM', 'EPERM']);
  });
});
