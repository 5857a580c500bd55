import { describe, expect, test } from 'vitest';
import { dumpContext, formatDump } from '../src/dump.ts';
import { iommufdContextOf } from '../src/iommufd-file.ts';
import { VtdHost } from './support/vtd-host.ts';

/** Addresses that the process was given are shown as what they are of. */
function dumped(host: VtdHost, va: bigint): { tree: string; json: unknown } {
  const dump = dumpContext(iommufdContextOf(host.system.file(host.client.fd)));
  const hide = (text: string): string => text.replaceAll(`0x${va.toString(16)}`, 'VA');
  return { tree: hide(formatDump(dump)), json: JSON.parse(hide(JSON.stringify(dump))) };
}

describe('dump', () => {
  test('objects stand under what uses them, with areas and pins', () => {
    const host = new VtdHost();
    const { client, device } = host;
    const va = host.memory(4);
    const ioasId = client.ioasAlloc();
    client.ioasMap({ ioasId, userVa: va, length: 0x4000, iova: 0x10000 });
    client.ioasMap({ ioasId, userVa: va + 0x1000n, length: 0x1000, iova: 0x80000, writable: false });
    client.ioasAllowIovas(ioasId, [{ start: 0x100000, last: 0x1fffff }]);
    host.inKernel(() => device.attach(ioasId));
    const { fd } = client.faultQueueAlloc();
    const { tree, json } = dumped(host, va);
    const rid = /rid (\S+)/.exec(tree)![1]!;
    expect(tree.replaceAll(rid, 'RID').split('\n')).toEqual([
      'context 1: 4 objects, 5 pages pinned, accounting user',
      '  device 1, users 3, rid RID',
      '    . attached hwpt 3',
      '    hwpt-paging 3, users 2',
      '      ioas 2, users 2, iovaAlignment 4096, hugePages true',
      '        . areas iova 0x10000 last 0x13fff access rw pages 1 startByte 0x0',
      '        . areas iova 0x80000 last 0x80fff access r- pages 2 startByte 0x0',
      '        . reserved start 0xfee00000 last 0xfeefffff',
      '        . reserved start 0x800000000000 last 0xffffffffffffffff',
      '        . allowed start 0x100000 last 0x1fffff',
      '  fault 4, users 2, waiting 0, unanswered 0',
      '  pages 1, users 1, user from VA rw, 4 pinned 0x0..0x3',
      `  pages 2, users 1, user from 0x${(va + 0x1000n).toString(16)} r-, 1 pinned 0x0..0x0`,
      '',
    ]);
    expect(json).toMatchObject({ context: 1, objects: [{ id: 1 }, { id: 2 }, { id: 3, uses: [2] }, { id: 4 }] });
    host.system.close(fd);
  });

  test('users of every object are its uses by others, and those of open files and drivers', () => {
    const host = new VtdHost();
    const { client, device } = host;
    const ioasId = client.ioasAlloc();
    const { id: faultId } = client.faultQueueAlloc();
    client.hwptAllocPaging({ deviceId: device.id, ioasId, faultId });
    host.inKernel(() => device.attach(ioasId));
    const { objects } = dumpContext(iommufdContextOf(host.system.file(client.fd)));
    const count = (id: number): number => objects.flatMap(({ uses }) => uses).filter((used) => used === id).length;
    // A bound device is used by its driver and by each of its attachments; an event queue by its descriptor.
    const outside = { device: 2, fault: 1 } as { [type: string]: number };
    for (const { id, type, users } of objects)
      expect([type, users]).toEqual([type, 1 + count(id) + (outside[type] ?? 0)]);
  });

  test('a context without objects has one line', () => {
    const host = new VtdHost();
    host.inKernel(() => host.device.unbind());
    expect(dumped(host, 0n).tree).toBe('context 1: 0 objects, 0 pages pinned, accounting user\n');
  });
});
