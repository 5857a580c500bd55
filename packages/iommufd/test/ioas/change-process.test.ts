import type { ProcessOptions } from '@iommukit/iommu-core';
import { describe, expect, test } from 'vitest';
import { errnoOf, type HostedProcess, ProcessHost, sweep } from '../support/process-host.ts';

/** VmPin, VmLck and what the user has locked. */
function counts({ process: { addressSpace, credentials } }: HostedProcess): number[] {
  return [addressSpace.pinnedPages, addressSpace.lockedPages, credentials.user.lockedPages];
}

/** Two files, of 3 and of 2 pages, the first mapped in two IOAS, all pinned. */
function mapped(process: ProcessOptions, accountMm = false) {
  const host = new ProcessHost(process, accountMm);
  const { client } = host;
  const [one, two] = [client.ioasAlloc(), client.ioasAlloc()];
  const first = client.ioasMapFile({ ioasId: one, fd: host.memfd(3).fd, length: 0x3000 });
  client.ioasCopy({ srcIoasId: one, srcIova: first, length: 0x3000, dstIoasId: two });
  client.ioasMapFile({ ioasId: two, fd: host.memfd(2).fd, length: 0x2000 });
  const domains = [host.addDomain(one), host.addDomain(two)];
  return { host, one, two, domains };
}

describe('another process takes over', () => {
  test('what the user pays for, and pins are counted with it, each group once', () => {
    const { host, one, two, domains } = mapped({ uid: 1 });
    const next = host.spawn({ uid: 2 });
    const units = domains.map((domain) => new Map(domain.units));
    expect([counts(host.first), counts(next)]).toEqual([
      [5, 0, 5],
      [0, 0, 0],
    ]);
    next.client.ioasChangeProcess();
    expect([counts(host.first), counts(next)]).toEqual([
      [0, 0, 0],
      [5, 0, 5],
    ]);
    expect(domains.map((domain) => domain.units)).toEqual(units);
    // Again it is a change of nothing.
    next.client.ioasChangeProcess();
    expect(counts(next)).toEqual([5, 0, 5]);
    host.first.system.exit();
    next.client.ioasUnmapAll(one);
    expect(counts(next)).toEqual([5, 0, 5]);
    next.client.ioasUnmapAll(two);
    expect([counts(host.first), counts(next), host.processes.counts.pinned]).toEqual([[0, 0, 0], [0, 0, 0], 0]);
  });

  test('what the address space pays for', () => {
    const { host, two } = mapped({ uid: 1 }, true);
    const next = host.spawn({ uid: 1 });
    expect(counts(host.first)).toEqual([5, 5, 0]);
    next.client.ioasChangeProcess();
    expect([counts(host.first), counts(next)]).toEqual([
      [0, 0, 0],
      [5, 5, 0],
    ]);
    host.client.ioasUnmapAll(two);
    expect(counts(next)).toEqual([3, 3, 0]);
  });

  test('what nobody pays for, as it was mapped with CAP_IPC_LOCK: the pins are counted all the same', () => {
    const { host } = mapped({ uid: 1, capabilities: ['CAP_IPC_LOCK'] });
    const next = host.spawn({ uid: 2, memlock: 0 });
    expect(counts(host.first)).toEqual([5, 0, 0]);
    next.client.ioasChangeProcess();
    expect([counts(host.first), counts(next)]).toEqual([
      [0, 0, 0],
      [5, 0, 0],
    ]);
  });

  test('of one user both must fit for the moment of the change', () => {
    const { host } = mapped({ uid: 1 });
    const next = host.spawn({ uid: 1, memlock: 0x9000 });
    expect([errnoOf(() => next.client.ioasChangeProcess()), counts(host.first)]).toEqual(['ENOMEM', [5, 0, 5]]);
    next.process.limits.memlock = 0xa000;
    next.client.ioasChangeProcess();
    expect([counts(host.first), counts(next)]).toEqual([
      [0, 0, 5],
      [5, 0, 5],
    ]);
  });

  test.each([
    [false, 0],
    [true, 0],
    [false, 0x3000],
    [true, 0x4fff],
  ])('all or nothing (by address space: %s, limit %i)', (accountMm, memlock) => {
    const { host } = mapped({ uid: 1 }, accountMm);
    const next = host.spawn({ uid: 2, memlock });
    const before = [host.snapshot(), counts(host.first), counts(next)];
    expect(errnoOf(() => next.client.ioasChangeProcess())).toBe('ENOMEM');
    expect([host.snapshot(), counts(host.first), counts(next)]).toEqual(before);
  });

  test('a limit that is exceeded already does not matter where nothing is pinned', () => {
    const host = new ProcessHost({ uid: 1 });
    const ioasId = host.client.ioasAlloc();
    host.client.ioasMapFile({ ioasId, fd: host.memfd(2).fd, length: 0x2000, iova: 0x4000n });
    const next = host.spawn({ uid: 2, memlock: 0 });
    next.process.credentials.user.lockedPages = 3;
    next.client.ioasChangeProcess();
    expect(counts(next)).toEqual([0, 0, 3]);
    // It pays for what is pinned from now on.
    expect(errnoOf(() => host.addDomain(ioasId))).toBe('ENOMEM');
    next.process.limits.memlock = 0x5000;
    host.addDomain(ioasId);
    expect([counts(host.first), counts(next)]).toEqual([
      [0, 0, 0],
      [2, 0, 5],
    ]);
  });

  test('not where memory of a process is mapped, in whatever IOAS', () => {
    const { host, two } = mapped({ uid: 1 });
    const next = host.spawn({ uid: 2 });
    const userVa = host.memory(host.first, 1);
    const iova = host.client.ioasMap({ ioasId: two, userVa, length: 0x1000 });
    expect([errnoOf(() => next.client.ioasChangeProcess()), counts(next)]).toEqual(['EINVAL', [0, 0, 0]]);
    host.client.ioasUnmap(two, iova, 0x1000);
    expect(errnoOf(() => next.client.ioasChangeProcess())).toBeNull();
  });

  test('not while memory of a process is registered, which it alone can pay for', () => {
    const { host } = mapped({ uid: 1 });
    const next = host.spawn({ uid: 2 });
    const userVa = host.memory(host.first, 1);
    host.client.registerMemory(userVa, 0x1000);
    expect([errnoOf(() => next.client.ioasChangeProcess()), counts(next)]).toEqual(['EINVAL', [0, 0, 0]]);
    host.client.unregisterMemory(userVa, 0x1000);
    expect(errnoOf(() => next.client.ioasChangeProcess())).toBeNull();
  });

  test('X5 all or nothing at each failpoint, one for each IOAS', () => {
    const points = sweep(() => {
      const { host } = mapped({ uid: 1 });
      const next = host.spawn({ uid: 2 });
      return { host, operation: () => next.client.ioasChangeProcess() };
    });
    expect(points).toBe(2);
  });
});
