import { registerIommufd } from '@iommukit/iommufd';
import { registerIoasid } from '@iommukit/iommufd/ioasid';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import * as uapi from '../../src/index.ts';
import { errno, IoasidMachine, PAGE, Program, ProgramDevice } from '../support/ioasid-machine.ts';

describe('bind', () => {
  test('C12 before bind every access is refused; after it the device works, with its DMA blocked until it is attached', () => {
    const site = new IoasidMachine();
    const program = site.program();
    const { ioasid } = program;
    const device = program.open(0);
    const { vfio } = device;
    const gpa = ioasid.alloc();
    const calls = [
      () => vfio.info(),
      () => vfio.read(7, 0, new Uint8Array(4)),
      () => vfio.write(7, 4, new Uint8Array(2)),
      () => vfio.map(0, 0, 4096),
      () => vfio.attachIoasid(gpa),
      () => vfio.detachIoasid(gpa),
      () => vfio.unbindIoasid(),
      () => vfio.allowIoasid(ioasid.fd, gpa, 5),
    ];
    expect(calls.map(errno)).toEqual(calls.map(() => 'EINVAL'));
    vfio.bindIoasid(ioasid.fd, 1);
    device.start();
    expect([vfio.info().regions, errno(() => vfio.attach(1)), errno(() => vfio.bindIoasid(ioasid.fd, 2))]).toEqual([
      9,
      'EINVAL',
      'EINVAL',
    ]);
    const hva = program.memory(1);
    expect([device.read(0n), device.write(0n, 9)]).toEqual([null, false]);
    vfio.attachIoasid(gpa);
    ioasid.map({ ioasid: gpa, iova: 0, vaddr: hva, size: PAGE });
    expect([device.read(0n), device.write(0n, 9), program.byteAt(hva)]).toEqual([1, true, 9]);
  });

  test('C13 closing the device file without detach blocks, detaches and releases', () => {
    for (const rules of ['v1', 'v2'] as const) {
      const site = new IoasidMachine({ rules });
      const program = site.program();
      const { ioasid } = program;
      const [first, second] = [program.bind(0), program.bind(1)];
      const gpa = ioasid.alloc();
      for (const { vfio } of [first, second]) vfio.attachIoasid(gpa);
      ioasid.map({ ioasid: gpa, iova: 0, vaddr: program.memory(4), size: 4n * PAGE });
      first.vfio.attachIoasid(gpa, { pasid: 5 });
      expect([first.read(0n), first.read(0n, { pasid: 5 }), second.read(0n)]).toEqual([1, 1, 1]);
      program.system.close(first.vfio.fd);
      const { group } = site.host.device(8);
      expect([group.owner, group.pasidHandles.size, site.pinned, second.read(0n)]).toEqual([null, 0, 4, 1]);
      program.system.close(second.vfio.fd);
      expect(site.pinned).toBe(0);
      const again = program.bind(0);
      expect(again.read(0n)).toBeNull();
      program.system.exit();
      expect([site.node.iommufd.objects, site.node.iommufd.contexts.size, site.pinned]).toEqual([0, 0, 0]);
    }
  });

  test('C15 the second device of a group goes where the first is', () => {
    const site = new IoasidMachine({ paired: true });
    const program = site.program();
    const { ioasid } = program;
    const [first, second] = [program.bind(0), program.bind(1)];
    const [gpa, other] = [ioasid.alloc(), ioasid.alloc()];
    first.vfio.attachIoasid(gpa);
    const map = (): string | null =>
      errno(() => ioasid.map({ ioasid: gpa, iova: 0, vaddr: program.memory(1), size: PAGE }));
    expect([map(), errno(() => second.vfio.attachIoasid(other))]).toEqual(['EBUSY', 'EINVAL']);
    second.vfio.attachIoasid(gpa);
    expect([map(), first.read(0n), second.read(0n)]).toEqual([null, 1, 1]);
  });

  test('closing /dev/ioasid first blocks the device, which its own file then gives back', () => {
    const site = new IoasidMachine();
    const program = site.program();
    const { ioasid } = program;
    const device = program.bind(0);
    const gpa = ioasid.alloc();
    device.vfio.attachIoasid(gpa);
    ioasid.map({ ioasid: gpa, iova: 0, vaddr: program.memory(1), size: PAGE });
    expect(device.read(0n)).toBe(1);
    program.system.close(ioasid.fd);
    expect([device.read(0n), site.pinned, errno(() => device.vfio.attachIoasid(gpa))]).toEqual([null, 0, 'ENOENT']);
    expect(device.vfio.info().regions).toBe(9);
    program.system.close(device.vfio.fd);
    expect([site.node.iommufd.contexts.size, site.host.device(8).group.owner]).toEqual([0, null]);
  });

  test('unbinding is closing without the file going, by the rules of version 1 only', () => {
    const program = new IoasidMachine().program();
    const device = program.bind(0);
    const window = device.map();
    const { memory } = program.system.process;
    expect(memory!.load(window, 4)).toBe(0x54534554n);
    device.vfio.unbindIoasid();
    expect([errno(() => device.vfio.info()), errno(() => memory!.load(window, 4))]).toEqual(['EINVAL', 'EFAULT']);
    device.vfio.bindIoasid(program.ioasid.fd, 7);
    expect(device.vfio.info().regions).toBe(9);
    const other = new IoasidMachine({ rules: 'v2' }).program().bind(0);
    expect([errno(() => other.vfio.unbindIoasid()), other.vfio.info().regions]).toEqual(['ENOTTY', 9]);
  });

  test('a device is bound to one file of one kind at a time', () => {
    const site = new IoasidMachine();
    registerIommufd(site.nodes, { kernel: site.host.kernel });
    const program = site.program();
    const device = program.open(0);
    const iommufd = program.system.open('/dev/iommu');
    expect([errno(() => device.vfio.bindIoasid(iommufd, 1)), errno(() => device.vfio.bindIoasid(99, 1))]).toEqual([
      'EBADFD',
      'EBADF',
    ]);
    expect(errno(() => device.vfio.bind(program.ioasid.fd))).toBe('EBADFD');
    device.vfio.bind(iommufd);
    expect([
      errno(() => device.vfio.bindIoasid(program.ioasid.fd, 1)),
      errno(() => device.vfio.attachIoasid(1)),
    ]).toEqual(['EINVAL', 'EINVAL']);
    expect(errno(() => program.open(0).vfio.bindIoasid(program.ioasid.fd, 1))).toBe('EINVAL');
    const [one, two] = [program.bind(1), site.program()];
    expect([errno(() => two.open(1).vfio.bindIoasid(two.ioasid.fd, 1)), one.vfio.info().regions]).toEqual([
      'EINVAL',
      9,
    ]);
  });
});

describe('V9 authority', () => {
  test('V9 without the device file, or without the IOASID file, nothing is allowed a PASID', () => {
    const site = new IoasidMachine();
    registerIoasid(site.nodes, { kernel: site.host.kernel, rules: 'v1', path: '/dev/ioasid-2' });
    const program = site.program();
    const { ioasid, system } = program;
    const device = program.bind(0);
    const gpa = ioasid.alloc();
    device.vfio.attachIoasid(gpa);
    ioasid.map({ ioasid: gpa, iova: 0, vaddr: program.memory(1), size: PAGE });
    const allow = (by: typeof program, fd: number, ioasidFd: number): number =>
      by.ioctl(fd, uapi.VFIO_DEVICE_ALLOW_IOASID, uapi.vfioIoasidAllow, { ioasidFd, ioasid: gpa, pasid: 9 }).result;
    // Another process has the IOASID's number, and files of its own.
    const stranger = site.program();
    stranger.ioasid.alloc();
    const closed = 77;
    expect([
      allow(stranger, closed, stranger.ioasid.fd),
      allow(stranger, stranger.ioasid.fd, stranger.ioasid.fd),
    ]).toEqual([-9, -25]);
    const unbound = stranger.open(0);
    expect(allow(stranger, unbound.vfio.fd, stranger.ioasid.fd)).toBe(-22);
    // Who has the device file alone: no file, a file of another kind, another /dev/ioasid.
    const others = [
      closed,
      -1,
      system.eventfd(),
      device.vfio.fd,
      system.open('/dev/ioasid'),
      system.open('/dev/ioasid-2'),
    ];
    expect(others.map((fd) => allow(program, device.vfio.fd, fd))).toEqual([-9, -9, -77, -77, -1, -1]);
    const { authorizedPasids } = site.host.device(8);
    expect([device.read(0n, { pasid: 9 }), authorizedPasids.size]).toEqual([null, 0]);
    expect(allow(program, device.vfio.fd, ioasid.fd)).toBe(0);
    expect([device.read(0n, { pasid: 9 }), authorizedPasids.size]).toEqual([1, 1]);
    const disallow = (ioasidFd: number): number =>
      program.ioctl(device.vfio.fd, uapi.VFIO_DEVICE_DISALLOW_IOASID, uapi.vfioIoasidAllow, {
        ioasidFd,
        ioasid: gpa,
        pasid: 9,
      }).result;
    expect([
      disallow(others[4]!),
      device.read(0n, { pasid: 9 }),
      disallow(ioasid.fd),
      device.read(0n, { pasid: 9 }),
    ]).toEqual([-1, 1, 0, null]);
    expect(disallow(ioasid.fd)).toBe(-2);
  });

  test('V9 attaching takes the device file alone, as both were shown when it was bound', () => {
    const site = new IoasidMachine();
    const program = site.program();
    const { ioasid } = program;
    const { vfio } = program.bind(0);
    const gpa = ioasid.alloc();
    vfio.attachIoasid(gpa);
    ioasid.map({ ioasid: gpa, iova: 0, vaddr: program.memory(1), size: PAGE });
    const child = new Program(site, program.system.fork());
    child.system.close(ioasid.fd);
    const childs = new ProgramDevice(child, vfio.fd);
    expect(errno(() => childs.vfio.allowIoasid(ioasid.fd, gpa, 9))).toBe('EBADF');
    expect(childs.read(0n, { pasid: 9 })).toBeNull();
    expect(childs.vfio.attachIoasid(gpa, { pasid: 9 })).toBe(9);
    expect(childs.read(0n, { pasid: 9 })).toBe(1);
    childs.vfio.detachIoasid(gpa, { pasid: 9 });
    expect(childs.read(0n, { pasid: 9 })).toBeNull();
    // A file of the child's own has other IOASIDs, and the device is not bound to it.
    expect([child.ioasid.alloc(), child.ioasid.alloc()]).toEqual([gpa, gpa + 1]);
    expect(errno(() => childs.vfio.attachIoasid(gpa + 1, { pasid: 9 }))).toBe('ENOENT');
    // When nobody has the IOASID file open any more there is nothing left to attach to.
    program.system.close(ioasid.fd);
    expect(errno(() => childs.vfio.attachIoasid(gpa, { pasid: 9 }))).toBe('ENOENT');
  });

  test('V9 the client asks the same', () => {
    const program = new IoasidMachine().program();
    const device = program.bind(0);
    const gpa = program.ioasid.alloc();
    const other = program.system.open('/dev/ioasid');
    expect(errno(() => device.vfio.allowIoasid(other, gpa, 9))).toBe('EPERM');
    device.vfio.allowIoasid(program.ioasid.fd, gpa, 9);
    expect(errno(() => device.vfio.disallowIoasid(other, gpa, 9))).toBe('EPERM');
    device.vfio.disallowIoasid(program.ioasid.fd, gpa, 9);
  });
});

describe('on bytes', () => {
  test('requests are the RFC’s, layouts this project’s', () => {
    const { VFIO_BIND_IOASID_FD, VFIO_UNBIND_IOASID_FD, VFIO_ATTACH_IOASID, VFIO_DETACH_IOASID } = uapi;
    expect([VFIO_BIND_IOASID_FD, VFIO_UNBIND_IOASID_FD, VFIO_ATTACH_IOASID, VFIO_DETACH_IOASID]).toEqual(
      [22, 23, 24, 25].map((number) => 0x3b00 + 100 + number),
    );
    const { vfioIoasidBind, vfioIoasidAttach, vfioIoasidAllow } = uapi;
    expect([vfioIoasidBind, vfioIoasidAttach, vfioIoasidAllow].map(({ size }) => size)).toEqual([32, 16, 20]);
  });

  test('bind, attach with a PASID and without, detach, unbind', () => {
    const program = new IoasidMachine().program();
    const { ioasid } = program;
    const device = program.open(0);
    const { fd } = device.vfio;
    const call = (request: number, values: object): number =>
      program.ioctl(fd, request, uapi.vfioIoasidAttach, values).result;
    const bind = (values: object): number =>
      program.ioctl(fd, uapi.VFIO_BIND_IOASID_FD, uapi.vfioIoasidBind, {
        ioasidFd: ioasid.fd,
        cookie: 1n << 60n,
        ...values,
      }).result;
    expect([
      bind({ flags: 2 }),
      bind({ argsz: 16 }),
      bind({ ioasidFd: -1 }),
      bind({ flags: 1, tokenUuidPtr: 8n }),
    ]).toEqual([-22, -22, -9, -14]);
    expect([bind({ argsz: 24 }), bind({})]).toEqual([0, -22]);
    device.start();
    const gpa = ioasid.alloc();
    expect([call(uapi.VFIO_ATTACH_IOASID, { ioasid: gpa }), call(uapi.VFIO_ATTACH_IOASID, { ioasid: gpa })]).toEqual([
      0, -16,
    ]);
    ioasid.map({ ioasid: gpa, iova: 0, vaddr: program.memory(1), size: PAGE });
    const tagged = { ioasid: gpa, flags: uapi.IOASID_ATTACH_USER_PASID, userPasid: 3 };
    expect([call(uapi.VFIO_ATTACH_IOASID, tagged), device.read(0n, { pasid: 3 })]).toEqual([0, 1]);
    for (const request of [uapi.VFIO_ATTACH_IOASID, uapi.VFIO_DETACH_IOASID]) {
      expect(call(request, { ioasid: gpa, flags: 2 })).toBe(-22);
      expect(call(request, { ioasid: gpa, argsz: 12 })).toBe(-22);
      expect(call(request, { ...tagged, userPasid: 0 })).toBe(-22);
      expect(call(request, { ioasid: 99 })).toBe(-2);
      expect(program.system.ioctl(fd, request, 8)).toBe(-14);
    }
    expect([call(uapi.VFIO_DETACH_IOASID, tagged), call(uapi.VFIO_DETACH_IOASID, tagged), device.read(0n)]).toEqual([
      0, -2, 1,
    ]);
    expect([
      program.system.ioctl(fd, uapi.VFIO_UNBIND_IOASID_FD),
      program.system.ioctl(fd, uapi.VFIO_UNBIND_IOASID_FD),
    ]).toEqual([0, -22]);
  });

  test('attaching a process’s address space gives its PASID back', () => {
    const program = new IoasidMachine({ rules: 'v2' }).program();
    const device = program.bind(0);
    const ioasid = program.ioasid.alloc({ shared: true });
    const { result, reply } = program.ioctl(device.vfio.fd, uapi.VFIO_ATTACH_IOASID, uapi.vfioIoasidAttach, { ioasid });
    expect([result, reply.flags]).toEqual([0, uapi.IOASID_ATTACH_USER_PASID]);
    const va = program.memory(1, 44);
    expect(device.read(va, { pasid: reply.userPasid })).toBe(44);
  });

  test('no bytes make a request throw anything but an errno', () => {
    const word = fc.oneof(fc.constantFrom(0, 1, 2, 3, 12, 16, 20, 24, 32, 0xffff_ffff), fc.nat(0xffff_ffff));
    const requests = [
      uapi.VFIO_BIND_IOASID_FD,
      uapi.VFIO_UNBIND_IOASID_FD,
      uapi.VFIO_ATTACH_IOASID,
      uapi.VFIO_DETACH_IOASID,
      uapi.VFIO_DEVICE_ALLOW_IOASID,
      uapi.VFIO_DEVICE_DISALLOW_IOASID,
    ];
    const step = fc.record({
      request: fc.constantFrom(...requests),
      words: fc.array(word, { minLength: 8, maxLength: 8 }),
      at: fc.constantFrom(0n, 4080n, 1n << 63n),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 20 }), (steps) => {
        const site = new IoasidMachine();
        const program = site.program();
        const device = program.bind(0);
        device.vfio.attachIoasid(program.ioasid.alloc());
        const { memory } = program.system.process;
        const argument = program.system.mmap({ length: 4096 });
        for (const { request, words, at } of steps) {
          memory!.write(argument, new Uint8Array(Uint32Array.from(words).buffer));
          expect(program.system.ioctl(device.vfio.fd, request, argument + at)).toBeLessThanOrEqual(0);
        }
        program.system.exit();
        expect([site.node.iommufd.objects, site.node.iommufd.contexts.size]).toEqual([0, 0]);
      }),
      { numRuns: 8 },
    );
  });
});
