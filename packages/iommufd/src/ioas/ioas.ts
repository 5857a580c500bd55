/** I/O address spaces: the IOAS object (Linux: struct iommufd_ioas, drivers/iommu/iommufd/iommufd_private.h). */

import { hex } from '@iommukit/hw';
import { IOMMU_READ, IOMMU_WRITE } from '@iommukit/iommu-core';
import type { IommufdContext } from '../context.ts';
import type { HwptPaging } from '../hwpt.ts';
import { IommufdObject, type ObjectDetails } from '../object-table.ts';
import type { Area } from './area.ts';
import { IoPageTable } from './io-page-table.ts';

export class Ioas extends IommufdObject {
  readonly type = 'ioas';
  readonly context: IommufdContext;
  readonly table: IoPageTable;
  /** Hardware page tables that show this address space, in the order in which they were made. */
  readonly hwpts: HwptPaging[] = [];

  constructor(id: number, context: IommufdContext) {
    super(id);
    this.context = context;
    this.table = new IoPageTable(context.kernel);
  }

  get uses(): readonly IommufdObject[] {
    return [];
  }

  override details(): ObjectDetails {
    const { space, iovaAlignment, hugePages } = this.table;
    const areas = space.areas().map(areaDetails);
    const reserved = space.reservedRanges.map(({ start, last }) => ({ start: hex(start), last: hex(last) }));
    const allowed = space.allowedRanges.map(({ start, last }) => ({ start: hex(start), last: hex(last) }));
    return { iovaAlignment, hugePages, areas, reserved, allowed };
  }

  destroy(): void {
    this.table.unmapAll((area) => this.traceArea('ioas_unmap', area));
  }

  traceArea(name: 'ioas_map' | 'ioas_unmap', area: Area): void {
    const { trace, id: context } = this.context;
    if (!trace.enabled) return;
    const { iova, length, pages } = area;
    trace.emit({ name, context, ioas: this.id, iova, length, pages: pages.id });
  }
}

function areaDetails(area: Area): ObjectDetails {
  const { iova, last, pages, startByte, prot, accesses, locks } = area;
  return {
    iova: hex(iova),
    last: hex(last),
    access: `${(prot & IOMMU_READ) !== 0 ? 'r' : '-'}${(prot & IOMMU_WRITE) !== 0 ? 'w' : '-'}`,
    pages: pages.id,
    startByte: hex(startByte),
    ...(accesses > 0 ? { accesses } : {}),
    ...(locks > 0 ? { locks } : {}),
  };
}
