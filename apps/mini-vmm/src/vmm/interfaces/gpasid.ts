/**
 * DMA as it was to be before /dev/iommu (B.7 and B.8 of the systems specification): the device in a group of a type1
 * container of the nesting type, PASIDs allocated from the host's by /dev/ioasid, and each guest table bound to two of
 * them: to the number that the guest uses, and to another, with the guest's as its SPID, that ENQCMD sends. The
 * hypervisor's table follows the allocator's events.
 *
 * What the interface cannot do: another table takes a PASID only after the one there has been unbound, so there is a
 * moment of neither, in which requests are blocked. Requests without PASID cannot be given a guest's table, and not be
 * blocked while others reach memory: blocking them unmaps guest memory. Host PASIDs are the whole host's, so another
 * user of one can be in the way of a guest's.
 */

import { NO_PASID } from '@iommukit/hw';
import { POLLIN, SysError } from '@iommukit/iommufd';
import { IoasidAllocationClient } from '@iommukit/iommufd/ioasid';
import {
  IOMMU_SVA_VTD_GPASID_EAFE,
  IOMMU_SVA_VTD_GPASID_SRE,
  IOMMU_SVA_VTD_GPASID_WPE,
  VfioContainerClient,
  type VfioDeviceClient,
  VfioGroupClient,
} from '@iommukit/vfio';
import type { DmaInterface, DmaOptions, GuestTable, HostPageRequest, HostUnit, Stage1 } from '../dma-interface.ts';
import { guestPasids } from '../guest-features.ts';
import { accessOf, PageRequestSorter } from './page-requests.ts';

export class GuestPasidDma implements DmaInterface {
  readonly vfio: VfioDeviceClient;
  readonly unit: HostUnit;
  readonly container: VfioContainerClient;
  /** By host PASID. */
  readonly requests: PageRequestSorter = new PageRequestSorter();
  private readonly allocation: IoasidAllocationClient;
  private readonly group: VfioGroupClient;
  private readonly memory: DmaOptions['memory'];
  private readonly faultEvent: number;
  private mapped = false;

  /** @throws {SysError} EOPNOTSUPP the host has no VT-d unit that nests; and what the host refuses */
  constructor({ system, hypervisor, device, memory }: DmaOptions) {
    this.memory = memory;
    this.allocation = new IoasidAllocationClient(system, system.open('/dev/ioasid'));
    hypervisor.followPasids(this.allocation.fd);
    this.container = new VfioContainerClient(system, system.open('/dev/vfio/vfio'));
    this.group = new VfioGroupClient(system, system.open(device.groupPath));
    this.group.setContainer(this.container.fd);
    this.container.setIommu();
    this.unit = hostUnit(this.container);
    this.map();
    this.vfio = this.group.openDevice(device.name);
    this.faultEvent = system.eventfd();
    this.vfio.setDmaFaultTrigger(this.faultEvent);
  }

  reachMemory(): void {
    if (!this.mapped) this.map();
  }

  nest(pasid: number, table: GuestTable, old: BoundTable | null): BoundTable {
    if (pasid === NO_PASID) {
      throw new SysError('EOPNOTSUPP', 'VFIO_IOMMU_BIND_GPASID', 'requests without PASID have no table of their own');
    }
    const hostPasids = old?.yield() ?? this.allocate(pasid);
    try {
      return new BoundTable(this, pasid, hostPasids, table);
    } catch (error) {
      this.free(hostPasids);
      throw error;
    }
  }

  block(): void {
    this.container.unmapAll();
    this.mapped = false;
  }

  close(): void {
    const { system } = this.container;
    for (const { fd } of [this.vfio, this.group, this.container, this.allocation]) system.close(fd);
    system.close(this.faultEvent);
  }

  /** Sorts what has come into the device's fault ring. What nobody can resolve is the host's to log. */
  readFaults(): void {
    const { system } = this.container;
    if ((system.poll(this.faultEvent) & POLLIN) === 0) return;
    system.read(this.faultEvent, new Uint8Array(8));
    for (const fault of this.vfio.readDmaFaults()) {
      if (fault.kind !== 'page-request' || fault.pasid === null) continue;
      const { pasid, group, last, access, address } = fault;
      this.requests.put(pasid, { group, last, access: accessOf(access), address, cookie: cookieOf(pasid, group) });
    }
  }

  free(hostPasids: HostPasids): void {
    for (const pasid of hostPasids.toReversed()) this.allocation.free(pasid);
  }

  private map(): void {
    const { address: userVa, bytes: length } = this.memory;
    this.container.map({ userVa, length, iova: 0 });
    this.mapped = true;
  }

  private allocate(pasid: number): HostPasids {
    const own = this.allocation.alloc(pasid, pasid);
    try {
      return [own, this.allocation.alloc(guestPasids(this.unit), 2 ** this.unit.pasidBits - 1)];
    } catch (error) {
      this.allocation.free(own);
      throw error;
    }
  }
}

/** Of one guest PASID: the number that the guest puts into the device, and the one that ENQCMD sends. */
type HostPasids = readonly [own: number, command: number];

class BoundTable implements Stage1 {
  readonly hostPasid: number;
  readonly object = {};
  private readonly dma: GuestPasidDma;
  private hostPasids: HostPasids | null;

  /** Binds `table` to both; to neither on failure. */
  constructor(dma: GuestPasidDma, pasid: number, hostPasids: HostPasids, table: GuestTable) {
    const { container, requests } = dma;
    const [own, command] = hostPasids;
    const guest = { pageTable: table.root, addressWidth: table.addressWidth, vtdFlags: vtdFlags(table) };
    container.bindGuestPasid({ ...guest, hostPasid: own });
    try {
      container.bindGuestPasid({ ...guest, hostPasid: command, guestPasid: pasid });
    } catch (error) {
      container.unbindGuestPasid(own);
      throw error;
    }
    this.dma = dma;
    this.hostPasid = command;
    this.hostPasids = hostPasids;
    for (const hostPasid of hostPasids) requests.open(hostPasid);
  }

  invalidate(address: bigint, pages: bigint, leaf: boolean): void {
    for (const hostPasid of this.hostPasids ?? []) {
      this.dma.container.invalidate({ hostPasid, range: { address, pages, leaf } });
    }
  }

  readPageRequests(): HostPageRequest[] {
    this.dma.readFaults();
    return (this.hostPasids ?? []).flatMap((hostPasid) => this.dma.requests.take(hostPasid));
  }

  respond(cookie: number, success: boolean): void {
    this.dma.vfio.respondPage(groupOf(cookie), success);
  }

  destroy(): void {
    if (this.hostPasids !== null) this.dma.free(this.yield());
  }

  /** Unbinds the table, and leaves its PASIDs to the caller. */
  yield(): HostPasids {
    const hostPasids = this.hostPasids!;
    this.hostPasids = null;
    for (const hostPasid of hostPasids.toReversed()) {
      this.dma.container.unbindGuestPasid(hostPasid);
      this.dma.requests.close(hostPasid);
    }
    return hostPasids;
  }
}

/** Page request groups have 9 bits of index at each PASID. */
const GROUPS = 512;

function cookieOf(pasid: number, group: number): number {
  return pasid * GROUPS + group;
}

function groupOf(cookie: number): { pasid: number; group: number } {
  return { pasid: Math.floor(cookie / GROUPS), group: cookie % GROUPS };
}

function hostUnit(container: VfioContainerClient): HostUnit {
  const { nesting } = container.info();
  if (nesting === null) throw new SysError('EOPNOTSUPP', 'VFIO_IOMMU_GET_INFO', 'the host has no VT-d unit that nests');
  return { ecap: nesting.extendedCapability, pasidBits: nesting.pasidBits };
}

function vtdFlags(table: GuestTable): bigint {
  return (
    (table.supervisorRequests ? IOMMU_SVA_VTD_GPASID_SRE : 0n) |
    (table.extendedAccessed ? IOMMU_SVA_VTD_GPASID_EAFE : 0n) |
    (table.writeProtect ? IOMMU_SVA_VTD_GPASID_WPE : 0n)
  );
}
