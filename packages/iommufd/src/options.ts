/** Settings of a context and of an IOAS (Linux: iommufd_option_rlimit_mode and iommufd_ioas_option, ioas.c). */

import { hex } from '@iommukit/hw';
import { type Process, SysError } from '@iommukit/iommu-core';
import type { IommufdContext } from './context.ts';
import { Ioas } from './ioas/ioas.ts';

const CALL = 'IOMMU_OPTION';

export type OptionAccess = {
  get(): bigint;
  /** @throws {SysError} EINVAL; and the option's own */
  set(value: bigint): void;
};

/**
 * Whether pinned pages are charged to the user (0) or to the address space (1). To set it: EPERM without
 * CAP_SYS_RESOURCE, EBUSY when the context has an object.
 */
export function rlimitModeOption(context: IommufdContext, caller: Process): OptionAccess {
  return {
    get: () => (context.accounting === 'mm' ? 1n : 0n),
    set(value) {
      if (!caller.credentials.has('CAP_SYS_RESOURCE')) {
        throw new SysError('EPERM', CALL, 'the limit mode needs CAP_SYS_RESOURCE');
      }
      if (context.objects.size > 0) {
        throw new SysError('EBUSY', CALL, `the limit mode stays as there are ${context.objects.size} objects`);
      }
      context.setAccounting(asFlag(value) ? 'mm' : 'user');
    },
  };
}

/**
 * Whether domains use large pages for an IOAS: 1 by default. To set it to 0: EINVAL while there are both a domain and an
 * area, EADDRINUSE when an area is not of whole pages.
 * @throws {SysError} ENOENT no such IOAS
 */
export function hugePagesOption(context: IommufdContext, ioasId: number): OptionAccess {
  const { table } = context.objects.get(ioasId, Ioas);
  return {
    get: () => (table.hugePages ? 1n : 0n),
    set: (value) => table.setHugePages(asFlag(value)),
  };
}

/** @throws {SysError} EINVAL */
function asFlag(value: bigint): boolean {
  if (value === 0n || value === 1n) return value === 1n;
  throw new SysError('EINVAL', CALL, `value ${hex(value)}`);
}
