/**
 * A first stage that lies in its user's memory, walked through a nest parent's second stage (Linux:
 * drivers/iommu/intel/nested.c; include/uapi/linux/iommufd.h, struct iommu_hwpt_vtd_s1).
 */

import { PGTT_FIRST_STAGE, PGTT_NESTED, U64_MAX } from '@iommukit/hw';
import type { InvalidateResult, NestedDomain } from '../domain.ts';
import { SysError } from '../errno.ts';
import type { IommuDriver, UserData } from '../iommu-driver.ts';
import type { FaultGroup } from '../page-fault.ts';
import { Attachments, coveringRange, WHOLE_SPACE_LG2 } from './attachments.ts';
import type { IntelPagingDomain } from './paging-domain.ts';
import type { PasidEntry } from './pasid-entry.ts';
import type { IntelUnit } from './unit.ts';

/** enum iommu_hwpt_data_type and iommu_hwpt_invalidate_data_type. */
export const HWPT_DATA_VTD_S1 = 1;
const INVALIDATE_DATA_VTD_S1 = 0;
/** Bytes of struct iommu_hwpt_vtd_s1 and of struct iommu_hwpt_vtd_s1_invalidate. */
const VTD_S1_BYTES = 24;
const VTD_S1_INVALIDATE_BYTES = 24;

const S1_SUPERVISOR = 1n;
const S1_EXTENDED_ACCESSED = 2n;
const S1_WRITE_PROTECT = 4n;
const INVALIDATE_LEAF = 1;

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
  if (data.length !== VTD_S1_BYTES) throw new SysError('EINVAL', call, `${data.length} bytes of vtd_s1`);
  const bytes = data.read();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const flags = view.getBigUint64(0, true);
  const root = view.getBigUint64(8, true);
  const width = view.getUint32(16, true);
  if ((flags & ~(S1_SUPERVISOR | S1_EXTENDED_ACCESSED | S1_WRITE_PROTECT)) !== 0n || view.getUint32(20, true) !== 0) {
    throw new SysError('EOPNOTSUPP', call, `vtd_s1 flags 0x${flags.toString(16)} or reserved bits`);
  }
  if (width !== 48 && !(width === 57 && capabilities.firstStage5Level)) {
    throw new SysError('EINVAL', call, `first stage of ${width} bits`);
  }
  const supervisor = (flags & S1_SUPERVISOR) !== 0n;
  const extendedAccessed = (flags & S1_EXTENDED_ACCESSED) !== 0n;
  if (supervisor && !capabilities.supervisorRequests) throw new SysError('EINVAL', call, 'no supervisor requests');
  if (extendedAccessed && !capabilities.extendedAccessed) throw new SysError('EINVAL', call, 'no extended accessed');
  return {
    root: root & ~0xfffn,
    fiveLevels: width === 57,
    supervisor,
    extendedAccessed,
    writeProtect: (flags & S1_WRITE_PROTECT) !== 0n,
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
      extendedAccessed: config.extendedAccessed,
      writeProtect: config.writeProtect,
    };
  }

  invalidate(dataType: number, entries: Uint8Array, entryLength: number, count: number): InvalidateResult {
    let handled = 0;
    try {
      if (dataType !== INVALIDATE_DATA_VTD_S1) {
        throw new SysError('EINVAL', 'IOMMU_HWPT_INVALIDATE', `data type ${dataType}`);
      }
      if (count > 0 && entryLength !== VTD_S1_INVALIDATE_BYTES) {
        throw new SysError('EINVAL', 'IOMMU_HWPT_INVALIDATE', `entries of ${entryLength} bytes`);
      }
      for (; handled < count; handled++) {
        this.invalidateOne(new DataView(entries.buffer, entries.byteOffset + handled * entryLength, entryLength));
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

  private invalidateOne(entry: DataView): void {
    const call = 'IOMMU_HWPT_INVALIDATE';
    const address = entry.getBigUint64(0, true);
    const pages = entry.getBigUint64(8, true);
    const flags = entry.getUint32(16, true);
    if ((flags & ~INVALIDATE_LEAF) !== 0 || entry.getUint32(20, true) !== 0) {
      throw new SysError('EOPNOTSUPP', call, `flags ${flags} or reserved bits`);
    }
    if ((address & 0xfffn) !== 0n || (pages === U64_MAX && address !== 0n)) {
      throw new SysError('EINVAL', call, `address 0x${address.toString(16)} with ${pages} pages`);
    }
    const leaf = (flags & INVALIDATE_LEAF) !== 0;
    if (pages === 0n) return;
    const first = Number(address >> 12n);
    const last = first + Number(pages) - 1;
    const { address: start, sizeLg2 } =
      last < 2 ** 52 ? coveringRange(first, last) : { address: 0n, sizeLg2: WHOLE_SPACE_LG2 };
    this.attachments.addFlush(start, sizeLg2, leaf);
    this.unit.queue.submitChecked(call);
  }
}
