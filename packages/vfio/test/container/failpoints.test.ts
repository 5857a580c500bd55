/** The n-th allocation fails, for every n, in each step from an empty container to a bound guest. */

import { expect, test } from 'vitest';
import { ContainerHost, dmaWrite, GuestTable, GVA, NOTHING, PAGE, type Program } from '../support/container-host.ts';
import { refusal } from '../support/machine.ts';

/** All that a failed call must leave as it was. */
function snapshot(host: ContainerHost, program: Program) {
  const { ioasids } = host.host.core;
  const set = ioasids.findMmSet(program.system.process.addressSpace);
  const ids: [number, number, number][] = [];
  if (set !== null) ioasids.forEach(set, (id) => ids.push([id, ioasids.referencesTo(id), ioasids.spidOf(id)]));
  return {
    held: host.held,
    frames: host.machine.frames.allocated,
    locked: program.system.process.addressSpace.lockedPages,
    descriptors: program.system.openDescriptors,
    domains: host.devices.map(({ group }) => group.domain.id),
    areas: host.iommufd.areas,
    ids,
  };
}

/** Lets every failpoint of `step` fail in turn, then the step pass. @returns what it gives, and how often it failed */
function sweep<T>(host: ContainerHost, program: Program, step: () => T): { result: T; failures: number } {
  const { failpoints } = host.host.kernel;
  for (let nth = 1; ; nth++) {
    const before = snapshot(host, program);
    failpoints.arm(nth);
    let result: T | undefined;
    const code = refusal(() => {
      result = step();
    });
    const { hit } = failpoints;
    failpoints.arm(0);
    if (hit === null) {
      expect(code).toBe(null);
      return { result: result as T, failures: nth - 1 };
    }
    expect([hit, code]).toEqual([hit, 'ENOMEM']);
    expect([hit, snapshot(host, program)]).toEqual([hit, before]);
  }
}

test('X5 every step of a container of two devices is undone when an allocation fails, and can be taken again', () => {
  const host = new ContainerHost();
  const program = host.program();
  const { system } = program;
  const memory = system.mmap({ length: 600 * PAGE });
  for (let page = 0; page < 600; page++) program.memory.write(memory + BigInt(page * PAGE), new Uint8Array([1]));
  const table = new GuestTable(program, memory);
  table.set(GVA, 6);
  const container = program.container();
  const groups = [program.group(0), program.group(1)];
  const failures: number[] = [];
  const step = <T>(action: () => T): T => {
    const { result, failures: count } = sweep(host, program, action);
    failures.push(count);
    return result;
  };
  for (const group of groups) step(() => group.setContainer(container.fd));
  step(() => container.setIommu());
  step(() => container.map({ userVa: memory, length: 600 * PAGE, iova: 0 }));
  const devices = groups.map((group, index) => {
    const device = step(() => group.openDevice(host.entries[index]!.name));
    device.writeConfig(4, 2, 6);
    return device;
  });
  // The directory and table of the PASIDs stay with the device once made.
  const [warm, pasid] = [program.pasid(), program.pasid()];
  const request = { hostPasid: warm, guestPasid: 7, pageTable: table.root, addressWidth: 48 };
  container.bindGuestPasid(request);
  container.unbindGuestPasid(warm);
  step(() => container.bindGuestPasid({ ...request, hostPasid: pasid }));
  // SET_CONTAINER makes a context; SET_IOMMU an address space and a table; each device its binding and its ring.
  expect(failures.every((count, index) => count > 0 || index === 1)).toBe(true);
  devices.forEach((device, index) => {
    expect(dmaWrite(host, device, GVA, 10 + index, { pasid })).toBe(true);
    expect(program.byteAt(memory + 0x6000n)).toBe(10 + index);
    expect(dmaWrite(host, device, 599n * BigInt(PAGE), 20 + index)).toBe(true);
  });
  step(() => container.invalidate({ hostPasid: pasid }));
  system.exit();
  expect(host.held).toEqual(NOTHING);
  expect(host.leftFrames()).toBe(0);
});
