/** The domains that have no table: everything blocked, and everything passed untranslated. */

import { PGTT_PASS_THROUGH } from '@iommukit/hw';
import type { StaticDomain } from '../domain.ts';
import type { IommuDriver } from '../iommu-driver.ts';
import type { Attachments } from './attachments.ts';
import { IDENTITY_DOMAIN_ID } from './domain-ids.ts';
import type { PasidEntry } from './pasid-entry.ts';

/** No PASID-table entry at all. */
export class BlockedDomain implements StaticDomain {
  readonly id = 0;
  readonly kind = 'blocked';
  readonly scopes = ['rid', 'pasid'] as const;
  readonly faultHandler = null;
  readonly driver: IommuDriver;

  constructor(driver: IommuDriver) {
    this.driver = driver;
  }

  free(): void {}
}

export class IdentityDomain implements StaticDomain {
  readonly id: number = IDENTITY_DOMAIN_ID;
  readonly kind = 'identity';
  readonly scopes = ['rid', 'pasid'] as const;
  readonly faultHandler = null;
  readonly driver: IommuDriver;
  readonly attachments: Attachments;
  private readonly levels: number;

  /** `levels` bounds the addresses that pass. */
  constructor(driver: IommuDriver, attachments: Attachments, levels: number) {
    this.driver = driver;
    this.attachments = attachments;
    this.levels = levels;
  }

  entry(): PasidEntry {
    return {
      domainId: IDENTITY_DOMAIN_ID,
      translation: PGTT_PASS_THROUGH,
      stage2Levels: this.levels,
      pageWalkSnoop: false,
    };
  }

  free(): void {}
}
