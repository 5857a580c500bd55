/** The VM's PASID table and the allocator of PASIDs, in the hands of a VMM that uses bind_gpasid. */

import { SysError, type SystemCalls } from '@iommukit/iommufd';
import { IoasidAllocationClient } from '@iommukit/iommufd/ioasid';
import { beforeEach, describe, expect, test } from 'vitest';
import { Host } from '../../src/host/host.ts';
import { hostMachine } from '../../src/host/machine.ts';
import type { VirtualMachine } from '../../src/host/virtual-machine.ts';
import type { Stage1 } from '../../src/vmm/dma-interface.ts';
import { GuestPasidDma } from '../../src/vmm/interfaces/gpasid.ts';

const BYTES = 1 << 20;
const GUEST_PASID = 5;
const TABLE = { root: 0n, addressWidth: 48, supervisorRequests: false, extendedAccessed: false, writeProtect: false };

let host: Host;
let system: SystemCalls;
let vm: VirtualMachine;
let memory: { address: bigint; bytes: number };

function refusal(action: () => void): string | null {
  try {
    action();
  } catch (error) {
    if (error instanceof SysError) return error.code;
    throw error;
  }
  return null;
}

function descriptorOf(name: string): number {
  for (let fd = 0; fd < system.openDescriptors; fd++) if (system.file(fd).name === name) return fd;
  throw new Error(`${name} is not open`);
}

beforeEach(() => {
  host = new Host(hostMachine(16 << 20), 'gpasid');
  system = host.spawn('vmm');
  vm = host.createVm(system);
  memory = { address: system.mmap({ length: BYTES }), bytes: BYTES };
});

test('the first VM leaves PASIDs for the next', () => {
  const other = host.spawn('another vmm');
  for (const program of [system, other]) {
    const { addressSpace } = program.process;
    const allocation = new IoasidAllocationClient(program, program.open('/dev/ioasid'));
    expect(host.core.ioasids.findMmSet(addressSpace)?.quota).toBe(65536);
    expect(allocation.alloc(1, 100)).toBeGreaterThan(0);
  }
});

describe('a table that follows the PASIDs of its process', () => {
  let stage1: Stage1;
  let entries: [number, number][];

  beforeEach(() => {
    const dma = new GuestPasidDma({ system, hypervisor: vm, device: host.deviceNames, memory });
    stage1 = dma.nest(GUEST_PASID, TABLE, null);
    entries = [[GUEST_PASID, stage1.hostPasid]];
  });

  /** Whether the table had an entry when each event came. */
  function watch(action: () => void): [string, boolean][] {
    const seen: [string, boolean][] = [];
    host.trace.listen((event) => {
      const isOurs =
        'pasid' in event ? event.pasid === stage1.hostPasid : 'id' in event && event.id === stage1.hostPasid;
      const name = event.name === 'ioasid_notify' ? event.kind : event.name;
      if (isOurs) seen.push([name, vm.table.entries.size > 0]);
    });
    action();
    return seen.filter(([name]) => ['pasid_entry_clear', 'prq_drain', 'unbind', 'ioasid_reclaim'].includes(name));
  }

  test('has an entry for each that is bound under a guest PASID', () => {
    expect([...vm.table.entries]).toEqual(entries);
    expect(stage1.hostPasid).not.toBe(GUEST_PASID);
  });

  test('loses it when the table is unbound', () => {
    stage1.destroy();
    expect([...vm.table.entries]).toEqual([]);
    expect(host.usage.pasids).toBe(0);
  });

  test('B16 loses it first when the PASID is freed under it: then the IOMMU entry goes, and the number is free', () => {
    const seen = watch(() => system.close(descriptorOf('/dev/ioasid')));
    expect(seen).toEqual([
      ['prq_drain', false],
      ['pasid_entry_clear', false],
      ['unbind', false],
      ['ioasid_reclaim', false],
    ]);
    expect(host.usage.pasids).toBe(0);
  });

  test('is empty when the process is gone, and holds no PASID', () => {
    system.exit();
    expect(vm.table.entries.size).toBe(0);
    expect(Object.values(host.shutDown())).toEqual([0, 0, 0, 0, 0]);
    expect(host.core.ioasids.available).toBe(host.core.ioasids.capacity);
  });
});

describe('a table that is told by calls', () => {
  test('V14 keeps a PASID that its owner has freed parked until it lets go', () => {
    const hypervisor = { mapPasid() {}, unmapPasid() {}, followPasids() {} };
    const dma = new GuestPasidDma({ system, hypervisor, device: host.deviceNames, memory });
    const stage1 = dma.nest(GUEST_PASID, TABLE, null);
    const { hostPasid } = stage1;
    vm.mapPasid(GUEST_PASID, hostPasid, dma.vfio.fd);
    stage1.destroy();
    expect(host.core.pasids.parked).toEqual([hostPasid]);
    expect(host.usage.pasids).toBe(1);
    const allocation = new IoasidAllocationClient(system, descriptorOf('/dev/ioasid'));
    expect(refusal(() => allocation.alloc(hostPasid, hostPasid))).toBe('EINVAL');
    vm.unmapPasid(GUEST_PASID);
    expect(allocation.alloc(hostPasid, hostPasid)).toBe(hostPasid);
  });
});

describe('following', () => {
  test.each<[string, string, () => number]>([
    ['EBADF', 'no file', () => 99],
    ['EBADFD', 'a file that allocates nothing', () => system.open('/dev/vfio/vfio')],
  ])('is %s for %s', (code, _what, fd) => {
    expect(refusal(() => vm.followPasids(fd()))).toBe(code);
  });

  test("is EPERM for another process's /dev/ioasid", () => {
    const fd = system.open('/dev/ioasid');
    const child = system.fork();
    expect(refusal(() => host.createVm(child).followPasids(fd))).toBe('EPERM');
  });

  test('is EBUSY once there are PASIDs, of whose binding it would not have heard', () => {
    const allocation = new IoasidAllocationClient(system, system.open('/dev/ioasid'));
    allocation.alloc(1, 100);
    expect(refusal(() => vm.followPasids(allocation.fd))).toBe('EBUSY');
  });
});
