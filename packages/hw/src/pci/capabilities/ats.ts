/**
 * The Address Translation Services capability (PCI Express Base Specification 6.0, section 10.5.1) and the cache it
 * controls. Disabling, enabling and reset empty the cache; an invalidation request does so for what it names.
 */

import { AddressTranslationCache, type AddressTranslationCacheOptions } from '../address-translation-cache.ts';
import type { ConfigSpace } from '../config-space.ts';
import type { PciFunction } from '../function.ts';
import type { Capability } from './capability.ts';

const CAPABILITY = 0x04;
const CONTROL = 0x06;

const PAGE_ALIGNED_REQUEST = 1 << 5;
const GLOBAL_INVALIDATE = 1 << 6;
const ENABLE = 1 << 15;
const SMALLEST_TRANSLATION_UNIT = 0x1f;

export type AtsOptions = AddressTranslationCacheOptions & {
  /** Invalidation requests the function takes before it stalls, 1..32; 32 by default. A VF shares its PF's queue. */
  queueDepth?: number;
};

export class AtsCapability implements Capability {
  readonly id = 0x0f;
  readonly extended = true;
  readonly size = 8;
  readonly cache: AddressTranslationCache;
  /** The function may ask for translations and cache them. */
  enabled = false;
  private readonly queueDepth: number;
  private config!: ConfigSpace;
  private offset = 0;

  constructor(options: AtsOptions = {}) {
    this.cache = new AddressTranslationCache(options);
    this.queueDepth = options.queueDepth ?? 32;
  }

  install(fn: PciFunction, offset: number): void {
    const virtual = fn.physicalFunction !== null;
    this.config = fn.config;
    this.offset = offset;
    fn.ats = this;
    this.config.define(offset + CAPABILITY, 2, {
      value: (virtual ? 0 : this.queueDepth & 0x1f) | PAGE_ALIGNED_REQUEST | GLOBAL_INVALIDATE,
    });
    this.config.define(offset + CONTROL, 2, { writable: ENABLE | (virtual ? 0 : SMALLEST_TRANSLATION_UNIT) });
    this.config.onWrite(offset + CONTROL, 2, () => this.update());
  }

  reset(): void {
    this.cache.flush();
    this.update();
  }

  private update(): void {
    const enabled = (this.config.read(this.offset + CONTROL, 2) & ENABLE) !== 0;
    if (enabled !== this.enabled) this.cache.flush();
    this.enabled = enabled;
  }
}
