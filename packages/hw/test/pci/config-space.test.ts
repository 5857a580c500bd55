import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { TestFunction } from '../../src/devices/test-function.ts';
import { ExpressCapability } from '../../src/pci/capabilities/pci-express.ts';
import { CONFIG_SPACE_SIZE, ConfigSpace } from '../../src/pci/config-space.ts';
import { PciFunction } from '../../src/pci/function.ts';
import { RootPort } from '../../src/pci/root-port.ts';
import { Config, machine } from './support.ts';

const nothing = { read: () => 0n, write() {} };
const ids = { vendorId: 0x1234, deviceId: 0x5678, classCode: 0x088000 };

/** Every bit that the specification makes read-only in a test function, by name. */
function readOnly(config: Config): Record<string, number> {
  const standard = config.standard();
  const extended = config.extended();
  const [express, msix] = [standard.get(0x10)!, standard.get(0x11)!];
  const [ats, pasid, pri, sriov] = [0x0f, 0x1b, 0x13, 0x10].map((id) => extended.get(id)!) as [
    number,
    number,
    number,
    number,
  ];
  return {
    ids: config.read(0x00),
    command: config.read(0x04, 2) & ~0x0546,
    status: config.read(0x06, 2),
    classAndRevision: config.read(0x08),
    headerType: config.read(0x0e, 1),
    bar0Flags: config.read(0x10) & 0xffff,
    bars2to5: config.read(0x18) | config.read(0x1c) | config.read(0x20) | config.read(0x24),
    subsystem: config.read(0x2c),
    rom: config.read(0x30),
    pin: config.read(0x3d, 1),
    expressFlags: config.read(express + 2, 2),
    deviceCapabilities: config.read(express + 4),
    deviceControlReset: config.read(express + 8, 2) & 0x8000,
    link: config.read(express + 0x0c) | config.read(express + 0x10),
    deviceCapabilities2: config.read(express + 0x24),
    msixControl: config.read(msix + 2, 2) & ~0xc000,
    msixTable: config.read(msix + 4),
    msixPending: config.read(msix + 8),
    atsCapability: config.read(ats + 4, 2),
    atsControl: config.read(ats + 6, 2) & ~0x801f,
    pasidCapability: config.read(pasid + 4, 2),
    pasidControl: config.read(pasid + 6, 2) & ~7,
    priControl: config.read(pri + 4, 2) & ~1,
    priStatus: config.read(pri + 6, 2) & ~0x0103,
    priCapacity: config.read(pri + 8),
    sriovCapability: config.read(sriov + 4),
    sriovControl: config.read(sriov + 8, 2) & ~0x19,
    sriovVfs: config.read(sriov + 0x0c),
    sriovRouting: config.read(sriov + 0x14),
    sriovDevice: config.read(sriov + 0x18),
    sriovPages: config.read(sriov + 0x1c) ^ config.read(sriov + 0x20),
    sriovBar0Flags: config.read(sriov + 0x24) & 0xffff,
  };
}

describe('ConfigSpace', () => {
  test('a write changes exactly the writable bits and clears exactly the clearable ones', () => {
    fc.assert(
      fc.property(fc.nat(), fc.nat(), fc.nat(), fc.integer(), (value, writable, clearable, written) => {
        const clear = clearable & ~writable;
        const config = new ConfigSpace();
        config.define(0x40, 4, { value, writable, clearable: clear });
        config.write(0x40, 4, written);
        const expected = (value & ~writable & ~(clear & written)) | (writable & written);
        expect(config.read(0x40, 4)).toBe(expected >>> 0);
      }),
    );
  });

  test('narrow writes touch their own bytes only', () => {
    const config = new ConfigSpace();
    config.define(0x40, 4, { writable: -1 });
    config.write(0x41, 1, 0xff);
    config.write(0x42, 2, 0xabcd);
    expect(config.read(0x40, 4)).toBe(0xabcdff00);
  });

  test('outside the space reads are all-ones and writes are dropped', () => {
    const config = new ConfigSpace();
    config.write(4094, 4, 0xffffffff);
    expect(config.read(4094, 4)).toBe(0xffff0000);
    expect(config.read(8192, 2)).toBe(0xffff);
  });

  test('an action sees the stored bits and runs for overlapping writes only', () => {
    const config = new ConfigSpace();
    const seen: number[] = [];
    config.define(0x40, 4, { writable: 0xff00 });
    config.onWrite(0x41, 1, () => seen.push(config.read(0x40, 4)));
    config.write(0x40, 1, 1);
    config.write(0x40, 4, 0x1200);
    config.write(0x42, 2, 1);
    expect(seen).toEqual([0x1200]);
  });
});

describe('a function in ECAM', () => {
  test('random writes never change a read-only bit, never throw, and never break a chain', () => {
    const write = fc.record({
      offset: fc.oneof(fc.nat(CONFIG_SPACE_SIZE - 1), fc.nat(0x200)),
      width: fc.constantFrom<1 | 2 | 4>(1, 2, 4),
      value: fc.integer(),
    });
    fc.assert(
      fc.property(fc.array(write, { maxLength: 60 }), (writes) => {
        const { memory, scheduler, fabric } = machine();
        const fn = fabric.plug(new TestFunction({ memory, scheduler }), 0x28);
        const config = new Config(memory, 0x28);
        const before = readOnly(config);
        const chains = [[...config.standard()], [...config.extended()]];
        for (const { offset, width, value } of writes) config.write(offset - (offset % width), width, value);
        expect(readOnly(config)).toEqual(before);
        expect([[...config.standard()], [...config.extended()]]).toEqual(chains);
        expect(fn.rid).toBe(0x28);
        while (scheduler.runNext());
      }),
      { numRuns: 200 },
    );
  });

  test('absent functions read as all-ones at every width and swallow writes', () => {
    const { memory } = machine();
    expect(memory.load(0xe000_0000 + 0x30 * 4096, 4)).toBe(0xffff_ffffn);
    expect(memory.load(0xe000_0000 + 0x30 * 4096, 8)).toBe(0xffff_ffff_ffff_ffffn);
    expect(memory.load(0xe000_0000 + 0x30 * 4096, 2)).toBe(0xffffn);
    memory.store(0xe000_0000 + 0x30 * 4096 + 4, 2, 6);
  });

  test('a 64-bit access takes two registers', () => {
    const { memory, fabric } = machine();
    fabric.plug(new PciFunction(ids), 0x10);
    expect(memory.load(0xe000_0000 + 0x10 * 4096, 8) & 0xffff_ffffn).toBe(0x5678_1234n);
    memory.store(0xe000_0000 + 0x10 * 4096, 8, 0x0004_0000_0000n);
    expect(fabric.functionAt(0x10)!.busMaster).toBe(true);
  });

  test('both chains list every capability once, in the order added', () => {
    const { memory, scheduler, fabric } = machine();
    fabric.plug(new TestFunction({ memory, scheduler }), 0x28);
    const config = new Config(memory, 0x28);
    expect([...config.standard().keys()]).toEqual([0x10, 0x11]);
    expect([...config.extended().keys()]).toEqual([0x0f, 0x1b, 0x13, 0x10]);
    expect(config.extended().get(0x0f)).toBe(0x100);
  });

  test('a function without capabilities has neither chain', () => {
    const { memory, fabric } = machine();
    fabric.plug(new PciFunction(ids), 0x10);
    const config = new Config(memory, 0x10);
    expect(config.read(6, 2) & 0x10).toBe(0);
    expect(config.read(0x34, 1)).toBe(0);
    expect(config.read(0x100)).toBe(0);
  });

  test('multi-function bit appears with the second function of a device', () => {
    const { memory, fabric } = machine();
    fabric.plug(new PciFunction(ids), 0x10);
    const config = new Config(memory, 0x10);
    expect(config.read(0x0e, 1)).toBe(0);
    fabric.plug(new PciFunction(ids), 0x12);
    expect(config.read(0x0e, 1)).toBe(0x80);
    expect(new Config(memory, 0x12).read(0x0e, 1)).toBe(0x80);
  });
});

describe('BARs', () => {
  test('the sizing algorithm finds every size, 32 and 64 bits wide', () => {
    fc.assert(
      fc.property(fc.integer({ min: 12, max: 32 }), fc.boolean(), fc.boolean(), (sizeLg2, is64, prefetchable) => {
        if (!is64 && sizeLg2 === 32) return;
        const { memory, fabric } = machine();
        const fn = new PciFunction(ids);
        fn.addBar(2, { size: 2 ** sizeLg2, handler: nothing, is64, prefetchable });
        fabric.plug(fn, 0x10);
        const config = new Config(memory, 0x10);
        expect(config.read(0x18)).toBe((is64 ? 4 : 0) | (prefetchable ? 8 : 0));
        config.write(0x18, 4, 0xffffffff);
        config.write(0x1c, 4, 0xffffffff);
        const low = BigInt(config.read(0x18) & ~0xf) & 0xffff_ffffn;
        const high = is64 ? BigInt(config.read(0x1c)) : 0xffff_ffffn;
        expect(BigInt.asUintN(64, -(low | (high << 32n)))).toBe(1n << BigInt(sizeLg2));
        if (!is64) expect(config.read(0x1c)).toBe(0);
      }),
    );
  });

  test('overlapping registers and odd sizes are refused', () => {
    const fn = new PciFunction(ids);
    fn.addBar(0, { size: 4096, handler: nothing });
    expect(() => fn.addBar(1, { size: 4096, handler: nothing })).toThrow(RangeError);
    expect(() => fn.addBar(5, { size: 4096, handler: nothing })).toThrow(RangeError);
    expect(() => fn.addBar(2, { size: 5000, handler: nothing })).toThrow(RangeError);
    expect(() => fn.addBar(2, { size: 2048, handler: nothing })).toThrow(RangeError);
  });

  test('memory enable decodes the BAR, and takes it away again', () => {
    const { memory, fabric } = machine();
    const fn = new PciFunction(ids);
    fn.addBar(0, { size: 4096, handler: { read: (offset) => BigInt(offset), write() {} } });
    fabric.plug(fn, 0x10);
    const config = new Config(memory, 0x10);
    config.write(0x10, 4, 0xd000_0000);
    expect(memory.load(0xd000_0010, 4)).toBe(0xffff_ffffn);
    config.write(4, 2, 2);
    expect(memory.load(0xd000_0010, 4)).toBe(0x10n);
    config.write(0x10, 4, 0xd100_0000);
    expect(memory.load(0xd000_0010, 4)).toBe(0xffff_ffffn);
    expect(memory.load(0xd100_0010, 4)).toBe(0x10n);
    config.write(4, 2, 0);
    expect(memory.load(0xd100_0010, 4)).toBe(0xffff_ffffn);
  });

  test('a BAR on RAM, on another BAR or beyond 52 bits does not answer until it is moved or the place is free', () => {
    const { memory, fabric } = machine();
    const plug = (rid: number, value: bigint) => {
      const fn = new PciFunction(ids);
      fn.addBar(0, { size: 4096, handler: { read: () => value, write() {} } });
      fabric.plug(fn, rid);
      return new Config(memory, rid);
    };
    const first = plug(0x10, 1n);
    const second = plug(0x18, 2n);
    first.write(4, 2, 2);
    first.write(0x10, 4, 0xd000_0000);
    second.write(0x10, 4, 0xd000_0000);
    second.write(4, 2, 2);
    expect(memory.load(0xd000_0000, 4)).toBe(1n);
    first.write(0x14, 4, 0xffff_ffff);
    expect(memory.load(0xd000_0000, 4)).toBe(2n);
    first.write(0x14, 4, 0);
    expect(memory.load(0xd000_0000, 4)).toBe(2n);
    second.write(4, 2, 0);
    expect(memory.load(0xd000_0000, 4)).toBe(1n);
    first.write(0x10, 4, 0);
    expect(memory.load(0, 4)).toBe(0n);
  });

  test('64-byte stores and enqueues reach the handler', () => {
    const { memory, fabric } = machine();
    const seen: string[] = [];
    const fn = new PciFunction(ids);
    fn.addBar(0, {
      size: 8192,
      handler: {
        read: () => 0n,
        write: (offset, width) => seen.push(`write ${offset} ${width}`),
        enqueue64: (offset) => seen.push(`enqueue ${offset}`) > 0,
      },
    });
    fabric.plug(fn, 0x10);
    const config = new Config(memory, 0x10);
    config.write(0x10, 4, 0xd000_0000);
    config.write(4, 2, 2);
    expect(memory.enqueue64(0xd000_1040, new Uint8Array(64))).toBe(true);
    memory.store64(0xd000_0040, new Uint8Array(64));
    expect(seen).toEqual(['enqueue 4160', ...[64, 72, 80, 88, 96, 104, 112, 120].map((at) => `write ${at} 8`)]);
  });
});

describe('function-level reset', () => {
  test('registers take their reset values, BARs vanish, the device hears of it', () => {
    const { memory, fabric, named } = machine();
    const resets: number[] = [];
    class Device extends PciFunction {
      protected override onReset(): void {
        resets.push(this.rid);
      }
    }
    const fn = new Device(ids);
    fn.addBar(0, { size: 4096, handler: { read: () => 7n, write() {} } });
    fn.add(new ExpressCapability());
    fabric.plug(fn, 0x10);
    const config = new Config(memory, 0x10);
    const fresh = Array.from({ length: 1024 }, (_, i) => config.read(4 * i));
    config.write(0x10, 4, 0xd000_0000);
    config.enable();
    config.write(0x3c, 1, 11);
    expect(memory.load(0xd000_0000, 4)).toBe(7n);
    config.write(config.standard().get(0x10)! + 8, 2, 0xa810);
    expect(Array.from({ length: 1024 }, (_, i) => config.read(4 * i))).toEqual(fresh);
    expect(memory.load(0xd000_0000, 4)).toBe(0xffff_ffffn);
    expect(fn.busMaster).toBe(false);
    expect(resets).toEqual([0x10]);
    expect(named('pci_reset')).toEqual([{ name: 'pci_reset', rid: 0x10 }]);
  });

  test('is not there unless the capability says so', () => {
    const { memory, fabric, named } = machine();
    const fn = new PciFunction(ids);
    fn.add(new ExpressCapability({ flr: false }));
    fabric.plug(fn, 0x10);
    const config = new Config(memory, 0x10);
    const express = config.standard().get(0x10)!;
    expect(config.read(express + 4) & 0x1000_0000).toBe(0);
    config.write(express + 8, 2, 0xffff);
    expect(config.read(express + 8, 2) & 0x8000).toBe(0);
    expect(named('pci_reset')).toEqual([]);
  });

  test('an unplugged function answers nothing, and its place is free', () => {
    const { memory, fabric } = machine();
    const fn = new PciFunction(ids);
    fn.addBar(0, { size: 4096, handler: nothing });
    fabric.plug(fn, 0x10);
    const config = new Config(memory, 0x10);
    config.write(0x10, 4, 0xd000_0000);
    config.enable();
    fabric.unplug(fn);
    fabric.unplug(fn);
    expect(config.read(0)).toBe(0xffff_ffff);
    expect(memory.load(0xd000_0000, 4)).toBe(0xffff_ffffn);
    fabric.plug(fn, 0x10);
    expect(config.read(4, 2)).toBe(0);
  });
});

describe('RootPort', () => {
  const port = () => new RootPort({ vendorId: 0x8086, deviceId: 1, secondary: 1, subordinate: 2 });

  test('has a type 1 header, bus numbers, a root-port capability and ACS', () => {
    const { memory, fabric } = machine();
    fabric.plug(port(), 0x08);
    const config = new Config(memory, 0x08);
    expect(config.read(0x0e, 1)).toBe(1);
    expect(config.read(8) >>> 8).toBe(0x060400);
    expect(config.read(0x18) & 0xffffff).toBe(0x020100);
    expect((config.read(config.standard().get(0x10)! + 2, 2) >> 4) & 0xf).toBe(4);
    const acs = config.extended().get(0x0d)!;
    expect(config.read(acs + 4, 2)).toBe(0x1f);
    config.write(acs + 6, 2, 0xffff);
    expect(config.read(acs + 6, 2)).toBe(0x1f);
  });

  test('endpoints below it are endpoints, those on bus 0 belong to the root complex', () => {
    const { memory, scheduler, fabric } = machine();
    const root = fabric.plug(port(), 0x08);
    const below = fabric.plug(new TestFunction({ memory, scheduler, totalVfs: 0 }), 0x100);
    const inside = fabric.plug(new TestFunction({ memory, scheduler, totalVfs: 0 }), 0x28);
    const type = (rid: number) => {
      const config = new Config(memory, rid);
      return (config.read(config.standard().get(0x10)! + 2, 2) >> 4) & 0xf;
    };
    expect(type(below.rid)).toBe(0);
    expect(type(inside.rid)).toBe(9);
    expect(below.port).toBe(root);
    expect(inside.port).toBe(null);
  });

  test('places without a port, taken ones and ports below ports are refused', () => {
    const { fabric } = machine();
    expect(() => fabric.plug(new PciFunction(ids), 0x100)).toThrow('no root port above 01:00.0');
    fabric.plug(port(), 0x08);
    expect(() => fabric.plug(new PciFunction(ids), 0x08)).toThrow(RangeError);
    expect(() => fabric.plug(port(), 0x100)).toThrow(RangeError);
    expect(() => fabric.plug(new PciFunction(ids), 0x10000)).toThrow(RangeError);
  });

  test('secondary bus reset resets what is below and nothing else', () => {
    const { memory, fabric, named } = machine();
    fabric.plug(port(), 0x08);
    fabric.plug(new PciFunction(ids), 0x100);
    fabric.plug(new PciFunction(ids), 0x10);
    new Config(memory, 0x100).enable();
    new Config(memory, 0x10).enable();
    new Config(memory, 0x08).write(0x3e, 2, 0x40);
    expect(named('pci_reset').map((event) => event.rid)).toEqual([0x100]);
    expect(fabric.functionAt(0x100)!.busMaster).toBe(false);
    expect(fabric.functionAt(0x10)!.busMaster).toBe(true);
  });
});
