/**
 * The virtual VT-d unit on a real host, without a guest CPU: the test plays the guest's driver, or an attacker, by
 * writing guest memory and registers.
 */

import { noTrace, PAGE_SIZE, PhysicalMemory, VtdRegisterFile } from '@iommukit/hw';
import { IommufdClient } from '@iommukit/iommufd';
import { Host } from '../../src/host/host.ts';
import { Machine } from '../../src/host/machine.ts';
import { guestFeatures } from '../../src/vmm/guest-features.ts';
import { PassthroughDevice } from '../../src/vmm/passthrough.ts';
import { VirtualIommu } from '../../src/vmm/virtual-iommu.ts';

export const GUEST_BYTES: number = 4 << 20;
export const GUEST_RID = 0x10;

export class VirtualUnit {
  readonly host: Host = new Host(new Machine(32 << 20));
  /** Guest physical memory. */
  readonly memory: PhysicalMemory;
  readonly registers: VtdRegisterFile;
  readonly iommu: VirtualIommu;
  readonly device: PassthroughDevice;
  readonly iommufd: IommufdClient;
  /** Guest PASIDs that ENQCMD can use, and the host's for each. */
  readonly enqcmd: Map<number, number> = new Map();
  readonly pasidBits: number;
  /** Interrupt messages of the unit. */
  messages = 0;
  private readonly system = this.host.spawn('vmm');

  constructor() {
    const { system, host } = this;
    const hva = system.mmap({ length: GUEST_BYTES });
    const { addressSpace } = system.process;
    this.memory = new PhysicalMemory({ ramBytes: 0, reservedBytes: 65536 });
    this.memory.mapForeign(0, GUEST_BYTES / PAGE_SIZE, {
      read: (offset, into) => addressSpace.read(hva + BigInt(offset), into),
      write: (offset, from) => addressSpace.write(hva + BigInt(offset), from),
    });
    this.iommufd = new IommufdClient(system, system.open('/dev/iommu'));
    const ioasId = this.iommufd.ioasAlloc();
    this.iommufd.ioasMap({ ioasId, userVa: hva, length: GUEST_BYTES, iova: 0 });
    this.device = new PassthroughDevice(system, host.devicePath, this.iommufd.fd);
    const features = guestFeatures(this.iommufd.hwInfo(this.device.id));
    this.pasidBits = features.pasidBits;
    const parentHwpt = this.iommufd.hwptAllocPaging({
      deviceId: this.device.id,
      ioasId,
      nestParent: true,
      pasid: true,
    });
    this.iommu = new VirtualIommu({
      iommufd: this.iommufd,
      device: this.device,
      parentHwpt,
      memory: this.memory,
      guestRid: GUEST_RID,
      features,
      hypervisor: {
        mapPasid: (guest, hostPasid) => this.enqcmd.set(guest, hostPasid),
        unmapPasid: (guest) => this.enqcmd.delete(guest),
      },
      enqueuePageRequest: (request) => this.registers.enqueuePageRequest(request),
      trace: noTrace,
    });
    this.registers = new VtdRegisterFile({
      features,
      memory: this.memory,
      scheduler: host.machine.scheduler,
      backend: this.iommu,
      sendMessage: () => this.messages++,
    });
  }

  /** Lets the unit do what it has been asked to do. */
  settle(span = 1_000_000): void {
    const { scheduler } = this.host.machine;
    const end = scheduler.now + span;
    while (scheduler.nextDue <= end) {
      scheduler.runNext();
      this.host.kernel.runWork();
    }
    scheduler.runUntil(end);
    this.iommu.pumpPageRequests();
  }

  /** The VMM process ends. */
  exit(): void {
    this.system.exit();
    this.host.settle();
  }
}
