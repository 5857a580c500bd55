/** A host of fakes with a device, a nest parent and a vIOMMU on it. */

import { type ErrnoCode, SysError } from '@iommukit/iommu-core';
import { bindDevice, type IommufdDevice } from '../../src/device.ts';
import { type FakeViommu, VIOMMU_HWPT_TYPE, VIOMMU_TYPE } from './fake-viommu.ts';
import { FakeDriver, fakeDevice } from './fakes.ts';
import { Host } from './host.ts';

/** Code of the SysError that `body` throws, or null. */
export function errno(body: () => unknown): ErrnoCode | null {
  try {
    body();
    return null;
  } catch (error) {
    if (error instanceof SysError) return error.code;
    throw error;
  }
}

export class ViommuHost extends Host {
  readonly device: IommufdDevice = this.bind();
  readonly ioasId: number = this.client.ioasAlloc();
  readonly parentId: number = this.client.hwptAllocPaging({
    deviceId: this.device.id,
    ioasId: this.ioasId,
    nestParent: true,
  });
  readonly viommuId: number = this.viommus.viommuAlloc({
    deviceId: this.device.id,
    parentId: this.parentId,
    type: VIOMMU_TYPE,
  });

  /** The driver's half of the first vIOMMU. */
  get half(): FakeViommu {
    return this.driver.viommu!.made[0]!;
  }

  users(id: number): number {
    return this.context.objects.all().find((object) => object.id === id)!.users;
  }

  allocNested(): number {
    const { device, viommuId: parentId } = this;
    const data = new Uint8Array(8);
    return this.client.hwptAllocNested({ deviceId: device.id, parentId, type: VIOMMU_HWPT_TYPE, data });
  }

  /** A device behind another IOMMU, in the same context. */
  bindElsewhere(): IommufdDevice {
    return bindDevice(this.context, fakeDevice(new FakeDriver(this.kernel), 0x900));
  }
}
