/** What of this system can be used: the library, and which ways to a program's memory need a privilege that lacks. */

import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { buildShim } from './shim.ts';
import { UsageError } from './usage-error.ts';

export type Finding = {
  /** What it is about, and what was found. */
  readonly text: string;
  /** What does not work; null when all is well. */
  readonly lack: string | null;
  /** Nothing works without it. */
  readonly needed?: true;
};

/** The library, made if it is not there, and what `examine` looks at. */
export function examineAll(): Finding[] {
  return [library(), ...examine()];
}

/** Looks at privileges and limits. */
export function examine(): Finding[] {
  return [memoryAccess(), mappedFiles(), hugePages(), lockLimit()];
}

function library(): Finding {
  const needed = true;
  try {
    return { text: `library that is loaded into programs: ${buildShim()}`, lack: null, needed };
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    return { text: 'library that is loaded into programs: none', lack: error.message, needed };
  }
}

/** Yama (Documentation/admin-guide/LSM/Yama.rst): 0 and 1 let a parent look into its children. */
function memoryAccess(): Finding {
  const scope = readNumber('/proc/sys/kernel/yama/ptrace_scope') ?? 0;
  const allowed = scope < 2 || (scope === 2 && holds(CAP_SYS_PTRACE));
  return {
    text: `memory of programs by /proc/PID/mem: ptrace_scope is ${scope}`,
    lack: allowed ? null : 'No call can be served: kernel.yama.ptrace_scope must be 0 or 1, or 2 with CAP_SYS_PTRACE.',
    needed: true,
  };
}

function mappedFiles(): Finding {
  const allowed = canOpenMapFiles();
  return {
    text: `files behind mappings by /proc/PID/map_files: ${allowed ? 'allowed' : 'refused'}`,
    lack: allowed
      ? null
      : 'Shared memory that is pinned by its address is lost when the program unmaps it: to keep it, CAP_CHECKPOINT_RESTORE ' +
        'or CAP_SYS_ADMIN is needed. Memory that is mapped by IOMMU_IOAS_MAP_FILE is kept without.',
  };
}

function hugePages(): Finding {
  const pages = readNumber('/proc/sys/vm/nr_hugepages') ?? 0;
  return { text: `huge pages: ${pages}${pages === 0 ? ', so ordinary pages stand in for them' : ''}`, lack: null };
}

function lockLimit(): Finding {
  const missing = Object.entries(PROGRAM_CAPABILITIES).filter(([, bit]) => !holds(bit));
  const names = missing.map(([name]) => name).join(', ');
  return {
    text: `capabilities that programs here lack: ${names === '' ? 'none' : `${names} (--grant gives them to the program)`}`,
    lack: null,
  };
}

const CAP_SYS_PTRACE = 19;
const PROGRAM_CAPABILITIES = { CAP_IPC_LOCK: 14, CAP_SYS_RAWIO: 17, CAP_SYS_RESOURCE: 24 } as const;

function holds(capability: number): boolean {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1] ?? '0';
  return ((BigInt(`0x${effective}`) >> BigInt(capability)) & 1n) !== 0n;
}

/** Whether the files behind a process's mappings can be opened (CAP_CHECKPOINT_RESTORE). */
export function canOpenMapFiles(): boolean {
  try {
    const [first] = readdirSync('/proc/self/map_files');
    closeSync(openSync(`/proc/self/map_files/${first}`, 'r'));
    return true;
  } catch {
    return false;
  }
}

function readNumber(path: string): number | null {
  try {
    return Number(readFileSync(path, 'latin1'));
  } catch {
    return null;
  }
}
