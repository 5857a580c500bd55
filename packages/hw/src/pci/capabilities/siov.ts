/**
 * The capability by which software finds a function with Intel Scalable I/O Virtualization: a designated
 * vendor-specific extended capability (PCI Express Base Specification 6.0, section 7.9.6) of Intel with id 5 (Intel
 * Scalable I/O Virtualization Technical Specification, revision 1.0, section 3.7). Only a physical function has one.
 *
 *   04  DVSEC header 1         15:0 vendor, 19:16 revision, 31:20 bytes of the structure
 *   08  DVSEC header 2         16 bits: id
 *   0a  function dependency    8 bits: the next function of a set that must be used together
 *   0b  flags                  8 bits: bit 0, homogeneous: all functions of that set, or none, are used this way
 *   0c  supported page sizes   bit n: assignable interfaces can lie 2^(n + 12) bytes apart
 *   10  system page size       one of those bits
 *   14  capabilities           bit 0: interrupt message storage
 *
 * The layout is from memory; vendor, id and the place of `capabilities` agree with drivers that read them. Functions of
 * this model depend on no other, know one page size, and have no interrupt message storage.
 */

import type { PciFunction } from '../function.ts';
import type { Capability } from './capability.ts';

const HEADER1 = 0x04;
const HEADER2 = 0x08;
const DEPENDENCY_LINK = 0x0a;
const FLAGS = 0x0b;
const SUPPORTED_PAGES = 0x0c;
const SYSTEM_PAGE = 0x10;
const CAPABILITIES = 0x14;
const BYTES = 0x18;

const VENDOR_INTEL = 0x8086;
const ID_SIOV = 5;
const PAGES_4K = 1;

export class SiovCapability implements Capability {
  readonly id = 0x23;
  readonly extended = true;
  readonly size: number = BYTES;

  install({ config }: PciFunction, offset: number): void {
    config.define(offset + HEADER1, 4, { value: VENDOR_INTEL | (BYTES << 20) });
    config.define(offset + HEADER2, 2, { value: ID_SIOV });
    config.define(offset + DEPENDENCY_LINK, 1, {});
    config.define(offset + FLAGS, 1, {});
    config.define(offset + SUPPORTED_PAGES, 4, { value: PAGES_4K });
    config.define(offset + SYSTEM_PAGE, 4, { value: PAGES_4K });
    config.define(offset + CAPABILITIES, 4, {});
  }

  reset(): void {}
}
