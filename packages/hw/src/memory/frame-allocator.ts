/**
 * Which RAM frames are in use. Freed frames are handed out again, lowest first; in debug mode their bytes are poisoned
 * while free, so that whoever still reaches a freed frame reads nonsense, and a write to a free frame is found when
 * the frame is next allocated.
 */

import { hex } from '../u64.ts';
import { PAGE_SIZE, type PhysicalMemory } from './physical-memory.ts';

/** Every byte of a free frame in debug mode. */
export const FREE_POISON = 0xdb;

const IN_USE = 1;
const FREED = 2;

export type FrameAllocatorOptions = {
  /** First frame to hand out; 1 by default, so that frame 0 is never anybody's table. */
  firstPfn?: number;
  /** Number of frames; up to the end of RAM by default. */
  frames?: number;
  /** Poison free frames and check the poison on allocation. */
  debug?: boolean;
};

export class FrameAllocator {
  private readonly memory: PhysicalMemory;
  private readonly first: number;
  private readonly state: Uint8Array;
  private readonly debug: boolean;
  private cursor = 0;
  private count = 0;

  constructor(memory: PhysicalMemory, options: FrameAllocatorOptions = {}) {
    this.memory = memory;
    this.first = options.firstPfn ?? 1;
    this.state = new Uint8Array(options.frames ?? memory.ramFrames - this.first);
    this.debug = options.debug ?? false;
  }

  /** Frames in use now. */
  get allocated(): number {
    return this.count;
  }

  isAllocated(pfn: number): boolean {
    return this.state[pfn - this.first] === IN_USE;
  }

  /** Takes one frame, filled with zeros. Null when none is free. */
  allocate(): number | null {
    const state = this.state;
    let index = this.cursor;
    while (index < state.length && state[index] === IN_USE) index++;
    this.cursor = index;
    return index < state.length ? this.take(index, 1) : null;
  }

  /** Takes `frames` adjoining frames, the first a multiple of `alignment` (in frames). Null when there is no such run. */
  allocateRun(frames: number, alignment = 1): number | null {
    let index = Math.ceil(this.first / alignment) * alignment - this.first;
    while (index + frames <= this.state.length) {
      let free = 0;
      while (free < frames && this.state[index + free] !== IN_USE) free++;
      if (free === frames) return this.take(index, frames);
      index = Math.ceil((this.first + index + free + 1) / alignment) * alignment - this.first;
    }
    return null;
  }

  /** Gives frames back. @throws {RangeError} when one of them is not in use: a double free is a bug of the caller */
  free(pfn: number, frames = 1): void {
    for (let index = pfn - this.first; index < pfn - this.first + frames; index++) {
      if (this.state[index] !== IN_USE)
        throw new RangeError(`frame ${hex(this.first + index)} is freed but not in use`);
    }
    for (let frame = pfn; frame < pfn + frames; frame++) {
      this.state[frame - this.first] = FREED;
      if (this.debug) {
        this.memory.bytes.fill(FREE_POISON, frame * PAGE_SIZE, (frame + 1) * PAGE_SIZE);
        this.memory.noteWrite(frame);
      }
    }
    this.count -= frames;
    this.cursor = Math.min(this.cursor, pfn - this.first);
  }

  private take(index: number, frames: number): number {
    const pfn = this.first + index;
    for (let frame = pfn; frame < pfn + frames; frame++) {
      if (this.debug && this.state[frame - this.first] === FREED) this.checkPoison(frame);
      this.state[frame - this.first] = IN_USE;
      this.memory.words.fill(0, frame << 10, (frame + 1) << 10);
      this.memory.noteWrite(frame);
    }
    this.count += frames;
    return pfn;
  }

  private checkPoison(pfn: number): void {
    const start = pfn * PAGE_SIZE;
    for (let at = start; at < start + PAGE_SIZE; at++) {
      if (this.memory.bytes[at] !== FREE_POISON) throw new Error(`free frame ${hex(pfn)} was written at ${hex(at)}`);
    }
  }
}
