import { describe, expect, test } from 'vitest';
import * as uapi from '../src/uapi/iommufd.ts';
import * as uapiViommu from '../src/uapi/viommu.ts';
import { ENOMEM } from './support/errno.ts';
import { HW_QUEUE_TYPE, VIOMMU_HWPT_TYPE, VIOMMU_TYPE } from './support/fake-viommu.ts';
import { BUFFER, MEMORY } from './support/host.ts';
import { ViommuHost } from './support/viommu-host.ts';

const GPA = 0x10_0000n;

/** A host with guest memory and a first hardware queue. */
function setUp(): ViommuHost {
  const host = new ViommuHost();
  const { client, viommus, ioasId, viommuId } = host;
  client.ioasMap({ ioasId, userVa: MEMORY, length: 0x4000n, iova: GPA });
  viommus.hwQueueAlloc({ viommuId, type: HW_QUEUE_TYPE, index: 0, iova: GPA, length: 0x1000n });
  return host;
}

const COMMANDS: { name: string; atLeast: number; call(host: ViommuHost): number }[] = [
  {
    name: 'IOMMU_VIOMMU_ALLOC with pages to map',
    atLeast: 4,
    call: (host) =>
      host.ioctl(uapiViommu.IOMMU_VIOMMU_ALLOC, uapiViommu.iommuViommuAlloc, {
        type: VIOMMU_TYPE,
        devId: host.device.id,
        hwptId: host.parentId,
        dataLen: 24,
        dataUptr: BUFFER,
      }).result,
  },
  {
    name: 'IOMMU_VDEVICE_ALLOC',
    atLeast: 3,
    call: (host) =>
      host.ioctl(uapiViommu.IOMMU_VDEVICE_ALLOC, uapiViommu.iommuVdeviceAlloc, {
        viommuId: host.viommuId,
        devId: host.device.id,
        virtId: 0x99n,
      }).result,
  },
  {
    name: 'IOMMU_VEVENTQ_ALLOC',
    atLeast: 2,
    call: (host) =>
      host.ioctl(uapiViommu.IOMMU_VEVENTQ_ALLOC, uapiViommu.iommuVeventqAlloc, {
        viommuId: host.viommuId,
        type: 1,
        veventqDepth: 4,
      }).result,
  },
  {
    name: 'IOMMU_HW_QUEUE_ALLOC after another',
    atLeast: 5,
    call: (host) =>
      host.ioctl(uapiViommu.IOMMU_HW_QUEUE_ALLOC, uapiViommu.iommuHwQueueAlloc, {
        viommuId: host.viommuId,
        type: HW_QUEUE_TYPE,
        index: 1,
        nestingParentIova: GPA + 0x800n,
        length: 0x2000n,
      }).result,
  },
  {
    name: 'IOMMU_HWPT_ALLOC through a vIOMMU',
    atLeast: 2,
    call: (host) =>
      host.ioctl(uapi.IOMMU_HWPT_ALLOC, uapi.iommuHwptAlloc, {
        devId: host.device.id,
        ptId: host.viommuId,
        dataType: VIOMMU_HWPT_TYPE,
        dataLen: 8,
        dataUptr: BUFFER,
      }).result,
  },
  {
    name: 'IOMMU_FAULT_QUEUE_ALLOC',
    atLeast: 2,
    call: (host) => host.ioctl(uapi.IOMMU_FAULT_QUEUE_ALLOC, uapi.iommuFaultAlloc, {}).result,
  },
];

describe('ENOMEM at any step changes nothing', () => {
  test.each(COMMANDS)('$name', ({ atLeast, call }) => {
    const host = setUp();
    const before = host.snapshot();
    for (let nth = 1; ; nth++) {
      host.kernel.failpoints.arm(nth);
      const result = call(host);
      const { hit } = host.kernel.failpoints;
      host.kernel.failpoints.arm(0);
      if (hit === null) {
        expect(result).toBe(0);
        expect(nth).toBeGreaterThan(atLeast);
        break;
      }
      expect([hit, result]).toEqual([hit, ENOMEM]);
      expect([hit, host.snapshot()]).toEqual([hit, before]);
    }
  });

  test('what failed can be done afterwards, and all of it goes with the file', () => {
    const host = setUp();
    for (const { call } of COMMANDS) {
      host.kernel.failpoints.arm(1);
      expect(call(host)).toBe(ENOMEM);
      expect(call(host)).toBe(0);
    }
    host.device.unbind();
    host.process.exit();
    expect([host.context.objects.size, host.node.contexts.size, host.space.pinnedPages]).toEqual([0, 0, 0]);
    expect([...host.driver.live, ...host.driver.viommu!.live]).toEqual([]);
  });
});
