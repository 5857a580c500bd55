import { describe, expect, test } from 'vitest';
import { TEST_BAR_SIZE, TEST_REGISTER, TestFunction } from '../../src/devices/test-function.ts';
import { PciFunction } from '../../src/pci/function.ts';
import { RootPort } from '../../src/pci/root-port.ts';
import { AT_UNTRANSLATED, COMPLETION_SUCCESS, COMPLETION_UNSUPPORTED_REQUEST } from '../../src/pci/transaction.ts';
import { Config, machine } from './support.ts';

const PF_BAR = 0xd000_0000;
const VF_BARS = 0x80_0000_0000;
const PF = 0x28;

function setUp() {
  const test = machine();
  const { memory, scheduler, fabric } = test;
  const pf = fabric.plug(new TestFunction({ memory, scheduler, totalVfs: 4 }), PF);
  const config = new Config(memory, PF);
  config.write(0x10, 4, PF_BAR);
  config.enable();
  const sriov = config.extended().get(0x10)!;
  config.write(sriov + 0x24, 4, 0);
  config.write(sriov + 0x28, 4, 0x80);
  return { ...test, pf, config, sriov, control };

  function control(bits: number, vfs = 2) {
    config.write(sriov + 0x10, 2, vfs);
    config.write(sriov + 8, 2, bits);
  }
}

describe('SR-IOV', () => {
  test('VF enable makes NumVFs functions appear at offset and stride, with ids of all-ones', () => {
    const { memory, fabric, pf, control, named } = setUp();
    expect(fabric.functionAt(PF + 1)).toBe(null);
    control(1);
    expect(pf.sriov!.functions.map((vf) => vf?.rid)).toEqual([PF + 1, PF + 2]);
    const vf = new Config(memory, PF + 1);
    expect(vf.read(0)).toBe(0xffff_ffff);
    expect(vf.read(8) >>> 8).toBe(0xff0000);
    expect(new Config(memory, PF + 3).read(8)).toBe(0xffff_ffff);
    expect(named('sriov_enable')).toEqual([{ name: 'sriov_enable', rid: PF, count: 2 }]);
  });

  test('NumVFs is clamped to TotalVFs and cannot change while VFs are enabled', () => {
    const { pf, config, sriov, control } = setUp();
    control(1, 1000);
    expect(pf.sriov!.functions.length).toBe(4);
    config.write(sriov + 0x10, 2, 1);
    expect(config.read(sriov + 0x10, 2)).toBe(1000);
    config.write(sriov + 8, 2, 0);
    config.write(sriov + 0x10, 2, 1);
    expect(config.read(sriov + 0x10, 2)).toBe(1);
  });

  test('VF BARs lie one after the other, and only with VF memory enable', () => {
    const { memory, control } = setUp();
    const status = (vf: number) => memory.load(VF_BARS + vf * TEST_BAR_SIZE + TEST_REGISTER.status, 4);
    control(1);
    expect(status(0)).toBe(0xffff_ffffn);
    control(9);
    expect(status(0)).toBe(2n);
    expect(status(1)).toBe(2n);
    expect(status(2)).toBe(0xffff_ffffn);
    control(1);
    expect(status(1)).toBe(0xffff_ffffn);
  });

  test('the VF BAR register in the PF sizes one VF', () => {
    const { config, sriov } = setUp();
    config.write(sriov + 0x24, 4, 0xffff_ffff);
    expect(config.read(sriov + 0x24)).toBe((-TEST_BAR_SIZE | 4) >>> 0);
  });

  test('a VF has no memory enable, no BARs, no PASID, no PRI, no SR-IOV; ATS, MSI-X and FLR it has', () => {
    const { memory, fabric, pf, control } = setUp();
    control(9);
    const vf = new Config(memory, PF + 1);
    vf.write(4, 2, 0xffff);
    expect(vf.read(4, 2)).toBe(4);
    vf.write(0x10, 4, 0xffff_ffff);
    expect(vf.read(0x10)).toBe(0);
    expect([...vf.standard().keys()]).toEqual([0x10, 0x11]);
    expect([...vf.extended().keys()]).toEqual([0x0f]);
    const ats = vf.extended().get(0x0f)!;
    expect(vf.read(ats + 4, 2) & 0x1f).toBe(0);
    vf.write(ats + 6, 2, 0x801f);
    expect(vf.read(ats + 6, 2)).toBe(0x8000);
    expect(fabric.functionAt(PF + 1)!.pasid).toBe(pf.pasid);
    expect(fabric.functionAt(PF + 1)!.pri).toBe(pf.pri);
  });

  test('each VF needs its own bus master, and uses the PASID enable of its PF', () => {
    const { memory, fabric, config, control } = setUp();
    control(9);
    const [one, two] = [fabric.functionAt(PF + 1)!, fabric.functionAt(PF + 2)!];
    new Config(memory, PF + 1).enable();
    const word = new Uint8Array(4);
    expect(one.upstream.readInto(AT_UNTRANSLATED, -1, 0, 0x1000, 0, word)).toBe(COMPLETION_SUCCESS);
    expect(two.upstream.readInto(AT_UNTRANSLATED, -1, 0, 0x1000, 0, word)).toBe(COMPLETION_UNSUPPORTED_REQUEST);
    expect(one.upstream.readInto(AT_UNTRANSLATED, 5, 0, 0x1000, 0, word)).toBe(COMPLETION_UNSUPPORTED_REQUEST);
    config.pasid();
    expect(one.upstream.readInto(AT_UNTRANSLATED, 5, 0, 0x1000, 0, word)).toBe(COMPLETION_SUCCESS);
  });

  test('FLR of a VF resets that VF; FLR of the PF takes the VFs away', () => {
    const { memory, fabric, config, control } = setUp();
    control(9);
    const vf = new Config(memory, PF + 1);
    vf.enable();
    new Config(memory, PF + 2).enable();
    vf.write(vf.standard().get(0x10)! + 8, 2, 0x8000);
    expect(fabric.functionAt(PF + 1)!.busMaster).toBe(false);
    expect(fabric.functionAt(PF + 2)!.busMaster).toBe(true);
    expect(memory.load(VF_BARS + TEST_REGISTER.status, 4)).toBe(2n);
    const gone = fabric.functionAt(PF + 1)!;
    config.write(config.standard().get(0x10)! + 8, 2, 0x8000);
    expect(fabric.functionAt(PF + 1)).toBe(null);
    expect(memory.load(VF_BARS + TEST_REGISTER.status, 4)).toBe(0xffff_ffffn);
    expect(gone.upstream.readInto(AT_UNTRANSLATED, -1, 0, 0, 0, new Uint8Array(1))).toBe(
      COMPLETION_UNSUPPORTED_REQUEST,
    );
  });

  test('enabling and disabling many times uses up nothing', () => {
    const { memory, fabric, control } = setUp();
    const before = memory.reserve(0);
    for (let i = 0; i < 1000; i++) {
      control(9, 4);
      control(0, 4);
    }
    expect(memory.reserve(0)).toBe(before);
    expect(fabric.functionAt(PF + 1)).toBe(null);
  });

  test('a VF whose place is taken does not appear', () => {
    const { fabric, pf, control } = setUp();
    const other = fabric.plug(new PciFunction({ vendorId: 1, deviceId: 1, classCode: 0 }), PF + 1);
    control(1);
    expect(fabric.functionAt(PF + 1)).toBe(other);
    expect(pf.sriov!.functions.map((vf) => vf?.rid)).toEqual([undefined, PF + 2]);
  });

  test('VFs of a function below a root port lie below it too', () => {
    const { memory, scheduler, fabric } = machine();
    const port = fabric.plug(new RootPort({ vendorId: 1, deviceId: 1, secondary: 1, subordinate: 2 }), 8);
    fabric.plug(new TestFunction({ memory, scheduler, totalVfs: 2 }), 0x100);
    const config = new Config(memory, 0x100);
    const sriov = config.extended().get(0x10)!;
    config.write(sriov + 0x10, 2, 2);
    config.write(sriov + 8, 2, 1);
    expect(fabric.functionAt(0x102)!.port).toBe(port);
  });
});
