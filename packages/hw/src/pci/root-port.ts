/**
 * A root port: a type 1 function of bus 0 with the functions of one secondary bus below it (PCI Express Base
 * Specification 6.0, section 7.5.1.3), and Access Control Services, so that isolation groups can be computed.
 *
 * Bus numbers and Bus Master Enable are as firmware leaves them; the numbers are read-only, because functions stay at
 * the routing ids at which they were plugged in. The address windows are stored and do not filter.
 */

import {
  ACS_COMPLETION_REDIRECT,
  ACS_REQUEST_REDIRECT,
  ACS_SOURCE_VALIDATION,
  ACS_TRANSLATION_BLOCKING,
  ACS_UPSTREAM_FORWARDING,
  AcsCapability,
} from './capabilities/acs.ts';
import { ExpressCapability } from './capabilities/pci-express.ts';
import { PciFunction } from './function.ts';

const COMMAND = 0x04;
const COMMAND_MEMORY_AND_MASTER = 0x6;
const PRIMARY_BUS = 0x18;
const SECONDARY_BUS = 0x19;
const SUBORDINATE_BUS = 0x1a;
const MEMORY_WINDOW = 0x20;
const PREFETCHABLE_WINDOW = 0x24;
const PREFETCHABLE_BASE_UPPER = 0x28;
const PREFETCHABLE_LIMIT_UPPER = 0x2c;
const BRIDGE_CONTROL = 0x3e;
const BRIDGE_CONTROL_RESET = 1 << 6;

export type RootPortOptions = {
  vendorId: number;
  deviceId: number;
  /** Bus below the port, 1..255. */
  secondary: number;
  /** Highest bus below the port; the secondary bus by default. VFs may lie on buses above it. */
  subordinate?: number;
  /** Access Control Services; true by default. */
  acs?: boolean;
};

export class RootPort extends PciFunction {
  readonly secondary: number;
  readonly subordinate: number;
  readonly acs: AcsCapability | null;

  constructor(options: RootPortOptions) {
    super({ ...options, classCode: 0x060400, headerType: 1 });
    const { secondary, subordinate = secondary } = options;
    if (!(secondary >= 1 && subordinate >= secondary && subordinate <= 255)) {
      throw new RangeError(`buses ${secondary}..${subordinate} are not in 1..255`);
    }
    this.secondary = secondary;
    this.subordinate = subordinate;
    const config = this.config;
    config.define(COMMAND, 2, { value: COMMAND_MEMORY_AND_MASTER, writable: 0x0546 });
    config.define(PRIMARY_BUS, 1, {});
    config.define(SECONDARY_BUS, 1, { value: secondary });
    config.define(SUBORDINATE_BUS, 1, { value: subordinate });
    config.define(MEMORY_WINDOW, 4, { writable: 0xfff0fff0 });
    config.define(PREFETCHABLE_WINDOW, 4, { value: 0x00010001, writable: 0xfff0fff0 });
    config.define(PREFETCHABLE_BASE_UPPER, 4, { writable: -1 });
    config.define(PREFETCHABLE_LIMIT_UPPER, 4, { writable: -1 });
    config.define(BRIDGE_CONTROL, 2, { writable: 0x0043 });
    config.onWrite(BRIDGE_CONTROL, 2, () => this.secondaryReset());
    this.add(new ExpressCapability({ rootPort: true }));
    this.acs =
      options.acs === false
        ? null
        : this.add(
            new AcsCapability(
              ACS_SOURCE_VALIDATION |
                ACS_TRANSLATION_BLOCKING |
                ACS_REQUEST_REDIRECT |
                ACS_COMPLETION_REDIRECT |
                ACS_UPSTREAM_FORWARDING,
            ),
          );
  }

  /** ACS Translation Blocking: requests whose address type is not untranslated stop here. */
  get blocksTranslated(): boolean {
    return this.acs?.isEnabled(ACS_TRANSLATION_BLOCKING) ?? false;
  }

  /** Secondary Bus Reset: every function below is reset when the bit is set. */
  private secondaryReset(): void {
    if ((this.config.read(BRIDGE_CONTROL, 2) & BRIDGE_CONTROL_RESET) !== 0) this.fabric?.resetBelow(this);
  }
}
