/** The IOAS of an open /dev/iommu that the type1 interface works on, as its calls name none (IOMMU_VFIO_IOAS). */

import { SysError } from '@iommukit/iommu-core';
import type { Ioas } from '../ioas/ioas.ts';

export class CompatIoas {
  private ioas: Ioas | null = null;

  /** Null: none is set, or it was destroyed. */
  find(): Ioas | null {
    return this.ioas !== null && this.ioas.users > 0 ? this.ioas : null;
  }

  /** @throws {SysError} ENODEV none is set, or it was destroyed */
  get(call: string): Ioas {
    const ioas = this.find();
    if (ioas === null) throw new SysError('ENODEV', call, 'no IOAS is set for the type1 interface');
    return ioas;
  }

  /** The IOAS can be destroyed all the same. */
  set(ioas: Ioas | null): void {
    this.ioas = ioas;
  }
}
