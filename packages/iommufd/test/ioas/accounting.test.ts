import { describe, expect, test } from 'vitest';
import { errnoOf, type HostedProcess, ProcessHost } from '../support/process-host.ts';

function counts({ process: { addressSpace, credentials } }: HostedProcess): number[] {
  return [addressSpace.pinnedPages, addressSpace.lockedPages, credentials.user.lockedPages];
}

describe('pins are charged', () => {
  test('to the user, whose processes share the limit of each', () => {
    const host = new ProcessHost({ uid: 1, memlock: 0x5000 });
    const child = host.fork(host.first);
    const ioasId = host.client.ioasAlloc();
    host.addDomain(ioasId);
    const map = (by: HostedProcess, pages: number, iova: bigint): unknown => {
      const userVa = host.memory(by, pages);
      return errnoOf(() => by.client.ioasMap({ ioasId, userVa, length: pages * 4096, iova }));
    };
    expect([map(host.first, 3, 0x10000n), map(child, 3, 0x20000n), map(child, 2, 0x20000n)]).toEqual([
      null,
      'ENOMEM',
      null,
    ]);
    expect([counts(host.first), counts(child)]).toEqual([
      [3, 0, 5],
      [2, 0, 5],
    ]);
    child.system.exit();
    expect(counts(child)).toEqual([2, 0, 5]);
    host.client.ioasUnmapAll(ioasId);
    expect([counts(host.first), counts(child)]).toEqual([
      [0, 0, 0],
      [0, 0, 0],
    ]);
  });

  test('to each address space by itself, when the context says so', () => {
    const host = new ProcessHost({ uid: 1, memlock: 0x3000 }, true);
    const child = host.fork(host.first);
    const ioasId = host.client.ioasAlloc();
    host.addDomain(ioasId);
    for (const [index, by] of [host.first, child].entries()) {
      const userVa = host.memory(by, 4);
      const iova = BigInt(0x10000 * (1 + index));
      expect(errnoOf(() => by.client.ioasMap({ ioasId, userVa, length: 0x4000, iova }))).toBe('ENOMEM');
      by.client.ioasMap({ ioasId, userVa, length: 0x3000, iova });
      expect(counts(by)).toEqual([3, 3, 0]);
    }
  });

  test('to nobody, when the process has CAP_IPC_LOCK at the time of the map', () => {
    const host = new ProcessHost({ uid: 1, memlock: 0, capabilities: ['CAP_IPC_LOCK'] });
    const ioasId = host.client.ioasAlloc();
    const userVa = host.memory(host.first, 2);
    host.client.ioasMap({ ioasId, userVa, length: 0x1000 });
    host.first.process.credentials.capabilities.delete('CAP_IPC_LOCK');
    host.client.ioasMap({ ioasId, userVa, length: 0x1000 });
    host.first.process.limits.memlock = 0x1000;
    host.addDomain(ioasId);
    expect(counts(host.first)).toEqual([2, 0, 1]);
  });

  test('by what is pinned anew: a limit that has come down does not stop who pins nothing', () => {
    const host = new ProcessHost({ uid: 1 });
    const [one, two] = [host.client.ioasAlloc(), host.client.ioasAlloc()];
    for (const ioasId of [one, two]) host.addDomain(ioasId);
    const userVa = host.memory(host.first, 3);
    const srcIova = host.client.ioasMap({ ioasId: one, userVa, length: 0x3000 });
    host.first.process.limits.memlock = 0x1000;
    host.client.ioasCopy({ srcIoasId: one, srcIova, length: 0x3000, dstIoasId: two });
    const { access, pin } = host.access();
    access.attach(one);
    expect(pin(srcIova, 0x3000n).length).toBe(3);
    expect(errnoOf(() => host.client.ioasMap({ ioasId: one, userVa, length: 0x1000 }))).toBe('ENOMEM');
    expect(counts(host.first)).toEqual([3, 0, 3]);
  });
});
