/** A machine with a VT-d unit and a test function, and a process that has /dev/iommu open and the function bound. */

import { ACCESS_READ, ACCESS_WRITE } from '@iommukit/hw';
import { type Process, Processes } from '@iommukit/iommu-core';
// @boundaries-ignore the tests of this layer run on the test machine of the layer below
import { Machine, type MachineOptions } from '../../../iommu-core/test/support/machine.ts';
// @boundaries-ignore the tests of this layer run on the test machine of the layer below
import type { TestDevice } from '../../../iommu-core/test/support/test-device.ts';
import { IommufdClient } from '../../src/clients/iommufd-client.ts';
import { bindDevice, type IommufdDevice } from '../../src/device.ts';
import { DeviceNodes } from '../../src/files/device-nodes.ts';
import { FdTable } from '../../src/files/fd-table.ts';
import { SystemCalls } from '../../src/files/system-calls.ts';
import { iommufdContextOf, registerIommufd } from '../../src/iommufd-file.ts';

const PRESENT_WRITE_USER = 7n;

export class VtdHost {
  readonly machine: Machine;
  readonly processes: Processes;
  readonly process: Process;
  readonly system: SystemCalls;
  readonly client: IommufdClient;
  readonly tester: TestDevice;
  readonly device: IommufdDevice;

  constructor(options: MachineOptions = {}) {
    this.machine = new Machine(options);
    const { kernel } = this.machine;
    this.processes = new Processes(kernel);
    this.process = this.processes.spawn({ name: 'vmm', memlock: 1 << 30 });
    const nodes = new DeviceNodes();
    const descriptors = new FdTable();
    registerIommufd(nodes, { kernel });
    this.system = new SystemCalls({ kernel, processes: this.processes, process: this.process, nodes }, descriptors);
    this.client = new IommufdClient(this.system, this.system.open('/dev/iommu'));
    this.tester = this.machine.add();
    this.device = this.bind(this.tester);
  }

  bind(tester: TestDevice): IommufdDevice {
    const context = iommufdContextOf(this.system.file(this.client.fd));
    return this.machine.kernel.call('bind', () => bindDevice(context, tester.device));
  }

  /** Anonymous memory of `pages` pages, each filled with its number from `first`. */
  memory(pages: number, first = 1): bigint {
    const va = this.system.mmap({ length: pages * 4096, protection: ACCESS_READ | ACCESS_WRITE });
    for (let page = 0; page < pages; page++) this.fill(va + BigInt(page) * 4096n, first + page);
    return va;
  }

  fill(va: bigint, byte: number): void {
    this.process.addressSpace.write(va, new Uint8Array(4096).fill(byte));
  }

  byteAt(va: bigint): number {
    const byte = new Uint8Array(1);
    this.process.addressSpace.read(va, byte);
    return byte[0]!;
  }

  /** Kernel-side operations of a driver that has the device bound, as one call. */
  inKernel<T>(body: () => T): T {
    return this.machine.kernel.call('driver', body);
  }

  /**
   * Writes a four-level table into guest memory at `va` (guest physical 0), one table page for each level from guest
   * physical `root`, that maps guest virtual `gva` to guest physical `gpa`. All mappings share the upper tables.
   */
  stage1Map(va: bigint, root: bigint, gva: bigint, gpa: bigint): void {
    for (let level = 3n; level >= 0n; level--) {
      const table = root + (3n - level) * 4096n;
      const index = (gva >> (12n + 9n * level)) & 511n;
      const target = level === 0n ? gpa : table + 4096n;
      const bytes = new Uint8Array(BigUint64Array.of(target | PRESENT_WRITE_USER).buffer);
      this.process.addressSpace.write(va + table + index * 8n, bytes);
    }
  }
}
