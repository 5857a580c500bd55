/**
 * Where the DMA of one mediated device goes, in terms of its parent: each address space that the user attaches has a
 * PASID of the parent, and the parent's driver tags every request with one of them.
 *
 * What is attached without PASID is an auxiliary domain of the parent: all mediated devices of a parent that are
 * attached to one domain share its PASID, and count. What is attached at a PASID v of the user's gets a PASID p of its
 * own, other than v, that the parent alone may issue: two mediated devices can both use v.
 *
 * An auxiliary domain cannot be replaced at its PASID. `replace` attaches the new domain beside the old one, which has
 * another PASID; from then on requests carry that; the request under way is waited for; then the old domain goes. So
 * every request reaches one of the two, and a refused replacement has changed nothing.
 */

import { NO_PASID } from '@iommukit/hw';
import {
  type AttachHandle,
  authorizePasid,
  type Device,
  type Domain,
  deauthorizePasid,
  type IommuCore,
  replaceDevicePasid,
  routePasid,
  SysError,
  unroutePasid,
} from '@iommukit/iommu-core';
import type { MediatedDma } from '@iommukit/iommufd';

const CALL = 'mdev_attach';

export type MdevDmaOptions = {
  core: IommuCore;
  /** The parent's function. The feature `aux` is enabled. */
  device: Device;
  /** PASIDs that the user can name are 1..maxPasids-1; 0 for a device with one address space. */
  maxPasids: number;
  /** PASIDs of the user that can be attached at a time: each takes one of the parent's. */
  maxAttached: number;
  /** Returns when no request of the mediated device with this PASID of the parent's is under way. */
  quiesce(pasid: number): void;
};

export class MdevDma implements MediatedDma {
  readonly device: Device;
  readonly maxPasids: number;
  private readonly maxAttached: number;
  private readonly core: IommuCore;
  private readonly quiesce: (pasid: number) => void;
  private domain: Domain | null = null;
  /** PASIDs of the parent by those of the user. */
  private readonly translations = new Map<number, number>();

  constructor(options: MdevDmaOptions) {
    this.core = options.core;
    this.device = options.device;
    this.maxPasids = options.maxPasids;
    this.maxAttached = options.maxAttached;
    this.quiesce = (pasid) => options.quiesce(pasid);
  }

  /** What a request must be tagged with that the user tags `pasid`, or does not tag (NO_PASID). Null: it goes nowhere. */
  physical(pasid: number): number | null {
    if (pasid !== NO_PASID) return this.translations.get(pasid) ?? null;
    return this.domain === null ? null : this.core.aux.pasid(this.domain, this.device);
  }

  /**
   * @throws {SysError} EBUSY attached already; without PASID, EOPNOTSUPP not a paging domain, and the errors of
   * AuxDomains.attach; with one, EINVAL it is out of range, ENOSPC as many are attached as can be or the parent
   * has no PASID left, and the errors of routePasid and authorizePasid
   */
  attach(pasid: number, handle: AttachHandle): void {
    if (this.physical(pasid) !== null) throw new SysError('EBUSY', CALL, `PASID ${pasid} is attached`);
    if (pasid === NO_PASID) this.domain = this.attachAuxiliary(handle.domain);
    else this.translations.set(pasid, this.attachTranslated(pasid, handle));
  }

  /** @throws {SysError} EINVAL not attached; and the errors of AuxDomains.attach and replaceDevicePasid */
  replace(pasid: number, handle: AttachHandle): void {
    const old = this.physical(pasid);
    if (old === null) throw new SysError('EINVAL', 'mdev_replace', `PASID ${pasid} is not attached`);
    if (pasid !== NO_PASID) {
      replaceDevicePasid(this.device, old, handle);
      return;
    }
    const left = this.domain!;
    this.domain = this.attachAuxiliary(handle.domain);
    if (this.physical(NO_PASID) !== old) this.quiesce(old);
    this.core.aux.detach(left, this.device);
  }

  detach(pasid: number): void {
    const { core, device, domain } = this;
    const physical = this.physical(pasid);
    if (physical === null) return;
    if (pasid === NO_PASID) {
      this.domain = null;
      core.aux.detach(domain!, device);
      // Others may still be attached to the domain, and with it the PASID.
      this.quiesce(physical);
      return;
    }
    this.translations.delete(pasid);
    deauthorizePasid(device, physical);
    unroutePasid(device.group, physical);
    core.pasids.free(physical);
  }

  private attachAuxiliary(domain: Domain): Domain {
    if (domain.kind !== 'unmanaged') {
      throw new SysError('EOPNOTSUPP', CALL, `a ${domain.kind} domain cannot be attached without PASID`);
    }
    this.core.aux.attach(domain, this.device);
    return domain;
  }

  private attachTranslated(pasid: number, handle: AttachHandle): number {
    const { core, device } = this;
    const { group } = device;
    if (!Number.isSafeInteger(pasid) || pasid <= 0 || pasid >= this.maxPasids) {
      throw new SysError('EINVAL', CALL, `PASID ${pasid} is not in 1..${this.maxPasids - 1}`);
    }
    if (this.translations.size >= this.maxAttached) {
      throw new SysError('ENOSPC', CALL, `${this.maxAttached} PASIDs are attached; PASID ${pasid} is one too many`);
    }
    const usable = (candidate: number): boolean =>
      candidate !== pasid && !group.pasidHandles.has(candidate) && !device.authorizedPasids.has(candidate);
    const physical = core.pasids.allocate({ end: device.maxPasids, usable });
    try {
      routePasid(group, physical, handle);
      try {
        authorizePasid(device, physical);
      } catch (error) {
        unroutePasid(group, physical);
        throw error;
      }
    } catch (error) {
      core.pasids.free(physical);
      throw error;
    }
    return physical;
  }
}
