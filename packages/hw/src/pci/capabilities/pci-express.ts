/** The PCI Express capability (PCI Express Base Specification 6.0, section 7.5.3), with function-level reset. */

import type { ConfigSpace } from '../config-space.ts';
import type { PciFunction } from '../function.ts';
import type { Capability } from './capability.ts';

const FLAGS = 0x02;
const DEVICE_CAPABILITIES = 0x04;
const DEVICE_CONTROL = 0x08;
const DEVICE_STATUS = 0x0a;
const LINK_CAPABILITIES = 0x0c;
const LINK_CONTROL = 0x10;
const LINK_STATUS = 0x12;
const DEVICE_CAPABILITIES2 = 0x24;
const DEVICE_CONTROL2 = 0x28;

const FLAGS_VERSION = 2;
/** Device/port types, bits 7..4 of the flags register. */
const TYPE_ENDPOINT = 0x0;
const TYPE_ROOT_PORT = 0x4;
const TYPE_INTEGRATED_ENDPOINT = 0x9;

/** Max payload 512 bytes, extended tags, role-based error reporting. */
const DEVCAP = 2 | (1 << 5) | (1 << 15);
const DEVCAP_FLR = 1 << 28;
/** Relaxed ordering, no-snoop, 512-byte read requests. */
const DEVCTL_RESET_VALUE = 0x2810;
const DEVCTL_WRITABLE = 0x79ff;
const DEVCTL_FLR = 1 << 15;
const DEVSTA_ERRORS = 0xf;
/** 16 GT/s, 8 lanes. */
const LINK = 4 | (8 << 4);
/** Completion time-out disable; end-end TLP prefixes, up to four: without them software enables no PASID. */
const DEVCAP2 = (1 << 4) | (1 << 21);
const DEVCTL2_WRITABLE = 1 << 4;

export type ExpressOptions = {
  /** Function Level Reset capability; true by default. */
  flr?: boolean;
  rootPort?: boolean;
};

export class ExpressCapability implements Capability {
  readonly id = 0x10;
  readonly extended = false;
  readonly size = 0x3c;
  private readonly flr: boolean;
  private readonly rootPort: boolean;
  private config!: ConfigSpace;
  private offset = 0;

  constructor(options: ExpressOptions = {}) {
    this.rootPort = options.rootPort ?? false;
    this.flr = options.flr ?? !this.rootPort;
  }

  install(fn: PciFunction, offset: number): void {
    const config = fn.config;
    const virtual = fn.physicalFunction !== null;
    this.config = config;
    this.offset = offset;
    fn.express = this;
    config.define(offset + DEVICE_CAPABILITIES, 4, { value: DEVCAP | (this.flr ? DEVCAP_FLR : 0) });
    config.define(offset + DEVICE_CONTROL, 2, {
      value: virtual ? 0 : DEVCTL_RESET_VALUE,
      writable: (virtual ? 0 : DEVCTL_WRITABLE) | (this.flr ? DEVCTL_FLR : 0),
    });
    config.define(offset + DEVICE_STATUS, 2, { clearable: DEVSTA_ERRORS });
    config.define(offset + DEVICE_CAPABILITIES2, 4, { value: DEVCAP2 });
    config.define(offset + DEVICE_CONTROL2, 2, { writable: virtual ? 0 : DEVCTL2_WRITABLE });
    this.setIntegrated(false);
    config.onWrite(offset + DEVICE_CONTROL, 2, () => {
      if ((config.read(offset + DEVICE_CONTROL, 2) & DEVCTL_FLR) !== 0) fn.reset();
    });
  }

  /** Endpoints on bus 0 belong to the root complex and have no link. */
  setIntegrated(integrated: boolean): void {
    const { config, offset } = this;
    const type = this.rootPort ? TYPE_ROOT_PORT : integrated ? TYPE_INTEGRATED_ENDPOINT : TYPE_ENDPOINT;
    const link = type === TYPE_INTEGRATED_ENDPOINT ? 0 : LINK;
    config.define(offset + FLAGS, 2, { value: FLAGS_VERSION | (type << 4) });
    config.define(offset + LINK_CAPABILITIES, 4, { value: link });
    config.define(offset + LINK_CONTROL, 2, { writable: link === 0 ? 0 : 0x00c3 });
    config.define(offset + LINK_STATUS, 2, { value: link });
  }

  reset(): void {}
}
