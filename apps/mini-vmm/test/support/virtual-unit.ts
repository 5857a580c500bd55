/**
 * The virtual VT-d unit on a real host, without a guest CPU: the test plays the guest's driver, or an attacker, by
 * writing guest memory and registers.
 */

import { PAGE_SIZE, PhysicalMemory, Scheduler, Trace, VtdRegisterFile } from '@iommukit/hw';
import type { SystemCalls } from '@iommukit/iommufd';
import { Host, type Leftovers } from '../../src/host/host.ts';
import { hostMachine } from '../../src/host/machine.ts';
import type { DmaInterface } from '../../src/vmm/dma-interface.ts';
import { guestFeatures } from '../../src/vmm/guest-features.ts';
import { type InterfaceKind, openDma } from '../../src/vmm/interfaces/open.ts';
import type { VmmEvent } from '../../src/vmm/trace.ts';
import { VirtualIommu } from '../../src/vmm/virtual-iommu.ts';

export const GUEST_BYTES: number = 4 << 20;
export const GUEST_RID = 0x10;

export class VirtualUnit {
  readonly host: Host;
  /** Guest physical memory. */
  readonly memory: PhysicalMemory;
  readonly registers: VtdRegisterFile;
  readonly iommu: VirtualIommu;
  readonly dma: DmaInterface;
  /** Guest PASIDs that ENQCMD can use, and the host's for each. */
  readonly enqcmd: ReadonlyMap<number, number>;
  readonly pasidBits: number;
  /** Guest PASIDs that the trace says are shadowed, NO_PASID among them. */
  readonly shadowed: Set<number> = new Set();
  /** Why entries were not shadowed, or not any longer. */
  readonly refusals: string[] = [];
  /** Interrupt messages of the unit. */
  messages = 0;
  private readonly system: SystemCalls;
  private readonly scheduler = new Scheduler();
  private readonly trace = new Trace<VmmEvent>(this.scheduler);

  constructor(kind: InterfaceKind = 'iommufd') {
    const host = new Host(hostMachine(32 << 20), kind);
    const system = host.spawn('vmm');
    this.host = host;
    this.system = system;
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
    const hypervisor = host.createVm(system);
    this.enqcmd = hypervisor.table.entries;
    this.dma = openDma(kind, {
      system,
      hypervisor,
      device: host.deviceNames,
      memory: { address: hva, bytes: GUEST_BYTES },
    });
    const features = guestFeatures(this.dma.unit);
    this.pasidBits = features.pasidBits;
    this.iommu = new VirtualIommu({
      dma: this.dma,
      memory: this.memory,
      guestRid: GUEST_RID,
      features,
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
