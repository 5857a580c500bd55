/**
 * The virtual VT-d unit on a real host, without a guest CPU: the test plays the guest's driver, or an attacker, by
 * writing guest memory and registers.
 */

import { PAGE_SIZE, PhysicalMemory, Scheduler, Trace, VtdRegisterFile } from '@iommukit/hw';
import { IommufdClient } from '@iommukit/iommufd';
import { Host, type Leftovers } from '../../src/host/host.ts';
import { hostMachine } from '../../src/host/machine.ts';
import { guestFeatures } from '../../src/vmm/guest-features.ts';
import { PassthroughDevice } from '../../src/vmm/passthrough.ts';
import type { VmmEvent } from '../../src/vmm/trace.ts';
import { VirtualIommu } from '../../src/vmm/virtual-iommu.ts';

export const GUEST_BYTES: number = 4 << 20;
export const GUEST_RID = 0x10;

export class VirtualUnit {
  readonly host: Host = new Host(hostMachine(32 << 20));
  /** Guest physical memory. */
  readonly memory: PhysicalMemory;
  readonly registers: VtdRegisterFile;
  readonly iommu: VirtualIommu;
  readonly device: PassthroughDevice;
  readonly iommufd: IommufdClient;
  /** Guest PASIDs that ENQCMD can use, and the host's for each. */
  readonly enqcmd: Map<number, number> = new Map();
  readonly pasidBits: number;
  /** Guest PASIDs that the trace says are shadowed, NO_PASID among them. */
  readonly shadowed: Set<number> = new Set();
  /** Why entries were not shadowed, or not any longer. */
  readonly refusals: string[] = [];
  /** Interrupt messages of the unit. */
  messages = 0;
  private readonly system = this.host.spawn('vmm');
  private readonly scheduler = new Scheduler();
  private readonly trace = new Trace<VmmEvent>(this.scheduler);

  constructor() {
    const { system, host } = this;
    this.trace.listen((event) => {
      if (event.name === 'shadow_set') this.shadowed.add(event.pasid);
      if (event.name === 'shadow_clear') this.shadowed.delete(event.pasid);
      if (event.name === 'shadow_refused') this.refusals.push(event.message);
    });
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
      trace: this.trace,
    });
    this.registers = new VtdRegisterFile({
      features,
      memory: this.memory,
      scheduler: this.scheduler,
      backend: this.iommu,
      sendMessage: () => this.messages++,
    });
  }

  /** Lets the unit do what it has been asked to do, and the host what that leads to. */
  settle(span = 1_000_000): void {
    this.scheduler.advance(span);
    this.host.machine.scheduler.advance(span);
    this.host.kernel.runWork();
    this.iommu.pumpPageRequests();
  }

  /** The VMM process ends, then the host. */
  exit(): Leftovers {
    this.system.exit();
    return this.host.shutDown();
  }
}
