/** What a run was: the machine-readable report, and the same for people. */

import type { VtdCounters } from '@iommukit/hw';
import type { Leftovers } from '../host/host.ts';
import { type BootInfo, GUEST_BAD_REQUESTS, type SubmitMode } from '../vmm/boot-info.ts';
import type { GuestFact } from '../vmm/guest-report.ts';
import type { InterfaceKind } from '../vmm/interfaces/open.ts';
import type { Step } from './steps.ts';

export type ProcessReport = {
  pid: number;
  pasid: number;
  /** Bytes that the process had to move. */
  bytes: number;
  /** Bytes that were moved and passed every check of the guest's own. */
  verified: number;
  /** Page-request groups that the guest's kernel answered for the process. */
  pageRequests: number;
  /** Deliberate bad requests that ended with the right error. */
  faultsReported: number;
};

export type Report = {
  ok: boolean;
  /** Why not, in one line each. */
  failures: string[];
  /** The kernel's interface for DMA that the VMM used. */
  interface: InterfaceKind;
  /** How the guest's processes submitted descriptors. */
  submit: SubmitMode;
  guest: { instructions: number; exitStatus: number | null; processes: ProcessReport[] };
  iommu: {
    translations: number;
    iotlbHits: number;
    nestedWalks: number;
    stage1Reads: number;
    stage2Reads: number;
    /** Page-request groups, and the answers to them; those that draining answered included. */
    pageRequests: number;
    pageResponses: number;
    invalidations: number;
  };
  /** Read after every file is closed and the VMM's process is gone. */
  leftovers: Leftovers;
  steps: readonly Step[];
};

export type RunFacts = {
  interface: InterfaceKind;
  /** What the guest was asked for. */
  boot: BootInfo;
  facts: readonly GuestFact[];
  instructions: bigint;
  exitStatus: number | null;
  /** Why the VM ended other than by power-off, or null. */
  ending: string | null;
  counters: VtdCounters;
  leftovers: Leftovers;
  steps: readonly Step[];
};

export function makeReport(run: RunFacts): Report {
  const { boot, facts, counters, leftovers, steps, exitStatus } = run;
  const processes = facts.filter(({ word }) => word === 'process').map(readProcess);
  const iommu = {
    translations: counters.translations,
    iotlbHits: counters.iotlbHits,
    nestedWalks: counters.nestedWalks,
    stage1Reads: counters.stage1Reads,
    stage2Reads: counters.stage2Reads,
    pageRequests: counters.pageRequests,
    pageResponses: counters.pageResponses,
    invalidations: Object.values(counters.invalidations).reduce((sum, count) => sum + count, 0),
  };
  const failures: string[] = [];
  if (run.ending !== null) failures.push(`VM ended early: ${run.ending}`);
  else if (exitStatus !== 0) failures.push(`guest powered off with status ${exitStatus}`);
  if (processes.length !== boot.processes) {
    failures.push(`${processes.length} of ${boot.processes} processes reported`);
  }
  if (new Set(processes.map(({ pasid }) => pasid)).size !== processes.length) failures.push('processes shared a PASID');
  for (const { pid, verified, faultsReported } of processes) {
    const { bytesPerProcess } = boot;
    if (verified !== bytesPerProcess) failures.push(`process ${pid} verified ${verified} of ${bytesPerProcess} bytes`);
    if (faultsReported !== GUEST_BAD_REQUESTS) {
      failures.push(`process ${pid} saw ${faultsReported} of ${GUEST_BAD_REQUESTS} bad requests refused`);
    }
  }
  if (iommu.pageRequests !== iommu.pageResponses) {
    failures.push(`${iommu.pageRequests} page requests had ${iommu.pageResponses} responses`);
  }
  for (const [what, count] of Object.entries(leftovers)) if (count !== 0) failures.push(`${count} ${what} left over`);
  steps.forEach(({ title, missing }, index) => {
    if (missing !== null) failures.push(`step ${index + 1} did not happen: ${title} (no ${missing})`);
  });
  const guest = { instructions: Number(run.instructions), exitStatus, processes };
  return {
    ok: failures.length === 0,
    failures,
    interface: run.interface,
    submit: boot.submit ?? 'both',
    guest,
    iommu,
    leftovers,
    steps,
  };
}

function readProcess(fact: GuestFact): ProcessReport {
  return {
    pid: fact.number('pid'),
    pasid: fact.number('pasid'),
    bytes: fact.number('bytes'),
    verified: fact.number('verified'),
    pageRequests: fact.number('page_requests'),
    faultsReported: fact.number('faults_reported'),
  };
}

/** The eight steps, the processes and the counters, for people. */
export function formatReport(report: Report): string {
  const { steps, guest, iommu, leftovers, failures } = report;
  const lines: string[] = [''];
  steps.forEach(({ title, observed, missing }, index) => {
    lines.push(`${index + 1}. ${title}`, `   ${observed ?? `did not happen: no ${missing}`}`);
  });
  lines.push('');
  const columns = ['process', 'PASID', 'bytes', 'verified', 'page requests', 'faults reported'];
  const rows = guest.processes.map((process) => Object.values(process).map(formatCount));
  lines.push(...table([columns, ...rows]), '');
  const counts: [string, number][] = [
    ['guest instructions', guest.instructions],
    ['translations', iommu.translations],
    ['IOTLB hits', iommu.iotlbHits],
    ['nested walks', iommu.nestedWalks],
    ['stage 1 reads', iommu.stage1Reads],
    ['stage 2 reads', iommu.stage2Reads],
    ['page requests', iommu.pageRequests],
    ['page responses', iommu.pageResponses],
    ['invalidations', iommu.invalidations],
    ['pins at the end', leftovers.pins],
    ['PASIDs at the end', leftovers.pasids],
    ['objects at the end', leftovers.objects],
    ['mappings at the end', leftovers.mappings],
    ['frames at the end', leftovers.frames],
  ];
  lines.push(...table(counts.map(([name, count]) => [name, formatCount(count)])), '');
  lines.push(...failures.map((failure) => `FAILED: ${failure}`));
  if (failures.length === 0) lines.push('Everything checked, nothing left over.');
  return `${lines.join('\n')}\n`;
}

function formatCount(count: number): string {
  return count.toLocaleString('en-US');
}

/** Columns as wide as their widest cell; the first is left-aligned. */
function table(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows.map((row) => {
    const cells = row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)));
    return `   ${cells.join('   ')}`;
  });
}
