import { type CpuBus, FrameAllocator, type GuestCpu, PhysicalMemory, Scheduler } from '@iommukit/hw';
import { type AddressSpace, GlobalPasids, Ioasids, Kernel, Processes, SysError } from '@iommukit/iommu-core';
import { describe, expect, test } from 'vitest';
import { VmPasidTable } from '../../src/host/pasid-table.ts';
import { VirtualMachine } from '../../src/host/virtual-machine.ts';

const PAGES = 16;
const CODE = 0x8000n;
/** mov rax, [rbx]; mov [rcx], rax; hlt */
const LOAD_STORE = Uint8Array.of(0x48, 0x8b, 0x03, 0x48, 0x89, 0x01, 0xf4);

const bus: CpuBus = {
  readMmio: () => 0xb05n,
  writeMmio() {},
  store64() {},
  enqueue64: () => false,
  readPort: () => -1,
  writePort() {},
};

/** One that takes what it is told. */
function pasidTable(kernel: Kernel, addressSpace: AddressSpace): VmPasidTable {
  const pasids = new GlobalPasids(kernel);
  const authority = { checkPasid() {}, checkSet() {} };
  return new VmPasidTable({ addressSpace, pasids, ioasids: new Ioasids({ kernel, pasids }), authority });
}

function setUp() {
  const physical = new PhysicalMemory({ ramBytes: 16 << 20 });
  const interrupts = { allocate: () => ({ address: 0n, data: 0 }), free() {} };
  const frames = new FrameAllocator(physical, { debug: true });
  const kernel = new Kernel({ memory: physical, frames, scheduler: new Scheduler(), interrupts });
  const processes = new Processes(kernel);
  const memory = processes.spawn().memory!;
  const hva = memory.map({ length: PAGES * 4096, protection: 3 });
  const createVm = (addressSpace: AddressSpace) =>
    new VirtualMachine({ memory: physical, addressSpace, table: pasidTable(kernel, addressSpace) });
  return { memory, hva, machine: createVm(memory), kernel, createVm, processes };
}

/** Copies the quadword at guest `from` to guest `to`; the tables are an identity map of the first 2 MiB. */
function copy(cpu: GuestCpu, from: bigint, to: bigint): void {
  cpu.resetToLongMode({ rip: CODE, cr3: 0x1000n, rsp: 0x7000n });
  const registers = cpu.readRegisters();
  registers.gpr[3] = from;
  registers.gpr[1] = to;
  cpu.writeRegisters(registers);
  expect(cpu.run(10)).toBe('dead');
}

function start() {
  const context = setUp();
  const { memory, hva, machine } = context;
  const write = (gpa: bigint, values: readonly bigint[]): void => {
    memory.write(hva + gpa, new Uint8Array(BigUint64Array.from(values).buffer));
  };
  write(0x1000n, [0x2003n]);
  write(0x2000n, [0x3003n]);
  write(0x3000n, [0x83n]);
  memory.write(hva + CODE, LOAD_STORE);
  machine.addSlot({ gpa: 0, bytes: PAGES * 4096, hva });
  const cpu = machine.createVcpu(bus, { pending: () => -1, acknowledge() {} });
  const read = (gpa: bigint): bigint => {
    const bytes = new Uint8Array(8);
    memory.read(hva + gpa, bytes);
    return new DataView(bytes.buffer).getBigUint64(0, true);
  };
  return { ...context, cpu, write, read };
}

describe('a memory slot', () => {
  test("is the process's own memory, both ways, and holds no pin", () => {
    const { cpu, memory, read, write } = start();
    write(0x9000n, [0x1122334455667788n]);
    copy(cpu, 0x9000n, 0xa000n);
    expect(read(0xa000n)).toBe(0x1122334455667788n);
    expect(memory.pinnedPages).toBe(0);
  });

  test('follows the process when it maps other memory at the address', () => {
    const { cpu, memory, hva, read, write } = start();
    write(0x9000n, [1n]);
    copy(cpu, 0x9000n, 0xa000n);
    memory.map({ address: hva + 0x9000n, length: 4096, protection: 3, replace: true });
    write(0x9000n, [2n]);
    copy(cpu, 0x9000n, 0xa000n);
    expect(read(0xa000n)).toBe(2n);
    memory.map({ address: hva + 0xa000n, length: 4096, protection: 3, replace: true });
    copy(cpu, 0x9000n, 0xa000n);
    expect(read(0xa000n)).toBe(2n);
  });

  test('is a hole, and no other page, where the process has unmapped its memory', () => {
    const { cpu, memory, hva, read } = start();
    memory.unmap(hva + 0x9000n, 4096);
    copy(cpu, 0x9000n, 0xa000n);
    expect(read(0xa000n)).toBe(0xb05n);
  });

  test('is gone with the process', () => {
    const { cpu, memory, kernel } = start();
    memory.release();
    expect(kernel.frames.allocated).toBe(0);
    expect(() => cpu.run(1)).toThrow('disposed');
  });

  test('and a CPU can be had again and again, because each process takes its own along', () => {
    const { createVm, processes } = setUp();
    for (let time = 0; time < 100; time++) {
      const process = processes.spawn();
      const memory = process.memory!;
      const machine = createVm(memory);
      machine.addSlot({ gpa: 0, bytes: 4096, hva: memory.map({ length: 4096, protection: 3 }) });
      machine.createVcpu(bus, { pending: () => -1, acknowledge() {} });
      process.exit();
    }
  });

  test.each([
    ['misaligned', { gpa: 0x100, bytes: 4096 }, 'EINVAL'],
    ['empty', { gpa: 0x100000, bytes: 0 }, 'EINVAL'],
    ['over another', { gpa: 0x8000, bytes: 4096 }, 'EEXIST'],
    ['longer than the memory behind it', { gpa: 0x100000, bytes: (PAGES + 1) * 4096 }, 'EFAULT'],
  ])('that is %s is refused', (_what, slot, code) => {
    const { machine, hva } = start();
    expect(() => machine.addSlot({ ...slot, hva })).toThrow(SysError);
    expect(() => machine.addSlot({ ...slot, hva })).toThrow(code);
  });
});
