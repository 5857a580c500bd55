/** A driver without hardware: it keeps who is attached where, and fails when told to. */

import { FrameAllocator, noTrace, PhysicalMemory, Scheduler } from '@iommukit/hw';
import {
  type AttachScope,
  type Capability,
  Device,
  type DmaMaster,
  type Domain,
  type FeatureOps,
  type IommuDriver,
  IommuGroup,
  Kernel,
  type PageFault,
  SysError,
} from '../../src/index.ts';

export function fakeKernel(): Kernel {
  const memory = new PhysicalMemory({ ramBytes: 1 << 20 });
  return new Kernel({
    memory,
    frames: new FrameAllocator(memory),
    scheduler: new Scheduler(),
    interrupts: { allocate: () => ({ address: 0n, data: 0 }), free() {} },
  });
}

type Response = { readonly rid: number; readonly pasid: number; readonly group: number; readonly code: number };

/** Only what the core calls. */
export class FakeDriver {
  readonly name = 'fake';
  readonly identityDomain = null;
  /** Null, as of a driver that knows no features, until a test puts some here. */
  features: FeatureOps | null = null;
  readonly blockedDomain: Domain;
  /** Domain of each `rid` and of each `rid/pasid`. */
  readonly attached = new Map<string, Domain>();
  readonly responses: Response[] = [];
  readonly capabilities: Set<Capability> = new Set();
  /** Requester id whose next attachment to anything but the blocked domain fails, and how. */
  failing: { rid: number; code: 'EINVAL' | 'ENOMEM' } | null = null;
  private nextId = 1;

  constructor() {
    this.blockedDomain = this.domain(['rid', 'pasid'], 'blocked');
  }

  domain(scopes: readonly AttachScope[] = ['rid', 'pasid'], kind: Domain['kind'] = 'unmanaged'): Domain {
    const driver = this as unknown as IommuDriver;
    return { id: this.nextId++, kind, scopes, driver, faultHandler: null, free() {} } as unknown as Domain;
  }

  attach(domain: Domain, device: Device, _old: Domain): void {
    this.set(`${device.rid}`, domain, device);
  }

  attachPasid = (domain: Domain, device: Device, pasid: number, _old: Domain | null): void => {
    this.set(`${device.rid}/${pasid}`, domain, device);
  };

  capable(_device: Device, capability: Capability): boolean {
    return this.capabilities.has(capability);
  }

  pageResponse(device: Device, last: PageFault, code: number): void {
    this.responses.push({ rid: device.rid, pasid: last.pasid, group: last.group, code });
  }

  private set(key: string, domain: Domain, device: Device): void {
    if (domain.kind === 'blocked') {
      this.attached.delete(key);
      return;
    }
    if (this.failing?.rid === device.rid) {
      const { code } = this.failing;
      this.failing = null;
      throw new SysError(code, 'fake', 'told to fail');
    }
    this.attached.set(key, domain);
  }
}

function fakeMaster(rid: number): DmaMaster {
  return { rid, name: `fake ${rid}`, pasidFeatures: 0, sharesPageRequests: false, reset() {} };
}

/** A group of devices under a fake driver; requester ids are 8, 9, ... */
export function fakeGroup(driver: FakeDriver, maxPasids: readonly number[], kernel: Kernel = fakeKernel()): IommuGroup {
  const group = new IommuGroup(0, kernel, driver as unknown as IommuDriver, noTrace);
  maxPasids.forEach((limit, index) => {
    const rid = 8 + index;
    const device = new Device(group, group.driver, fakeMaster(rid));
    device.maxPasids = limit;
    group.devices.push(device);
  });
  return group;
}

/** Code of the SysError that `body` throws, or null. */
export function refusal(body: () => unknown): string | null {
  try {
    body();
  } catch (error) {
    if (error instanceof SysError) return error.code;
    throw error;
  }
  return null;
}
