/**
 * The Access Control Services capability (PCI Express Base Specification 6.0, section 7.7.11), for software that
 * computes isolation groups. Every request goes up to the root complex in this model, so redirection is always on;
 * of the controls only translation blocking has an effect, on the root port that a request passes.
 */

import type { ConfigSpace } from '../config-space.ts';
import type { PciFunction } from '../function.ts';
import type { Capability } from './capability.ts';

const CAPABILITY = 0x04;
const CONTROL = 0x06;

export const ACS_SOURCE_VALIDATION: number = 1 << 0;
export const ACS_TRANSLATION_BLOCKING: number = 1 << 1;
export const ACS_REQUEST_REDIRECT: number = 1 << 2;
export const ACS_COMPLETION_REDIRECT: number = 1 << 3;
export const ACS_UPSTREAM_FORWARDING: number = 1 << 4;
export const ACS_DIRECT_TRANSLATED: number = 1 << 6;

export class AcsCapability implements Capability {
  readonly id = 0x0d;
  readonly extended = true;
  readonly size = 8;
  private readonly supported: number;
  private config!: ConfigSpace;
  private offset = 0;
  private control = 0;

  /** `supported`: ACS_ bits. */
  constructor(supported: number) {
    this.supported = supported;
  }

  /** True when all of these ACS_ controls are on. */
  isEnabled(controls: number): boolean {
    return (this.control & controls) === controls;
  }

  install(fn: PciFunction, offset: number): void {
    this.config = fn.config;
    this.offset = offset;
    this.config.define(offset + CAPABILITY, 2, { value: this.supported });
    this.config.define(offset + CONTROL, 2, { writable: this.supported });
    this.config.onWrite(offset + CONTROL, 2, () => this.reset());
  }

  reset(): void {
    this.control = this.config.read(this.offset + CONTROL, 2);
  }
}
