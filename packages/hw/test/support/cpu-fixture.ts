/** A small machine around one core: RAM mapped one to one, page tables made by hand, a bus that records. */

import { type AccessWidth, type CpuBus, type InterruptSource, PhysicalMemory, WasmCpu } from '@iommukit/hw';

/** Frames of the guest; guest frame = host frame. */
export const GUEST_FRAMES = 1024;

export const PRESENT = 1n;
export const WRITABLE = 2n;
export const USER = 4n;
export const ACCESSED = 0x20n;
export const DIRTY = 0x40n;
export const LARGE = 0x80n;
export const GLOBAL = 0x100n;
export const NO_EXECUTE = 1n << 63n;

/** Physical addresses of what `CpuFixture` lays out. */
export const PML4 = 0x1000n;
export const GDT = 0x5000n;
export const IDT = 0x6000n;
export const TSS = 0x7000n;
/** Handler stubs: HLT at STUBS + 16 * vector. */
export const STUBS = 0x8000n;
/** Top of the ring-0 stack and of the interrupt stacks IST1 and IST2. */
export const KERNEL_STACK = 0x12000n;
export const IST1_STACK = 0x14000n;
export const IST2_STACK = 0x16000n;
export const CODE = 0x20000n;
export const USER_STACK = 0x32000n;
/** Page tables taken by `map`. */
const FIRST_TABLE = 0x100;

/** Selectors, laid out for SYSCALL and SYSRET. */
export const KERNEL_CS = 0x10;
export const KERNEL_SS = 0x18;
export const USER_CS = 0x33;
export const USER_SS = 0x2b;
export const TSS_SELECTOR = 0x40;

export type BusEvent = { kind: string; address: bigint; width: number; value?: bigint; data?: Uint8Array };

export class RecordingBus implements CpuBus {
  readonly events: BusEvent[] = [];
  read: (gpa: bigint, width: number) => bigint = () => 0n;
  accept: boolean = true;
  onEvent: () => void = () => {};

  readMmio(gpa: bigint, width: AccessWidth): bigint {
    const value = this.read(gpa, width);
    this.note({ kind: 'read', address: gpa, width, value });
    return value;
  }

  writeMmio(gpa: bigint, width: AccessWidth, value: bigint): void {
    this.note({ kind: 'write', address: gpa, width, value });
  }

  store64(gpa: bigint, data: Uint8Array): void {
    this.note({ kind: 'store64', address: gpa, width: 64, data: data.slice() });
  }

  enqueue64(gpa: bigint, data: Uint8Array): boolean {
    this.note({ kind: 'enqueue64', address: gpa, width: 64, data: data.slice() });
    return this.accept;
  }

  readPort(port: number, width: 1 | 2 | 4): number {
    const value = Number(this.read(BigInt(port), width));
    this.note({ kind: 'in', address: BigInt(port), width, value: BigInt(value) });
    return value;
  }

  writePort(port: number, width: 1 | 2 | 4, value: number): void {
    this.note({ kind: 'out', address: BigInt(port), width, value: BigInt(value) });
  }

  private note(event: BusEvent): void {
    this.events.push(event);
    this.onEvent();
  }
}

/** An interrupt controller of one pending vector. */
export class OneInterrupt implements InterruptSource {
  vector = -1;
  readonly taken: number[] = [];

  pending(): number {
    return this.vector;
  }

  acknowledge(vector: number): void {
    this.taken.push(vector);
    this.vector = -1;
  }
}

export type CpuFixtureOptions = { interrupts?: InterruptSource; physicalAddressBits?: number; guestFrames?: number };

export class CpuFixture {
  readonly memory: PhysicalMemory = new PhysicalMemory({ ramBytes: 8 << 20, reservedBytes: 16 << 20 });
  readonly bus: RecordingBus = new RecordingBus();
  readonly interrupts: OneInterrupt = new OneInterrupt();
  readonly cpu: WasmCpu;
  private nextTable = FIRST_TABLE;
  private readonly view: DataView = new DataView(this.memory.wasm.buffer);

  /** A kernel's worth of tables: everything below 4 MiB mapped one to one for both rings, GDT, IDT, TSS. */
  constructor(options: CpuFixtureOptions = {}) {
    const { guestFrames = GUEST_FRAMES, physicalAddressBits } = options;
    this.cpu = new WasmCpu({
      memory: this.memory,
      bus: this.bus,
      interrupts: options.interrupts ?? this.interrupts,
      guestFrames,
      ...(physicalAddressBits === undefined ? {} : { physicalAddressBits }),
    });
    this.cpu.mapMemory(
      0,
      Array.from({ length: guestFrames }, (_, index) => index),
      true,
    );
    for (let frame = 0n; frame < 0x80n; frame++) this.map(frame << 12n, (frame << 12n) | USER | WRITABLE | PRESENT);
    this.buildGdt();
    for (let vector = 0; vector < 256; vector++) {
      this.memory.bytes[Number(STUBS) + 16 * vector] = 0xf4;
      this.setGate(vector, STUBS + 16n * BigInt(vector));
    }
    this.write64(TSS + 4n, KERNEL_STACK);
    this.write64(TSS + 36n, IST1_STACK);
    this.write64(TSS + 44n, IST2_STACK);
    this.view.setUint16(Number(TSS) + 102, 104, true);
  }

  /** Another core of the same machine, with the same view of its memory. */
  secondCore(): WasmCpu {
    const cpu = new WasmCpu({
      memory: this.memory,
      bus: this.bus,
      interrupts: new OneInterrupt(),
      guestFrames: GUEST_FRAMES,
    });
    cpu.mapMemory(
      0,
      Array.from({ length: GUEST_FRAMES }, (_, index) => index),
      true,
    );
    return cpu;
  }

  /** Starts `code` at CODE: in ring 0 with tables loaded, RSP on the kernel stack. */
  start(code: ArrayLike<number>, where: bigint = CODE): void {
    this.load(where, code);
    this.reset(where);
  }

  load(where: bigint, code: ArrayLike<number>): void {
    this.memory.write(where, Uint8Array.from(code));
  }

  reset(rip: bigint): void {
    const setup = [
      ...[0x0f, 0x01, 0x17], // lgdt [rdi]
      ...[0x0f, 0x01, 0x1e], // lidt [rsi]
      ...[0x66, 0xb8, TSS_SELECTOR, 0x00, 0x0f, 0x00, 0xd8], // mov ax, TSS; ltr ax
      ...[0x66, 0xb8, KERNEL_SS, 0x00, 0x8e, 0xd0], // mov ax, SS; mov ss, ax
      ...[0x6a, KERNEL_CS, 0x68, 0x30, 0x40, 0x00, 0x00, 0x48, 0xcb], // push CS; push 0x4030; lretq
    ];
    this.load(0x4000n, setup);
    this.view.setUint16(0x4080, 0x4f, true);
    this.write64(0x4082n, GDT);
    this.view.setUint16(0x4090, 0xfff, true);
    this.write64(0x4092n, IDT);
    // LTR refuses a busy TSS.
    this.memory.bytes[Number(GDT) + TSS_SELECTOR + 5] = 0x89;
    this.cpu.resetToLongMode({ rip: 0x4000n, cr3: PML4, rsp: KERNEL_STACK, rdi: 0x4080n, rsi: 0x4090n });
    this.cpu.run(9);
    const registers = this.cpu.readRegisters();
    if (registers.rip !== 0x4030n) throw new Error(`set-up ended at ${registers.rip.toString(16)}`);
    registers.gpr.fill(0n);
    registers.gpr[4] = KERNEL_STACK;
    registers.rip = rip;
    registers.rflags = 2n;
    this.cpu.writeRegisters(registers);
  }

  /** Continues in ring 3 at `rip`. */
  enterUser(rip: bigint): void {
    const registers = this.cpu.readRegisters();
    registers.rip = rip;
    registers.cpl = 3;
    registers.gpr[4] = USER_STACK;
    this.cpu.writeRegisters(registers);
  }

  /** Sets the 4 KiB entry of `gva`; upper levels allow everything. */
  map(gva: bigint, entry: bigint): void {
    this.write64(this.entryAddress(gva, 0), entry);
  }

  /** Physical address of the entry of `gva` at `level`, making the tables above it. */
  entryAddress(gva: bigint, level: number): bigint {
    let table = PML4;
    for (let at = 3; ; at--) {
      const address = table + 8n * ((gva >> BigInt(12 + 9 * at)) & 511n);
      if (at === level) return address;
      let entry = this.read64(address);
      if ((entry & PRESENT) === 0n) {
        entry = (BigInt(this.nextTable++) << 12n) | USER | WRITABLE | PRESENT;
        this.write64(address, entry);
      }
      table = entry & 0x000f_ffff_ffff_f000n;
    }
  }

  setGate(
    vector: number,
    target: bigint,
    options: { ist?: number; dpl?: number; trap?: boolean; present?: boolean; cs?: number } = {},
  ): void {
    const { ist = 0, dpl = 0, trap = false, present = true, cs = KERNEL_CS } = options;
    const type = BigInt((present ? 0x80 : 0) | (dpl << 5) | (trap ? 15 : 14));
    const low =
      (target & 0xffffn) | (BigInt(cs) << 16n) | (BigInt(ist) << 32n) | (type << 40n) | ((target & 0xffff0000n) << 32n);
    this.write64(IDT + 16n * BigInt(vector), low);
    this.write64(IDT + 16n * BigInt(vector) + 8n, target >> 32n);
  }

  read64(address: bigint): bigint {
    return this.view.getBigUint64(Number(address), true);
  }

  write64(address: bigint, value: bigint): void {
    this.memory.store(address, 8, BigInt.asUintN(64, value));
  }

  /** The stack frame that the last exception pushed: error code (when there is one), RIP, CS, RFLAGS, RSP, SS. */
  frame(hasError: boolean): { error: bigint; rip: bigint; cs: bigint; rflags: bigint; rsp: bigint; ss: bigint } {
    let at = this.cpu.readRegisters().gpr[4] as bigint;
    const pop = (): bigint => {
      const value = this.read64(at);
      at += 8n;
      return value;
    };
    const error = hasError ? pop() : 0n;
    return { error, rip: pop(), cs: pop(), rflags: pop(), rsp: pop(), ss: pop() };
  }

  /** The vector whose stub halted, or -1. */
  haltedVector(): number {
    const rip = this.cpu.readRegisters().rip - 1n;
    return rip >= STUBS && rip < STUBS + 4096n ? Number((rip - STUBS) >> 4n) : -1;
  }

  private buildGdt(): void {
    const entries = [
      0n,
      0n,
      0x00af9b000000ffffn, // 0x10 ring-0 code
      0x00cf93000000ffffn, // 0x18 ring-0 data
      0x00cffb000000ffffn, // 0x20 ring-3 32-bit code
      0x00cff3000000ffffn, // 0x28 ring-3 data
      0x00affb000000ffffn, // 0x30 ring-3 code
      0n,
      0x0000890000000067n | (TSS << 16n), // 0x40 TSS
      0n,
    ];
    entries.forEach((entry, index) => {
      this.write64(GDT + 8n * BigInt(index), entry);
    });
  }
}

/** MOV r64, imm64 of general register `register`. */
export function movImmediate(register: number, value: bigint): number[] {
  const bytes = Array.from({ length: 8 }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
  return [0x48 | (register >> 3), 0xb8 | (register & 7), ...bytes];
}

export const RAX = 0;
export const RCX = 1;
export const RDX = 2;
export const RBX = 3;
export const RSP = 4;
export const RSI = 6;
export const RDI = 7;
export const R11 = 11;

export const HLT = 0xf4;

/** WRMSR of `value`. */
export function writeMsr(index: number, value: bigint): number[] {
  return [
    ...movImmediate(RCX, BigInt(index)),
    ...movImmediate(RAX, value & 0xffffffffn),
    ...movImmediate(RDX, value >> 32n),
    0x0f,
    0x30,
  ];
}
