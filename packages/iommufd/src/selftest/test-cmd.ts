/**
 * The structure of IOMMU_TEST_CMD (drivers/iommu/iommufd/iommufd_test.h of Linux 7.2): a head that says the operation
 * and what it is on, and a member for each operation. Names are the kernel's in camel case.
 */

import { type Fields, type Struct, struct } from '@iommukit/iommu-core';
import type { IommufdCaller, Outcome, StructOf } from '../ioctl/command.ts';

const headFields = { size: 'u32', op: 'u32', id: 'u32', reserved: 'u32' } as const;
/** `id` is an object or a descriptor, as the operation has it. */
export const testCmdHead: Struct<typeof headFields> = struct(headFields);

/** Bytes of the structure, and of it that a program must have. */
export const TEST_CMD_SIZE = 72;
export const TEST_CMD_MIN = 68;

const members = {
  addReserved: { start: 'u64', length: 'u64' },
  mockDomain: { outStdevId: 'u32', outHwptId: 'u32', outIdevId: 'u32' },
  mockDomainFlags: { outStdevId: 'u32', outHwptId: 'u32', outIdevId: 'u32', devFlags: 'u32' },
  mockDomainReplace: { ptId: 'u32' },
  checkMap: { iova: 'u64', length: 'u64', uptr: 'u64' },
  checkRefs: { length: 'u64', uptr: 'u64', refs: 'u32' },
  createAccess: { outAccessFd: 'u32', flags: 'u32' },
  destroyAccessPages: { accessPagesId: 'u32' },
  accessPages: { flags: 'u32', outAccessPagesId: 'u32', iova: 'u64', length: 'u64', uptr: 'u64' },
  accessRw: { iova: 'u64', length: 'u64', uptr: 'u64', flags: 'u32' },
  memoryLimit: { limit: 'u32' },
  accessReplaceIoas: { ioasId: 'u32' },
  dirty: { flags: 'u32', iova: 'u64', length: 'u64', pageSize: 'u64', uptr: 'u64', outNrDirty: 'u64' },
  checkIotlb: { id: 'u32', iotlb: 'u32' },
  triggerIopf: { devId: 'u32', pasid: 'u32', grpid: 'u32', perm: 'u32', addr: 'u64' },
  checkDevCache: { id: 'u32', cache: 'u32' },
  triggerVevent: { devId: 'u32' },
  pasidAttach: { pasid: 'u32', ptId: 'u32' },
  pasidReplace: { pasid: 'u32', ptId: 'u32' },
  pasidDetach: { pasid: 'u32' },
  pasidCheck: { pasid: 'u32', hwptId: 'u32' },
  dmabufGet: { length: 'u32', openFlags: 'u32' },
  dmabufRevoke: { dmabufFd: 's32', revoked: 'u32' },
} as const;

type Members = typeof members;

/** The members, each from the end of the head. */
export const testCmdMembers: { readonly [M in keyof Members]: Struct<Members[M]> } = Object.fromEntries(
  Object.entries(members).map(([name, fields]) => [name, struct<Fields>(fields)]),
) as unknown as { [M in keyof Members]: Struct<Members[M]> };

/** Carries out one operation on the `id` and the bytes of the structure. */
export type Operation = (caller: IommufdCaller, id: number, bytes: Uint8Array) => Outcome;

/** An operation on a member. One without an outcome stores nothing back. */
export function operation<M extends keyof Members>(
  member: M,
  run: (caller: IommufdCaller, id: number, cmd: StructOf<Struct<Members[M]>>) => Outcome | undefined,
): Operation {
  const layout = testCmdMembers[member] as unknown as Struct<Members[M]>;
  return (caller, id, bytes) => {
    const cmd = layout.read(bytes, testCmdHead.size);
    const outcome = run(caller, id, cmd as StructOf<Struct<Members[M]>>);
    if (outcome === undefined) return { answers: false };
    layout.write(cmd, bytes, testCmdHead.size);
    return outcome;
  };
}
