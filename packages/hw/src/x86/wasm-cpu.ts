/**
 * The x86-64 core of ../../core behind the GuestCpu interface: gives it storage in the machine's memory, its map of
 * guest frames, and the outside world. One WebAssembly instance per core.
 */

import type { AccessWidth } from '../memory/mmio.ts';
import { FRAME_HAS_CODE, type PhysicalMemory } from '../memory/physical-memory.ts';
import { hex, toU64, type U64 } from '../u64.ts';
import { coreModule } from './core.wasm.ts';
import type { CpuBus, CpuExit, CpuRegisters, GuestCpu, InterruptSource } from './guest-cpu.ts';

/** The exports of core/index.ts. 64-bit values are bigints, signed on the way out. */
type Core = {
  storageSize(): number;
  directOffset(): number;
  initialize(
    base: number,
    map: number,
    mapFrames: number,
    frameFlags: number,
    physicalBits: number,
    apicId: number,
  ): void;
  reset(rip: bigint, cr3: bigint, rsp: bigint, rdi: bigint, rsi: bigint): void;
  getSpecial(which: number): bigint;
  setSpecial(which: number, value: bigint): void;
  requestExit(): void;
  flush(): void;
  frameWritten(pfn: number): void;
  probe(address: bigint, access: number, user: number): bigint;
  run(limit: number): number;
};

/** Order of core/index.ts, enum Special. */
const SPECIAL = ['rip', 'rflags', 'cr0', 'cr2', 'cr3', 'cr4', 'cr8', 'efer'] as const;
const SPECIAL_CPL = 8;
const SPECIAL_RETIRED = 9;
const SPECIAL_TSC_OFFSET = 10;
const SPECIAL_PASID = 11;

/** Order of core/state.ts, enum Exit. */
const EXITS: readonly CpuExit[] = ['budget', 'halt', 'dead', 'requested', 'triple-fault', 'pasid'];

const ACCESSES = { read: 0, write: 1, execute: 2 } as const;

export type WasmCpuOptions = {
  /** The machine's memory: RAM behind the guest frames, and room for the core's own storage (`reserve`). */
  memory: PhysicalMemory;
  bus: CpuBus;
  interrupts: InterruptSource;
  /** Frames of the guest frame map: mapMemory takes guest frames below it. Each costs four reserved bytes. */
  guestFrames: number;
  /** MAXPHYADDR, 36..52; 52 by default. Higher address bits are reserved in paging entries. */
  physicalAddressBits?: number;
  /** Initial APIC id that CPUID tells, 0..254; 0, the bootstrap processor, by default. */
  apicId?: number;
};

/** What `translate` found. */
export type TranslationResult =
  | { readonly gpa: bigint }
  /** Error code of the page fault, or null for an address that is not canonical. */
  | { readonly errorCode: number | null };

let compiled: WebAssembly.Module | null = null;

/** Reserved storage of disposed cores, by size, for the next cores of the same memory. */
const pools: WeakMap<PhysicalMemory, Map<number, number[]>> = new WeakMap();

function freeStorage(memory: PhysicalMemory, size: number): number[] {
  let bySize = pools.get(memory);
  if (bySize === undefined) pools.set(memory, (bySize = new Map()));
  let offsets = bySize.get(size);
  if (offsets === undefined) bySize.set(size, (offsets = []));
  return offsets;
}

/** Zeroed storage of `size` bytes. @throws {RangeError} when the memory's reserved storage is used up */
function takeStorage(memory: PhysicalMemory, size: number): number {
  const offset = freeStorage(memory, size).pop() ?? memory.reserve(size, 4096);
  memory.bytes.fill(0, offset, offset + size);
  return offset;
}

/** The module is compiled once for all cores. */
function compile(): WebAssembly.Module {
  if (compiled === null) {
    const text = atob(coreModule);
    const bytes = new Uint8Array(text.length);
    for (let index = 0; index < text.length; index++) bytes[index] = text.charCodeAt(index);
    compiled = new WebAssembly.Module(bytes);
  }
  return compiled;
}

export class WasmCpu implements GuestCpu {
  private readonly memory: PhysicalMemory;
  private readonly core: Core;
  private readonly map: Uint32Array;
  /** The sixteen general registers, where the core keeps them. */
  private readonly gpr: BigUint64Array;
  private pasids: ReadonlyMap<number, number> | null = null;
  private running = false;
  private disposed = false;
  /** The next ENQCMD without an entry ends with Retry. */
  private refusing = false;
  /** CR8 where the interrupt source has no task priority. */
  private taskPriority = 0;

  constructor(options: WasmCpuOptions) {
    const { memory, bus, interrupts, guestFrames, physicalAddressBits = 52, apicId = 0 } = options;
    if (!(physicalAddressBits >= 36 && physicalAddressBits <= 52)) {
      throw new RangeError(`not a physical address width: ${physicalAddressBits}`);
    }
    this.memory = memory;
    const direct: { data: Uint8Array } = { data: memory.bytes.subarray(0, 0) };
    const address = (gpa: bigint): bigint => BigInt.asUintN(64, gpa);
    const host = {
      readBus: (gpa: bigint, width: number) => bus.readMmio(address(gpa), width as AccessWidth),
      writeBus: (gpa: bigint, width: number, value: bigint) =>
        bus.writeMmio(address(gpa), width as AccessWidth, BigInt.asUintN(width * 8, value)),
      storeDirect: (gpa: bigint) => bus.store64(address(gpa), direct.data),
      enqueueDirect: (gpa: bigint) => (bus.enqueue64(address(gpa), direct.data) ? 1 : 0),
      readPort: (port: number, width: number) => bus.readPort(port, width as 1 | 2 | 4),
      writePort: (port: number, width: number, value: number) =>
        bus.writePort(port, width as 1 | 2 | 4, width === 4 ? value >>> 0 : value & (width === 2 ? 0xffff : 0xff)),
      pendingInterrupt: () => interrupts.pending(),
      acknowledgeInterrupt: (vector: number) => interrupts.acknowledge(vector),
      readTaskPriority: () => interrupts.taskPriority ?? this.taskPriority,
      writeTaskPriority: (priority: number) => {
        this.taskPriority = priority;
        if (interrupts.taskPriority !== undefined) interrupts.taskPriority = priority;
      },
      noteWrite: (pfn: number) => memory.noteWrite(pfn),
      translatePasid: (pasid: number) => this.translatePasid(pasid),
    };
    const instance = new WebAssembly.Instance(compile(), { env: { memory: memory.wasm }, host });
    this.core = instance.exports as unknown as Core;
    const base = takeStorage(memory, this.core.storageSize());
    const map = takeStorage(memory, guestFrames * 4);
    this.map = new Uint32Array(memory.wasm.buffer, map, guestFrames);
    this.gpr = new BigUint64Array(memory.wasm.buffer, base, 16);
    const directStart = base + this.core.directOffset();
    direct.data = memory.bytes.subarray(directStart, directStart + 64);
    this.core.initialize(base, map, guestFrames, memory.frameFlagsOffset, physicalAddressBits, apicId);
    // Another core may have taken the flag away already: each looks for blocks of its own.
    memory.onFlaggedWrite((pfn) => {
      if (!this.disposed) this.core.frameWritten(pfn);
      else memory.frameFlags[pfn] = (memory.frameFlags[pfn] as number) & ~FRAME_HAS_CODE;
    });
  }

  get instructions(): bigint {
    return BigInt.asUintN(64, this.core.getSpecial(SPECIAL_RETIRED));
  }

  get faultingPasid(): number {
    return Number(this.core.getSpecial(SPECIAL_PASID));
  }

  mapMemory(gfn: number, pfns: ArrayLike<number>, writable: boolean): void {
    this.checkFrames(gfn, pfns.length);
    for (let index = 0; index < pfns.length; index++) {
      const pfn = pfns[index] as number;
      if (!(Number.isInteger(pfn) && pfn >= 0 && pfn < this.memory.ramFrames)) {
        throw new RangeError(`frame ${pfn} is not RAM of this machine`);
      }
    }
    for (let index = 0; index < pfns.length; index++) {
      this.map[gfn + index] = (pfns[index] as number) * 2 + (writable ? 1 : 0) + 2;
    }
    this.core.flush();
  }

  unmapMemory(gfn: number, frames: number): void {
    this.checkFrames(gfn, frames);
    this.map.fill(0, gfn, gfn + frames);
    this.core.flush();
  }

  run(limit: number): CpuExit {
    if (this.running) throw new Error('the core runs already: a bus callback must not run it');
    if (this.disposed) throw new Error('the core has been disposed of');
    if (!(Number.isSafeInteger(limit) && limit >= 0)) throw new RangeError(`not an instruction count: ${limit}`);
    this.running = true;
    try {
      return EXITS[this.core.run(limit)] as CpuExit;
    } finally {
      this.running = false;
    }
  }

  requestExit(): void {
    this.core.requestExit();
  }

  flushTlb(): void {
    this.core.flush();
  }

  setPasidTable(table: ReadonlyMap<number, number> | null): void {
    this.pasids = table;
  }

  refuseCommand(): void {
    this.refusing = true;
  }

  resetToLongMode(state: { rip: bigint; cr3: bigint; rsp: bigint; rdi?: bigint; rsi?: bigint }): void {
    this.taskPriority = 0;
    this.core.reset(state.rip, state.cr3, state.rsp, state.rdi ?? 0n, state.rsi ?? 0n);
  }

  readRegisters(): CpuRegisters {
    const get = (which: number): bigint => BigInt.asUintN(64, this.core.getSpecial(which));
    const [rip, rflags, cr0, cr2, cr3, cr4, cr8, efer] = SPECIAL.map((_, which) => get(which)) as [
      bigint,
      bigint,
      bigint,
      bigint,
      bigint,
      bigint,
      bigint,
      bigint,
    ];
    return { gpr: this.gpr.slice(), rip, rflags, cr0, cr2, cr3, cr4, cr8, efer, cpl: Number(get(SPECIAL_CPL)) };
  }

  writeRegisters(registers: CpuRegisters): void {
    this.gpr.set(registers.gpr);
    SPECIAL.forEach((name, which) => {
      this.core.setSpecial(which, toU64(registers[name]));
    });
    this.core.setSpecial(SPECIAL_CPL, BigInt(registers.cpl));
  }

  /** Moves the time-stamp counter, which otherwise advances by one for each instruction: idle time, for instance. */
  advanceTsc(ticks: U64): void {
    const offset = this.core.getSpecial(SPECIAL_TSC_OFFSET) + toU64(ticks);
    this.core.setSpecial(SPECIAL_TSC_OFFSET, BigInt.asUintN(64, offset));
  }

  /**
   * What an access to `gva` would find: a walk of the current tables that sets accessed and dirty flags and fills the
   * translation cache like any other, but raises nothing.
   */
  translate(gva: U64, access: 'read' | 'write' | 'execute', user: boolean): TranslationResult {
    const result = BigInt.asUintN(64, this.core.probe(toU64(gva), ACCESSES[access], user ? 1 : 0));
    if (result >> 63n !== 0n) return { errorCode: Number(result & 0xffffffffn) };
    return result >> 62n !== 0n ? { errorCode: null } : { gpa: result };
  }

  /** As core/host.ts asks: -1 no entry, -2 the command is refused. */
  private translatePasid(pasid: number): number {
    const translated = this.pasids === null ? pasid : this.pasids.get(pasid);
    if (translated !== undefined) return translated;
    const { refusing } = this;
    this.refusing = false;
    return refusing ? -2 : -1;
  }

  /** Gives the core's reserved storage to the next core of this memory. Nothing may be done with it any more. */
  dispose(): void {
    if (this.disposed) return;
    if (this.running) throw new Error('the core runs: a bus callback must not dispose of it');
    this.disposed = true;
    freeStorage(this.memory, this.core.storageSize()).push(this.gpr.byteOffset);
    freeStorage(this.memory, this.map.byteLength).push(this.map.byteOffset);
  }

  private checkFrames(gfn: number, frames: number): void {
    if (!(Number.isInteger(gfn) && gfn >= 0 && gfn + frames <= this.map.length)) {
      throw new RangeError(`guest frames ${hex(gfn)} + ${frames} are not below ${hex(this.map.length)}`);
    }
  }
}
