import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  TEST_COMMAND as cmd,
  TEST_REGISTER as reg,
  TEST_BAR_SIZE,
  TEST_RESULT_REFUSED,
  TestFunction,
} from '../../src/devices/test-function.ts';
import {
  ACCESS_EXECUTE,
  ACCESS_PRIVILEGED,
  ACCESS_READ,
  ACCESS_WRITE,
  COMPLETION_ABORT,
  COMPLETION_SUCCESS,
  NO_PASID,
  PRG_INVALID_REQUEST,
  PRG_SUCCESS,
} from '../../src/pci/transaction.ts';
import { TRANSLATION_DENIED } from '../../src/pci/upstream-port.ts';
import { Config, enableAll, machine } from '../pci/support.ts';

const RID = 0x28;
const BAR = 0xd000_0000;
const VF_BARS = 0xd100_0000;

function setUp() {
  const test = machine();
  const { memory, scheduler, fabric, agent } = test;
  fabric.setAgent(agent);
  const fn = fabric.plug(new TestFunction({ memory, scheduler, totalVfs: 2 }), RID);
  const config = new Config(memory, RID);
  config.write(0x10, 4, BAR);
  enableAll(memory, fn);
  const sriov = config.extended().get(0x10)!;
  config.write(sriov + 0x24, 4, VF_BARS);
  config.write(sriov + 0x10, 2, 2);
  config.write(sriov + 8, 2, 9);
  return { ...test, fn, config, pf: device(BAR), vf: (index: number) => device(VF_BARS + index * TEST_BAR_SIZE) };

  function device(base: number) {
    const read = (register: number, width: 4 | 8 = 4) => memory.load(base + register, width);
    const write = (register: number, value: number | bigint, width: 4 | 8 = 4) =>
      memory.store(base + register, width, value);
    /** Runs a command to its end and gives its result. */
    const run = (command: number, fields: { pasid?: number; address?: number | bigint; length?: number } = {}) => {
      start(command, fields);
      scheduler.advance(1000);
      return Number(read(reg.result));
    };
    const start = (command: number, fields: { pasid?: number; address?: number | bigint; length?: number } = {}) => {
      write(reg.pasid, fields.pasid ?? 0);
      write(reg.address, fields.address ?? 0, 8);
      write(reg.length, fields.length ?? 8);
      write(reg.command, command);
    };
    const busy = () => (read(reg.status) & 1n) !== 0n;
    return { read, write, run, start, busy };
  }
}

describe('TestFunction', () => {
  test('moves bytes from memory to memory through its buffer', () => {
    const { memory, agent, pf } = setUp();
    agent.map(RID, NO_PASID, 1, 0x100);
    agent.map(RID, 7, 2, 0x101);
    memory.store(0x10_0010, 8, 0x1122_3344_5566_7788n);
    expect(pf.run(cmd.read, { address: 0x1010 })).toBe(COMPLETION_SUCCESS);
    expect(pf.read(reg.buffer, 8)).toBe(0x1122_3344_5566_7788n);
    expect(pf.run(cmd.write | cmd.withPasid, { pasid: 7, address: 0x2020 })).toBe(COMPLETION_SUCCESS);
    expect(memory.load(0x10_1020, 8)).toBe(0x1122_3344_5566_7788n);
    expect(pf.read(reg.bytes)).toBe(8n);
  });

  test('is busy until its time has come, and takes no other command meanwhile', () => {
    const { agent, scheduler, pf } = setUp();
    agent.map(RID, NO_PASID, 1, 0x100);
    pf.start(cmd.read, { address: 0x1000 });
    expect(pf.busy()).toBe(true);
    pf.write(reg.command, cmd.interrupt);
    pf.write(reg.length, 99);
    scheduler.advance(1000);
    expect(pf.busy()).toBe(false);
    expect(pf.read(reg.bytes)).toBe(8n);
  });

  test('reports status, bytes and address of a fault', () => {
    const { agent, pf } = setUp();
    agent.map(RID, NO_PASID, 1, 0x100);
    expect(pf.run(cmd.write, { address: 0x1ffc, length: 8 })).toBe(COMPLETION_ABORT);
    expect(pf.read(reg.bytes)).toBe(4n);
    expect(pf.read(reg.fault, 8)).toBe(0x2000n);
  });

  test('asks for translations with the access and modifiers of the command', () => {
    const { agent, pf } = setUp();
    const all = ACCESS_READ | ACCESS_WRITE | ACCESS_EXECUTE;
    agent.map(RID, 7, 0x1_2345_6789, 0x12_3456, all);
    const command = cmd.translate | cmd.withPasid | cmd.execute;
    expect(pf.run(command, { pasid: 7, address: 0x1_2345_6789_000n })).toBe(COMPLETION_SUCCESS);
    expect(pf.read(reg.granted)).toBe(BigInt(ACCESS_READ | ACCESS_EXECUTE));
    expect(pf.read(reg.frame, 8)).toBe(0x1_2345_6000n);
    expect(pf.run(command | cmd.wantWrite, { pasid: 7, address: 0x1_2345_6789_000n })).toBe(COMPLETION_SUCCESS);
    expect(pf.read(reg.granted)).toBe(BigInt(all));
  });

  test('a denied translation becomes a page request, and the transfer goes on after it', () => {
    const { memory, fabric, agent, scheduler, pf } = setUp();
    agent.map(RID, 7, 1, 0x100);
    const command = cmd.read | cmd.cached | cmd.withPasid | cmd.privileged | cmd.pageRequestOnDenial;
    memory.store(0x10_1000, 4, 0xcafe);
    pf.start(command, { pasid: 7, address: 0x1ffc });
    scheduler.advance(1000);
    expect(pf.busy()).toBe(true);
    const request = agent.pageRequests[0]!;
    expect(request).toMatchObject({
      rid: RID,
      pasid: 7,
      access: ACCESS_READ | ACCESS_PRIVILEGED,
      pageLow: 2,
      last: true,
    });
    agent.map(RID, 7, 2, 0x101);
    fabric.respond({ rid: RID, pasid: 7, code: PRG_SUCCESS, group: request.group });
    scheduler.advance(1000);
    expect(pf.busy()).toBe(false);
    expect(pf.read(reg.result)).toBe(0n);
    expect(pf.read(reg.buffer, 8) >> 32n).toBe(0xcafen);
    expect(pf.read(reg.requests)).toBe(1n);
  });

  test('a page that is refused, or never comes, ends the command', () => {
    const { fabric, agent, scheduler, pf } = setUp();
    const command = cmd.write | cmd.cached | cmd.withPasid | cmd.pageRequestOnDenial;
    pf.start(command, { pasid: 7, address: 0x1000 });
    scheduler.advance(1000);
    fabric.respond({ rid: RID, pasid: 7, code: PRG_INVALID_REQUEST, group: agent.pageRequests[0]!.group });
    scheduler.advance(1000);
    expect(pf.read(reg.result)).toBe(BigInt(TRANSLATION_DENIED));
    expect(pf.read(reg.response)).toBe(BigInt(PRG_INVALID_REQUEST));
    pf.start(command, { pasid: 7, address: 0x1000 });
    for (let i = 1; i < agent.pageRequests.length + 1 && pf.busy(); i++) {
      scheduler.advance(1000);
      const request = agent.pageRequests[i];
      if (request) fabric.respond({ rid: RID, pasid: 7, code: PRG_SUCCESS, group: request.group });
    }
    expect(pf.busy()).toBe(false);
    expect(agent.pageRequests.length).toBe(17);
  });

  test('page requests, stop markers and interrupts on command', () => {
    const { memory, fabric, agent, scheduler, config, pf } = setUp();
    config.write(config.standard().get(0x11)! + 2, 2, 0x8000);
    memory.store(BAR + reg.msixTable + 3 * 16, 8, 0xfee0_0000);
    memory.store(BAR + reg.msixTable + 3 * 16 + 8, 8, 0x43);
    pf.write(reg.vector, 3);
    pf.start(cmd.pageRequest | cmd.withPasid | cmd.wantWrite | cmd.interruptWhenDone, {
      pasid: 9,
      address: 0x5000,
    });
    scheduler.advance(1000);
    const request = agent.pageRequests[0]!;
    expect(request).toMatchObject({ pasid: 9, access: ACCESS_READ | ACCESS_WRITE, pageLow: 5 });
    expect(agent.interrupts).toEqual([]);
    fabric.respond({ rid: RID, pasid: 9, code: PRG_SUCCESS, group: request.group });
    scheduler.advance(1000);
    expect(agent.interrupts).toEqual([{ rid: RID, address: 0xfee0_0000, data: 0x43 }]);
    expect(pf.run(cmd.stopMarker | cmd.withPasid, { pasid: 9 })).toBe(COMPLETION_SUCCESS);
    expect(agent.pageRequests[1]).toMatchObject({ pasid: 9, access: 0, last: true });
    expect(pf.run(cmd.stopMarker)).toBe(TEST_RESULT_REFUSED);
    expect(pf.run(cmd.interrupt)).toBe(COMPLETION_SUCCESS);
    expect(agent.interrupts.length).toBe(2);
  });

  test('two VFs with one PASID reach each its own page', () => {
    const { memory, fabric, agent, vf } = setUp();
    for (const index of [0, 1]) {
      new Config(memory, fabric.functionAt(RID + 1 + index)!.rid).enable();
      agent.map(RID + 1 + index, 5, 1, 0x100 + index);
      memory.store(0x10_0000 + index * 4096, 8, 0xa0 + index);
    }
    for (const index of [0, 1]) {
      expect(vf(index).run(cmd.read | cmd.withPasid, { pasid: 5, address: 0x1000 })).toBe(0);
      expect(vf(index).read(reg.buffer, 8)).toBe(BigInt(0xa0 + index));
    }
  });

  test('function-level reset stops the command, clears registers and buffer', () => {
    const { memory, agent, scheduler, config, pf, fn } = setUp();
    agent.map(RID, NO_PASID, 1, 0x100);
    pf.write(reg.buffer, 0x1234, 8);
    pf.write(reg.control, 1);
    expect(fn.answersInvalidations).toBe(false);
    pf.start(cmd.write, { address: 0x1000 });
    config.write(config.standard().get(0x10)! + 8, 2, 0x8000);
    config.write(0x10, 4, BAR);
    config.enable();
    scheduler.advance(1000);
    expect(memory.load(0x10_0000, 8)).toBe(0n);
    expect(pf.read(reg.buffer, 8)).toBe(0n);
    expect(pf.busy()).toBe(false);
    expect(fn.answersInvalidations).toBe(true);
  });

  test('DMA into its own registers and configuration space neither recurses nor throws', () => {
    const { memory, fabric, scheduler, pf } = setUp();
    fabric.setAgent(null);
    for (const target of [BAR + reg.command, BAR + reg.status, 0xe000_0000 + RID * 4096 + 0x48]) {
      for (let i = 0; i < 64; i += 8) pf.write(reg.buffer + i, 0xffff_ffff_ffff_fff2n, 8);
      pf.start(cmd.write, { address: target, length: 64 });
      scheduler.advance(100_000);
    }
    expect(memory.load(0xe000_0000 + RID * 4096, 4)).toBe(0x0001_696fn);
  });

  test('hostile register writes never throw and every command ends', () => {
    const register = fc.oneof(
      fc.constantFrom(0x08, 0x0c, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24),
      fc.nat(TEST_BAR_SIZE - 1),
    );
    const value = fc.oneof(fc.bigInt({ min: 0n, max: 0xfffn }), fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }));
    const access = fc.record({
      vf: fc.boolean(),
      register,
      width: fc.constantFrom<1 | 2 | 4 | 8>(1, 2, 4, 4, 4, 8),
      value,
      time: fc.nat(500),
    });
    fc.assert(
      fc.property(fc.array(access, { maxLength: 100, size: 'max' }), fc.boolean(), (accesses, identity) => {
        const { memory, fabric, agent, scheduler, pf } = setUp();
        if (identity) fabric.setAgent(null);
        for (let page = 0; page < 8; page++) agent.map(RID, NO_PASID, page, 0x100 + page);
        for (const { vf, register, width, value, time } of accesses) {
          const address = (vf ? VF_BARS : BAR) + register - (register % width);
          memory.store(address, width, BigInt.asUintN(8 * width, value));
          memory.load(address, width);
          scheduler.advance(time);
        }
        for (const request of agent.pageRequests) fabric.respond({ ...request, code: 0 });
        scheduler.advance(1_000_000);
        pf.write(reg.control, 0);
        if (!identity && agent.pageRequests.every(({ access }) => access === 0)) expect(pf.busy()).toBe(false);
      }),
      { numRuns: 150 },
    );
  });
});
