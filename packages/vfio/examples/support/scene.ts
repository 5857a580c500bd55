/**
 * The scene of the seven flows of the /dev/ioasid proposal: a machine with two functions that do DMA on command, their
 * operating system, and a VMM with guest memory of 32 pages, of which page n holds the number n + 1.
 */

import * as hw from '@iommukit/hw';
import { Host } from '@iommukit/iommu-core';
import { DeviceNodes, SystemCalls } from '@iommukit/iommufd';
import { IoasidClient, registerIoasid } from '@iommukit/iommufd/ioasid';
import { Vfio, VfioDeviceClient } from '@iommukit/vfio';

export const PAGE = 4096;
export const GUEST_BYTES: number = 32 * PAGE;
/** Where guests keep page tables, four pages each. */
export const TABLE = 0x10000;
export const SECOND_TABLE = 0x14000;

const machine = new hw.Machine();
const rids = [hw.requesterId(0, 1, 0), hw.requesterId(0, 2, 0)];
for (const rid of rids) machine.plug(new hw.TestFunction(machine), rid);
const host = new Host(machine);
const { kernel, processes } = host;
const nodes = new DeviceNodes();
registerIoasid(nodes, { kernel, rules: 'v1' });
const vfio = new Vfio({ nodes });
const paths = rids.map((rid) => vfio.register(host.device(rid)).path);

export const system: SystemCalls = new SystemCalls({
  kernel,
  processes,
  process: processes.spawn({ memlock: 1 << 20 }),
  nodes,
});
export const ioasid: IoasidClient = new IoasidClient(system, system.open('/dev/ioasid'));
const memory = system.process.memory!;

/** Guest memory in the VMM's address space. */
export const guest: bigint = system.mmap({ length: GUEST_BYTES });
for (let page = 0; page < TABLE / PAGE; page++) memory.store(guest + BigInt(page * PAGE), 8, BigInt(page + 1));

/** Pages that are pinned now. */
export function pinned(): number {
  return processes.counts.pinned;
}

/** One of the two functions, in the hands of the VMM. */
export class Device {
  readonly vfio: VfioDeviceClient;

  /** Binds it to /dev/ioasid under a cookie. Its DMA is blocked until it is attached. */
  constructor(index: number, cookie: number) {
    this.vfio = new VfioDeviceClient(system, system.open(paths[index]!));
    this.vfio.bindIoasid(ioasid.fd, cookie);
    this.vfio.writeConfig(4, 2, 6); // memory decode and bus mastering
  }

  /** The number in the page at `address`, read by DMA, or null when the IOMMU refuses. */
  read(address: number, pasid?: number): number | null {
    this.start(address, pasid, 0);
    return this.result();
  }

  /** Starts to read a page that may not be there: the device then asks for it. */
  ask(address: number, pasid: number): void {
    this.start(address, pasid, hw.TEST_COMMAND.cached | hw.TEST_COMMAND.pageRequestOnDenial);
  }

  /** What was read when the command is over, or null. */
  result(): number | null {
    host.run(1_000_000);
    const busy = this.get(hw.TEST_REGISTER.status) & hw.TEST_STATUS_BUSY;
    return busy !== 0 || this.get(hw.TEST_REGISTER.result) !== 0 ? null : this.get(hw.TEST_REGISTER.buffer);
  }

  private start(address: number, pasid: number | undefined, flags: number): void {
    this.set(hw.TEST_REGISTER.pasid, 4, pasid ?? 0);
    this.set(hw.TEST_REGISTER.address, 8, address);
    this.set(hw.TEST_REGISTER.length, 4, 8);
    const { read, withPasid } = hw.TEST_COMMAND;
    this.set(hw.TEST_REGISTER.command, 4, read | flags | (pasid === undefined ? 0 : withPasid));
    host.run(1_000_000);
  }

  private set(register: number, width: number, value: number): void {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
    this.vfio.write(0, register, bytes.subarray(0, width));
  }

  private get(register: number): number {
    const bytes = new Uint8Array(4);
    this.vfio.read(0, register, bytes);
    return new DataView(bytes.buffer).getUint32(0, true);
  }
}

/** What the guest does with its memory: maps one page, virtual to physical, in the four-level table at `table`. */
export function guestMap(table: number, virtual: number, physical: number): void {
  for (let level = 3; level >= 0; level--) {
    const index = Math.floor(virtual / 2 ** (12 + 9 * level)) % 512;
    const at = table + (3 - level) * PAGE;
    const target = level === 0 ? physical : at + PAGE;
    memory.store(guest + BigInt(at + index * 8), 8, BigInt(target) | 7n);
  }
}

/** Prints what was seen, and ends the program when it is not what was expected. */
export function expect(what: string, seen: readonly unknown[], expected: readonly unknown[]): void {
  console.log(`${what}: ${seen.map(String).join(', ')}`);
  if (seen.some((value, index) => value !== expected[index])) throw new Error(`expected ${expected.join(', ')}`);
}
