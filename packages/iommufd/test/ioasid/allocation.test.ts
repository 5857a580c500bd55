import { GlobalPasids, Ioasids, type Kernel, Processes } from '@iommukit/iommu-core';
import { describe, expect, test } from 'vitest';
// @boundaries-ignore the tests of this layer run on the test machine of the layer below
import { Machine } from '../../../iommu-core/test/support/machine.ts';
import { DeviceNodes } from '../../src/files/device-nodes.ts';
import { SystemCalls } from '../../src/files/system-calls.ts';
import * as uapi from '../../src/ioasid/index.ts';
import { errno } from '../support/ioasid-host.ts';

class AllocationHost {
  readonly kernel: Kernel = new Machine().kernel;
  readonly pasids = new GlobalPasids(this.kernel);
  readonly ioasids = new Ioasids({ kernel: this.kernel, pasids: this.pasids });
  readonly nodes = new DeviceNodes();
  readonly node: uapi.IoasidAllocationNode;
  private readonly processes = new Processes(this.kernel);

  constructor(quota?: number) {
    const { kernel, ioasids } = this;
    this.node = uapi.registerIoasidAllocation(this.nodes, {
      kernel,
      ioasids,
      ...(quota === undefined ? {} : { quota }),
    });
  }

  program(): SystemCalls {
    const { kernel, processes, nodes } = this;
    return new SystemCalls({ kernel, processes, process: processes.spawn(), nodes });
  }

  client(system = this.program()): uapi.IoasidAllocationClient {
    return new uapi.IoasidAllocationClient(system, system.open('/dev/ioasid'));
  }
}

describe('/dev/ioasid of version 4', () => {
  test('gives ids of the process’s set, and takes them back', () => {
    const host = new AllocationHost();
    const client = host.client();
    expect([client.apiVersion, client.bits()]).toEqual([0, 20]);
    expect([client.alloc(1, 100), client.alloc(1, 100), client.alloc(50, 50)]).toEqual([1, 2, 50]);
    const set = host.ioasids.findMmSet(client.system.process.addressSpace)!;
    expect([set.count, host.ioasids.findSet(50), host.pasids.size]).toEqual([3, set, 3]);
    expect(errno(() => client.alloc(50, 50))).toBe('EINVAL');
    client.free(50);
    expect([client.alloc(50, 50), set.count]).toEqual([50, 3]);
    // An id that is none, or another's, is passed over.
    const other = host.ioasids.allocSet({ token: null, quota: 0, type: 1 });
    expect(other.quota).toBe(0);
    client.free(7777);
    expect(set.count).toBe(3);
  });

  test('is open once in each address space, with a quota for each', () => {
    const host = new AllocationHost(2);
    const first = host.client();
    expect(errno(() => first.system.open('/dev/ioasid'))).toBe('EBUSY');
    const second = host.client();
    expect([first.alloc(1, 9), second.alloc(1, 9), first.alloc(1, 9)]).toEqual([1, 2, 3]);
    expect([errno(() => first.alloc(1, 9)), second.alloc(1, 9)]).toEqual(['EINVAL', 4]);
    // An id of another process is not freed.
    second.free(1);
    expect(errno(() => first.alloc(1, 9))).toBe('EINVAL');
    first.system.close(first.fd);
    expect([host.pasids.size, host.ioasids.available]).toEqual([2, 2 ** 20 - 2]);
    host.client(first.system);
    expect(errno(() => first.system.open('/dev/ioasid'))).toBe('EBUSY');
  });

  test('without a quota the first process has all there is', () => {
    const host = new AllocationHost();
    host.client();
    const second = host.client();
    expect([host.ioasids.available, errno(() => second.alloc(1, 9))]).toEqual([0, 'EINVAL']);
  });

  test('is of no use to another process that has its descriptor, which may open its own', () => {
    const host = new AllocationHost(4);
    const client = host.client();
    const id = client.alloc(1, 9);
    const child = client.system.fork();
    const inherited = new uapi.IoasidAllocationClient(child, client.fd);
    expect([
      errno(() => inherited.alloc(1, 9)),
      errno(() => inherited.free(id)),
      errno(() => inherited.bits()),
    ]).toEqual(['EPERM', 'EPERM', 'EPERM']);
    for (const request of [0x6964, 0x6965, 0x6966, 0x6967]) expect(child.ioctl(client.fd, request, 0)).toBe(-1);
    const own = host.client(child);
    expect(own.alloc(1, 9)).toBe(2);
    // The file lives as long as somebody has it open.
    client.system.close(client.fd);
    expect([host.pasids.size, errno(() => client.system.open('/dev/ioasid'))]).toEqual([2, 'EBUSY']);
    child.close(client.fd);
    expect(host.pasids.size).toBe(1);
  });

  test('closing frees all; ids that somebody refers to stay in the set until he lets go', () => {
    const host = new AllocationHost(3);
    const { ioasids } = host;
    const client = host.client();
    const { system } = client;
    for (let count = 0; count < 3; count++) client.alloc(1, 9);
    const set = ioasids.findMmSet(system.process.addressSpace)!;
    ioasids.get(set, 2);
    system.close(client.fd);
    expect([set.count, ioasids.stateOf(2), host.pasids.size]).toEqual([1, 'free_pending', 1]);
    expect(errno(() => ioasids.get(set, 2))).toBe('EBUSY');
    // Opened anew it is the same set, in which that id still counts.
    const again = host.client(system);
    expect([again.alloc(1, 9), again.alloc(1, 9), errno(() => again.alloc(1, 9))]).toEqual([1, 3, 'EINVAL']);
    system.exit();
    expect([set.count, host.pasids.size]).toEqual([1, 1]);
    expect(ioasids.put(set, 2)).toBe(true);
    host.node.reap();
    expect([ioasids.findMmSet(system.process.addressSpace), host.pasids.size, ioasids.available]).toEqual([
      null,
      0,
      2 ** 20,
    ]);
  });

  test('an address space that has a set of the kernel’s making cannot open it', () => {
    const host = new AllocationHost(4);
    const system = host.program();
    const set = host.ioasids.allocSet({ token: system.process.addressSpace, quota: 4, type: 2 });
    expect(errno(() => system.open('/dev/ioasid'))).toBe('EBUSY');
    host.ioasids.freeSet(set);
    expect(host.client(system).alloc(1, 1)).toBe(1);
  });

  test('on bytes', () => {
    const host = new AllocationHost(4);
    const { system, fd } = host.client();
    const { memory } = system.process;
    const at = system.mmap({ length: 4096 });
    const call = (request: number, words: number[]): number => {
      memory!.write(at, new Uint8Array(Uint32Array.from(words).buffer));
      return system.ioctl(fd, request, at);
    };
    const { IOASID_GET_ALLOCATION_INFO, IOASID_REQUEST_ALLOC, IOASID_REQUEST_FREE } = uapi;
    expect([system.ioctl(fd, uapi.IOASID_GET_API_VERSION), call(IOASID_GET_ALLOCATION_INFO, [12, 0, 0])]).toEqual([
      0, 0,
    ]);
    expect(Number(memory!.load(at + 8n, 4))).toBe(20);
    expect([call(IOASID_GET_ALLOCATION_INFO, [8, 0, 0]), call(IOASID_GET_ALLOCATION_INFO, [12, 1, 0])]).toEqual([
      -22, -22,
    ]);
    const alloc = (...words: number[]): number => call(IOASID_REQUEST_ALLOC, words);
    expect([alloc(16, 0, 5, 8), alloc(16, 0, 5, 5), alloc(12, 0, 6, 8), alloc(16, 1, 6, 8)]).toEqual([
      5, -22, -22, -22,
    ]);
    expect([alloc(16, 0, 8, 6), alloc(16, 0, 0, 1 << 20), alloc(16, 0, 0xffff_ffff, 0xffff_ffff)]).toEqual([
      -22, -22, -22,
    ]);
    expect([alloc(16, 0, 0, (1 << 20) - 1), call(IOASID_REQUEST_FREE, [5]), alloc(16, 0, 5, 5)]).toEqual([1, 0, 5]);
    expect([call(IOASID_REQUEST_FREE, [0xffff_ffff]), call(IOASID_REQUEST_FREE, [77])]).toEqual([-22, 0]);
    for (const request of [IOASID_GET_ALLOCATION_INFO, IOASID_REQUEST_ALLOC, IOASID_REQUEST_FREE]) {
      expect([system.ioctl(fd, request, 8), system.ioctl(fd, request, (1n << 64n) - 2n)]).toEqual([-14, -14]);
    }
    expect([system.ioctl(fd, 0x6968), system.ioctl(fd, 0x3b80)]).toEqual([-25, -25]);
  });

  test('what fails has changed nothing', () => {
    const host = new AllocationHost(4);
    const { kernel, ioasids, pasids } = host;
    const system = host.program();
    const sweep = <T>(body: () => T): T => {
      const before = [ioasids.available, pasids.size, system.openDescriptors];
      for (let nth = 1; ; nth++) {
        kernel.failpoints.arm(nth);
        let result: T | undefined;
        const code = errno(() => (result = body()));
        const { hit } = kernel.failpoints;
        kernel.failpoints.arm(0);
        if (hit === null) {
          expect([code, nth > 1]).toEqual([null, true]);
          return result!;
        }
        expect([hit, code, ioasids.available, pasids.size, system.openDescriptors]).toEqual([hit, 'ENOMEM', ...before]);
      }
    };
    const client = sweep(() => host.client(system));
    expect(sweep(() => client.alloc(1, 9))).toBe(1);
  });
});
