/**
 * A function that does DMA of any kind on command: for tests of isolation, faults and virtual functions.
 *
 * It is nobody's product: vendor 0x696f is not assigned by the PCI-SIG as of the pci.ids list of 2026, device 1 is the
 * PF and 2 its VFs. The PF has ATS, PASID (20 bits, execute, privileged), PRI, MSI-X, SR-IOV and, if asked for, SIOV; a
 * VF has ATS and MSI-X, and shares PASID and PRI with its PF. BAR 0 of each is 64-bit and 64 KiB:
 *
 *   0x0000  registers, 32 bits each; 64-bit accesses take two, narrower writes are ignored
 *     00 IDENTITY  ro  0x54534554
 *     04 STATUS    ro  bit 0 busy, bit 1 virtual function
 *     08 COMMAND   rw  a write starts a command, unless one is under way
 *                      3:0 operation: 0 none, 1 read memory into the buffer, 2 write the buffer to memory,
 *                          3 translation request, 4 page request, 5 stop marker, 6 interrupt
 *                      5:4 addressing: 0 untranslated, 1 through the translation cache, 2 ADDRESS is translated
 *                      6 send PASID; 7 privileged; 8 execute; 9 write access wanted (operations 3 and 4)
 *                      10 page request for a denied translation, then retry; 11 interrupt when done
 *     0c PASID     rw  20 bits
 *     10 ADDRESS   rw  64 bits
 *     18 LENGTH    rw  bytes to move
 *     1c BUFFER    rw  where in the buffer
 *     20 VECTOR    rw  MSI-X vector of operation 6 and of completion interrupts
 *     24 CONTROL   rw  bit 0: do not answer ATS invalidation requests
 *     30 RESULT    ro  completion status, or 16 translation denied, 32 refused (operation, range, or not allowed now)
 *     34 BYTES     ro  bytes moved
 *     38 FAULT     ro  64 bits, address of the first byte not moved
 *     40 GRANTED   ro  ACCESS_ bits of operation 3
 *     44 RESPONSE  ro  code of the last page-group response, all-ones before the first
 *     48 FRAME     ro  64 bits, address of the page that operation 3 translated to
 *     50 REQUESTS  ro  page requests sent since reset
 *   0x1000  MSI-X table, 8 vectors
 *   0x2000  MSI-X pending bits
 *   0x8000  the buffer, 32 KiB
 */

import type { AccessWidth, MmioHandler } from '../memory/mmio.ts';
import type { PhysicalMemory } from '../memory/physical-memory.ts';
import { AtsCapability } from '../pci/capabilities/ats.ts';
import { MsixCapability } from '../pci/capabilities/msix.ts';
import { PageRequestInterface } from '../pci/capabilities/page-request.ts';
import { PasidCapability } from '../pci/capabilities/pasid.ts';
import { ExpressCapability } from '../pci/capabilities/pci-express.ts';
import { SiovCapability } from '../pci/capabilities/siov.ts';
import { SriovCapability } from '../pci/capabilities/sriov.ts';
import { PciFunction } from '../pci/function.ts';
import {
  ACCESS_EXECUTE,
  ACCESS_PRIVILEGED,
  ACCESS_READ,
  ACCESS_WRITE,
  COMPLETION_SUCCESS,
  NO_PASID,
  PRG_SUCCESS,
} from '../pci/transaction.ts';
import { AT_CACHED, TRANSLATION_DENIED } from '../pci/upstream-port.ts';
import type { ScheduledEvent, Scheduler } from '../scheduler.ts';
import { addressHigh, addressLow, joinU64, pageHigh, pageLow, splitHigh, splitLow } from '../u64.ts';

export const TEST_VENDOR_ID = 0x696f;
export const TEST_DEVICE_ID = 1;
export const TEST_VF_DEVICE_ID = 2;

/** Offsets in BAR 0. */
export const TEST_REGISTER = {
  identity: 0x00,
  status: 0x04,
  command: 0x08,
  pasid: 0x0c,
  address: 0x10,
  length: 0x18,
  bufferOffset: 0x1c,
  vector: 0x20,
  control: 0x24,
  result: 0x30,
  bytes: 0x34,
  fault: 0x38,
  granted: 0x40,
  response: 0x44,
  frame: 0x48,
  requests: 0x50,
  msixTable: 0x1000,
  msixPending: 0x2000,
  buffer: 0x8000,
} as const;
export const TEST_BUFFER_SIZE = 0x8000;
export const TEST_BAR_SIZE = 0x10000;

/** COMMAND: one operation, at most one addressing (untranslated without), and any of the flags. */
export const TEST_COMMAND = {
  read: 1,
  write: 2,
  translate: 3,
  pageRequest: 4,
  stopMarker: 5,
  interrupt: 6,
  cached: 0x10,
  translated: 0x20,
  withPasid: 0x40,
  privileged: 0x80,
  execute: 0x100,
  wantWrite: 0x200,
  pageRequestOnDenial: 0x400,
  interruptWhenDone: 0x800,
} as const;

export const TEST_STATUS_BUSY = 1;
export const TEST_STATUS_VIRTUAL = 2;
export const TEST_CONTROL_WITHHOLD = 1;
/** RESULT of a command that was not carried out. */
export const TEST_RESULT_REFUSED = 32;

const IDENTITY_VALUE = 0x54534554;
const REGISTER_BYTES = 0x54;
const VECTORS = 8;
const CLASS_CODE = 0xff0000;
/** Nanoseconds from a command, or from a page response, to the transfer. */
const LATENCY = 100;
/** Page requests of one command: enough for each page of the buffer, few enough to end. */
const MAX_RETRIES = 16;

export type TestFunctionOptions = {
  memory: PhysicalMemory;
  scheduler: Scheduler;
  /** VFs at most; 4 by default, 0 leaves out SR-IOV. */
  totalVfs?: number;
  /** Page requests that PF and VFs can have outstanding; 32 by default, 0 leaves out PRI. */
  pageRequests?: number;
  /** The PF has the SIOV capability; false by default. */
  siov?: boolean;
};

type VirtualOptions = {
  readonly pf: TestFunction;
  /** Byte offset of the VF's buffer in `PhysicalMemory.bytes`. */
  readonly buffer: number;
};

export class TestFunction extends PciFunction {
  private readonly memory: PhysicalMemory;
  private readonly scheduler: Scheduler;
  private readonly registers = new Int32Array(REGISTER_BYTES / 4);
  private readonly buffer: number;
  private readonly interrupts: MsixCapability;
  private event: ScheduledEvent | null = null;
  private retries = 0;

  constructor(options: TestFunctionOptions, virtual: VirtualOptions | null = null) {
    super({
      vendorId: TEST_VENDOR_ID,
      deviceId: virtual === null ? TEST_DEVICE_ID : TEST_VF_DEVICE_ID,
      subsystemVendorId: TEST_VENDOR_ID,
      subsystemId: 1,
      classCode: CLASS_CODE,
      ...(virtual === null ? {} : { physicalFunction: virtual.pf }),
    });
    const { memory, scheduler, totalVfs = 4, pageRequests = 32 } = options;
    this.memory = memory;
    this.scheduler = scheduler;
    this.buffer = virtual?.buffer ?? memory.reserve((1 + totalVfs) * TEST_BUFFER_SIZE);
    this.addBar(0, { size: TEST_BAR_SIZE, handler: this.handler() });
    this.add(new ExpressCapability());
    this.interrupts = this.add(
      new MsixCapability({
        vectors: VECTORS,
        bar: 0,
        tableOffset: TEST_REGISTER.msixTable,
        pendingOffset: TEST_REGISTER.msixPending,
      }),
    );
    this.add(new AtsCapability());
    if (virtual === null) {
      this.add(new PasidCapability({ width: 20, execute: true, privileged: true }));
      if (pageRequests > 0) this.add(new PageRequestInterface({ capacity: pageRequests }));
      if (totalVfs > 0) this.add(new SriovCapability(this.virtualFunctions(options, totalVfs)));
      if (options.siov ?? false) this.add(new SiovCapability());
    }
    this.onReset();
  }

  protected override onReset(): void {
    if (this.event !== null) this.scheduler.cancel(this.event);
    this.event = null;
    this.answersInvalidations = true;
    this.memory.bytes.fill(0, this.buffer, this.buffer + TEST_BUFFER_SIZE);
    this.registers.fill(0);
    this.set(TEST_REGISTER.identity, IDENTITY_VALUE);
    this.set(TEST_REGISTER.status, this.physicalFunction === null ? 0 : TEST_STATUS_VIRTUAL);
    this.set(TEST_REGISTER.response, -1);
  }

  private virtualFunctions(
    options: TestFunctionOptions,
    totalVfs: number,
  ): ConstructorParameters<typeof SriovCapability>[0] {
    return {
      totalVfs,
      deviceId: TEST_VF_DEVICE_ID,
      bars: [{ index: 0, size: TEST_BAR_SIZE }],
      create: (index) => new TestFunction(options, { pf: this, buffer: this.buffer + (1 + index) * TEST_BUFFER_SIZE }),
    };
  }

  private get(register: number): number {
    return this.registers[register >> 2]!;
  }

  private set(register: number, value: number): void {
    this.registers[register >> 2] = value;
  }

  private start(): void {
    if ((this.get(TEST_REGISTER.status) & TEST_STATUS_BUSY) !== 0) return;
    this.set(TEST_REGISTER.status, this.get(TEST_REGISTER.status) | TEST_STATUS_BUSY);
    this.retries = 0;
    this.later();
  }

  private later(): void {
    this.event = this.scheduler.schedule(LATENCY, () => this.run());
  }

  private run(): void {
    this.event = null;
    this.set(TEST_REGISTER.bytes, 0);
    const operation = this.get(TEST_REGISTER.command) & 0xf;
    if (operation === TEST_COMMAND.read || operation === TEST_COMMAND.write) this.transfer();
    else if (operation === TEST_COMMAND.translate) this.translate();
    else if (operation === TEST_COMMAND.pageRequest) {
      if (!this.requestPage(this.get(TEST_REGISTER.address), this.get(TEST_REGISTER.address + 4), this.wanted()))
        this.refuse();
    } else if (operation === TEST_COMMAND.stopMarker) {
      if (this.pri?.stopMarker(this, this.wirePasid())) this.finish(COMPLETION_SUCCESS);
      else this.refuse();
    } else if (operation === TEST_COMMAND.interrupt) {
      this.interrupts.raise(this.get(TEST_REGISTER.vector));
      this.finish(COMPLETION_SUCCESS);
    } else if (operation === 0) this.finish(COMPLETION_SUCCESS);
    else this.refuse();
  }

  private transfer(): void {
    const command = this.get(TEST_REGISTER.command);
    const addressing = (command >> 4) & 3;
    const length = this.get(TEST_REGISTER.length) >>> 0;
    const start = this.get(TEST_REGISTER.bufferOffset) >>> 0;
    if (start + length > TEST_BUFFER_SIZE || addressing === 3) {
      this.refuse();
      return;
    }
    const port = this.upstream;
    const pasid = this.wirePasid();
    const modifiers = this.modifiers();
    const at = this.buffer + start;
    const lo = this.get(TEST_REGISTER.address);
    const hi = this.get(TEST_REGISTER.address + 4);
    const reads = (command & 0xf) === TEST_COMMAND.read;
    const status = reads
      ? port.read(addressing, pasid, modifiers, lo, hi, length, at)
      : port.write(addressing, pasid, modifiers, lo, hi, length, at);
    const { transferred, faultLow, faultHigh } = port;
    this.set(TEST_REGISTER.bytes, transferred);
    if (status !== COMPLETION_SUCCESS) {
      this.set(TEST_REGISTER.fault, faultLow);
      this.set(TEST_REGISTER.fault + 4, faultHigh);
    }
    if (
      status === TRANSLATION_DENIED &&
      addressing === AT_CACHED &&
      (command & TEST_COMMAND.pageRequestOnDenial) !== 0 &&
      this.retries++ < MAX_RETRIES &&
      this.requestPage(faultLow, faultHigh, modifiers | (reads ? ACCESS_READ : ACCESS_WRITE))
    ) {
      return;
    }
    this.finish(status);
  }

  private translate(): void {
    const lo = this.get(TEST_REGISTER.address);
    const hi = this.get(TEST_REGISTER.address + 4);
    const port = this.upstream;
    const status = port.requestTranslation(this.wirePasid(), this.wanted(), pageHigh(hi), pageLow(lo, hi));
    this.set(TEST_REGISTER.granted, port.granted);
    const low = port.pfn < 0 ? 0 : splitLow(port.pfn);
    const high = port.pfn < 0 ? 0 : splitHigh(port.pfn);
    this.set(TEST_REGISTER.frame, addressLow(low));
    this.set(TEST_REGISTER.frame + 4, addressHigh(low, high));
    this.finish(status);
  }

  /** Sends a page request; its response goes on with the command. False when it cannot be sent. */
  private requestPage(lo: number, hi: number, access: number): boolean {
    const pri = this.pri;
    if (pri === null) return false;
    const group = pri.request(this, this.wirePasid(), access, pageHigh(hi), pageLow(lo, hi), (code) => {
      this.set(TEST_REGISTER.response, code);
      if ((this.get(TEST_REGISTER.command) & 0xf) === TEST_COMMAND.pageRequest) this.finish(COMPLETION_SUCCESS);
      else if (code === PRG_SUCCESS) this.later();
      else this.finish(TRANSLATION_DENIED);
    });
    if (group < 0) return false;
    this.set(TEST_REGISTER.requests, this.get(TEST_REGISTER.requests) + 1);
    return true;
  }

  private refuse(): void {
    this.finish(TEST_RESULT_REFUSED);
  }

  private finish(result: number): void {
    this.set(TEST_REGISTER.result, result);
    this.set(TEST_REGISTER.status, this.get(TEST_REGISTER.status) & ~TEST_STATUS_BUSY);
    if ((this.get(TEST_REGISTER.command) & TEST_COMMAND.interruptWhenDone) !== 0)
      this.interrupts.raise(this.get(TEST_REGISTER.vector));
  }

  private wirePasid(): number {
    return (this.get(TEST_REGISTER.command) & TEST_COMMAND.withPasid) === 0 ? NO_PASID : this.get(TEST_REGISTER.pasid);
  }

  private modifiers(): number {
    const command = this.get(TEST_REGISTER.command);
    return (
      ((command & TEST_COMMAND.privileged) === 0 ? 0 : ACCESS_PRIVILEGED) |
      ((command & TEST_COMMAND.execute) === 0 ? 0 : ACCESS_EXECUTE)
    );
  }

  /** What translation and page requests ask for. */
  private wanted(): number {
    const write = (this.get(TEST_REGISTER.command) & TEST_COMMAND.wantWrite) === 0 ? 0 : ACCESS_WRITE;
    return ACCESS_READ | write | this.modifiers();
  }

  private writeRegister(register: number, value: number): void {
    if ((this.get(TEST_REGISTER.status) & TEST_STATUS_BUSY) !== 0 && register !== TEST_REGISTER.control) return;
    switch (register) {
      case TEST_REGISTER.command:
        this.set(register, value);
        this.start();
        return;
      case TEST_REGISTER.pasid:
        this.set(register, value & 0xfffff);
        return;
      case TEST_REGISTER.control:
        this.set(register, value & TEST_CONTROL_WITHHOLD);
        this.answersInvalidations = (value & TEST_CONTROL_WITHHOLD) === 0;
        return;
      case TEST_REGISTER.address:
      case TEST_REGISTER.address + 4:
      case TEST_REGISTER.length:
      case TEST_REGISTER.bufferOffset:
      case TEST_REGISTER.vector:
        this.set(register, value);
    }
  }

  private handler(): MmioHandler {
    return {
      read: (offset, width) => this.load(offset, width),
      write: (offset, width, value) => this.store(offset, width, value),
    };
  }

  private load(offset: number, width: AccessWidth): bigint {
    if (offset >= TEST_REGISTER.buffer) {
      let value = 0n;
      for (let i = width - 1; i >= 0; i--)
        value = (value << 8n) | BigInt(this.memory.bytes[this.buffer + offset - TEST_REGISTER.buffer + i]!);
      return value;
    }
    const low = this.registers[offset >> 2] ?? 0;
    if (width === 8) return joinU64(low, this.registers[(offset >> 2) + 1] ?? 0);
    return BigInt.asUintN(8 * width, BigInt(low >>> (8 * (offset & 3))));
  }

  private store(offset: number, width: AccessWidth, value: bigint): void {
    if (offset >= TEST_REGISTER.buffer) {
      const at = this.buffer + offset - TEST_REGISTER.buffer;
      for (let i = 0; i < width; i++) this.memory.bytes[at + i] = Number((value >> BigInt(8 * i)) & 0xffn);
    } else if (width === 8) {
      this.writeRegister(offset, Number(value & 0xffffffffn));
      this.writeRegister(offset + 4, Number(value >> 32n));
    } else if (width === 4) this.writeRegister(offset, Number(value));
  }
}
