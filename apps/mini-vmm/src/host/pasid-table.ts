/**
 * A VM's PASID translation table: which host PASID ENQCMD carries for a guest's (Intel SDM, ENQCMD in VMX non-root
 * operation; the proposed KVM_MAP_PASID and KVM_UNMAP_PASID).
 *
 * Entries come and go by call, or with the PASIDs of the process's IOASID set. A host PASID that the table names is not
 * given to anybody else, even when whoever had it has given it back: ENQCMD sends it for as long as the entry stands.
 */

import {
  type AddressSpace,
  type GlobalPasids,
  INVALID_IOASID,
  IOASID_PRIO_CPU,
  type IoasidEvent,
  type IoasidNotifier,
  type Ioasids,
} from '@iommukit/iommu-core';
import type { PasidTable } from '../vmm/hypervisor.ts';

/** What the files open in the VM's process give it. */
export type PasidAuthority = {
  /** @throws {SysError} EBADF; EINVAL, EPERM the file does not give the PASID */
  checkPasid(fd: number, pasid: number): void;
  /** @throws {SysError} EBADF; EBADFD the file allocates no PASIDs; EPERM it does for another process */
  checkSet(fd: number): void;
};

export type VmPasidTableOptions = {
  /** The VMM process's. */
  addressSpace: AddressSpace;
  /** The host's PASIDs, of which the table names some. */
  pasids: GlobalPasids;
  ioasids: Ioasids;
  authority: PasidAuthority;
};

export class VmPasidTable implements PasidTable {
  private readonly options: VmPasidTableOptions;
  private readonly hostPasids = new Map<number, number>();
  /** Undoes the registration with the host's PASIDs. */
  private readonly forget: () => void;
  private readonly notifier: IoasidNotifier = { priority: IOASID_PRIO_CPU, notify: (event) => this.follow(event) };

  constructor(options: VmPasidTableOptions) {
    this.options = options;
    this.forget = options.pasids.addReferrer((pasid) => this.userOf(pasid));
  }

  /** Host PASIDs by guest PASID. */
  get entries(): ReadonlyMap<number, number> {
    return this.hostPasids;
  }

  mapPasid(guestPasid: number, hostPasid: number, authority: number): void {
    this.options.authority.checkPasid(authority, hostPasid);
    this.hostPasids.set(guestPasid, hostPasid);
  }

  unmapPasid(guestPasid: number): void {
    this.hostPasids.delete(guestPasid);
  }

  followPasids(authority: number): void {
    const { addressSpace, ioasids } = this.options;
    this.options.authority.checkSet(authority);
    ioasids.registerNotifierMm(addressSpace, this.notifier);
  }

  /** The VM is gone. */
  release(): void {
    const { addressSpace, ioasids } = this.options;
    ioasids.unregisterNotifierMm(addressSpace, this.notifier);
    this.hostPasids.clear();
    this.forget();
  }

  /** A freed PASID leaves the table before the IOMMU stops translating it; its guest PASID is still known then. */
  private follow({ kind, id, spid }: IoasidEvent): void {
    if (spid === INVALID_IOASID) return;
    if (kind === 'bind') this.hostPasids.set(spid, id);
    else if (this.hostPasids.get(spid) === id) this.hostPasids.delete(spid);
  }

  private userOf(pasid: number): string | null {
    for (const [guestPasid, hostPasid] of this.hostPasids) {
      if (hostPasid === pasid) return `guest PASID ${guestPasid} of a VM`;
    }
    return null;
  }
}
