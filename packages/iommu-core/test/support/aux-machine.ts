/** A machine of functions that can be shared out by PASID: two alone in their groups, two that share one. */

import { requesterId } from '@iommukit/hw';
import { type AuxDomains, type Device, enableFeature, type FeatureOps, type PagingDomain } from '../../src/index.ts';
import type { IntelPagingDomain } from '../../src/intel/paging-domain.ts';
import { mapPage, pagingDomain } from './domains.ts';
import { Machine } from './machine.ts';
import type { TestDevice } from './test-device.ts';

/** The last two are behind a port without access control. */
export const AUX_RIDS: readonly number[] = [
  requesterId(1, 0, 0),
  requesterId(2, 0, 0),
  requesterId(3, 0, 0),
  requesterId(3, 1, 0),
];

/** Where every domain of `domainOf` has its page. */
export const IOVA = 0x40_0000n;

/** For drivers without hardware. */
export const ALL_FEATURES: FeatureOps = { has: () => true, enable() {}, disable() {} };

export class AuxMachine extends Machine {
  readonly aux: AuxDomains;
  readonly devices: readonly TestDevice[];
  readonly x: TestDevice;
  readonly y: TestDevice;
  readonly left: TestDevice;
  readonly right: TestDevice;

  constructor() {
    super({
      ramBytes: 8 << 20,
      plug: (host) => {
        for (const bus of [1, 2, 3]) host.plugPort(requesterId(0, bus, 0), bus, bus < 3);
        for (const rid of AUX_RIDS) host.plug(host.testFunction({ totalVfs: 0, siov: true }), rid);
      },
    });
    this.aux = this.core.aux;
    this.devices = AUX_RIDS.map((rid) => this.add(rid));
    for (const { device } of this.devices) enableFeature(device, 'aux');
    [this.x, this.y, this.left, this.right] = this.devices as [TestDevice, TestDevice, TestDevice, TestDevice];
  }

  /** A domain whose page at IOVA holds `byte`. */
  domainOf(byte: number, flags = 0): PagingDomain {
    const domain = pagingDomain(this.x, flags);
    mapPage(domain, IOVA, this.frame(byte));
    return domain;
  }

  /** Where a domain's translations may be cached, as `rid/pasid`. */
  attachments(domain: PagingDomain): string[] {
    const { list } = (domain as IntelPagingDomain).attachments;
    return list.map(({ device, pasid }) => `${device.device.rid}/${pasid}`);
  }

  /** What a device reads at IOVA with a PASID: past its cache and through it. */
  reads(test: TestDevice, pasid: number): (number | null)[] {
    return [test.read(IOVA, { pasid }), test.read(IOVA, { pasid, addressing: 'cached' })];
  }

  /** Whatever an attachment leaves somewhere, in numbers: what is printed when it differs is not the whole machine. */
  state() {
    const { core, driver, frames } = this;
    const entries = ({ rid }: Device) =>
      [1, 2, 3].map((pasid) => driver.unit.devices.get(rid)?.pasidTable.tag(pasid) ?? null);
    return {
      frames: frames.allocated,
      domainIds: driver.unit.domainIds.used,
      pasids: core.pasids.size,
      parked: core.pasids.parked,
      devices: this.devices.map(({ device }) => ({
        features: [...device.features],
        authorized: [...device.authorizedPasids],
        routes: [...device.group.pasidHandles].map(([pasid, handle]) => [pasid, handle.domain.id]),
        entries: entries(device),
        primary: [device.group.domain.id, device.group.ridHandle?.domain.id ?? null],
      })),
    };
  }
}
