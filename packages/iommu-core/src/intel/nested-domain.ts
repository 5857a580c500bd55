/**
 * A first stage that lies in its user's memory, walked through a nest parent's second stage (Linux:
 * drivers/iommu/intel/nested.c; include/uapi/linux/iommufd.h, struct iommu_hwpt_vtd_s1).
 */

import { PGTT_FIRST_STAGE, PGTT_NESTED, U64_MAX } from '@iommukit/hw';
import type { InvalidateResult, NestedDomain } from '../domain.ts';
import { SysError } from '../errno.ts';
import type { IommuDriver } from '../iommu-driver.ts';
import type { FaultGroup } from '../page-fault.ts';
import type { UserData } from '../user-data.ts';
import { Attachments, coveringRange, WHOLE_SPACE_LG2 } from './attachments.ts';
import type { IntelPagingDomain } from './paging-domain.ts';
import type { PasidEntry } from './pasid-entry.ts';
import type { IntelUnit } from './unit.ts';
import {
  HWPT_INVALIDATE_DATA_VTD_S1,
  VTD_INV_FLAGS_LEAF,
  VTD_S1_EAFE,
  VTD_S1_SRE,
  VTD_S1_WPE,
  vtdS1,
  vtdS1Invalidate,
} from './vtd-s1.ts';

/** A described first stage. */
type Stage1Config = {
  /** Guest-physical address of the root. */
  readonly root: bigint;
  readonly fiveLevels: boolean;
  readonly supervisor: boolean;
  readonly extendedAccessed: boolean;
  readonly writeProtect: boolean;
};

/** @throws {SysError} EOPNOTSUPP another data type or unknown bits; EINVAL what the unit does not have, or a bad size */
export function parseStage1(unit: IntelUnit, data: UserData): Stage1Config {
  const call = 'IOMMU_HWPT_ALLOC';
  const { capabilities } = unit;
  if (data.length !== vtdS1.size) throw new SysError('EINVAL', call, `${data.length} bytes of vtd_s1`);
  const { flags, pgtblAddr, addrWidth, reserved } = vtdS1.read(data.read());
  if ((flags & ~(VTD_S1_SRE | VTD_S1_EAFE | VTD_S1_WPE)) !== 0n || reserved !== 0) {
    throw new SysError('EOPNOTSUPP', call, `vtd_s1 flags 0x${flags.toString(16)} or reserved bits`);
  }
  if (addrWidth !== 48 && !(addrWidth === 57 && capabilities.firstStage5Level)) {
    throw new SysError('EINVAL', call, `first stage of ${addrWidth} bits`);
  }
  const supervisor = (flags & VTD_S1_SRE) !== 0n;
  const extendedAccessed = (flags & VTD_S1_EAFE) !== 0n;
  if (supervisor && !capabilities.supervisorRequests) throw new SysError('EINVAL', call, 'no supervisor requests');
  if (extendedAccessed && !capabilities.extendedAccessed) throw new SysError('EINVAL', call, 'no extended accessed');
  return {
    root: pgtblAddr & ~0xfffn,
    fiveLevels: addrWidth === 57,
    supervisor,
    extendedAccessed,
    writeProtect: (flags & VTD_S1_WPE) !== 0n,
  };
}

export class IntelNestedDomain implements NestedDomain {
  readonly kind = 'nested';
  readonly scopes = ['rid', 'pasid'] as const;
  faultHandler: ((group: FaultGroup) => void) | null = null;
  readonly driver: IommuDriver;
  readonly parent: IntelPagingDomain;
  readonly attachments: Attachments;
  private readonly unit: IntelUnit;
  private readonly domainId: number;
  private readonly config: Stage1Config;

  /** @throws {SysError} ENOSPC, ENOMEM */
  constructor(unit: IntelUnit, driver: IommuDriver, parent: IntelPagingDomain, config: Stage1Config) {
    this.unit = unit;
    this.driver = driver;
    this.parent = parent;
    this.config = config;
    unit.kernel.checkpoint('nested_domain');
    this.domainId = unit.domainIds.allocate();
    this.attachments = new Attachments(unit.queue, unit.capabilities, this.domainId, PGTT_FIRST_STAGE);
    parent.children.add(this);
  }

  get id(): number {
    return this.domainId;
  }

  entry(): PasidEntry {
    const { config } = this;
    return {
      ...this.parent.stage2(),
      domainId: this.domainId,
      translation: PGTT_NESTED,
      stage1Root: config.root,
      stage1FiveLevels: config.fiveLevels,
      supervisor: config.supervisor,
      noExecute: this.unit.capabilities.executeRequests,
      extendedAccessed: config.extendedAccessed,
      writeProtect: config.writeProtect,
    };
  }

  invalidate(dataType: number, entries: Uint8Array, entryLength: number, count: number): InvalidateResult {
    let handled = 0;
    try {
      if (dataType !== HWPT_INVALIDATE_DATA_VTD_S1) {
        throw new SysError('EINVAL', 'IOMMU_HWPT_INVALIDATE', `data type ${dataType}`);
      }
      if (entryLength !== 0 && entryLength !== vtdS1Invalidate.size) {
        throw new SysError('EINVAL', 'IOMMU_HWPT_INVALIDATE', `entries of ${entryLength} bytes`);
      }
      for (; handled < count; handled++) {
        this.invalidateOne(vtdS1Invalidate.read(entries, handled * entryLength));
      }
      return { handled, failure: null };
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      return { handled, failure: error };
    }
  }

  free(): void {
    this.parent.children.delete(this);
    this.unit.domainIds.release(this.domainId);
  }

  private invalidateOne({ addr, npages, flags, reserved }: ReturnType<typeof vtdS1Invalidate.read>): void {
    const call = 'IOMMU_HWPT_INVALIDATE';
    if ((flags & ~VTD_INV_FLAGS_LEAF) !== 0 || reserved !== 0) {
      throw new SysError('EOPNOTSUPP', call, `flags ${flags} or reserved bits`);
    }
    if ((addr & 0xfffn) !== 0n || (npages === U64_MAX && addr !== 0n)) {
      throw new SysError('EINVAL', call, `address 0x${addr.toString(16)} with ${npages} pages`);
    }
    const leaf = (flags & VTD_INV_FLAGS_LEAF) !== 0;
    if (npages === 0n) return;
    const first = Number(addr >> 12n);
    const last = first + Number(npages) - 1;
    const { address: start, sizeLg2 } =
      last < 2 ** 52 ? coveringRange(first, last) : { address: 0n, sizeLg2: WHOLE_SPACE_LG2 };
    this.attachments.addFlush(start, sizeLg2, leaf);
    this.unit.queue.submitChecked(call);
  }
}
