/**
 * Handing what a context has mapped to another process, as when a VMM replaces itself: the new one pays for the pins from
 * then on (Linux: iommufd_ioas_change_process, drivers/iommu/iommufd/ioas.c). Only mappings of files can be handed on,
 * whose pages are no process's own.
 */

import { type Process, SysError } from '@iommukit/iommu-core';
import type { IommufdContext } from '../context.ts';
import { charge, payerOf, uncharge } from './accounting.ts';
import { Ioas } from './ioas.ts';
import type { Pages } from './pages.ts';

/**
 * Makes the caller pay for all pages of the context. On failure nothing changes. Pins are counted with the process that
 * pays whatever the accounting mode; Linux leaves those of unlimited processes with the old one.
 * @throws {SysError} EINVAL something else than a file is mapped, or memory is registered; ENOMEM, RLIMIT_MEMLOCK included
 */
export function ioasChangeProcess(context: IommufdContext, caller: Process): void {
  const to = payerOf(caller);
  const groups = [...pagesOf(context)].filter(({ payer }) => payer.addressSpace !== to.addressSpace);
  const charged: Pages[] = [];
  try {
    for (const pages of groups) {
      charge(pages.accountMode, to, pages.pinned);
      charged.push(pages);
    }
  } catch (error) {
    for (const pages of charged) uncharge(pages.accountMode, to, pages.pinned);
    throw error;
  }
  for (const pages of groups) {
    uncharge(pages.accountMode, pages.payer, pages.pinned);
    pages.payer.addressSpace.pinnedPages -= pages.pinned;
    to.addressSpace.pinnedPages += pages.pinned;
    pages.setPayer(to);
  }
}

/** @throws {SysError} EINVAL; ENOMEM */
function pagesOf(context: IommufdContext): Set<Pages> {
  const call = 'IOMMU_IOAS_CHANGE_PROCESS';
  const all = context.objects.all().filter((object) => object instanceof Ioas);
  for (const _ of all) context.kernel.checkpoint('iommufd_take_all_iova_rwsem');
  if (context.registered.count > 0) {
    throw new SysError('EINVAL', call, `${context.registered.count} ranges of a process's memory are registered`);
  }
  const groups = new Set<Pages>();
  for (const ioas of all) {
    ioas.table.space.forEachArea(({ pages }) => {
      if (pages.source.kind !== 'file') {
        const what = `pages ${pages.id} of IOAS ${ioas.id} are of a ${pages.source.kind}`;
        throw new SysError('EINVAL', call, what);
      }
      groups.add(pages);
    });
  }
  return groups;
}
