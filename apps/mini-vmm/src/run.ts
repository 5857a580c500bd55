/**
 * One run: a host machine, its kernel, the VMM as a process on it, and the loop that lets time pass. The loop is the
 * machine's: it alone runs the guest's CPU, the hardware's events and the kernel's queued work, in turn.
 */

import { Trace } from '@iommukit/hw';
import { Host } from './host/host.ts';
import { hostMachine } from './host/machine.ts';
import { record, type TraceEntry } from './report/recorder.ts';
import { makeReport, type Report } from './report/report.ts';
import { StepMatcher } from './report/steps.ts';
import type { BootInfo } from './vmm/boot-info.ts';
import type { GuestFact } from './vmm/guest-report.ts';
import type { InterfaceKind } from './vmm/interfaces/open.ts';
import type { VmmEvent } from './vmm/trace.ts';
import { Vmm } from './vmm/vmm.ts';

export type RunOptions = {
  boot: BootInfo;
  /** The guest's ELF image. */
  image: Uint8Array;
  /** The kernel's interface for DMA that the VMM uses; /dev/iommu by default. */
  interface?: InterfaceKind;
  /** Takes what the guest prints. */
  console?: (byte: number) => void;
  /** Takes every trace event, after the steps have been looked for in it. */
  hear?: (entry: TraceEntry) => void;
  /** Takes the facts that the guest reports. */
  fact?: (fact: GuestFact) => void;
  /** Asked between two slices of the guest, with the instructions so far: true ends the VM as a kill from outside does. */
  kill?: (instructions: number) => boolean;
};

/** Guest instructions between two looks at the rest of the machine. */
const SLICE = 2000;
const NANOSECONDS_PER_INSTRUCTION = 1;
/** A guest that has not powered off by then never will: virtual nanoseconds. */
const TIME_LIMIT = 600e9;
/** Host memory beside the guest's. */
const HOST_BYTES = 48 << 20;

/** Runs a VM from power-on to its end and tells what happened and what is left. */
export function run(options: RunOptions): Report {
  const { boot, image, interface: kind = 'iommufd', hear = () => {} } = options;
  const machine = hostMachine(boot.ramBytes + HOST_BYTES);
  const host = new Host(machine, kind);
  const steps = new StepMatcher(kind);
  const listen = (entry: TraceEntry): void => {
    steps.feed(entry);
    hear(entry);
  };
  const trace = new Trace<VmmEvent>(machine.scheduler);
  record('hw', machine.trace, listen);
  record('core', host.trace, listen);
  record('iommufd', host.iommufdTrace, listen);
  record('vmm', trace, listen);

  const system = host.spawn('vmm');
  const facts: GuestFact[] = [];
  const vmm = new Vmm({
    system,
    hypervisor: host.createVm(system),
    interface: kind,
    device: host.deviceNames,
    image,
    boot,
    trace,
    console: options.console ?? (() => {}),
    hear(fact) {
      facts.push(fact);
      options.fact?.(fact);
    },
  });
  const ending = loop(host, vmm, options.kill ?? (() => false));
  const instructions = vmm.vcpu.instructions;
  const tell = (event: TraceEntry['event']): void => listen({ time: machine.scheduler.now, layer: 'host', event });
  tell({ name: 'vm_end', ending });
  if (ending === null) vmm.close();
  system.exit();
  const leftovers = host.shutDown();
  tell({ name: 'leftovers', ...leftovers });
  return makeReport({
    interface: kind,
    boot,
    facts,
    instructions,
    exitStatus: vmm.exitStatus,
    ending,
    counters: machine.unit.counters,
    leftovers,
    steps: steps.steps,
  });
}

/** Null when the guest powered off; else why the VM ended. */
function loop(host: Host, vmm: Vmm, kill: (instructions: number) => boolean): string | null {
  const { scheduler } = host.machine;
  vmm.pump(scheduler.now);
  for (;;) {
    const before = vmm.vcpu.instructions;
    if (kill(Number(before))) return 'killed';
    const exit = vmm.run(SLICE);
    scheduler.advance(Number(vmm.vcpu.instructions - before) * NANOSECONDS_PER_INSTRUCTION);
    host.kernel.runWork();
    vmm.pump(scheduler.now);
    if (vmm.exitStatus !== null) return null;
    if (exit === 'triple-fault') return 'the guest triple-faulted';
    if (exit === 'dead') return 'the guest halted with interrupts off';
    if (exit === 'pasid') vmm.refuseCommand();
    if (exit === 'halt' && !vmm.interruptPending) {
      const due = Math.min(scheduler.nextDue, vmm.nextDue);
      if (due === Number.POSITIVE_INFINITY) return 'the guest waits for an interrupt that cannot come';
      scheduler.runUntil(due);
      host.kernel.runWork();
      vmm.pump(scheduler.now);
    }
    if (scheduler.now > TIME_LIMIT) return 'the guest did not power off in time';
  }
}
