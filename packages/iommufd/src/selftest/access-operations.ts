/** Operations on accesses: making one, pinning, reading and writing by it. */

import { hex, PAGE_SIZE } from '@iommukit/hw';
import { type AddressSpace, copyFromUser, copyToUser, type PfnRuns, SysError } from '@iommukit/iommu-core';
import type { IommufdCaller, Outcome } from '../ioctl/command.ts';
import { TestAccess, testAccessOf } from './test-access.ts';
import { type Operation, operation } from './test-cmd.ts';
import * as uapi from './uapi.ts';
import { forEachFrame } from './user-frames.ts';

const CALL = 'IOMMU_TEST_CMD';
/** Most bytes that one operation pins or copies. */
const LENGTH_MAX = 16n << 20n;
const PAGE_MASK = BigInt(PAGE_SIZE - 1);

export const accessOperations: readonly [number, Operation][] = [
  [uapi.IOMMU_TEST_OP_CREATE_ACCESS, operation('createAccess', create)],
  [
    uapi.IOMMU_TEST_OP_ACCESS_REPLACE_IOAS,
    operation('accessReplaceIoas', ({ descriptors }, fd, { ioasId }) => {
      testAccessOf(descriptors, fd).access.replace(ioasId);
      return undefined;
    }),
  ],
  [uapi.IOMMU_TEST_OP_ACCESS_PAGES, operation('accessPages', pin)],
  [
    uapi.IOMMU_TEST_OP_DESTROY_ACCESS_PAGES,
    operation('destroyAccessPages', ({ descriptors }, fd, { accessPagesId }) => {
      testAccessOf(descriptors, fd).unpin(accessPagesId);
      return undefined;
    }),
  ],
  [uapi.IOMMU_TEST_OP_ACCESS_RW, operation('accessRw', copy)],
];

function create(
  { context, descriptors }: IommufdCaller,
  ioasId: number,
  cmd: { outAccessFd: number; flags: number },
): Outcome {
  checkFlags(cmd.flags, uapi.MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES);
  const access = new TestAccess(context, cmd.flags !== 0);
  try {
    access.access.attach(ioasId);
    cmd.outAccessFd = install(descriptors, access);
  } catch (error) {
    access.release();
    throw error;
  }
  return { undo: () => descriptors.close(cmd.outAccessFd) };
}

/** Here, and nowhere else, want of a descriptor is want of memory. @throws {SysError} ENOMEM */
function install(descriptors: IommufdCaller['descriptors'], access: TestAccess): number {
  try {
    return descriptors.install(access);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    throw new SysError('ENOMEM', CALL, 'no descriptor for the access');
  }
}

type PinRequest = { flags: number; outAccessPagesId: number; iova: bigint; length: bigint; uptr: bigint };

function pin({ descriptors, process }: IommufdCaller, fd: number, cmd: PinRequest): Outcome {
  const { flags, length, uptr } = cmd;
  checkLength(length);
  checkFlags(flags, uapi.MOCK_FLAGS_ACCESS_WRITE | uapi.MOCK_FLAGS_ACCESS_SYZ);
  const access = testAccessOf(descriptors, fd);
  if (!access.needsPinPages) throw new SysError('EOPNOTSUPP', CALL, `access ${access.access.id} pins no pages`);
  const iova = chooseIova(access, flags, cmd.iova);
  const check = (frames: PfnRuns): void => {
    if (uptr !== 0n) compare(process.addressSpace, BigInt.asUintN(64, uptr - (iova & PAGE_MASK)), frames);
  };
  const id = access.pin(iova, length, (flags & uapi.MOCK_FLAGS_ACCESS_WRITE) !== 0, check);
  cmd.outAccessPagesId = id;
  return { undo: () => access.unpin(id) };
}

/** @throws {SysError} EBADE other frames are behind the memory; EFAULT */
function compare(space: AddressSpace, va: bigint, frames: PfnRuns): void {
  forEachFrame(space, va, frames.pages, (pfn, index) => {
    const pinned = frames.at(index);
    if (pfn !== pinned) throw new SysError('EBADE', CALL, `page ${index} is frame ${hex(pfn)}, pinned ${hex(pinned)}`);
  });
}

type CopyRequest = { iova: bigint; length: bigint; uptr: bigint; flags: number };

function copy({ context, descriptors, process }: IommufdCaller, fd: number, cmd: CopyRequest): undefined {
  const { flags, length, uptr } = cmd;
  checkLength(length);
  checkFlags(flags, uapi.MOCK_ACCESS_RW_WRITE | uapi.MOCK_ACCESS_RW_SLOW_PATH | uapi.MOCK_FLAGS_ACCESS_SYZ);
  const access = testAccessOf(descriptors, fd);
  const { addressSpace } = process;
  const by = (flags & uapi.MOCK_ACCESS_RW_SLOW_PATH) === 0 ? addressSpace : 'other';
  context.kernel.checkpoint('iommufd_test_access_rw');
  if ((flags & uapi.MOCK_ACCESS_RW_WRITE) !== 0) {
    const bytes = copyFromUser(addressSpace, uptr, Number(length));
    access.access.write(chooseIova(access, flags, cmd.iova), bytes, by);
  } else {
    const bytes = new Uint8Array(Number(length));
    access.access.read(chooseIova(access, flags, cmd.iova), bytes, by);
    copyToUser(addressSpace, uptr, bytes);
  }
  return undefined;
}

/** For fuzzers: with the flag, the low half of `iova` numbers an area and the high half is a byte in it. */
function chooseIova({ access }: TestAccess, flags: number, iova: bigint): bigint {
  if ((flags & uapi.MOCK_FLAGS_ACCESS_SYZ) === 0) return iova;
  const areas = access.ioas?.table.space.areasIn(0n, 2n ** 64n - 1n) ?? [];
  const area = areas[Number(BigInt.asUintN(32, iova))];
  return area === undefined ? 0n : BigInt.asUintN(64, area.iova + (iova >> 32n));
}

function checkLength(length: bigint): void {
  if (length > LENGTH_MAX) throw new SysError('ENOMEM', CALL, `${hex(length)} bytes`);
}

function checkFlags(flags: number, known: number): void {
  if ((flags & ~known) !== 0) throw new SysError('EOPNOTSUPP', CALL, `flags ${hex(flags)}`);
}
