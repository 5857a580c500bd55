import fc from 'fast-check';
import { expect, test } from 'vitest';
import { VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU } from '../../src/index.ts';
import { ContainerHost, GuestTable, GVA, NOTHING, startWrite } from '../support/container-host.ts';

/** Every order of `items`. */
function permutations<T>(items: readonly T[]): T[][] {
  if (items.length === 0) return [[]];
  return items.flatMap((item, index) => permutations(items.toSpliced(index, 1)).map((rest) => [item, ...rest]));
}

test('X6 container, group, device and eventfd close in every order, with a page request in flight', () => {
  const host = new ContainerHost({ rids: [8] });
  for (const order of permutations([0, 1, 2, 3])) {
    const program = host.program();
    const { container, groups, devices, memory } = program.open();
    const { fd } = program.eventfd();
    devices[0]!.setDmaFaultTrigger(fd);
    const table = new GuestTable(program, memory);
    const pasid = program.pasid();
    container.bindGuestPasid({ hostPasid: pasid, pageTable: table.root, addressWidth: 48 });
    startWrite(devices[0]!, GVA, 1, { pasid, requestPages: true });
    host.settle();
    const fds = [container.fd, groups[0]!.fd, devices[0]!.fd, fd];
    for (const index of order) program.system.close(fds[index]!);
    host.settle();
    expect([order, host.held]).toEqual([order, NOTHING]);
    program.system.exit();
  }
  expect(host.leftFrames()).toBe(0);
});

test('X6 descriptors of two groups, some of them twice, close in any order; the rest goes at exit', () => {
  const host = new ContainerHost();
  fc.assert(
    fc.property(
      fc.constantFrom(undefined, VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU),
      fc.array(fc.nat(4), { maxLength: 3 }),
      fc.shuffledSubarray([0, 1, 2, 3, 4, 5, 6, 7, 8]),
      (type, doubles, order) => {
        const program = host.program();
        const opened = program.open({ count: 2, ...(type === undefined ? {} : { type }) });
        const fds = [opened.container, ...opened.groups, ...opened.devices].map(({ fd }) => fd);
        for (const index of doubles) fds.push(program.system.dup(fds[index]!));
        fds.push(opened.groups[1]!.openDevice(host.entries[1]!.name).fd);
        for (const index of order) if (index < fds.length) program.system.close(fds[index]!);
        if (order.filter((index) => index < fds.length).length === fds.length) expect(host.held).toEqual(NOTHING);
        program.system.exit();
        expect(host.held).toEqual(NOTHING);
      },
    ),
    { numRuns: 40 },
  );
  expect(host.leftFrames()).toBe(0);
});
