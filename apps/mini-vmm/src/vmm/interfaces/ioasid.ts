/**
 * DMA by the proposed /dev/ioasid (RFC of 27 May 2021, flows 5.5 and 5.6, by the rules of its second version): guest
 * memory in an IOASID that the kernel fills, and each guest table in a child of it, to which the device is attached at
 * the guest's PASID and at the one that ENQCMD sends. Page requests of all tables are read from the one file.
 *
 * What the interface cannot do: a table belongs to its IOASID for good, and a device is attached to one child in a
 * place, so between a table and the next requests are blocked for a moment.
 */

import { NO_PASID, U64_MAX } from '@iommukit/hw';
import { POLLIN } from '@iommukit/iommufd';
import { IoasidClient } from '@iommukit/iommufd/ioasid';
import { type PasidOption, VfioDeviceClient } from '@iommukit/vfio';
import type { DmaInterface, DmaOptions, GuestTable, HostPageRequest, HostUnit, Stage1 } from '../dma-interface.ts';
import { guestPasids } from '../guest-features.ts';
import type { PasidTable } from '../hypervisor.ts';
import { accessOf, PageRequestSorter } from './page-requests.ts';
import { hostUnit, stage1Flags } from './vtd.ts';

/** By which the device is known in the file. */
const COOKIE = 1n;

export class IoasidDma implements DmaInterface {
  readonly ioasids: IoasidClient;
  readonly vfio: VfioDeviceClient;
  readonly unit: HostUnit;
  readonly hypervisor: PasidTable;
  /** Guest memory. */
  readonly memory: number;
  /** By IOASID. */
  readonly requests: PageRequestSorter = new PageRequestSorter();
  /** Requests without PASID reach guest memory, whatever is nested on it for them. */
  private reachesMemory = false;

  /** @throws {SysError} EOPNOTSUPP the host has no VT-d unit; and what the host refuses */
  constructor({ system, hypervisor, device, memory }: DmaOptions) {
    this.hypervisor = hypervisor;
    this.ioasids = new IoasidClient(system, system.open('/dev/ioasid'));
    const { ioasids } = this;
    this.memory = ioasids.alloc({});
    ioasids.map({ ioasid: this.memory, vaddr: memory.address, iova: 0, size: memory.bytes });
    this.vfio = new VfioDeviceClient(system, system.open(device.path));
    this.vfio.bindIoasid(ioasids.fd, COOKIE);
    const { vendor, maxPasidLog2 } = ioasids.deviceInfo(COOKIE);
    this.unit = hostUnit(vendor, maxPasidLog2);
  }

  reachMemory(old: ChildIoasid | null): void {
    old?.leave();
    if (!this.reachesMemory) this.vfio.attachIoasid(this.memory);
    this.reachesMemory = true;
    old?.free();
  }

  nest(pasid: number, table: GuestTable, old: ChildIoasid | null): ChildIoasid {
    const child = new ChildIoasid(this, pasid, table);
    try {
      old?.leave();
      child.enter();
    } catch (error) {
      child.free();
      throw error;
    }
    // A child that requests without PASID reach is above memory, and below it there is nothing to come back to.
    if (pasid === NO_PASID) this.block();
    old?.free();
    return child;
  }

  block(): void {
    if (this.reachesMemory) this.vfio.detachIoasid(this.memory);
    this.reachesMemory = false;
  }

  close(): void {
    const { system } = this.ioasids;
    system.close(this.vfio.fd);
    system.close(this.ioasids.fd);
  }

  /** Sorts the page requests that wait. */
  readFaults(): void {
    const { ioasids } = this;
    if ((ioasids.system.poll(ioasids.fd) & POLLIN) === 0) return;
    for (const { ioasid, group, last, access, address, token } of ioasids.readFaults()) {
      this.requests.put(ioasid, { group, last, access: accessOf(access), address, cookie: token });
    }
  }
}

class ChildIoasid implements Stage1 {
  readonly hostPasid: number;
  readonly ioasid: number;
  private readonly dma: IoasidDma;
  private readonly pasid: number;
  /** Where the device is attached. */
  private places: PasidOption[] = [];

  constructor(dma: IoasidDma, pasid: number, table: GuestTable) {
    this.dma = dma;
    this.pasid = pasid;
    this.hostPasid = pasid === NO_PASID ? NO_PASID : guestPasids(dma.unit) + pasid;
    this.ioasid = dma.ioasids.alloc({
      parent: dma.memory,
      pageTable: { address: table.root, addressWidth: table.addressWidth, vendorFlags: stage1Flags(table) },
      faults: true,
    });
    dma.requests.open(this.ioasid);
  }

  get object(): { ioasid: number } {
    return { ioasid: this.ioasid };
  }

  invalidate(address: bigint, pages: bigint, leaf: boolean): void {
    const { ioasids } = this.dma;
    const size = pages * 4096n;
    const range = address + size > U64_MAX ? {} : { range: { address, size } };
    ioasids.invalidate({ ioasid: this.ioasid, leaf, ...range });
  }

  readPageRequests(): HostPageRequest[] {
    this.dma.readFaults();
    return this.dma.requests.take(this.ioasid);
  }

  respond(token: number, success: boolean): void {
    this.dma.ioasids.respondFault({ ioasid: this.ioasid, token }, success);
  }

  destroy(): void {
    this.leave();
    this.free();
  }

  /** Attaches the device. On failure some of it is. @throws {SysError} */
  enter(): void {
    const { vfio, ioasids, hypervisor } = this.dma;
    const { pasid, hostPasid, ioasid } = this;
    for (const place of pasid === NO_PASID ? [{}] : [{ pasid }, { pasid: hostPasid }]) {
      vfio.attachIoasid(ioasid, place);
      this.places.push(place);
    }
    if (pasid !== NO_PASID) hypervisor.mapPasid(pasid, hostPasid, ioasids.fd);
  }

  /** Nothing reaches the table on return, and ENQCMD leaves the guest. Never fails. */
  leave(): void {
    const { vfio, hypervisor } = this.dma;
    if (this.pasid !== NO_PASID) hypervisor.unmapPasid(this.pasid);
    for (const place of this.places.splice(0).reverse()) vfio.detachIoasid(this.ioasid, place);
  }

  /** Blocks what is still attached. Never fails. */
  free(): void {
    this.dma.requests.close(this.ioasid);
    this.dma.ioasids.free(this.ioasid);
  }
}
