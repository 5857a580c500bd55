/**
 * A mock device as an object of the context that made it (Linux: struct selftest_obj, drivers/iommu/iommufd/selftest.c):
 * bound and attached when it is there, gone when the object is.
 */

import type { IommuCore } from '@iommukit/iommu-core';
import type { IommufdContext } from '../context.ts';
import { bindDevice, type IommufdDevice } from '../device.ts';
import { IdMap } from '../id-map.ts';
import { IommufdObject } from '../object-table.ts';
import { MockDevice } from './mock-device.ts';

/** The bus of the mock devices, which numbers them from 0. */
export class MockBus {
  readonly core: IommuCore;
  private readonly devices = new IdMap<MockDevice>();

  constructor(core: IommuCore) {
    this.core = core;
  }

  /** Devices on the bus. */
  get size(): number {
    return this.devices.size;
  }

  /** @throws {SysError} EINVAL unknown flags; ENOMEM */
  plug(flags: number): MockDevice {
    const number = this.devices.reserve();
    try {
      const device = new MockDevice(number - 1, flags);
      this.core.addDevice(device);
      this.devices.set(number, device);
      return device;
    } catch (error) {
      this.devices.delete(number);
      throw error;
    }
  }

  /** Never fails. */
  unplug(device: MockDevice): void {
    this.core.removeDevice(this.core.deviceOf(device)!);
    this.devices.delete(device.rid + 1);
  }
}

export class TestDevice extends IommufdObject {
  readonly type = 'selftest';
  readonly mock: MockDevice;
  readonly bound: IommufdDevice;
  private readonly bus: MockBus;

  constructor(id: number, bus: MockBus, mock: MockDevice, bound: IommufdDevice) {
    super(id);
    this.bus = bus;
    this.mock = mock;
    this.bound = bound;
  }

  get uses(): readonly IommufdObject[] {
    return [this.bound];
  }

  destroy(): void {
    this.bound.unbind();
    this.bus.unplug(this.mock);
  }
}

/**
 * Makes a mock device, binds it, and attaches it to the table or IOAS `ptId`.
 * @throws {SysError} EINVAL unknown flags, or as BoundDevice.attach; ENOENT; ENOMEM
 */
export function makeTestDevice(
  context: IommufdContext,
  bus: MockBus,
  ptId: number,
  flags: number,
): { readonly object: TestDevice; readonly hwptId: number } {
  let hwptId = 0;
  const object = context.objects.create((id) => {
    const mock = bus.plug(flags);
    try {
      const bound = bindDevice(context, bus.core.deviceOf(mock)!, false);
      try {
        hwptId = bound.attach(ptId);
      } catch (error) {
        bound.unbind();
        throw error;
      }
      return new TestDevice(id, bus, mock, bound);
    } catch (error) {
      bus.unplug(mock);
      throw error;
    }
  });
  return { object, hwptId };
}
