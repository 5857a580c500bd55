/** The PASID capability (PCI Express Base Specification 6.0, section 7.8.9). Virtual functions use their PF's. */

import type { ConfigSpace } from '../config-space.ts';
import type { PciFunction } from '../function.ts';
import { ACCESS_EXECUTE, ACCESS_PRIVILEGED } from '../transaction.ts';
import type { Capability } from './capability.ts';

const CAPABILITY = 0x04;
const CONTROL = 0x06;

const ENABLE = 1 << 0;
const EXECUTE = 1 << 1;
const PRIVILEGED = 1 << 2;

export type PasidOptions = {
  /** Width of the PASIDs the function can send, 1..20 bits. */
  width: number;
  /** Can send Execute Requested; false by default. */
  execute?: boolean;
  /** Can send Privileged Mode Requested; false by default. */
  privileged?: boolean;
};

export class PasidCapability implements Capability {
  readonly id = 0x1b;
  readonly extended = true;
  readonly size = 8;
  private readonly width: number;
  private readonly supported: number;
  private config!: ConfigSpace;
  private offset = 0;
  /** PASIDs below this may be sent; 0 while disabled. */
  private limit = 0;
  /** ACCESS_ bits that may not go with a PASID now. */
  private refused = ACCESS_EXECUTE | ACCESS_PRIVILEGED;

  constructor(options: PasidOptions) {
    if (!(options.width >= 1 && options.width <= 20))
      throw new RangeError(`PASID width is not 1..20: ${options.width}`);
    this.width = options.width;
    this.supported = (options.execute ? EXECUTE : 0) | (options.privileged ? PRIVILEGED : 0);
  }

  get enabled(): boolean {
    return this.limit !== 0;
  }

  /** Whether the function may send `pasid` with these ACCESS_ bits. */
  allows(pasid: number, access: number): boolean {
    return pasid < this.limit && (access & this.refused) === 0;
  }

  install(fn: PciFunction, offset: number): void {
    this.config = fn.config;
    this.offset = offset;
    fn.pasid = this;
    this.config.define(offset + CAPABILITY, 2, { value: this.supported | (this.width << 8) });
    this.config.define(offset + CONTROL, 2, { writable: ENABLE | this.supported });
    this.config.onWrite(offset + CONTROL, 2, () => this.reset());
  }

  reset(): void {
    const control = this.config.read(this.offset + CONTROL, 2);
    this.limit = (control & ENABLE) === 0 ? 0 : 1 << this.width;
    this.refused =
      ((control & EXECUTE) === 0 ? ACCESS_EXECUTE : 0) | ((control & PRIVILEGED) === 0 ? ACCESS_PRIVILEGED : 0);
  }
}
