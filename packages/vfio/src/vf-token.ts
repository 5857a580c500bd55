/**
 * The secret that the user of a physical function and those of its virtual functions share (Linux: vfio_pci_validate_vf_token,
 * drivers/vfio/pci/vfio_pci_core.c). Without it nobody can take a VF whose PF is in another user's hands.
 */

import { SysError } from '@iommukit/iommu-core';

/** Bytes of a token: a UUID. */
export const VF_TOKEN_BYTES = 16;

export class VfToken {
  /** Null until a user sets one, which no token matches. */
  private secret: Uint8Array | null = null;
  /** Open functions that came in with the token. */
  private users = 0;

  /** The PF is about to be bound. @throws {SysError} EACCES VFs are in use and the token is missing or wrong */
  admitPhysical(token: Uint8Array | null): void {
    if (this.users > 0) this.check(token);
    else if (token !== null) this.secret = token.slice();
  }

  /** A VF is about to be bound. @throws {SysError} EACCES */
  admitVirtual(token: Uint8Array | null): void {
    this.check(token);
  }

  hold(): void {
    this.users++;
  }

  release(): void {
    this.users--;
  }

  private check(token: Uint8Array | null): void {
    const { secret } = this;
    if (token !== null && secret !== null && token.every((byte, index) => byte === secret[index])) return;
    throw new SysError('EACCES', 'VFIO_DEVICE_BIND_IOMMUFD', token === null ? 'a token is needed' : 'wrong token');
  }
}
