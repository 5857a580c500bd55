import { describe, expect, test } from 'vitest';
import { errno, IoasidHost, type IoasidHostOptions, PAGE } from '../support/ioasid-host.ts';

const GVA = 0x7000_0000_1000n;
const ROOT = 0x10000n;
const OTHER_ROOT = 0x18000n;

/** A device at a root that maps 32 pages of guest memory at 0, and at a child without PASID. */
function guest(options: IoasidHostOptions = {}) {
  const host = new IoasidHost(options);
  const { client } = host;
  const device = host.bind();
  const gpa = client.alloc();
  device.attach(gpa);
  const va = host.memory(32);
  client.map({ ioasid: gpa, iova: 0, vaddr: va, size: 32n * PAGE });
  for (let page = 0n; page < 16n; page++) host.fill(va + ROOT + page * PAGE, 0);
  const child = client.createNesting(gpa);
  device.attach(child);
  return { host, client, device, gpa, va, child };
}

describe('a page table of the user', () => {
  test('is walked on the parent’s, from bind to unbind', () => {
    const { host, client, device, child, va } = guest();
    host.stage1Map(va, ROOT, GVA, 0x3000n);
    expect([device.read(GVA), device.read(0x3000n)]).toEqual([null, null]);
    client.bindPageTable({ ioasid: child, address: ROOT });
    expect([device.read(GVA), device.read(0x3000n), device.tester.write(GVA, 200), host.byteAt(va + 0x3000n)]).toEqual([
      4,
      null,
      true,
      200,
    ]);
    client.unbindPageTable(child);
    expect([device.read(GVA), errno(() => client.unbindPageTable(child))]).toEqual([null, 'EINVAL']);
    // It is the kernel's again.
    client.map({ ioasid: child, iova: GVA & 0xffff_ffffn, vaddr: 0x5000, size: PAGE });
    expect(device.read(GVA & 0xffff_ffffn)).toBe(6);
    expect(errno(() => client.bindPageTable({ ioasid: child, address: ROOT }))).toBe('EBUSY');
    device.detach(child);
    expect([device.read(0x3000n), device.read(GVA)]).toEqual([200, null]);
  });

  test('D1 cannot be mapped by commands', () => {
    const { host, client, device, child, va } = guest();
    host.stage1Map(va, ROOT, GVA, 0x3000n);
    client.bindPageTable({ ioasid: child, address: ROOT });
    expect(errno(() => client.map({ ioasid: child, iova: 0, vaddr: 0, size: PAGE }))).toBe('EINVAL');
    expect([errno(() => client.unmap(child, 0, PAGE)), errno(() => client.unmapAll(child))]).toEqual([
      'EINVAL',
      'EINVAL',
    ]);
    expect(device.read(GVA)).toBe(4);
  });

  test('is bound to a child only, in a format of the IOMMU', () => {
    const { client, gpa, child } = guest();
    const bind = (request: object): string | null =>
      errno(() => client.bindPageTable({ ioasid: child, address: ROOT, ...request }));
    expect([bind({ ioasid: gpa }), bind({ format: 2 }), bind({ addressWidth: 39 })]).toEqual([
      'EINVAL',
      'EINVAL',
      'EINVAL',
    ]);
    expect([bind({ vendorFlags: 8 }), bind({ ioasid: 99 })]).toEqual(['EOPNOTSUPP', 'ENOENT']);
    expect(bind({})).toBeNull();
  });

  test('is replaced by the next that is bound, without a moment of neither', () => {
    const { host, client, device, child, va } = guest();
    host.stage1Map(va, ROOT, GVA, 0x3000n);
    host.stage1Map(va, OTHER_ROOT, GVA, 0x4000n);
    client.bindPageTable({ ioasid: child, address: ROOT });
    expect(device.read(GVA)).toBe(4);
    const kinds: string[] = [];
    host.machine.trace.listen((event) => {
      if (event.name.startsWith('pasid_entry')) kinds.push(event.name);
    });
    client.bindPageTable({ ioasid: child, address: OTHER_ROOT });
    expect([device.read(GVA), kinds]).toEqual([5, ['pasid_entry_replace']]);
    expect(errno(() => client.bindPageTable({ ioasid: child, address: ROOT, addressWidth: 39 }))).toBe('EINVAL');
    expect(device.read(GVA)).toBe(5);
  });

  test('D4 serves a PASID beside a table of the kernel’s at another, and beside itself at a third', () => {
    const { host, client, device, gpa, child, va } = guest();
    host.stage1Map(va, ROOT, GVA, 0x6000n);
    client.bindPageTable({ ioasid: child, address: ROOT });
    device.attach(child, 4);
    const kernel = client.alloc();
    device.attach(kernel, 3);
    client.map({ ioasid: kernel, iova: 0x9000, vaddr: host.memory(1, 150), size: PAGE });
    expect([device.read(0x9000n, 3), device.read(GVA, 4), device.read(GVA)]).toEqual([150, 7, 7]);
    expect([device.read(GVA, 3), device.read(0x9000n, 4)]).toEqual([null, null]);
    const second = client.createNesting(gpa);
    device.attach(second, 5);
    host.stage1Map(va, OTHER_ROOT, GVA, 0x7000n);
    client.bindPageTable({ ioasid: second, address: OTHER_ROOT });
    expect([4, 5].map((pasid) => device.read(GVA, pasid))).toEqual([7, 8]);
    device.detach(child);
    expect([device.read(GVA, 4), device.read(GVA)]).toEqual([7, null]);
  });

  test('V4 what it no longer says is used until it is invalidated, and not after', () => {
    const { host, client, device, child, va } = guest();
    host.stage1Map(va, ROOT, GVA, 0x3000n);
    client.bindPageTable({ ioasid: child, address: ROOT });
    expect(device.read(GVA)).toBe(4);
    host.stage1Map(va, ROOT, GVA, 0x4000n);
    expect(device.read(GVA)).toBe(4);
    client.invalidate({ ioasid: child, range: { address: GVA, size: PAGE }, leaf: true });
    expect(device.read(GVA)).toBe(5);
    host.stage1Map(va, ROOT, GVA, null);
    expect(device.read(GVA)).toBe(5);
    client.invalidate({ ioasid: child });
    expect(device.read(GVA)).toBeNull();
    const refused = (request: object): string | null => errno(() => client.invalidate({ ioasid: child, ...request }));
    expect(refused({ range: { address: 1n, size: PAGE } })).toBe('EINVAL');
    expect(refused({ range: { address: 0n, size: 0n } })).toBe('EINVAL');
    expect(refused({ range: { address: 0xffff_ffff_ffff_f000n, size: 2n * PAGE } })).toBe('EINVAL');
    expect([refused({ pasid: 4 }), refused({ cookie: 0x100 })]).toEqual(['EINVAL', 'EINVAL']);
    client.unbindPageTable(child);
    expect(refused({})).toBe('EINVAL');
  });

  test('an unmap in the parent takes the page from under it with no word of the user', () => {
    const { host, client, device, gpa, child, va } = guest();
    host.stage1Map(va, ROOT, GVA, 0x3000n);
    client.bindPageTable({ ioasid: child, address: ROOT });
    device.attach(child, 5);
    expect([device.read(GVA), device.read(GVA, 5)]).toEqual([4, 4]);
    expect(device.tester.read(GVA, { addressing: 'cached' })).toBe(4);
    client.unmap(gpa, 0, 32n * PAGE);
    expect([device.read(GVA), device.read(GVA, 5), device.tester.read(GVA, { addressing: 'cached' })]).toEqual([
      null,
      null,
      null,
    ]);
    expect(host.pins).toEqual([0, 0]);
  });

  test('a device that comes back to a child finds the table bound', () => {
    const { host, client, device, child, va } = guest();
    host.stage1Map(va, ROOT, GVA, 0x3000n);
    client.bindPageTable({ ioasid: child, address: ROOT });
    device.detach(child);
    expect(device.read(GVA)).toBeNull();
    device.attach(child, 9);
    expect([device.read(GVA, 9), device.read(GVA)]).toEqual([4, null]);
  });

  test('a root with read-only memory cannot be nested on', () => {
    const host = new IoasidHost();
    const { client } = host;
    const device = host.bind();
    const gpa = client.alloc();
    device.attach(gpa);
    const vaddr = host.memory(1);
    expect(errno(() => client.map({ ioasid: gpa, iova: 0, vaddr, size: PAGE, writable: false }))).toBe('EINVAL');
  });
});

describe('a PASID table of the user', () => {
  test('VT-d has none, as the information says beforehand', () => {
    const { client, device, gpa, child, host, va } = guest();
    expect(client.info(gpa).pasidRouting).toBe('host-table');
    expect(errno(() => client.bindPasidTable({ ioasid: child, address: ROOT, pasidBits: 8 }))).toBe('EOPNOTSUPP');
    host.stage1Map(va, ROOT, GVA, 0x3000n);
    client.bindPageTable({ ioasid: child, address: ROOT });
    expect([device.read(GVA), errno(() => client.unbindPasidTable(child))]).toEqual([4, 'EINVAL']);
  });
});
