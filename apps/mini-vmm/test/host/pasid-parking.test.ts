/**
 * The VM's PASID table and the host's PASIDs: a VM that shares an accelerator's queue with the host's processes, as the
 * user of a mediated device does, goes on sending a PASID that its owner has given back.
 */

import { ACCESS_READ, ACCESS_WRITE, DSA_OPERATION, type GuestCpu } from '@iommukit/hw';
import { Host, type ProcessMemory, type SvaHandle } from '@iommukit/iommu-core';
import { expect, test } from 'vitest';
import { DSA_RID, hostMachine } from '../../src/host/machine.ts';
import { VmPasidTable } from '../../src/host/pasid-table.ts';
import { VirtualMachine } from '../../src/host/virtual-machine.ts';
import { REGISTERS, sharedQueue } from '../support/hostile-driver.ts';

const PAGES = 16;
const CODE = 0x8000n;
const DESCRIPTOR = 0x9000n;
const GUEST_PORTAL = 0x10_0000n;
const GUEST_PASID = 7;
const AUTHORITY = 3;
const PATTERN = 0x5a5a5a5a5a5a5a5an;
/** mov ecx, 0xd93; xor edx, edx; wrmsr; enqcmd rbx, [rsi]; hlt: IA32_PASID becomes EAX. */
const SEND = Uint8Array.of(0xb9, 0x93, 0x0d, 0, 0, 0x31, 0xd2, 0x0f, 0x30, 0xf2, 0x0f, 0x38, 0xf8, 0x1e, 0xf4);

/** A process of the host's that uses the accelerator with its own addresses; all have their memory at the same one. */
type User = { readonly memory: ProcessMemory; readonly va: bigint; readonly handle: SvaHandle };

class World {
  readonly host: Host;
  readonly vm: VirtualMachine;
  private readonly cpu: GuestCpu;
  private readonly memory: ProcessMemory;
  private readonly hva: bigint;

  constructor(parkPasids = true) {
    this.host = new Host(hostMachine(32 << 20), { parkPasids });
    const { host } = this;
    const { memory: physical } = host.machine;
    const { pci } = host.device(DSA_RID);
    pci.config.write(0x04, 2, 6);
    const bar = (index: number): bigint => pci.resources.find(({ bar }) => bar === index)!.address;
    for (const { what, address, value } of sharedQueue) {
      if (what === 'spin') host.run(Number(value));
      else physical.store(bar(0) + BigInt(address - REGISTERS), 4, value);
    }
    this.memory = host.processes.spawn().memory!;
    this.hva = this.memory.map({ length: PAGES * 4096, protection: ACCESS_READ | ACCESS_WRITE });
    const { pasids, ioasids } = host.core;
    const authority = { checkPasid: (fd: number) => expect(fd).toBe(AUTHORITY), checkSet() {} };
    const table = new VmPasidTable({ addressSpace: this.memory, pasids, ioasids, authority });
    this.vm = new VirtualMachine({ memory: physical, addressSpace: this.memory, table });
    this.vm.addSlot({ gpa: 0, bytes: PAGES * 4096, hva: this.hva });
    const portal = bar(2) + 0x1000n;
    this.cpu = this.vm.createVcpu(
      {
        readMmio: () => 0n,
        writeMmio() {},
        store64() {},
        enqueue64: (_gpa, data) => physical.enqueue64(portal, data),
        readPort: () => -1,
        writePort() {},
      },
      { pending: () => -1, acknowledge() {} },
    );
    this.write(0x1000n, [0x2003n]);
    this.write(0x2000n, [0x3003n]);
    this.write(0x3000n, [0x83n]);
    this.memory.write(this.hva + CODE, SEND);
  }

  /** A new process, bound to the accelerator. */
  user(): User {
    const { memory } = this.host.processes.spawn();
    const va = memory!.map({ length: 2 * 4096, protection: ACCESS_READ | ACCESS_WRITE });
    memory!.write(va, new Uint8Array(2 * 4096));
    return { memory: memory!, va, handle: this.host.core.sva.bind(this.host.device(DSA_RID), memory!) };
  }

  /** The VMM process ends, and the VM with it. */
  end(): void {
    this.memory.release();
  }

  release({ handle }: User): void {
    this.host.core.sva.unbind(handle);
  }

  /** The guest has its PASID sent with a descriptor that fills a page at `va`. Gives how the CPU stopped. */
  send(va: bigint): string {
    const operation = BigInt(DSA_OPERATION.fill) << 56n;
    this.write(DESCRIPTOR, [operation | (0xen << 32n), va + 4096n, PATTERN, va, 64n, 0n, 0n, 0n]);
    this.cpu.resetToLongMode({ rip: CODE, cr3: 0x1000n, rsp: 0x7000n });
    const registers = this.cpu.readRegisters();
    registers.gpr[0] = BigInt(0x8000_0000 + GUEST_PASID);
    registers.gpr[3] = GUEST_PORTAL;
    registers.gpr[6] = DESCRIPTOR;
    this.cpu.writeRegisters(registers);
    const exit = this.cpu.run(100);
    this.host.run(1_000_000);
    return exit;
  }

  /** What the process has where every descriptor of the guest's writes. */
  word({ memory, va }: User): bigint {
    const bytes = new Uint8Array(8);
    memory.read(va, bytes);
    return new DataView(bytes.buffer).getBigUint64(0, true);
  }

  private write(gpa: bigint, values: readonly bigint[]): void {
    this.memory.write(this.hva + gpa, new Uint8Array(BigUint64Array.from(values).buffer));
  }
}

test('V14 a PASID whose owner is gone is blocked, and parked until the table lets go; then ENQCMD leaves the guest', () => {
  const world = new World();
  const { host, vm } = world;
  const { pasids } = host.core;
  const first = world.user();
  const { pasid } = first.handle;
  vm.mapPasid(GUEST_PASID, pasid, AUTHORITY);
  expect(world.send(first.va)).toBe('dead');
  expect(world.word(first)).toBe(PATTERN);

  first.memory.write(first.va, new Uint8Array(64));
  world.release(first);
  expect(pasids.parked).toEqual([pasid]);
  expect(pasids.namedBy(pasid)).toBe(`guest PASID ${GUEST_PASID} of a VM`);
  expect(world.send(first.va)).toBe('dead');
  expect(world.word(first)).toBe(0n);

  vm.unmapPasid(GUEST_PASID);
  expect(pasids.parked).toEqual([]);
  expect(world.send(first.va)).toBe('pasid');
  expect(world.user().handle.pasid).toBe(pasid);
});

test('V14 the table lets go when the VM ends', () => {
  const world = new World();
  const { pasids } = world.host.core;
  const first = world.user();
  world.vm.mapPasid(GUEST_PASID, first.handle.pasid, AUTHORITY);
  world.release(first);
  expect(pasids.parked).toEqual([first.handle.pasid]);
  world.end();
  expect(pasids.parked).toEqual([]);
});

test('B17 ENQCMD with a PASID that was freed does not reach the memory of whoever is next', () => {
  const world = new World();
  const first = world.user();
  world.vm.mapPasid(GUEST_PASID, first.handle.pasid, AUTHORITY);
  world.release(first);
  const next = world.user();
  expect(next.handle.pasid).not.toBe(first.handle.pasid);
  expect(next.va).toBe(first.va);
  expect(world.send(next.va)).toBe('dead');
  expect(world.word(next)).toBe(0n);
});

test('X4 without parking it does: the PASID is used again under the table that still has it', () => {
  const world = new World(false);
  const first = world.user();
  world.vm.mapPasid(GUEST_PASID, first.handle.pasid, AUTHORITY);
  world.release(first);
  const next = world.user();
  expect(next.handle.pasid).toBe(first.handle.pasid);
  expect(world.send(next.va)).toBe('dead');
  expect(world.word(next)).toBe(PATTERN);
});
