import fc from 'fast-check';
import { expect, test } from 'vitest';
import { SysError } from '../../src/errno.ts';
import type { Kernel } from '../../src/kernel.ts';
import { PfnRuns } from '../../src/pfn-runs.ts';
import type { MemoryFile } from '../../src/process/memory-file.ts';
import type { Process, Processes } from '../../src/process/process.ts';
import { firstByte, PAGE, R, testKernel, W, walk, X } from './support.ts';

/** A page of memory with an identity: whoever shares the object sees the same bytes. */
type Cell = { value: number };
type ModelPage = {
  protection: number;
  shared: boolean;
  file: ModelFile | null;
  index: number;
  /** The private copy, once there is one. */
  own: Cell | null;
};
type ModelFile = { real: MemoryFile; pages: number; cells: Map<number, Cell> };
type ModelPin = { process: ModelProcess; runs: PfnRuns; cells: Cell[] };
type ModelProcess = {
  real: Process;
  pages: Map<number, ModelPage>;
  /** What a device has cached of the page table. */
  cache: Map<number, { pfn: number; writable: boolean }>;
};

/** Pages on both sides of the end of a leaf table. */
const FIRST = 500;
const PAGES = 24;

const address = (page: number): bigint => BigInt(FIRST + page) * BigInt(PAGE);

class Model {
  readonly kernel: Kernel;
  readonly processes: Processes;
  readonly start: number;
  readonly live: ModelProcess[] = [];
  readonly files: ModelFile[] = [];
  readonly pins: ModelPin[] = [];

  constructor() {
    const { kernel, processes } = testKernel();
    this.kernel = kernel;
    this.processes = processes;
    this.start = kernel.frames.allocated;
    this.adopt(processes.spawn(), new Map());
    for (const pages of [6, 6]) {
      this.files.push({ real: processes.createFile(pages * PAGE), pages, cells: new Map() });
    }
  }

  adopt(real: Process, pages: Map<number, ModelPage>): void {
    const process: ModelProcess = { real, pages, cache: new Map() };
    real.memory!.addNotifier({
      invalidate: (first, last) => {
        for (const [page, { pfn }] of process.cache) {
          if (address(page) < first || address(page) > last) continue;
          expect(this.kernel.frames.isAllocated(pfn)).toBe(true);
          process.cache.delete(page);
        }
      },
      release: () => process.cache.clear(),
    });
    this.live.push(process);
  }

  cellOf(file: ModelFile, index: number): Cell | null {
    if (index >= file.pages) return null;
    let cell = file.cells.get(index);
    if (cell === undefined) file.cells.set(index, (cell = { value: 0 }));
    return cell;
  }

  /** The page as an access finds it; null is a fault that nothing resolves. */
  access(process: ModelProcess, page: number, wanted: number, own: boolean): Cell | null {
    const model = process.pages.get(page);
    if (model === undefined || (wanted & ~model.protection) !== 0) return null;
    const source = model.file === null ? null : this.cellOf(model.file, model.index);
    if (model.shared) return source;
    if (model.own !== null) return model.own;
    if (model.file !== null && source === null) return null;
    if (model.file !== null && !own && (wanted & W) === 0) return source;
    model.own = { value: source?.value ?? 0 };
    return model.own;
  }

  check(): void {
    const { kernel, processes } = this;
    const mapped = new Map<number, { count: number; writable: number }>();
    for (const process of this.live) {
      const memory = process.real.memory!;
      for (let page = 0; page < PAGES; page++) {
        const entry = walk(kernel, memory, address(page));
        const model = process.pages.get(page);
        const cached = process.cache.get(page);
        if (cached !== undefined) {
          same(entry?.pfn, cached.pfn);
          must(!cached.writable || entry?.writable === true, 'a stale permission');
        }
        if (entry === null) continue;
        must(model !== undefined, 'an entry without a mapping');
        must(model.protection !== 0, 'an entry of a page without permission');
        same(entry.user, true);
        same(entry.executable, (model.protection & X) !== 0);
        must(!entry.writable || (model.protection & W) !== 0, 'a writable entry of a read-only page');
        const cell = this.peek(model);
        same(firstByte(kernel, entry.pfn), cell?.value ?? 0);
        const use = mapped.get(entry.pfn) ?? { count: 0, writable: 0 };
        use.count++;
        if (entry.writable && !model.shared) use.writable++;
        mapped.set(entry.pfn, use);
        for (const pin of this.pins) {
          const at = cell === null ? -1 : pin.cells.indexOf(cell);
          if (at >= 0) same(entry.pfn, pin.runs.at(at));
        }
      }
    }
    for (const [pfn, { count, writable }] of mapped) {
      must(processes.counts.mapCount(pfn) >= count, 'a mapping that is not counted');
      if (writable > 0) same(count, 1);
    }
    const pinned = new Map<number, number>();
    for (const { runs, cells } of this.pins) {
      cells.forEach((cell, index) => {
        const pfn = runs.at(index);
        same(firstByte(kernel, pfn), cell.value);
        pinned.set(pfn, (pinned.get(pfn) ?? 0) + 1);
      });
    }
    for (const [pfn, count] of pinned) same(processes.counts.pinCount(pfn), count);
    same(
      processes.counts.pinned,
      [...pinned.values()].reduce((sum, count) => sum + count, 0),
    );
    for (const process of this.live) {
      const own = this.pins.filter((pin) => pin.process === process).reduce((sum, pin) => sum + pin.cells.length, 0);
      same(process.real.addressSpace.pinnedPages, own);
    }
  }

  private peek(page: ModelPage): Cell | null {
    if (page.own !== null) return page.own;
    return page.file?.cells.get(page.index) ?? null;
  }

  finish(pinsFirst: boolean): void {
    const unpinAll = (): void => {
      for (const { process, runs } of this.pins.splice(0)) process.real.addressSpace.unpin(runs, true);
    };
    if (pinsFirst) unpinAll();
    for (const { real } of this.live.splice(0)) real.exit();
    for (const { real } of this.files) real.close();
    this.check();
    unpinAll();
    expect(this.processes.counts.pinned).toBe(0);
    expect(this.kernel.frames.allocated).toBe(this.start);
  }
}

type Step = {
  kind: string;
  process: number;
  page: number;
  length: number;
  protection: number;
  target: number;
  file: number;
  value: number;
  flag: boolean;
};

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom(
    ...['anon', 'file', 'unmap', 'protect', 'remap', 'read', 'write', 'write', 'write', 'write', 'fault', 'fault'],
    ...['fault', 'pin', 'pin', 'pin', 'unpin', 'fork', 'fork', 'exit', 'resize'],
  ),
  process: fc.nat(7),
  page: fc.nat(PAGES - 1),
  length: fc.integer({ min: 1, max: 6 }),
  protection: fc.constantFrom(R, R | W, R | W, R | W, R | X, 0, R | W | X),
  target: fc.nat(PAGES - 1),
  file: fc.nat(1),
  value: fc.integer({ min: 1, max: 255 }),
  flag: fc.boolean(),
});

/** Every kind of memory, to begin with. */
const common = { process: 0, length: 12, protection: R | W, target: 0, value: 4 };
const opening: Step[] = [
  { ...common, kind: 'anon', page: 0, file: 0, flag: false },
  { ...common, kind: 'file', page: 12, file: 0, flag: false },
  { ...common, kind: 'file', page: 18, file: 1, flag: true },
];

function refused(action: () => void): string | null {
  try {
    action();
    return null;
  } catch (error) {
    if (error instanceof SysError) return error.code;
    throw error;
  }
}

/** `expect` is too slow for what is checked after every step. */
function must(holds: boolean, otherwise: string): asserts holds {
  if (!holds) throw new Error(otherwise);
}

function same<T>(actual: T, expected: T): void {
  if (actual !== expected) throw new Error(`${actual} where the model has ${expected}`);
}

function pagesIn(from: number, length: number): number[] {
  return Array.from({ length: Math.min(length, PAGES - from) }, (_, i) => from + i);
}

function run(model: Model, s: Step): void {
  const process = model.live[s.process % Math.max(1, model.live.length)];
  if (process === undefined) return;
  const memory = process.real.memory!;
  const pages = pagesIn(s.page, s.length);
  const bytes = pages.length * PAGE;
  const at = address(s.page);
  switch (s.kind) {
    case 'anon':
    case 'file': {
      const file = s.kind === 'file' ? model.files[s.file]! : null;
      const shared = file !== null && s.flag;
      const options = file === null ? {} : { backing: file.real, offset: (s.value & 3) * PAGE, shared };
      memory.map({ address: at, length: bytes, protection: s.protection, replace: true, ...options });
      pages.forEach((page, i) => {
        process.pages.set(page, { protection: s.protection, shared, file, index: (s.value & 3) + i, own: null });
      });
      break;
    }
    case 'unmap':
      memory.unmap(at, bytes);
      for (const page of pages) process.pages.delete(page);
      break;
    case 'protect': {
      const code = refused(() => memory.protect(at, bytes, s.protection));
      expect(code).toBe(pages.every((page) => process.pages.has(page)) ? null : 'ENOMEM');
      if (code === null) for (const page of pages) process.pages.get(page)!.protection = s.protection;
      break;
    }
    case 'remap': {
      const targets = pagesIn(s.target, s.length);
      const overlap = targets.some((page) => pages.includes(page));
      if (targets.length !== pages.length) break;
      const code = refused(() => memory.remap(at, bytes, address(s.target)));
      const whole = pages.every((page) => process.pages.has(page));
      expect(code).toBe(overlap ? 'EINVAL' : whole ? null : 'EFAULT');
      if (code !== null) break;
      pages.forEach((page, i) => {
        process.pages.set(targets[i]!, process.pages.get(page)!);
        process.pages.delete(page);
      });
      break;
    }
    case 'read':
    case 'write': {
      const write = s.kind === 'write';
      const buffer = new Uint8Array(PAGE * (pages.length - 1) + 1).fill(s.value);
      const cells: (Cell | null)[] = [];
      // The pages before the one that is refused have been faulted in, and copied.
      for (const page of pages) {
        cells.push(model.access(process, page, write ? W : R, false));
        if (cells[cells.length - 1] === null) break;
      }
      const allowed = !cells.includes(null);
      const code = refused(() => (write ? memory.write(at, buffer) : memory.read(at, buffer)));
      expect(code).toBe(allowed ? null : 'EFAULT');
      if (!allowed) break;
      if (write) for (const cell of cells) cell!.value = s.value;
      else expect(cells.map((_, i) => buffer[i * PAGE])).toEqual(cells.map((cell) => cell!.value));
      break;
    }
    case 'fault': {
      const access = s.protection | (s.flag ? W : R);
      const cell = model.access(process, s.page, access, false);
      expect(memory.handleFault(at + BigInt(s.value), access)).toBe(cell !== null);
      const entry = walk(model.kernel, memory, at);
      if (cell === null || entry === null) break;
      process.cache.set(s.page, { pfn: entry.pfn, writable: entry.writable });
      if ((access & W) === 0) break;
      expect(entry.writable).toBe(true);
      model.kernel.memory.store(BigInt(entry.pfn) * BigInt(PAGE), 1, BigInt(s.value));
      cell.value = s.value;
      break;
    }
    case 'pin': {
      const cells: Cell[] = [];
      for (const page of pages) {
        const cell = model.access(process, page, s.flag ? W : R, true);
        if (cell === null) break;
        cells.push(cell);
      }
      const runs = new PfnRuns();
      const code = refused(() => expect(memory.pin(at, pages.length, s.flag, runs)).toBe(cells.length));
      expect(code).toBe(cells.length === 0 ? 'EFAULT' : null);
      expect(runs.pages).toBe(cells.length);
      if (code === null) model.pins.push({ process, runs, cells });
      break;
    }
    case 'unpin': {
      const [pin] = model.pins.splice(s.value % Math.max(1, model.pins.length), 1);
      pin?.process.real.addressSpace.unpin(pin.runs, s.flag);
      break;
    }
    case 'fork': {
      if (model.live.length >= 4) break;
      const copies = new Map<number, ModelPage>();
      for (const [page, original] of process.pages) {
        copies.set(page, { ...original, own: original.own === null ? null : { ...original.own } });
      }
      model.adopt(model.processes.fork(process.real), copies);
      break;
    }
    case 'exit':
      if (s.value > 64) break;
      model.live.splice(model.live.indexOf(process), 1);
      process.real.exit();
      break;
    case 'resize': {
      const file = model.files[s.file]!;
      file.pages = s.length;
      file.real.resize(s.length * PAGE);
      for (const index of [...file.cells.keys()]) if (index >= file.pages) file.cells.delete(index);
      for (const { pages: mapped } of model.live) {
        for (const page of mapped.values()) if (page.file === file && page.index >= file.pages) page.own = null;
      }
      break;
    }
  }
}

test('random use of memory agrees with a map of pages, keeps pinned frames and loses none', () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 30, maxLength: 100 }), fc.boolean(), (steps, pinsFirst) => {
      const model = new Model();
      for (const s of opening) run(model, s);
      for (const s of steps) {
        run(model, s);
        model.check();
      }
      model.finish(pinsFirst);
    }),
    { numRuns: 120 },
  );
});
