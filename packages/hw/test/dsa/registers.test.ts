import { describe, expect, test } from 'vitest';
import { DSA_COMMAND as COMMAND, DSA_REGISTER as REG } from '../../src/dsa/registers.ts';
import { BAR0, BAR2, dsaMachine, PASID } from './support.ts';

/** Fields as the Linux driver declares them: register, first bit, width, value of this device. */
const FIELDS: [string, number, number, number, number][] = [
  ['version', 0x00, 0, 32, 0x100],
  ['GENCAP block on fault', 0x10, 0, 1, 1],
  ['GENCAP overlapping copy', 0x10, 1, 1, 1],
  ['GENCAP cache control, memory', 0x10, 2, 1, 1],
  ['GENCAP cache control, cache flush', 0x10, 3, 1, 0],
  ['GENCAP command capabilities', 0x10, 4, 1, 1],
  ['GENCAP reserved', 0x10, 5, 3, 0],
  ['GENCAP destination readback', 0x10, 8, 1, 1],
  ['GENCAP drain readback', 0x10, 9, 1, 0],
  ['GENCAP event log', 0x10, 13, 2, 0],
  ['GENCAP batch continuation', 0x10, 15, 1, 0],
  ['GENCAP largest transfer', 0x10, 16, 5, 31],
  ['GENCAP largest batch', 0x10, 21, 4, 10],
  ['GENCAP message storage', 0x10, 25, 6, 0],
  ['GENCAP configurable', 0x10, 31, 1, 1],
  ['GENCAP high half', 0x10, 32, 32, 0],
  ['WQCAP total size', 0x20, 0, 16, 128],
  ['WQCAP queues', 0x20, 16, 8, 8],
  ['WQCAP entry size', 0x20, 24, 4, 0],
  ['WQCAP shared', 0x20, 48, 1, 1],
  ['WQCAP dedicated', 0x20, 49, 1, 1],
  ['WQCAP ATS disable', 0x20, 50, 1, 0],
  ['WQCAP priority', 0x20, 51, 1, 1],
  ['WQCAP occupancy', 0x20, 52, 1, 1],
  ['WQCAP occupancy interrupt', 0x20, 53, 1, 0],
  ['WQCAP operation configuration', 0x20, 54, 1, 0],
  ['GRPCAP groups', 0x30, 0, 8, 4],
  ['GRPCAP read buffers', 0x30, 8, 8, 96],
  ['GRPCAP read buffer control', 0x30, 16, 1, 1],
  ['GRPCAP read buffer limit', 0x30, 17, 1, 1],
  ['ENGCAP engines', 0x38, 0, 8, 4],
  ['OPCAP no-op to compare pattern', 0x40, 0, 7, 0x7f],
  ['OPCAP deltas', 0x40, 7, 2, 0],
  ['OPCAP dualcast', 0x40, 9, 1, 1],
  ['OPCAP CRC, copy with CRC', 0x40, 16, 2, 3],
  ['OPCAP DIF', 0x40, 18, 14, 0],
  ['OPCAP cache flush and above', 0x40, 32, 32, 0],
  ['TABLE_OFFSETS GRPCFG', 0x60, 0, 16, REG.grpcfg / 0x100],
  ['TABLE_OFFSETS WQCFG', 0x60, 16, 16, REG.wqcfg / 0x100],
  ['TABLE_OFFSETS MSI-X permissions', 0x60, 32, 16, REG.msixPermissions / 0x100],
  ['TABLE_OFFSETS message storage', 0x60, 48, 16, 0],
  ['TABLE_OFFSETS perfmon', 0x68, 0, 16, 0],
  ['GENSTS state', 0x90, 0, 2, 0],
  ['CMDCAP', 0xb0, 0, 32, 0x1ffe],
];

describe('DSA registers', () => {
  test.each(FIELDS)('%s is at %i, bit %i', (_name, register, first, width, value) => {
    const { read64 } = dsaMachine();
    expect((read64(register) >> BigInt(first)) & ((1n << BigInt(width)) - 1n)).toBe(BigInt(value));
  });

  test('is 8086:0b25 with the capabilities that the driver looks for', () => {
    const { config } = dsaMachine();
    expect(config.read(0)).toBe(0x0b25_8086);
    expect(config.read(8) >>> 8).toBe(0x088000);
    expect([...config.standard().keys()]).toEqual([0x10, 0x11]);
    expect([...config.extended().keys()]).toEqual([0x0f, 0x1b, 0x13, 0x23]);
    const pri = config.extended().get(0x13)!;
    expect(config.read(pri + 6, 2) & 0x8000).toBe(0x8000);
    const pasid = config.extended().get(0x1b)!;
    expect(config.read(pasid + 4, 2)).toBe(0x1404);
    const msix = config.standard().get(0x11)!;
    expect([config.read(msix + 2, 2) & 0x7ff, config.read(msix + 4), config.read(msix + 8)]).toEqual([
      8, 0x2000, 0x3000,
    ]);
  });

  test('both BARs are 64-bit and prefetchable, 64 KiB of registers and 16 KiB of portals a queue', () => {
    const { config } = dsaMachine();
    config.write(4, 2, 0);
    for (const at of [0x10, 0x14, 0x18, 0x1c]) config.write(at, 4, -1);
    expect([0x10, 0x14, 0x18, 0x1c].map((at) => config.read(at))).toEqual([
      0xffff_000c, 0xffff_ffff, 0xfffe_000c, 0xffff_ffff,
    ]);
  });

  test('configuration takes the defined bits while the device is disabled, and is frozen while it is not', () => {
    const { read, write, start, command } = dsaMachine();
    const all = -1 >>> 0;
    const masks: [number, number][] = [
      [REG.gencfg, 0x10ff],
      [REG.grpcfg, 0xff],
      [REG.grpcfg + 4, 0],
      [REG.grpcfg + 0x20, 0xf],
      [REG.grpcfg + 0x28, 0x0ff0_ffbf],
      [REG.grpcfg + 0x2c, 0],
      [REG.wqcfg, 0xffff],
      [REG.wqcfg + 4, 0xffff],
      [REG.wqcfg + 8, 0x3fff_fff3],
      [REG.wqcfg + 12, 0x1ff],
      [REG.wqcfg + 16, 0],
      [REG.wqcfg + 24, 0],
      [REG.msixPermissions, 0xffff_f00c],
      [REG.msixPermissions + 4, 0],
      [REG.gencap, 0],
      [REG.gensts, 0],
    ];
    const constant = new Map(masks.map(([register]) => [register, read(register)]));
    for (const [register, mask] of masks) {
      write(register, all);
      expect(read(register), register.toString(16)).toBe(mask === 0 ? constant.get(register) : mask);
      write(register, 0);
    }
    start([{}]);
    const frozen = [
      REG.gencfg,
      REG.grpcfg,
      REG.grpcfg + 0x20,
      REG.grpcfg + 0x28,
      REG.wqcfg,
      REG.wqcfg + 8,
      REG.wqcfg + 12,
    ];
    for (const register of frozen) {
      const before = read(register);
      write(register, all);
      expect(read(register), register.toString(16)).toBe(before);
    }
    write(REG.wqcfg + 4, 3);
    expect(read(REG.wqcfg + 4)).toBe(3);
    expect(command(COMMAND.disableQueues, 1)).toBe(0);
    write(REG.wqcfg + 8, (9 << 8) | 0x1000_0011);
    write(REG.wqcfg, 5);
    expect([read(REG.wqcfg), read(REG.wqcfg + 8)]).toEqual([16, (9 << 8) | 0x1000_0011]);
  });

  test('queue state and device state are in their registers', () => {
    const { read, start, command } = dsaMachine();
    start([{}]);
    expect(read(REG.gensts) & 3).toBe(1);
    expect(read(REG.wqcfg + 24) >>> 30).toBe(1);
    command(COMMAND.disableDevice);
    expect(read(REG.gensts) & 3).toBe(0);
    expect(read(REG.wqcfg + 24) >>> 30).toBe(0);
    expect(read(REG.wqcfg)).toBe(16);
  });

  test('64-bit accesses are two registers, narrow reads a part of one, narrow writes nothing', () => {
    const { memory, read } = dsaMachine();
    memory.store(BAR0 + REG.wqcfg, 8, 0x0000_0007_0000_0010n);
    expect(memory.load(BAR0 + REG.wqcfg, 8)).toBe(0x7_0000_0010n);
    memory.store(BAR0 + REG.wqcfg, 2, 1);
    memory.store(BAR0 + REG.wqcfg, 1, 1);
    expect(read(REG.wqcfg)).toBe(16);
    expect(memory.load(BAR0 + REG.gencap + 2, 2)).toBe(0x815fn);
    expect(memory.load(BAR0 + REG.version + 1, 1)).toBe(1n);
    expect(memory.load(BAR0 + 0x4000, 8)).toBe(0n);
  });

  test('portals read as all-ones', () => {
    const { memory } = dsaMachine();
    expect(memory.load(BAR2 + 0x1040, 8)).toBe(0xffff_ffff_ffff_ffffn);
    expect(memory.load(BAR2 + 0x1040, 4)).toBe(0xffff_ffffn);
  });

  test('reset brings every register to its first value', () => {
    const { memory, start, write, command, config, bring, writeMsix } = dsaMachine();
    const snapshot = () => Array.from({ length: 0x900 / 4 }, (_, i) => Number(memory.load(BAR0 + 4 * i, 4)));
    const first = snapshot();
    const dirty = () => {
      start([{ pasid: PASID }, { dedicated: false, threshold: 3 }], 2);
      writeMsix(1, PASID);
      write(REG.genctrl, 3);
    };
    dirty();
    expect(snapshot()).not.toEqual(first);
    expect(command(COMMAND.resetDevice)).toBe(0);
    first[REG.cmd / 4] = 0;
    const registers = snapshot();
    registers[REG.cmd / 4] = 0;
    expect(registers).toEqual(first);
    dirty();
    config.write(config.standard().get(0x10)! + 8, 2, 0x8000);
    bring();
    expect(snapshot()).toEqual(first);
  });

  test.each([{ queues: 0 }, { queues: 17 }, { engines: 33 }, { groups: 9 }, { totalSize: 70000 }])(
    '%o is no DSA',
    (options) => {
      expect(() => dsaMachine(options)).toThrow(RangeError);
    },
  );
});
