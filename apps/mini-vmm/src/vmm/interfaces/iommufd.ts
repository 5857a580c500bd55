/**
 * DMA by /dev/iommu and the VFIO device's own file: guest memory in an IOAS under a nest parent, and for each guest
 * table a nested HWPT, attached at the guest's PASID and at the host PASID that ENQCMD sends, with a fault queue of its
 * own.
 *
 * The fault queue tells which guest PASID a page request belongs to; the number in the request may be either PASID.
 */

import { NO_PASID } from '@iommukit/hw';
import { IommufdClient, POLLIN } from '@iommukit/iommufd';
import { type PasidOption, VfioDeviceClient } from '@iommukit/vfio';
import type { DmaInterface, DmaOptions, GuestTable, HostPageRequest, HostUnit, Stage1 } from '../dma-interface.ts';
import { guestPasids } from '../guest-features.ts';
import type { PasidTable } from '../hypervisor.ts';
import { accessOf } from './page-requests.ts';
import { hostUnit, stage1Flags } from './vtd.ts';

export class IommufdDma implements DmaInterface {
  readonly iommufd: IommufdClient;
  readonly vfio: VfioDeviceClient;
  readonly hypervisor: PasidTable;
  readonly deviceId: number;
  readonly unit: HostUnit;
  /** Nest parent: guest memory as stage 2. */
  readonly parent: number;

  /** @throws {SysError} EOPNOTSUPP the host has no VT-d unit; and what the host refuses */
  constructor({ system, hypervisor, device, memory }: DmaOptions) {
    this.hypervisor = hypervisor;
    const iommufd = new IommufdClient(system, system.open('/dev/iommu'));
    this.iommufd = iommufd;
    const ioasId = iommufd.ioasAlloc();
    iommufd.ioasMap({ ioasId, userVa: memory.address, length: memory.bytes, iova: 0 });
    this.vfio = new VfioDeviceClient(system, system.open(device.path));
    this.deviceId = this.vfio.bind(iommufd.fd);
    const hardware = iommufd.hwInfo(this.deviceId);
    this.unit = hostUnit(hardware, hardware.maxPasidLog2);
    this.parent = iommufd.hwptAllocPaging({ deviceId: this.deviceId, ioasId, nestParent: true, pasid: true });
  }

  reachMemory(old: NestedHwpt | null): void {
    this.vfio.attach(this.parent);
    old?.release();
  }

  nest(pasid: number, table: GuestTable, old: NestedHwpt | null): NestedHwpt {
    return new NestedHwpt(this, pasid, table, old);
  }

  block(): void {
    this.vfio.detach();
  }

  close(): void {
    const { system } = this.iommufd;
    system.close(this.vfio.fd);
    system.close(this.iommufd.fd);
  }
}

class NestedHwpt implements Stage1 {
  readonly hostPasid: number;
  readonly hwpt: number;
  private readonly dma: IommufdDma;
  private readonly pasid: number;
  private readonly faultQueue: { readonly id: number; readonly fd: number };

  constructor(dma: IommufdDma, pasid: number, table: GuestTable, old: NestedHwpt | null) {
    const { iommufd } = dma;
    this.dma = dma;
    this.pasid = pasid;
    this.hostPasid = pasid === NO_PASID ? NO_PASID : guestPasids(dma.unit) + pasid;
    this.faultQueue = iommufd.faultQueueAlloc();
    try {
      this.hwpt = iommufd.hwptAllocVtdS1({
        deviceId: dma.deviceId,
        parentId: dma.parent,
        pageTable: table.root,
        addressWidth: table.addressWidth,
        stage1Flags: stage1Flags(table),
        pasid: true,
        faultId: this.faultQueue.id,
      });
    } catch (error) {
      this.closeFaultQueue();
      throw error;
    }
    try {
      this.attach(old);
    } catch (error) {
      this.release();
      throw error;
    }
    old?.release();
  }

  get object(): { hwpt: number } {
    return { hwpt: this.hwpt };
  }

  invalidate(address: bigint, pages: bigint, leaf: boolean): void {
    this.dma.iommufd.hwptInvalidateVtdS1(this.hwpt, [{ address, pages, leaf }]);
  }

  readPageRequests(): HostPageRequest[] {
    const { iommufd } = this.dma;
    const { fd } = this.faultQueue;
    if ((iommufd.system.poll(fd) & POLLIN) === 0) return [];
    return iommufd.readFaults(fd).map(({ group, last, access, address, cookie }) => {
      return { group, last, access: accessOf(access), address, cookie };
    });
  }

  respond(cookie: number, success: boolean): void {
    this.dma.iommufd.respondFault(this.faultQueue.fd, cookie, success);
  }

  destroy(): void {
    const { vfio, hypervisor } = this.dma;
    if (this.pasid !== NO_PASID) hypervisor.unmapPasid(this.pasid);
    for (const place of this.places.toReversed()) vfio.detach(place);
    this.release();
  }

  /** Gives the table back after something else was attached in its place. Never fails. */
  release(): void {
    this.dma.iommufd.destroy(this.hwpt);
    this.closeFaultQueue();
  }

  /** Where the table is attached. */
  private get places(): readonly PasidOption[] {
    return this.pasid === NO_PASID ? [{}] : [{ pasid: this.pasid }, { pasid: this.hostPasid }];
  }

  /** At all places, or as it was with `old`. */
  private attach(old: NestedHwpt | null): void {
    const { vfio, hypervisor } = this.dma;
    const done: PasidOption[] = [];
    try {
      for (const place of this.places) {
        vfio.attach(this.hwpt, place);
        done.push(place);
      }
      if (this.pasid !== NO_PASID) hypervisor.mapPasid(this.pasid, this.hostPasid, vfio.fd);
    } catch (error) {
      for (const place of done.reverse()) {
        if (old === null) vfio.detach(place);
        else vfio.attach(old.hwpt, place);
      }
      throw error;
    }
  }

  private closeFaultQueue(): void {
    const { iommufd } = this.dma;
    iommufd.system.close(this.faultQueue.fd);
    iommufd.destroy(this.faultQueue.id);
  }
}
