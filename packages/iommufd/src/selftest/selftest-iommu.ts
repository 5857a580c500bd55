/**
 * The mock IOMMU and IOMMU_TEST_CMD of the kernel's own tests of /dev/iommu (Linux:
 * drivers/iommu/iommufd/selftest.c, CONFIG_IOMMUFD_TEST). Its devices are under an iommu core of its own, so they may be
 * beside those of a machine; what they are attached to is the /dev/iommu that `commands` are registered with.
 */

import type { TraceSink } from '@iommukit/hw';
import { IommuCore, type IommuEvent, type Kernel, SysError } from '@iommukit/iommu-core';
import type { Command } from '../ioctl/command.ts';
import { accessOperations } from './access-operations.ts';
import { deviceOperations } from './device-operations.ts';
import { domainOperations } from './domain-operations.ts';
import { MemoryLimit, memoryOperations } from './memory-operations.ts';
import { MockDriver } from './mock-driver.ts';
import { TEST_CMD_MIN, TEST_CMD_SIZE, testCmdHead } from './test-cmd.ts';
import { MockBus } from './test-device.ts';
import { IOMMU_TEST_CMD } from './uapi.ts';

export type SelftestOptions = {
  kernel: Kernel;
  trace?: TraceSink<IommuEvent>;
};

export class SelftestIommu {
  /** The core that mock devices are under. */
  readonly core: IommuCore;
  /** To be handed to `registerIommufd`. */
  readonly commands: readonly Command[];
  private readonly bus: MockBus;
  private readonly limit = new MemoryLimit();

  constructor({ kernel, trace }: SelftestOptions) {
    this.core = new IommuCore({
      kernel,
      driver: new MockDriver(kernel),
      defaultDomain: 'blocked',
      ...(trace === undefined ? {} : { trace }),
    });
    this.bus = new MockBus(this.core);
    const operations = new Map([
      ...deviceOperations(this.bus),
      ...domainOperations,
      ...accessOperations,
      ...memoryOperations(this.limit),
    ]);
    this.commands = [
      {
        request: IOMMU_TEST_CMD,
        size: TEST_CMD_SIZE,
        min: TEST_CMD_MIN,
        run(caller, bytes) {
          const { op, id } = testCmdHead.read(bytes);
          const operation = operations.get(op);
          if (operation === undefined) throw new SysError('EOPNOTSUPP', 'IOMMU_TEST_CMD', `no operation ${op}`);
          return operation(caller, id, bytes);
        },
      },
    ];
  }

  /** Mock devices that are there. */
  get devices(): number {
    return this.bus.size;
  }

  /** What SET_TEMP_MEMORY_LIMIT last set, in bytes. It limits nothing here: frames are not pinned in batches. */
  get temporaryMemoryLimit(): number {
    return this.limit.bytes;
  }
}
