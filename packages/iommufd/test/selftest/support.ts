/** A kernel with /dev/iommu, the mock IOMMU behind it, and a process with memory of its own. */

import { FrameAllocator, PhysicalMemory, Scheduler } from '@iommukit/hw';
import { Kernel, PfnRuns, type Process, Processes, type ProcessOptions } from '@iommukit/iommu-core';
import { DeviceNodes } from '../../src/files/device-nodes.ts';
import { FdTable } from '../../src/files/fd-table.ts';
import { SystemCalls } from '../../src/files/system-calls.ts';
import type { Fields, Struct, StructValues } from '../../src/index.ts';
import { type IommufdFile, type IommufdNode, registerIommufd } from '../../src/iommufd-file.ts';
import {
  IOMMU_HWPT_DATA_SELFTEST,
  IOMMU_TEST_CMD,
  IOMMU_TEST_OP_MOCK_DOMAIN,
  IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS,
  iommuHwptSelftest,
  SelftestIommu,
  TEST_CMD_SIZE,
  testCmdHead,
  testCmdMembers,
} from '../../src/selftest/index.ts';
import * as uapi from '../../src/uapi/iommufd.ts';

export const PAGE = 4096n;
export const MEMORY_PAGES = 64;
export const NOWHERE = 0xdead_0000n;

type Members = typeof testCmdMembers;
type Member = keyof Members;
type ValuesOf<M extends Member> = Members[M] extends Struct<infer F> ? StructValues<F> : never;

export class SelftestHost {
  readonly kernel: Kernel;
  readonly processes: Processes;
  readonly process: Process;
  readonly descriptors = new FdTable();
  readonly system: SystemCalls;
  readonly selftest: SelftestIommu;
  readonly node: IommufdNode;
  readonly fd: number;
  /** Where arguments of ioctls lie, and behind them 15 pages for what they point to. */
  readonly argument: bigint;
  readonly buffer: bigint;
  /** Memory to be mapped: MEMORY_PAGES pages, which no two processes share, with a hole behind them. */
  readonly memory: bigint;

  constructor(options: ProcessOptions = {}) {
    const memory = new PhysicalMemory({ ramBytes: 8 << 20 });
    const interrupts = { allocate: () => ({ address: 0n, data: 0 }), free() {} };
    const frames = new FrameAllocator(memory, { debug: true });
    this.kernel = new Kernel({ memory, frames, scheduler: new Scheduler(), interrupts });
    const { kernel } = this;
    this.processes = new Processes(kernel);
    this.process = this.processes.spawn(options);
    this.selftest = new SelftestIommu({ kernel });
    const nodes = new DeviceNodes();
    this.node = registerIommufd(nodes, { kernel }, this.selftest.commands);
    const { processes, process, descriptors } = this;
    this.system = new SystemCalls({ kernel, processes, process, nodes }, descriptors);
    this.argument = this.system.mmap({ length: 16n * PAGE });
    this.buffer = this.argument + PAGE;
    // A page that is missing when an ioctl fetches from it would be an allocation of its own.
    this.poke(this.argument, new Uint8Array(16 * Number(PAGE)));
    this.memory = this.system.mmap({ length: BigInt(MEMORY_PAGES + 1) * PAGE });
    this.system.munmap(this.memory + BigInt(MEMORY_PAGES) * PAGE, PAGE);
    this.fd = this.system.open('/dev/iommu');
  }

  get context(): IommufdFile['context'] {
    return (this.system.file(this.fd) as IommufdFile).context;
  }

  /** One operation; `cmd` is its member as it is afterwards. */
  test<M extends Member>(
    op: number,
    member: M,
    id: number,
    values: Partial<ValuesOf<M>> = {},
    fd = this.fd,
  ): { result: number; cmd: ValuesOf<M> } {
    const bytes = this.testBytes(op, member, id, values);
    this.poke(this.argument, bytes);
    const result = this.system.ioctl(fd, IOMMU_TEST_CMD, this.argument);
    this.process.addressSpace.read(this.argument, bytes);
    return { result, cmd: layoutOf(member).read(bytes, testCmdHead.size) as ValuesOf<M> };
  }

  testBytes<M extends Member>(op: number, member: M, id: number, values: Partial<ValuesOf<M>> = {}): Uint8Array {
    const bytes = new Uint8Array(TEST_CMD_SIZE);
    testCmdHead.write({ size: TEST_CMD_SIZE, op, id, reserved: 0 }, bytes);
    const layout = layoutOf(member);
    const zeros = layout.read(new Uint8Array(layout.size));
    layout.write({ ...zeros, ...values } as StructValues<Fields>, bytes, testCmdHead.size);
    return bytes;
  }

  /** A command of /dev/iommu on the structure at `argument`. */
  ioctl<F extends Fields>(
    request: number,
    layout: Struct<F>,
    values: Partial<StructValues<F>>,
  ): { result: number; reply: StructValues<F> } {
    const bytes = new Uint8Array(layout.size);
    layout.write({ ...layout.read(bytes), ...values, size: layout.size } as StructValues<F>, bytes);
    this.poke(this.argument, bytes);
    const result = this.system.ioctl(this.fd, request, this.argument);
    this.process.addressSpace.read(this.argument, bytes);
    return { result, reply: layout.read(bytes) };
  }

  ioas(): number {
    return this.ioctl(uapi.IOMMU_IOAS_ALLOC, uapi.iommuIoasAlloc, {}).reply.outIoasId;
  }

  /** Maps pages of `memory` at a fixed address. */
  map(ioasId: number, iova: bigint, page: number, pages: number, rights = 6): number {
    const userVa = this.memory + BigInt(page) * PAGE;
    return this.mapBytes({ ioasId, iova, userVa, length: BigInt(pages) * PAGE, flags: rights | 1 });
  }

  mapBytes(values: { ioasId: number; iova: bigint; userVa: bigint; length: bigint; flags: number }): number {
    return this.ioctl(uapi.IOMMU_IOAS_MAP, uapi.iommuIoasMap, values).result;
  }

  unmap(ioasId: number, iova: bigint, length: bigint): number {
    return this.ioctl(uapi.IOMMU_IOAS_UNMAP, uapi.iommuIoasUnmap, { ioasId, iova, length }).result;
  }

  destroy(id: number): number {
    return this.ioctl(uapi.IOMMU_DESTROY, uapi.iommuDestroy, { id }).result;
  }

  /** A mock device at an IOAS or a table. */
  device(ptId: number, devFlags = 0): { stdev: number; hwpt: number; idev: number } {
    const { result, cmd } =
      devFlags === 0
        ? this.test(IOMMU_TEST_OP_MOCK_DOMAIN, 'mockDomain', ptId)
        : this.test(IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS, 'mockDomainFlags', ptId, { devFlags });
    if (result !== 0) throw new Error(`MOCK_DOMAIN gives ${result}`);
    return { stdev: cmd.outStdevId, hwpt: cmd.outHwptId, idev: cmd.outIdevId };
  }

  /** HWPT_ALLOC, with the mock IOMMU's data when `data` is there. */
  hwpt(
    devId: number,
    ptId: number,
    flags = 0,
    data: { iotlb: number; pagetableType: number } | null = null,
    faultId = 0,
  ): number {
    const values = { devId, ptId, flags, faultId };
    const { result, reply } = this.ioctl(uapi.IOMMU_HWPT_ALLOC, uapi.iommuHwptAlloc, {
      ...values,
      ...(data === null ? {} : this.hwptData(data)),
    });
    return result === 0 ? reply.outHwptId : result;
  }

  hwptData(data: { iotlb: number; pagetableType: number }): { dataType: number; dataLen: number; dataUptr: bigint } {
    const bytes = new Uint8Array(iommuHwptSelftest.size);
    iommuHwptSelftest.write(data, bytes);
    this.poke(this.buffer, bytes);
    return { dataType: IOMMU_HWPT_DATA_SELFTEST, dataLen: bytes.length, dataUptr: this.buffer };
  }

  /** Stores bytes in the process's memory. */
  poke(address: bigint, bytes: Uint8Array): void {
    this.process.addressSpace.write(address, bytes);
  }

  peek(address: bigint, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.process.addressSpace.read(address, bytes);
    return bytes;
  }

  /** The frame behind an address of the process. */
  frame(address: bigint): number {
    const runs = new PfnRuns();
    this.process.addressSpace.pin(address, 1, false, runs);
    this.process.addressSpace.unpin(runs, false);
    return runs.at(0);
  }

  /** What a failed operation must leave as it is. */
  snapshot(): unknown {
    const { objects } = this.context;
    return {
      objects: objects.all().map(({ id, type, users }) => [id, type, users]),
      devices: this.selftest.devices,
      groups: this.selftest.core.groups.length,
      pinned: this.process.addressSpace.pinnedPages,
      descriptors: this.descriptors.size,
      frames: this.kernel.frames.allocated,
    };
  }
}

function layoutOf(member: Member): Struct<Fields> {
  return testCmdMembers[member] as unknown as Struct<Fields>;
}
