/** A guest that only counts: four integer instructions around, as fast as the core goes. */

import { type CpuBus, WasmCpu } from '@iommukit/hw';
import { kernel, memory } from './machine.ts';

/** add rax, rbx; xor rbx, rax; dec rcx; jnz -11. */
const LOOP = [0x48, 0x01, 0xd8, 0x48, 0x31, 0xc3, 0x48, 0xff, 0xc9, 0x75, 0xf5];
/** mov rcx, imm64 in front, hlt behind. */
const ROUNDS = 1n << 40n;
const CODE_PAGE = 4n;

const bus: CpuBus = {
  readMmio: () => 0n,
  writeMmio() {},
  store64() {},
  enqueue64: () => false,
  readPort: () => 0,
  writePort() {},
};

/** Guest of five frames: four tables and the code. Gives a function that runs about `limit` instructions. */
export function buildGuest(): (limit: number) => number {
  const pfns = Array.from({ length: 5 }, () => kernel.allocateFrame('guest'));
  pfns.slice(0, 3).forEach((pfn, table) => {
    memory.words[pfn << 10] = ((table + 1) << 12) | 7;
  });
  memory.words[(pfns[3]! << 10) | (Number(CODE_PAGE) << 1)] = (Number(CODE_PAGE) << 12) | 7;
  const code = [0x48, 0xb9, ...new Uint8Array(new BigUint64Array([ROUNDS]).buffer), ...LOOP, 0xf4];
  memory.bytes.set(code, pfns[4]! * 4096);
  const cpu = new WasmCpu({
    memory,
    bus,
    interrupts: { pending: () => -1, acknowledge() {} },
    guestFrames: 16,
  });
  cpu.mapMemory(0, pfns, true);
  cpu.resetToLongMode({ rip: CODE_PAGE << 12n, cr3: 0n, rsp: 0n });
  return (limit) => {
    const before = cpu.instructions;
    const exit = cpu.run(limit);
    if (exit !== 'budget') throw new Error(`the guest stopped: ${exit}`);
    return Number(cpu.instructions - before);
  };
}
