/**
 * One process as /proc shows it. The folder and the memory are held open, so that neither a number given to another
 * process nor another program in the same process is taken for this one. All reads are of the moment.
 */

import { closeSync, constants, fstatSync, openSync, readFileSync, readlinkSync, readSync, writeSync } from 'node:fs';
import { type Mapping, parseMappings } from './mapping.ts';

const CHUNK = 1 << 16;

export class Proc {
  readonly pid: number;
  private readonly folder: number;
  private readonly memory: number;
  private readonly maps: number;
  private holders = 1;
  private buffer = Buffer.allocUnsafe(CHUNK);

  /** The maker is the first holder. @throws {Error} the process is gone, or its memory may not be read */
  constructor(pid: number) {
    this.pid = pid;
    this.folder = openSync(`/proc/${pid}`, constants.O_RDONLY | constants.O_DIRECTORY);
    const opened: number[] = [this.folder];
    try {
      opened.push(openSync(this.path('maps'), constants.O_RDONLY));
      opened.push(openSync(this.path('mem'), constants.O_RDWR));
    } catch (error) {
      for (const fd of opened) closeSync(fd);
      throw error;
    }
    this.maps = opened[1]!;
    this.memory = opened[2]!;
  }

  /** A file of the process's folder. */
  path(name: string): string {
    return `/proc/self/fd/${this.folder}/${name}`;
  }

  /** What is mapped now; nothing once the process has ended. */
  mappings(): Mapping[] {
    let length = 0;
    for (;;) {
      if (length === this.buffer.length) this.buffer = Buffer.concat([this.buffer], 2 * length);
      let count: number;
      try {
        count = readSync(this.maps, this.buffer, length, Math.min(CHUNK, this.buffer.length - length), length);
      } catch {
        return [];
      }
      if (count === 0) return parseMappings(this.buffer.toString('latin1', 0, length));
      length += count;
    }
  }

  /** Copies from the process. False: not all of it can be read, or the program is gone. */
  read(address: number, into: Uint8Array): boolean {
    return transfer(into.length, (done) => readSync(this.memory, into, done, into.length - done, address + done));
  }

  /** Copies to the process, whatever its mappings allow it itself. False: not all of it can be written. */
  write(address: number, from: Uint8Array): boolean {
    return transfer(from.length, (done) => writeSync(this.memory, from, done, from.length - done, address + done));
  }

  /** A line of /proc/PID/status; null once the process has ended. */
  status(name: string): string | null {
    return field(this.text('status'), `${name}:`);
  }

  /** A file of the process's folder as text; empty once the process has ended. */
  text(name: string): string {
    try {
      return readFileSync(this.path(name), 'latin1');
    } catch {
      return '';
    }
  }

  /** What the process's descriptor `fd` shows; null when it is not open. */
  descriptor(fd: number): string | null {
    try {
      return readlinkSync(this.path(`fd/${fd}`));
    } catch {
      return null;
    }
  }

  /** Opens a file of the process's folder as the process's own file: to write where that is allowed. Null: not at all. */
  open(name: string): number | null {
    return openFile(this.path(name));
  }

  hold(): void {
    this.holders++;
  }

  /** The last holder closes it. */
  release(): void {
    if (--this.holders > 0) return;
    for (const fd of [this.folder, this.maps, this.memory]) closeSync(fd);
  }
}

/** What follows `name` in a text of lines, or null. */
export function field(text: string, name: string): string | null {
  const start = text.startsWith(name) ? 0 : text.indexOf(`\n${name}`) + 1;
  if (start === 0 && !text.startsWith(name)) return null;
  const end = text.indexOf('\n', start);
  return text.slice(start + name.length, end < 0 ? undefined : end).trim();
}

/** Opens a file for reading and, where that is allowed, writing. Null: not at all. */
export function openFile(path: string): number | null {
  for (const mode of [constants.O_RDWR, constants.O_RDONLY]) {
    try {
      return openSync(path, mode);
    } catch {}
  }
  return null;
}

/** Bytes of an open file. */
export function sizeOf(fd: number): number {
  return fstatSync(fd).size;
}

function transfer(length: number, move: (done: number) => number): boolean {
  try {
    for (let done = 0; done < length; ) {
      const count = move(done);
      if (count === 0) return false;
      done += count;
    }
    return true;
  } catch {
    return false;
  }
}
