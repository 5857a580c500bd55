/** Operations on addresses and memory: reserved ranges, dma-bufs, and a limit. */

import { hex, PAGE_SIZE, U64_MAX } from '@iommukit/hw';
import { type Kernel, SysError } from '@iommukit/iommu-core';
import { DmaBuf } from '../files/dma-buf.ts';
import { Ioas } from '../ioas/ioas.ts';
import type { IommufdCaller } from '../ioctl/command.ts';
import { type Operation, operation } from './test-cmd.ts';
import * as uapi from './uapi.ts';

const CALL = 'IOMMU_TEST_CMD';
/** Pages of the largest dma-buf. */
const DMABUF_PAGES = 512;
/** Bytes of one run of frames in a batch of Linux. */
const LIMIT_MIN = 12;
const LIMIT_DEFAULT = 65536;

/** Owns what ADD_RESERVED reserved, for as long as the IOAS lives. */
const RESERVER: object = {};

/** What SET_TEMP_MEMORY_LIMIT sets: bytes that Linux takes for frames on their way. Here nothing is on its way in batches. */
export class MemoryLimit {
  bytes: number = LIMIT_DEFAULT;
}

/** A dma-buf that operations made. */
class TestDmaBuf extends DmaBuf {}

export function memoryOperations(limit: MemoryLimit): [number, Operation][] {
  return [
    [uapi.IOMMU_TEST_OP_ADD_RESERVED, operation('addReserved', addReserved)],
    [
      uapi.IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT,
      operation('memoryLimit', (_caller, _id, cmd) => {
        if (cmd.limit < LIMIT_MIN) throw new SysError('EINVAL', CALL, `a limit of ${cmd.limit} bytes`);
        limit.bytes = cmd.limit;
        return undefined;
      }),
    ],
    [
      uapi.IOMMU_TEST_OP_DMABUF_GET,
      operation('dmabufGet', ({ context, descriptors }, _id, { length }) => {
        const buffer = makeDmaBuf(context.kernel, length);
        try {
          return { answers: false, result: descriptors.install(buffer) };
        } catch (error) {
          buffer.release();
          throw error;
        }
      }),
    ],
    [uapi.IOMMU_TEST_OP_DMABUF_REVOKE, operation('dmabufRevoke', revoke)],
  ];
}

function addReserved({ context }: IommufdCaller, ioasId: number, cmd: { start: bigint; length: bigint }): undefined {
  const { start, length } = cmd;
  if (length === 0n) throw new SysError('EINVAL', CALL, 'length 0');
  const last = start + length - 1n;
  if (last > U64_MAX) throw new SysError('EOVERFLOW', CALL, `${hex(length)} bytes from ${hex(start)}`);
  context.objects.get(ioasId, Ioas).table.space.reserve(start, last, RESERVER);
  return undefined;
}

/** Adjoining frames of zeros. @throws {SysError} EINVAL length; ENOMEM */
function makeDmaBuf(kernel: Kernel, length: number): TestDmaBuf {
  const frames = Math.ceil(length / PAGE_SIZE);
  if (frames === 0 || frames > DMABUF_PAGES) throw new SysError('EINVAL', CALL, `a dma-buf of ${hex(length)} bytes`);
  const pfn = kernel.allocateFrames('dma_buf', frames);
  return new TestDmaBuf({ pfn, frames, onRelease: () => kernel.freeFrame(pfn, frames) });
}

/** Whoever uses the memory loses it, whichever way it goes; given back, it is for those who come. */
function revoke({ descriptors }: IommufdCaller, _id: number, cmd: { dmabufFd: number; revoked: number }): undefined {
  const file = descriptors.get(cmd.dmabufFd);
  if (!(file instanceof DmaBuf)) throw new SysError('EINVAL', 'dma_buf_get', `${file.name} is no dma-buf`);
  if (!(file instanceof TestDmaBuf)) throw new SysError('EOPNOTSUPP', CALL, 'the dma-buf is of another exporter');
  file.revoke();
  if (cmd.revoked === 0) file.restore();
  return undefined;
}
