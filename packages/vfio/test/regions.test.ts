import { ACCESS_READ, ACCESS_WRITE } from '@iommukit/hw';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Machine, type MachineOptions, PAGE, refusal, type User } from './support/machine.ts';

const RW = ACCESS_READ | ACCESS_WRITE;
const BAR = 0x10000;

function bound(options: MachineOptions = {}): User {
  const user = new Machine(options).user();
  user.vfio.bind(user.iommufd.fd);
  return user;
}

describe('registers', () => {
  test('are read and written through the file, up to the end of the BAR', () => {
    const user = bound();
    expect(user.loadRegister(0)).toBe(0x54534554);
    const bytes = Uint8Array.from({ length: 100 }, (_, i) => i + 1);
    expect(user.vfio.write(0, BAR - 60, bytes)).toBe(60);
    const back = new Uint8Array(100);
    expect(user.vfio.read(0, BAR - 60, back)).toBe(60);
    expect(back.subarray(0, 60)).toEqual(bytes.subarray(0, 60));
    expect(refusal(() => user.vfio.read(0, BAR, back))).toBe('EINVAL');
    for (const region of [1, 6, 8, 9, 4000]) expect(refusal(() => user.vfio.read(region, 0, back))).toBe('EINVAL');
    expect(user.vfio.read(9, 0, new Uint8Array(0))).toBe(0);
  });

  test('read(2) and write(2) move along the file', () => {
    const user = bound();
    const { fd } = user.vfio;
    const word = new Uint8Array(4);
    user.system.read(fd, word);
    expect(new DataView(word.buffer).getUint32(0, true)).toBe(0x54534554);
    for (let register = 1; register < 6; register++) user.system.read(fd, word);
    user.system.write(fd, Uint8Array.from([0x11, 0, 0, 0]));
    expect([user.loadRegister(0x14), user.loadRegister(0x18)]).toEqual([0, 0x11]);
  });

  test('the MSI-X table reads as ones and takes nothing', () => {
    const user = bound();
    const bytes = new Uint8Array(32).fill(0x55);
    expect(user.vfio.write(0, 0x1000 - 16, bytes)).toBe(32);
    user.vfio.write(0, 0x1000 + 8 * 16 - 4, new Uint8Array(8));
    const back = new Uint8Array(32);
    user.vfio.read(0, 0x1000, back);
    expect(back.every((byte) => byte === 0xff)).toBe(true);
    const { pci } = user.machine.devices[0]!;
    expect(user.machine.memory.load(pci.resource(0)!.address + 0x1000n, 4)).toBe(0n);
  });

  test('answer EIO while memory decode is off', () => {
    const user = bound();
    user.vfio.writeConfig(4, 2, 0);
    expect(refusal(() => user.vfio.read(0, 0, new Uint8Array(4)))).toBe('EIO');
    expect(refusal(() => user.vfio.write(0, 0, new Uint8Array(4)))).toBe('EIO');
    user.vfio.writeConfig(4, 2, 2);
    expect(user.loadRegister(0)).toBe(0x54534554);
  });
});

describe('windows', () => {
  test('a mapped BAR is the device, until memory decode goes off, and again when it comes back', () => {
    const user = bound();
    const va = user.vfio.map(0, 0, BAR);
    expect(user.memory.load(va, 4)).toBe(0x54534554n);
    user.memory.store(va + 0x8000n, 8, 0x1122334455667788n);
    const back = new Uint8Array(8);
    user.vfio.read(0, 0x8000, back);
    expect(back[0]).toBe(0x88);
    user.vfio.writeConfig(4, 2, 0);
    expect(refusal(() => user.memory.load(va, 4))).toBe('EFAULT');
    user.vfio.writeConfig(4, 2, 2);
    expect(user.memory.load(va, 4)).toBe(0x54534554n);
    user.system.close(user.vfio.fd);
    expect(refusal(() => user.memory.load(va, 4))).toBe('EFAULT');
  });

  test('nothing but a shared mapping within a BAR is given', () => {
    const user = bound();
    const { fd } = user.vfio;
    expect(refusal(() => user.system.mmap({ fd, length: PAGE, shared: false }))).toBe('EINVAL');
    expect(refusal(() => user.vfio.map(0, BAR, PAGE))).toBe('EINVAL');
    expect(refusal(() => user.vfio.map(0, PAGE, BAR))).toBe('EINVAL');
    expect(refusal(() => user.vfio.map(0, 0, 2n ** 63n))).toBe('EINVAL');
    for (const region of [1, 6, 7, 8, 9]) expect(refusal(() => user.vfio.map(region, 0, PAGE))).toBe('EINVAL');
    expect(refusal(() => user.vfio.map(0, 100, PAGE))).toBe('EINVAL');
  });

  test('device memory cannot become DMA memory', () => {
    const user = bound();
    const va = user.vfio.map(0, 0, PAGE);
    const ioasId = user.iommufd.ioasAlloc();
    const map = () => user.iommufd.ioasMap({ ioasId, userVa: va, length: PAGE, iova: 0x10000n });
    expect(
      refusal(() => {
        map();
        user.vfio.attach(ioasId);
      }),
    ).toBe('EFAULT');
  });

  test('as Linux has it the MSI-X table can be mapped; trapped, the windows lie around its page', () => {
    expect(bound().vfio.regionInfo(0)).toEqual({
      flags: 7,
      size: BigInt(BAR),
      offset: 0n,
      msixMappable: true,
      sparse: null,
    });
    const user = bound({ msixTable: 'trapped' });
    expect(user.vfio.regionInfo(0)).toEqual({
      flags: 7,
      size: BigInt(BAR),
      offset: 0n,
      msixMappable: false,
      sparse: [
        { offset: 0n, size: 0x1000n },
        { offset: 0x2000n, size: 0xe000n },
      ],
    });
    expect(refusal(() => user.vfio.map(0, 0, BAR))).toBe('EINVAL');
    expect(refusal(() => user.vfio.map(0, 0x1000, PAGE))).toBe('EINVAL');
    const va = user.vfio.map(0, 0x2000, 0xe000, RW);
    user.memory.store(va + 0x6000n, 1, 3n);
    expect(user.memory.load(va + 0x6000n, 1)).toBe(3n);
  });

  test('trapped BARs are read and written through the file and cannot be mapped', () => {
    const user = bound({ bars: 'trapped' });
    expect(user.vfio.regionInfo(0)).toMatchObject({ flags: 3, size: BigInt(BAR), msixMappable: false, sparse: null });
    expect(refusal(() => user.vfio.map(0, 0, BAR))).toBe('EINVAL');
    expect(user.loadRegister(0)).toBe(0x54534554);
  });
});

describe('configuration space', () => {
  test('sizes and keeps BARs without touching the real ones', () => {
    const user = bound();
    const { pci } = user.machine.devices[0]!;
    const real = [pci.config.read(0x10, 4), pci.config.read(0x14, 4)];
    user.vfio.writeConfig(0x10, 4, 0xffffffff);
    user.vfio.writeConfig(0x14, 4, 0xffffffff);
    expect(user.vfio.readConfig(0x10, 4)).toBe((~(BAR - 1) | 4) >>> 0);
    expect(user.vfio.readConfig(0x14, 4)).toBe(0xffffffff);
    user.vfio.writeConfig(0x10, 4, 0xe0012345);
    user.vfio.writeConfig(0x17, 1, 0x12);
    expect(user.vfio.readConfig(0x10, 4)).toBe(0xe0010004);
    expect(user.vfio.readConfig(0x14, 4)).toBe(0x12ffffff);
    user.vfio.writeConfig(0x18, 4, 0xffffffff);
    expect(user.vfio.readConfig(0x18, 4)).toBe(0);
    user.vfio.writeConfig(0x30, 4, 0xffffffff);
    expect(user.vfio.readConfig(0x30, 4)).toBe(0);
    expect([pci.config.read(0x10, 4), pci.config.read(0x14, 4)]).toEqual(real);
    expect(user.loadRegister(0)).toBe(0x54534554);
  });

  test('passes bus mastering and memory decode through, and keeps INTx disable to itself', () => {
    const user = bound();
    const { config } = user.machine.devices[0]!.pci;
    user.vfio.writeConfig(4, 2, 0x0406);
    expect(user.vfio.readConfig(4, 2)).toBe(0x0406);
    expect(config.read(4, 2)).toBe(6);
    user.vfio.writeConfig(5, 1, 0);
    expect(user.vfio.readConfig(4, 2)).toBe(6);
  });

  test('shows ATS, PRI, ACS and SR-IOV without letting them be changed, hides PASID, and ends its chains', () => {
    const user = bound();
    const { pci } = user.machine.devices[0]!;
    const found = new Map<number, number>();
    for (let at = 0x100; at !== 0; at = user.vfio.readConfig(at, 4) >>> 20) {
      expect(found.size).toBeLessThan(20);
      found.set(user.vfio.readConfig(at, 4) & 0xffff, at);
    }
    expect([...found.keys()].sort()).toEqual([0x0f, 0x10, 0x13].sort());
    expect(found.get(0x0f)).toBe(pci.atsOffset);
    for (const [id, at] of found) {
      const control = { 15: 6, 16: 8, 19: 4 }[id]!;
      const before = pci.config.read(at + control, 2);
      user.vfio.writeConfig(at + control, 2, before ^ 0xffff);
      expect(pci.config.read(at + control, 2)).toBe(before);
      expect(user.vfio.readConfig(at + control, 2)).toBe(before);
    }
    const pasid = pci.config.read(pci.pasidOffset + 6, 2);
    user.vfio.writeConfig(pci.pasidOffset + 6, 2, pasid ^ 0xffff);
    expect(pci.config.read(pci.pasidOffset + 6, 2)).toBe(pasid);
    const standard: number[] = [];
    for (let at = user.vfio.readConfig(0x34, 1); at !== 0; at = user.vfio.readConfig(at + 1, 1)) {
      standard.push(user.vfio.readConfig(at, 1));
    }
    expect(standard.sort()).toEqual([0x10, 0x11]);
  });

  test('MSI-X control is the host business', () => {
    const user = bound();
    const { pci } = user.machine.devices[0]!;
    let at = user.vfio.readConfig(0x34, 1);
    while (user.vfio.readConfig(at, 1) !== 0x11) at = user.vfio.readConfig(at + 1, 1);
    user.vfio.writeConfig(at + 2, 2, 0xc000);
    expect(pci.msix!.enabled).toBe(false);
    expect(user.vfio.readConfig(at + 2, 2) & 0x8000).toBe(0);
    expect(user.vfio.readConfig(at + 2, 2) & 0x7ff).toBe(7);
  });

  test('the function-level reset bit resets and reads as zero', () => {
    const user = bound();
    const at = user.machine.devices[0]!.pci.expressOffset + 8;
    user.storeRegister(0x18, 5);
    user.vfio.writeConfig(at, 2, user.vfio.readConfig(at, 2) | 0x8000);
    expect(user.loadRegister(0x18)).toBe(0);
    expect(user.vfio.readConfig(at, 2) & 0x8000).toBe(0);
  });

  test('a virtual function shows its own ids, BARs and memory decode', () => {
    const machine = new Machine({ virtualFunctions: 1 });
    const token = new Uint8Array(16).fill(1);
    const owner = machine.user();
    owner.vfio.bind(owner.iommufd.fd, token);
    const user = machine.user({}, 1);
    user.vfio.bind(user.iommufd.fd, token);
    expect(user.vfio.readConfig(0, 4)).toBe(0x0002696f);
    expect(user.vfio.readConfig(4, 2) & 2).toBe(2);
    user.vfio.writeConfig(0x10, 4, 0xffffffff);
    expect(user.vfio.readConfig(0x10, 4)).toBe((~(BAR - 1) | 4) >>> 0);
    expect(user.loadRegister(0)).toBe(0x54534554);
    expect(user.vfio.info().flags & 1).toBe(1);
  });

  test('accesses of any place and size are those of its bytes, and nothing lies beyond', () => {
    const user = bound();
    const whole = new Uint8Array(4096);
    user.vfio.read(7, 0, whole);
    fc.assert(
      fc.property(fc.nat(4096), fc.nat(64), (offset, length) => {
        const part = new Uint8Array(length);
        const code = refusal(() => user.vfio.read(7, offset, part));
        if (length > 0 && offset + length > 4096) return code === 'EFAULT';
        return code === null && part.every((byte, i) => byte === whole[offset + i]);
      }),
    );
  });

  test('no write, whatever it is, harms the machine', () => {
    const user = bound();
    const { pci } = user.machine.devices[0]!;
    const enables = () => [pci.pasidOffset, pci.atsOffset, pci.priOffset].map((at) => pci.config.read(at + 4, 4));
    const before = enables();
    fc.assert(
      fc.property(fc.nat(4095), fc.uint8Array({ minLength: 1, maxLength: 16 }), (offset, bytes) => {
        expect(refusal(() => user.vfio.write(7, offset, bytes))).toBe(offset + bytes.length > 4096 ? 'EFAULT' : null);
        expect(enables()).toEqual(before);
        expect(pci.config.read(0x10, 4) & ~15).toBe(Number(pci.resource(0)!.address & 0xfffffff0n) | 0);
      }),
      { numRuns: 300 },
    );
    user.system.exit();
    expect(pci.config.read(4, 2)).toBe(2);
  });
});
