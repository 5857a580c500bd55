/**
 * A machine whose whole memory is page tables of mostly plausible entries that point anywhere, and the pieces that a
 * comparison of walkers needs.
 */

import {
  ACCESS_EXECUTE,
  ACCESS_PRIVILEGED,
  ACCESS_READ,
  ACCESS_WRITE,
  CONTROL_EXTENDED_ACCESSED,
  CONTROL_NO_EXECUTE,
  CONTROL_SMEP,
  CONTROL_STAGE2_ACCESSED_DIRTY,
  CONTROL_STAGE2_EXECUTE,
  CONTROL_WRITE_PROTECT,
  PhysicalMemory,
  RIGHTS_PRIVILEGED_SHIFT,
  WALK_EXECUTE_DENIED,
  WALK_NOT_PRESENT,
  WALK_OUT_OF_RANGE,
  WALK_PRIVILEGE_DENIED,
  WALK_READ_DENIED,
  WALK_RESERVED,
  WALK_UNREACHABLE,
  WALK_WRITE_DENIED,
} from '@iommukit/hw';
import type { Allowed, NaiveAccess, NaiveControl, NaiveMemory, NaiveReason } from './naive-walker.ts';
import type { Random } from './random.ts';

export const RAM_FRAMES = 48;
const FOREIGN_PFN = 0x100000;
const FAR_FOREIGN_PFN = 0x80000123;
const FOREIGN_FRAMES = 4;

/** Memory with RAM, and foreign frames above 4 GiB and above 8 TiB. */
export class HostileMachine {
  readonly memory: PhysicalMemory = new PhysicalMemory({ ramBytes: RAM_FRAMES * 4096, reservedBytes: 0 });
  readonly foreign: Uint8Array = new Uint8Array(2 * FOREIGN_FRAMES * 4096);

  constructor() {
    for (const [slot, pfn] of [FOREIGN_PFN, FAR_FOREIGN_PFN].entries()) {
      const base = slot * FOREIGN_FRAMES * 4096;
      this.memory.mapForeign(pfn, FOREIGN_FRAMES, {
        read: (offset, into) => into.set(this.foreign.subarray(base + offset, base + offset + into.length)),
        write: (offset, from) => this.foreign.set(from, base + offset),
      });
    }
    this.memory.mapMmio(0xfed90, 1, { read: () => 0xffff_ffff_ffff_ffffn, write() {} });
  }

  /**
   * Fills every table: `stageOf` chooses the bits, 1 for x86-64 and 2 for the VT-d second stage; `plain` percent of the
   * entries point to near tables and forbid nothing.
   */
  fill(random: Random, stageOf: (frame: number) => 1 | 2, plain: number): void {
    const { words } = this.memory;
    for (let frame = 0; frame < RAM_FRAMES; frame++) {
      const stage = stageOf(frame);
      for (let entry = 0; entry < 512; entry++) {
        const [low, high] = randomEntry(random, stage, plain);
        words[(frame << 10) | (entry << 1)] = low;
        words[(frame << 10) | (entry << 1) | 1] = high;
      }
    }
    const view = new DataView(this.foreign.buffer);
    for (let at = 0; at < this.foreign.length; at += 8) {
      const [low, high] = randomEntry(random, stageOf(at >> 12), plain);
      view.setInt32(at, low, true);
      view.setInt32(at + 4, high, true);
    }
  }

  /** The same memory for a naive walker. */
  get naive(): NaiveMemory {
    const bytes = new Uint8Array(8);
    const view = new DataView(bytes.buffer);
    return {
      read: (address) => {
        if (!this.memory.isMemory(Number(address >> 12n))) return null;
        this.memory.read(address, bytes);
        return view.getBigUint64(0, true);
      },
      write: (address, value) => {
        view.setBigUint64(0, value, true);
        this.memory.write(address, bytes);
      },
    };
  }
}

function randomEntry(random: Random, stage: 1 | 2, plain: number): [number, number] {
  if (random.chance(plain)) return [(random.below(RAM_FRAMES) << 12) | 7 | (random.bits() & 0x760), 0];
  if (random.chance(2)) return [random.bits(), random.bits()];
  let low = stage === 1 ? (random.chance(97) ? 1 : 0) : random.chance(95) ? 1 : 0;
  if (random.chance(92)) low |= 2;
  if (random.chance(92)) low |= 4;
  if (random.chance(15)) low |= 0x80;
  low |= random.bits() & 0x778;
  if (random.chance(4)) low |= 0x800;
  let high = 0;
  if (random.chance(5)) high |= 1 << 31;
  if (random.chance(40)) high |= random.bits() & 0x3ff00000;
  if (random.chance(1)) high |= 1 << 30;
  let pfn = random.below(RAM_FRAMES);
  if ((low & 0x80) !== 0 && random.chance(80)) pfn = random.below(1 << 10) << 18;
  else if (random.chance(3)) pfn = random.pick([FOREIGN_PFN, FAR_FOREIGN_PFN]) + random.below(FOREIGN_FRAMES);
  else if (random.chance(2)) pfn = random.pick([0xfed90, 0x7fffffff, 0x12345, 2 ** 40 - 1, RAM_FRAMES, 2 ** 34]);
  low |= pfn << 12;
  high |= Math.floor(pfn / 2 ** 20) & 0xfffff;
  return [low, high];
}

export function randomAccess(random: Random): number {
  return (
    random.pick([ACCESS_READ, ACCESS_READ, ACCESS_WRITE, ACCESS_READ | ACCESS_WRITE, ACCESS_READ | ACCESS_EXECUTE, 0]) |
    (random.chance(30) ? ACCESS_PRIVILEGED : 0)
  );
}

export function naiveAccess(access: number): NaiveAccess {
  return {
    read: (access & ACCESS_READ) !== 0,
    write: (access & ACCESS_WRITE) !== 0,
    execute: (access & ACCESS_EXECUTE) !== 0,
    privileged: (access & ACCESS_PRIVILEGED) !== 0,
  };
}

export function naiveControl(control: number): NaiveControl {
  return {
    writeProtect: (control & CONTROL_WRITE_PROTECT) !== 0,
    noExecute: (control & CONTROL_NO_EXECUTE) !== 0,
    smep: (control & CONTROL_SMEP) !== 0,
    extendedAccessed: (control & CONTROL_EXTENDED_ACCESSED) !== 0,
    stage2Dirty: (control & CONTROL_STAGE2_ACCESSED_DIRTY) !== 0,
    stage2Execute: (control & CONTROL_STAGE2_EXECUTE) !== 0,
  };
}

/** Rights bits of what a naive walk allows. */
export function rightsBits(user: Allowed, privileged: Allowed): number {
  const bits = (allowed: Allowed): number =>
    (allowed.read ? ACCESS_READ : 0) | (allowed.write ? ACCESS_WRITE : 0) | (allowed.execute ? ACCESS_EXECUTE : 0);
  return bits(user) | (bits(privileged) << RIGHTS_PRIVILEGED_SHIFT);
}

/** The code of a naive walk's reason. */
export const walkCodes: Record<NaiveReason, number> = {
  'not present': WALK_NOT_PRESENT,
  reserved: WALK_RESERVED,
  read: WALK_READ_DENIED,
  write: WALK_WRITE_DENIED,
  execute: WALK_EXECUTE_DENIED,
  privilege: WALK_PRIVILEGE_DENIED,
  unreachable: WALK_UNREACHABLE,
  'out of range': WALK_OUT_OF_RANGE,
};
