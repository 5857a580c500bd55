/** A VMM that closes its files under a running guest: the VM's table of PASIDs still has entries, the device is out of reach. */

import { Trace } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import { Host } from '../../src/host/host.ts';
import { hostMachine } from '../../src/host/machine.ts';
import type { InterfaceKind } from '../../src/vmm/interfaces/open.ts';
import { Vmm } from '../../src/vmm/vmm.ts';
import { driven, enqcmd, FILL, PASID, ring, spin } from '../support/hostile-driver.ts';
import { actionImage } from '../support/hostile-image.ts';

const RAM = 4 << 20;
/** DSA completion status. */
const SUCCESS = 1;
/** What ENQCMD sends for the guest's PASID. */
const HOST_PASID = 2 ** 15 + PASID;

/** A VM whose guest sends one command, waits 20000 instructions and sends another. */
function start(kind: InterfaceKind) {
  const machine = hostMachine(RAM + (48 << 20));
  const host = new Host(machine, kind);
  const system = host.spawn('vmm');
  let zeroFlags = '';
  const submitted: string[] = [];
  let done = 0;
  machine.trace.listen((event) => {
    if (event.name === 'dsa_submit') submitted.push(event.outcome);
    if (event.name === 'dsa_complete' && event.status === SUCCESS) done++;
  });
  const vmm = new Vmm({
    system,
    hypervisor: host.createVm(system),
    interface: kind,
    device: host.deviceNames,
    image: actionImage([...driven, ring(1), spin(5000), enqcmd(FILL), spin(10_000), enqcmd(FILL)]),
    boot: { ramBytes: RAM, processes: 1, bytesPerProcess: 65536, seed: 1 },
    trace: new Trace(machine.scheduler),
    console: (byte) => (zeroFlags += String.fromCharCode(byte)),
    hear() {},
  });
  const slice = (): void => {
    if (vmm.run(500) === 'pasid') vmm.refuseCommand();
    machine.scheduler.advance(500);
    host.kernel.runWork();
  };
  while (zeroFlags === '') {
    slice();
    vmm.pump(machine.scheduler.now);
  }
  const fds = new Map(Array.from({ length: system.openDescriptors }, (_, fd) => [system.file(fd).name, fd]));
  const close = (name: string): void => system.close(fds.get(name)!);
  /** Runs the guest to its end, with nothing left in the VMM that could look after it, and gives the zero flags. */
  const finish = (): string => {
    while (vmm.exitStatus === null) slice();
    return zeroFlags;
  };
  /** Commands that were carried out. */
  const completed = (): number => done;
  const end = (): void => {
    system.exit();
    expect(Object.values(host.shutDown())).toEqual([0, 0, 0, 0, 0]);
    expect(host.core.pasids.parked).toEqual([]);
  };
  return { host, close, finish, submitted, completed, end };
}

describe('V14 ENQCMD after the VMM has closed', () => {
  test('/dev/iommu: the device holds on to it, and the command has its host PASID as before', () => {
    const { host, close, finish, submitted, completed, end } = start('iommufd');
    close('/dev/iommu');
    expect(host.usage.pasids).toBe(2);
    expect(finish()).toBe('00');
    expect(submitted).toEqual(['queued', 'queued']);
    expect(completed()).toBe(2);
    end();
  });

  test('/dev/ioasid: the command has its host PASID as before, which the device may use no more', () => {
    const { host, close, finish, submitted, completed, end } = start('ioasid');
    close('/dev/ioasid');
    expect(host.usage.pasids).toBe(0);
    expect(host.core.pasids.namedBy(HOST_PASID)).toBe(`guest PASID ${PASID} of a VM`);
    expect(finish()).toBe('00');
    expect(submitted).toEqual(['queued', 'queued']);
    expect(completed()).toBe(1);
    end();
    expect(host.core.pasids.namedBy(HOST_PASID)).toBeNull();
  });

  test('the allocating /dev/ioasid: the PASID is freed under the table, and the command leaves the guest', () => {
    const { host, close, finish, submitted, end } = start('gpasid');
    close('/dev/ioasid');
    expect(host.usage.pasids).toBe(0);
    expect(finish()).toBe('01');
    expect(submitted).toEqual(['queued']);
    end();
  });

  test('the device of a container: its PASIDs are unbound but not free, and the command leaves the guest', () => {
    const { host, close, finish, submitted, end } = start('gpasid');
    close(host.deviceNames.path);
    expect(host.usage.pasids).toBe(2);
    expect(finish()).toBe('01');
    expect(submitted).toEqual(['queued']);
    end();
  });

  test.each<[string, InterfaceKind, (device: string) => string[]]>([
    ['/dev/iommu and the device', 'iommufd', (device) => ['/dev/iommu', device]],
    ['the device and /dev/iommu', 'iommufd', (device) => [device, '/dev/iommu']],
    ['/dev/ioasid and the device', 'ioasid', (device) => ['/dev/ioasid', device]],
    ['the device and /dev/ioasid', 'ioasid', (device) => [device, '/dev/ioasid']],
  ])('%s: the command reaches no device', (_names, kind, names) => {
    const { host, close, finish, submitted, end } = start(kind);
    for (const name of names(host.deviceNames.path)) close(name);
    expect(host.usage.pasids).toBe(0);
    expect(finish()).toBe('01');
    expect(submitted).toEqual(['queued']);
    end();
  });
});

test('what the host gave and did not get back is counted, in frames too', () => {
  const { host } = start('iommufd');
  const { pins, frames } = host.shutDown();
  expect(pins).toBe(RAM / 4096);
  expect(frames).toBeGreaterThanOrEqual(RAM / 4096);
});
