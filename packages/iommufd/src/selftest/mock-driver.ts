/**
 * The driver of the mock IOMMU (Linux: mock_ops, drivers/iommu/iommufd/selftest.c). There is no hardware behind it:
 * attaching changes nothing that a device could feel, and the domains' tables are read by IOMMU_TEST_CMD alone. All of
 * it is the core's and the page-table editor's as for any family.
 */

import { hex } from '@iommukit/hw';
import {
  type AddressSpace,
  ALLOC_DIRTY_TRACKING,
  ALLOC_NEST_PARENT,
  ALLOC_PASID,
  type Capability,
  type Device,
  type Domain,
  type HwInfo,
  type IommuDriver,
  type Kernel,
  type MsiMessage,
  type NestedDomain,
  type PageFault,
  type PagingDomain,
  type ReservedRegion,
  readUserData,
  type StaticDomain,
  type StructValues,
  type SvaDomain,
  SysError,
  type UserData,
  type ViommuCore,
} from '@iommukit/iommu-core';
import { MockDevice, mockDeviceOf } from './mock-device.ts';
import { MockNestedDomain } from './mock-nested-domain.ts';
import { MockPagingDomain } from './mock-paging-domain.ts';
import { MockViommus } from './mock-viommu.ts';
import {
  IOMMU_HW_INFO_SELFTEST_REGVAL,
  IOMMU_HW_INFO_TYPE_SELFTEST,
  IOMMU_HWPT_DATA_SELFTEST,
  IOMMU_TEST_PASID_RESERVED,
  iommuHwptSelftest,
  iommuTestHwInfo,
  MOCK_IOMMUPT_DEFAULT,
  MOCK_IOMMUPT_HUGE,
  MOCK_PASID_WIDTH,
} from './uapi.ts';

const ALLOC = 'IOMMU_HWPT_ALLOC';

export class MockDriver implements IommuDriver {
  readonly name = 'iommufd_mock';
  readonly blockedDomain: StaticDomain;
  readonly identityDomain = null;
  readonly features = null;
  readonly viommu: MockViommus;
  private readonly kernel: Kernel;
  private domains = 0;

  constructor(kernel: Kernel) {
    this.kernel = kernel;
    this.viommu = new MockViommus(kernel, (viommu, flags, data) => this.nested(viommu.parent, viommu, flags, data));
    const faultHandler = null;
    this.blockedDomain = { id: 0, kind: 'blocked', scopes: ['rid', 'pasid'], driver: this, faultHandler, free() {} };
  }

  /** Of a device without PASIDs Linux has it that it has one, PASID 0: what is attached to any is out of range. */
  probeDevice(device: Device): void {
    const { master } = device;
    if (!(master instanceof MockDevice))
      throw new SysError('ENODEV', 'iommu_probe_device', `${device.name} is no mock`);
    device.maxPasids = master.hasPasids ? 2 ** MOCK_PASID_WIDTH : 1;
  }

  releaseDevice(_device: Device): void {}

  functionReset(_device: Device): void {}

  capable(device: Device, capability: Capability): boolean {
    switch (capability) {
      case 'dirty-tracking':
        return mockDeviceOf(device).tracksDirty;
      case 'cache-coherency':
      case 'page-requests':
      case 'user-pasid-table':
      // It raises no interrupts at all.
      case 'isolated-msi':
        return true;
      default:
        return false;
    }
  }

  hwInfo(_device: Device, type: number): HwInfo {
    if (type !== 0 && type !== IOMMU_HW_INFO_TYPE_SELFTEST) {
      throw new SysError('EOPNOTSUPP', 'IOMMU_GET_HW_INFO', `information of type ${hex(type)}`);
    }
    this.kernel.checkpoint('mock_domain_hw_info');
    const data = new Uint8Array(iommuTestHwInfo.size);
    iommuTestHwInfo.write({ flags: 0, testReg: IOMMU_HW_INFO_SELFTEST_REGVAL }, data);
    return { type: IOMMU_HW_INFO_TYPE_SELFTEST, data };
  }

  reservedRegions(_device: Device): ReservedRegion[] {
    return [];
  }

  defaultDomainKind(_device: Device): null {
    return null;
  }

  allocPaging(
    device: Device,
    kind: 'unmanaged' | 'dma',
    flags: number,
    data: UserData | null = null,
  ): MockPagingDomain {
    const tracks = (flags & ALLOC_DIRTY_TRACKING) !== 0;
    if (
      (flags & ~(ALLOC_DIRTY_TRACKING | ALLOC_NEST_PARENT | ALLOC_PASID)) !== 0 ||
      (tracks && !mockDeviceOf(device).tracksDirty)
    ) {
      throw new SysError('EOPNOTSUPP', ALLOC, `flags ${hex(flags)} for ${device.name}`);
    }
    const pagetableType = data === null ? MOCK_IOMMUPT_DEFAULT : hwptData(data).pagetableType;
    if (pagetableType !== MOCK_IOMMUPT_DEFAULT && pagetableType !== MOCK_IOMMUPT_HUGE) {
      throw new SysError('EOPNOTSUPP', ALLOC, `page table of type ${pagetableType}`);
    }
    const { kernel } = this;
    const huge = pagetableType === MOCK_IOMMUPT_HUGE;
    return new MockPagingDomain({ kernel, driver: this, id: ++this.domains, kind, flags, huge });
  }

  allocNested(_device: Device, parent: PagingDomain, flags: number, data: UserData): NestedDomain {
    return this.nested(parent, null, flags, data);
  }

  /** A nested domain, made on `parent` or through a vIOMMU on it. */
  nested(parent: PagingDomain, viommu: ViommuCore | null, flags: number, data: UserData): MockNestedDomain {
    if ((flags & ~ALLOC_PASID) !== 0) throw new SysError('EOPNOTSUPP', ALLOC, `nesting with flags ${hex(flags)}`);
    const { iotlb } = hwptData(data);
    return new MockNestedDomain({ kernel: this.kernel, driver: this, id: ++this.domains, parent, viommu, iotlb });
  }

  allocSva(device: Device, _addressSpace: AddressSpace): SvaDomain {
    throw new SysError('EOPNOTSUPP', 'iommu_sva_domain_alloc', `${device.name} walks no process's table`);
  }

  attach(domain: Domain, device: Device, _old: Domain): void {
    const mock = mockDeviceOf(device);
    if (domain instanceof MockPagingDomain && domain.dirty !== null && !mock.tracksDirty) {
      throw new SysError('EINVAL', 'iommu_attach_device', `${device.name} does not track what it writes`);
    }
    const viommu = domain instanceof MockNestedDomain ? domain.viommu : null;
    if (viommu === null) {
      mock.virtual = null;
      return;
    }
    const virtId = viommu.virtIdOf(device);
    if (virtId === null) throw new SysError('ENOENT', 'iommu_attach_device', `${device.name} is not in the vIOMMU`);
    mock.virtual = { viommu, virtId };
  }

  /** PASID 1024 is for the tests of what happens when a driver fails: it does every second time. */
  readonly attachPasid = (domain: Domain, device: Device, pasid: number, _old: Domain | null): void => {
    if (pasid !== IOMMU_TEST_PASID_RESERVED) return;
    const mock = mockDeviceOf(device);
    const fails = mock.failsNext && domain.kind !== 'blocked';
    mock.failsNext = !mock.failsNext && domain.kind !== 'blocked';
    if (fails) throw new SysError('ENOMEM', 'iommu_attach_device_pasid', `PASID ${pasid} of ${device.name} is to fail`);
  };

  pageResponse(_device: Device, _last: PageFault, _code: number): void {}

  allocateMsi(device: Device, _handler: () => void): MsiMessage {
    throw new SysError('ENOSPC', 'request_irq', `${device.name} has no interrupts`);
  }

  freeMsi(_device: Device, _message: MsiMessage): void {}
}

/** @throws {SysError} EOPNOTSUPP another type; EINVAL length; EFAULT */
function hwptData(data: UserData): StructValues<{ iotlb: 'u32'; pagetableType: 'u32' }> {
  if (data.type !== IOMMU_HWPT_DATA_SELFTEST) throw new SysError('EOPNOTSUPP', ALLOC, `data of type ${hex(data.type)}`);
  return readUserData(ALLOC, data, IOMMU_HWPT_DATA_SELFTEST, iommuHwptSelftest, 'iotlb');
}
