import { ACCESS_READ, ACCESS_WRITE, FrameAllocator, PhysicalMemory, Scheduler } from '@iommukit/hw';
import { Kernel, Processes, SysError } from '@iommukit/iommu-core';
import { describe, expect, test } from 'vitest';
import { DeviceNodes } from '../../src/files/device-nodes.ts';
import { FdTable } from '../../src/files/fd-table.ts';
import { type File, POLLIN, POLLOUT } from '../../src/files/file.ts';
import { SystemCalls } from '../../src/files/system-calls.ts';

function machine() {
  const memory = new PhysicalMemory({ ramBytes: 4 << 20, reservedBytes: 65536 });
  const interrupts = { allocate: () => ({ address: 0n, data: 0 }), free() {} };
  const kernel = new Kernel({ memory, frames: new FrameAllocator(memory), scheduler: new Scheduler(), interrupts });
  const processes = new Processes(kernel);
  const nodes = new DeviceNodes();
  const process = processes.spawn();
  return { kernel, processes, nodes, sys: new SystemCalls({ kernel, processes, process, nodes }) };
}

function code(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof SysError) return error.code;
    throw error;
  }
  return 'no error';
}

function counted(): File & { released: number } {
  return {
    name: 'test',
    released: 0,
    release() {
      this.released++;
    },
  };
}

describe('descriptors', () => {
  test('are the lowest free numbers, and released with their last close', () => {
    const table = new FdTable();
    const files = [counted(), counted(), counted()];
    expect(files.map((file) => table.install(file))).toEqual([0, 1, 2]);
    const copy = table.duplicate(1);
    expect(copy).toBe(3);
    table.close(1);
    expect(files[1]!.released).toBe(0);
    expect(table.install(counted())).toBe(1);
    table.close(copy);
    expect(files[1]!.released).toBe(1);
    expect(code(() => table.close(copy))).toBe('EBADF');
    expect(code(() => table.get(77))).toBe('EBADF');
    expect(code(() => table.get(-1))).toBe('EBADF');
  });

  test('run out at 1024, and the refused file is released', () => {
    const { nodes, sys } = machine();
    const file = counted();
    nodes.register('/dev/test', () => file);
    for (let fd = 0; fd < 1024; fd++) expect(sys.open('/dev/test')).toBe(fd);
    expect(code(() => sys.open('/dev/test'))).toBe('EMFILE');
    expect(file.released).toBe(1);
  });

  test('are shared with a forked child, and closed when the process exits', () => {
    const { nodes, sys } = machine();
    const file = counted();
    nodes.register('/dev/test', () => file);
    const fd = sys.open('/dev/test');
    const child = sys.fork();
    sys.exit();
    expect(file.released).toBe(0);
    expect(child.file(fd)).toBe(file);
    child.exit();
    expect(file.released).toBe(1);
  });
});

describe('system calls', () => {
  test('refuse what is not there', () => {
    const { nodes, sys } = machine();
    nodes.register('/dev/test', counted);
    expect(code(() => sys.open('/dev/none'))).toBe('ENOENT');
    expect(sys.ioctl(9, 0)).toBe(-9);
    const fd = sys.open('/dev/test');
    expect(sys.ioctl(fd, 0x3b80)).toBe(-25);
    expect(code(() => sys.read(fd, new Uint8Array(8)))).toBe('EINVAL');
    expect(code(() => sys.write(fd, new Uint8Array(8)))).toBe('EINVAL');
    expect(code(() => sys.mmap({ fd, length: 4096 }))).toBe('ENODEV');
    expect(sys.poll(fd)).toBe(POLLIN | POLLOUT);
  });

  test('do not nest', () => {
    const { nodes, sys } = machine();
    nodes.register('/dev/test', () => ({ ...counted(), ioctl: () => sys.eventfd() }));
    const fd = sys.open('/dev/test');
    expect(() => sys.ioctl(fd, 0)).toThrow(/inside another system call/);
    expect(sys.eventfd()).toBe(1);
  });

  test('an ioctl gives the negative errno of what is thrown', () => {
    const { nodes, sys } = machine();
    const refuse = () => {
      throw new SysError('EBUSY', 'test', 'in use');
    };
    nodes.register('/dev/test', () => ({ ...counted(), ioctl: refuse }));
    expect(sys.ioctl(sys.open('/dev/test'), 1)).toBe(-16);
  });
});

describe('eventfd', () => {
  test('counts, reads to zero and polls', () => {
    const { sys } = machine();
    const fd = sys.eventfd();
    const bytes = new Uint8Array(8);
    const view = new DataView(bytes.buffer);
    expect(sys.poll(fd)).toBe(POLLOUT);
    expect(code(() => sys.read(fd, bytes))).toBe('EAGAIN');
    view.setBigUint64(0, 5n, true);
    sys.write(fd, bytes);
    sys.write(fd, bytes);
    expect(sys.poll(fd)).toBe(POLLIN | POLLOUT);
    expect(sys.read(fd, bytes)).toBe(8);
    expect(view.getBigUint64(0, true)).toBe(10n);
    expect(code(() => sys.read(fd, bytes.subarray(0, 7)))).toBe('EINVAL');
    expect(code(() => sys.write(fd, bytes.subarray(0, 7)))).toBe('EINVAL');
  });

  test('cannot hold 2^64 - 1, nor be added to beyond 2^64 - 2', () => {
    const { sys } = machine();
    const fd = sys.eventfd();
    const bytes = new Uint8Array(8).fill(0xff);
    expect(code(() => sys.write(fd, bytes))).toBe('EINVAL');
    bytes[0] = 0xfe;
    expect(sys.write(fd, bytes)).toBe(8);
    expect(sys.poll(fd)).toBe(POLLIN);
    expect(code(() => sys.write(fd, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0)))).toBe('EAGAIN');
  });
});

describe('memory', () => {
  test('a memfd mapped twice is one memory', () => {
    const { sys } = machine();
    const fd = sys.memfd('slot', 8192);
    const a = sys.mmap({ fd, length: 8192 });
    const b = sys.mmap({ fd, length: 4096, offset: 4096 });
    sys.process.addressSpace.write(b + 7n, Uint8Array.of(42));
    const read = new Uint8Array(1);
    sys.process.addressSpace.read(a + 4096n + 7n, read);
    expect(read[0]).toBe(42);
    sys.munmap(b, 4096);
    expect(code(() => sys.process.addressSpace.read(b, read))).toBe('EFAULT');
  });

  test('a file is asked for whole pages from whole pages, and what it gives is mapped', () => {
    const { nodes, processes, sys } = machine();
    const memory = processes.createFile(0x10000);
    const asked: unknown[] = [];
    const mmap: File['mmap'] = (_caller, length, protection, shared, offset) => {
      asked.push([length, protection, shared, offset]);
      return { backing: memory, offset: offset + 0x1000n };
    };
    nodes.register('/dev/test', () => ({ ...counted(), mmap }));
    const fd = sys.open('/dev/test');
    expect(code(() => sys.mmap({ fd, length: 0 }))).toBe('EINVAL');
    expect(code(() => sys.mmap({ fd, length: 4096, offset: 0x1800 }))).toBe('EINVAL');
    expect(code(() => sys.mmap({ fd, length: 2n ** 64n - 4095n }))).toBe('ENOMEM');
    expect(code(() => sys.mmap({ fd: 77, length: 4096 }))).toBe('EBADF');
    expect(asked).toEqual([]);
    const va = sys.mmap({ fd, length: 4097, offset: 0x2000, protection: ACCESS_READ });
    expect(asked).toEqual([[0x2000n, ACCESS_READ, true, 0x2000n]]);
    const other = sys.mmap({ fd, length: 1, offset: 0x3000 });
    sys.process.addressSpace.write(other, Uint8Array.of(42));
    const byte = new Uint8Array(1);
    sys.process.addressSpace.read(va + 4096n, byte);
    expect(byte[0]).toBe(42);
    expect(code(() => sys.process.addressSpace.write(va, byte))).toBe('EFAULT');
  });

  test('protection holds, and everything is given back at exit', () => {
    const { kernel, sys } = machine();
    const before = kernel.frames.allocated;
    const readable = sys.mmap({ length: 4096, protection: ACCESS_READ });
    expect(code(() => sys.process.addressSpace.write(readable, Uint8Array.of(1)))).toBe('EFAULT');
    const writable = sys.mmap({ length: 65536, protection: ACCESS_READ | ACCESS_WRITE });
    sys.process.addressSpace.write(writable, new Uint8Array(65536).fill(3));
    expect(kernel.frames.allocated).toBeGreaterThan(before);
    sys.exit();
    expect(kernel.frames.allocated).toBeLessThan(before + 1);
  });
});
