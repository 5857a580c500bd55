/** A VMM that closes its files under a running guest: the VM's table of PASIDs still has entries, the device is out of reach. */

import { Trace } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import { Host } from '../../src/host/host.ts';
import { hostMachine } from '../../src/host/machine.ts';
import { VirtualMachine } from '../../src/host/virtual-machine.ts';
import { Vmm } from '../../src/vmm/vmm.ts';
import { driven, enqcmd, FILL, ring, spin } from '../support/hostile-driver.ts';
import { actionImage } from '../support/hostile-image.ts';

const RAM = 4 << 20;

/** A VM whose guest sends one command, waits 20000 instructions and sends another. */
function start() {
  const machine = hostMachine(RAM + (48 << 20));
  const host = new Host(machine);
  const system = host.spawn('vmm');
  let zeroFlags = '';
  const submitted: string[] = [];
  machine.trace.listen((event) => {
    if (event.name === 'dsa_submit') submitted.push(event.outcome);
  });
  const vmm = new Vmm({
    system,
    hypervisor: new VirtualMachine(machine.memory, system.process.addressSpace),
    devicePath: host.devicePath,
    image: actionImage([...driven, ring(1), spin(5000), enqcmd(FILL), spin(10_000), enqcmd(FILL)]),
    boot: { ramBytes: RAM, processes: 1, bytesPerProcess: 65536, seed: 1 },
    trace: new Trace(machine.scheduler),
    console: (byte) => (zeroFlags += String.fromCharCode(byte)),
    hear() {},
  });
  const slice = (): void => {
    vmm.run(500);
    machine.scheduler.advance(500);
    host.kernel.runWork();
  };
  while (zeroFlags === '') {
    slice();
    vmm.pump(machine.scheduler.now);
  }
  const fds = new Map(Array.from({ length: system.openDescriptors }, (_, fd) => [system.file(fd).name, fd]));
  const close = (name: string): void => system.close(fds.get(name)!);
  /** Runs the guest to its end, with nothing left in the VMM that could look after it. */
  const finish = (): string => {
    while (vmm.exitStatus === null) slice();
    return zeroFlags;
  };
  return { host, system, close, finish, submitted };
}

describe('V14 ENQCMD after the VMM has closed', () => {
  test('/dev/iommu: the device holds on to it, and the command has its host PASID as before', () => {
    const { host, system, close, finish, submitted } = start();
    close('/dev/iommu');
    expect(host.usage.pasids).toBe(2);
    expect(finish()).toBe('00');
    expect(submitted).toEqual(['queued', 'queued']);
    system.exit();
    expect(Object.values(host.shutDown())).toEqual([0, 0, 0, 0, 0]);
  });

  test.each([['the device first'], ['/dev/iommu first']])('both, %s: the command reaches no device', (order) => {
    const { host, system, close, finish, submitted } = start();
    const names = ['/dev/iommu', host.devicePath];
    for (const name of order.startsWith('/dev') ? names : names.reverse()) close(name);
    expect(host.usage.pasids).toBe(0);
    expect(finish()).toBe('01');
    expect(submitted).toEqual(['queued']);
    system.exit();
    expect(Object.values(host.shutDown())).toEqual([0, 0, 0, 0, 0]);
  });
});

test('what the host gave and did not get back is counted, in frames too', () => {
  const { host } = start();
  const { pins, frames } = host.shutDown();
  expect(pins).toBe(RAM / 4096);
  expect(frames).toBeGreaterThanOrEqual(RAM / 4096);
});
