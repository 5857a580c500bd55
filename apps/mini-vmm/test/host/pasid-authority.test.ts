/** What a program has to show before its VM sends a PASID. */

import { SysError, type SystemCalls } from '@iommukit/iommufd';
import { beforeEach, describe, expect, test } from 'vitest';
import { Host } from '../../src/host/host.ts';
import { hostMachine } from '../../src/host/machine.ts';
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
});
