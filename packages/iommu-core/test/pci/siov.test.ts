import { DsaFunction, type MmioHandler, requesterId } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import { ConfigSpace } from '../../src/index.ts';
import { DVSEC_ID_SIOV, VENDOR_INTEL } from '../../src/pci/registers.ts';
import { DEVICE_RID, Host } from '../support/host.ts';

const BASE = 0xa000_0000n;

/** Configuration space with designated vendor-specific capabilities [vendor, id], the last one linked to `end`. */
function withVendorCapabilities(host: Host, capabilities: readonly (readonly [number, number])[], end = 0) {
  const view = new DataView(new ArrayBuffer(4096));
  capabilities.forEach(([vendor, id], index) => {
    const at = 0x100 + 0x20 * index;
    const next = index === capabilities.length - 1 ? end : at + 0x20;
    view.setUint32(at, 0x23 | (1 << 16) | (next << 20), true);
    view.setUint32(at + 4, vendor | (0x20 << 20), true);
    view.setUint16(at + 8, id, true);
  });
  const handler: MmioHandler = {
    read: (offset, width) => BigInt(width === 4 ? view.getUint32(offset, true) : view.getUint16(offset, true)),
    write() {},
  };
  host.memory.mapMmio(Number(BASE >> 12n), 1, handler);
  return new ConfigSpace(host.memory, BASE, 0);
}

describe('Scalable I/O Virtualization', () => {
  test('a function says so by a vendor-specific capability; its virtual functions do not', () => {
    const host = new Host({
      plug: (self) => {
        self.plugPort(requesterId(0, 1, 0), 1);
        self.plug(self.testFunction({ siov: true }), DEVICE_RID);
        self.plug(self.testFunction(), requesterId(0, 2, 0));
        self.plug(new DsaFunction({ memory: self.memory, scheduler: self.scheduler }), requesterId(0, 3, 0));
      },
    });
    const pf = host.bus.device(DEVICE_RID)!;
    expect(pf.hasSiov).toBe(true);
    expect(host.bus.device(requesterId(0, 2, 0))!.hasSiov).toBe(false);
    expect(host.bus.device(requesterId(0, 3, 0))!.hasSiov).toBe(true);
    expect(host.bus.enableVirtualFunctions(pf, 1)[0]!.hasSiov).toBe(false);
  });

  test('is found behind other vendor-specific capabilities, and only with vendor and id right', () => {
    const find = (capabilities: readonly (readonly [number, number])[], end = 0): number =>
      withVendorCapabilities(new Host(), capabilities, end).findVendorCapability(VENDOR_INTEL, DVSEC_ID_SIOV);
    expect(
      find([
        [0x1e98, 5],
        [0x8086, 6],
        [0x8086, 5],
      ]),
    ).toBe(0x140);
    expect(
      find([
        [0x1e98, 5],
        [0x8086, 6],
      ]),
    ).toBe(0);
    // A chain that leads back to where it has been.
    expect(find([[0x1e98, 5]], 0x100)).toBe(0);
  });
});
