/**
 * What the core asks of a driver of one IOMMU family (Linux: struct iommu_ops and struct iommu_domain_ops,
 * include/linux/iommu.h).
 *
 * Errors of attach: EINVAL says that domain and device do not fit and another domain may; ENODEV, ENOMEM, ENOSPC,
 * EBUSY and ETIMEDOUT say what their names say. Whatever throws has changed nothing.
 */

import type { Device } from './device.ts';
import type { Domain, NestedDomain, PagingDomain, StaticDomain, SvaDomain } from './domain.ts';
import type { FeatureOps } from './features.ts';
import type { MsiMessage } from './kernel.ts';
import type { PageFault } from './page-fault.ts';
import type { AddressSpace } from './process/address-space.ts';
import type { UserData } from './user-data.ts';
import type { ViommuDriver } from './viommu.ts';

/** Domain allocation flags; values of IOMMU_HWPT_ALLOC_ in include/uapi/linux/iommufd.h. */
export const ALLOC_NEST_PARENT = 1;
export const ALLOC_DIRTY_TRACKING = 2;
export const ALLOC_PASID = 8;

/**
 * What of a requester an attachment takes: DMA without PASID, DMA with one PASID, or DMA with any PASID and none,
 * where the domain's own table tells PASIDs apart.
 */
export type AttachScope = 'rid' | 'pasid' | 'all-pasids';

export type Capability =
  /** DMA is coherent with CPU caches. */
  | 'cache-coherency'
  /** IOMMU_NOEXEC has an effect. */
  | 'noexec'
  | 'dirty-tracking'
  /** The device's address translation service can be used. */
  | 'pci-ats'
  /** No device can raise an interrupt that was not given to it. */
  | 'isolated-msi'
  /** The device's page requests can be taken. */
  | 'page-requests'
  /** DMA can be made to snoop CPU caches whatever the device asks for. */
  | 'enforce-cache-coherency'
  /** The device's PASID table lies in its user's memory; else the driver writes it, one PASID after another. */
  | 'user-pasid-table';

export type ReservedRegion = {
  readonly first: bigint;
  readonly last: bigint;
  /** direct: must be mapped one to one; reserved: never to be mapped; msi: hardware's window; sw-msi: the kernel's. */
  readonly kind: 'direct' | 'direct-relaxable' | 'reserved' | 'msi' | 'sw-msi';
  /** IOMMU_ protection bits of the mapping of a direct region; 0 otherwise. */
  readonly prot: number;
};

/** Answer to GET_HW_INFO: a type of enum iommu_hw_info_type and its structure. */
export type HwInfo = { readonly type: number; readonly data: Uint8Array };

export type IommuDriver = {
  /** Name of the family, as in sysfs: `intel-iommu`. */
  readonly name: string;
  readonly blockedDomain: StaticDomain;
  /** Null when the hardware cannot pass DMA untranslated. */
  readonly identityDomain: StaticDomain | null;
  /** Per-device features. Null: there are none, and no auxiliary domains. */
  readonly features: FeatureOps | null;
  /** Virtual IOMMUs. Null: there are none. */
  readonly viommu: ViommuDriver | null;

  /** Takes `device` under control, with all its DMA blocked. Sets `device.maxPasids`. @throws {SysError} ENODEV, ENOMEM */
  probeDevice(device: Device): void;
  /** Frees what `probeDevice` made. The device is attached to the blocked domain. Never fails. */
  releaseDevice(device: Device): void;
  /** The function has been reset: it has nothing cached of any translation. */
  functionReset(device: Device): void;
  capable(device: Device, capability: Capability): boolean;
  /** Type 0 asks for the driver's own. @throws {SysError} EOPNOTSUPP for a type that the driver does not have; ENOMEM */
  hwInfo(device: Device, type: number): HwInfo;
  reservedRegions(device: Device): ReservedRegion[];
  /** The only default domain kind the hardware allows for `device`, or null for either. */
  defaultDomainKind(device: Device): 'identity' | 'dma' | null;

  /**
   * `flags` holds ALLOC_ bits; `data` is of a user who has any.
   * @throws {SysError} EOPNOTSUPP flags, or data that the driver takes none of; EINVAL data; EFAULT; ENOMEM, ENOSPC
   */
  allocPaging(device: Device, kind: 'unmanaged' | 'dma', flags: number, data?: UserData | null): PagingDomain;
  /**
   * A domain whose stage 1 is described by `data`, which is fetched only when its type, the parent and its length fit.
   * @throws {SysError} EOPNOTSUPP type or flags, EINVAL parent or data, EFAULT, ENOMEM, ENOSPC
   */
  allocNested(device: Device, parent: PagingDomain, flags: number, data: UserData): NestedDomain;
  /** @throws {SysError} EOPNOTSUPP, ENODEV, ENOMEM */
  allocSva(device: Device, addressSpace: AddressSpace): SvaDomain;

  /** Routes the device's DMA without PASID to `domain`, from `old`. Attaching the blocked domain never fails. */
  attach(domain: Domain, device: Device, old: Domain): void;
  /**
   * Routes DMA with `pasid` to `domain`. `old` is null when nothing was attached; the blocked domain in `domain`
   * removes what was, drains its page requests, and never fails. Null: no PASIDs.
   */
  readonly attachPasid: ((domain: Domain, device: Device, pasid: number, old: Domain | null) => void) | null;
  /** Answers a page request group, named by its last request. `code` is a PRG_ code. Never fails. */
  pageResponse(device: Device, last: PageFault, code: number): void;

  /** A message that makes `device`, and only it, raise `handler`, which runs as an interrupt handler. @throws {SysError} ENOSPC, ENOMEM */
  allocateMsi(device: Device, handler: () => void): MsiMessage;
  freeMsi(device: Device, message: MsiMessage): void;
};
