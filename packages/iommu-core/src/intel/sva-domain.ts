/** A process's own page table as first stage (Linux: drivers/iommu/intel/svm.c). */

import { PGTT_FIRST_STAGE } from '@iommukit/hw';
import type { SvaDomain } from '../domain.ts';
import { SysError } from '../errno.ts';
import type { IommuDriver } from '../iommu-driver.ts';
import type { FaultGroup } from '../page-fault.ts';
import type { AddressSpace, AddressSpaceNotifier } from '../process/address-space.ts';
import { Attachments, coveringRange } from './attachments.ts';
import type { PasidEntry } from './pasid-entry.ts';
import type { IntelUnit } from './unit.ts';

export class IntelSvaDomain implements SvaDomain {
  readonly kind = 'sva';
  readonly scopes = ['pasid'] as const;
  faultHandler: ((group: FaultGroup) => void) | null = null;
  readonly driver: IommuDriver;
  readonly addressSpaceId: number;
  readonly attachments: Attachments;
  private readonly unit: IntelUnit;
  private readonly addressSpace: AddressSpace;
  private readonly domainId: number;
  private readonly root: bigint;
  private readonly notifier: AddressSpaceNotifier;
  /** The process is gone, and with it the table: nothing may be attached any more. */
  private released = false;

  /** `block` clears and drains the entry of one attachment. @throws {SysError} ENODEV no table; ENOSPC, ENOMEM */
  constructor(
    unit: IntelUnit,
    driver: IommuDriver,
    addressSpace: AddressSpace,
    block: (domain: IntelSvaDomain) => void,
  ) {
    const { rootPfn } = addressSpace;
    if (rootPfn === null) {
      throw new SysError('ENODEV', 'iommu_sva_domain_alloc', `address space ${addressSpace.id} has no page table`);
    }
    this.unit = unit;
    this.driver = driver;
    this.addressSpace = addressSpace;
    this.addressSpaceId = addressSpace.id;
    this.root = BigInt(rootPfn) << 12n;
    unit.kernel.checkpoint('sva_domain');
    this.domainId = unit.domainIds.allocate();
    this.attachments = new Attachments(unit.queue, unit.capabilities, this.domainId, PGTT_FIRST_STAGE);
    this.notifier = {
      invalidate: (start, last) => this.flush(start, last),
      release: () => {
        this.released = true;
        block(this);
      },
    };
    addressSpace.addNotifier(this.notifier);
  }

  get id(): number {
    return this.domainId;
  }

  /** @throws {SysError} ENODEV the process is gone */
  entry(): PasidEntry {
    if (this.released) throw new SysError('ENODEV', 'iommu_sva_bind_device', 'the address space is gone');
    return {
      domainId: this.domainId,
      translation: PGTT_FIRST_STAGE,
      stage2Levels: this.unit.stage2Levels,
      stage1Root: this.root,
      noExecute: true,
      pageWalkSnoop: this.unit.capabilities.pageWalkCoherency,
    };
  }

  flush(start: bigint, last: bigint): void {
    const { address, sizeLg2 } = coveringRange(Number(start >> 12n), Number(last >> 12n));
    // The process may have freed tables as well as changed leaves.
    this.attachments.addFlush(address, sizeLg2, false);
    this.unit.queue.submit();
  }

  free(): void {
    this.addressSpace.removeNotifier(this.notifier);
    this.unit.domainIds.release(this.domainId);
  }
}
