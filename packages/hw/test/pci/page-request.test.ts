import { describe, expect, test } from 'vitest';
import { TestFunction } from '../../src/devices/test-function.ts';
import { PageRequestInterface } from '../../src/pci/capabilities/page-request.ts';
import { PasidCapability } from '../../src/pci/capabilities/pasid.ts';
import { PciFunction } from '../../src/pci/function.ts';
import {
  ACCESS_EXECUTE,
  ACCESS_READ,
  ACCESS_WRITE,
  NO_PASID,
  PRG_INVALID_REQUEST,
  PRG_RESPONSE_FAILURE,
  PRG_SUCCESS,
} from '../../src/pci/transaction.ts';
import { Config, enableAll, machine } from './support.ts';

const RID = 0x28;
const STATUS = 6;
const FAILURE = 1;
const UNEXPECTED = 2;
const STOPPED = 0x100;

function setUp(totalVfs = 0) {
  const test = machine();
  const { memory, scheduler, fabric, agent } = test;
  fabric.setAgent(agent);
  const fn = fabric.plug(new TestFunction({ memory, scheduler, totalVfs }), RID);
  const config = enableAll(memory, fn);
  const at = config.extended().get(0x13)!;
  const codes: number[] = [];
  return { ...test, fn, config, at, pri: fn.pri!, codes, request, respond, status };

  function request(page = 3, pasid = 5): number {
    return fn.pri!.request(fn, pasid, ACCESS_READ, 0, page, (code) => codes.push(code));
  }
  function respond(group: number, code: number, pasid = 5, rid = RID): void {
    fabric.respond({ rid, pasid, code, group });
    scheduler.advance(1000);
  }
  function status(): number {
    return config.read(at + STATUS, 2);
  }
}

describe('page request groups', () => {
  test.each([
    ['success', PRG_SUCCESS],
    ['invalid request', PRG_INVALID_REQUEST],
  ])('a group ends with %s, and its allocation is free again', (_, code) => {
    const { agent, pri, codes, request, respond, status, named } = setUp();
    const group = request();
    expect(agent.pageRequests).toEqual([
      { rid: RID, pasid: 5, access: ACCESS_READ, last: true, group, pageHigh: 0, pageLow: 3 },
    ]);
    expect(pri.outstanding).toBe(1);
    expect(codes).toEqual([]);
    respond(group, code);
    expect(codes).toEqual([code]);
    expect(pri.outstanding).toBe(0);
    expect(status() & (FAILURE | UNEXPECTED)).toBe(0);
    expect(named('page_request')).toMatchObject([{ rid: RID, pasid: 5, iova: 0x3000n, group, last: true }]);
    expect(named('page_response')).toEqual([{ name: 'page_response', rid: RID, pasid: 5, group, code }]);
  });

  test.each([PRG_RESPONSE_FAILURE, 2, 14])(
    'code %i is a response failure: the interface stops, every group ends',
    (code) => {
      const { config, at, pri, codes, agent, request, respond, status } = setUp();
      const first = request(1);
      const second = request(2);
      respond(first, code);
      expect(codes).toEqual([PRG_RESPONSE_FAILURE, PRG_RESPONSE_FAILURE]);
      expect(status() & FAILURE).toBe(FAILURE);
      expect(request(3)).toBe(-1);
      respond(second, PRG_SUCCESS);
      expect(status() & UNEXPECTED).toBe(0);
      expect(agent.pageRequests.length).toBe(2);
      config.write(at + 4, 2, 0);
      config.write(at + 4, 2, 1);
      expect(status() & FAILURE).toBe(0);
      expect(request(3)).toBeGreaterThanOrEqual(0);
      expect(pri.outstanding).toBe(1);
    },
  );

  test('requests stop at the allocation, and at the capacity when software allots more', () => {
    const { config, at, pri, request, respond } = setUp();
    config.write(at + 0x0c, 4, 2);
    const first = request(1);
    expect(request(2)).toBeGreaterThanOrEqual(0);
    expect(request(3)).toBe(-1);
    respond(first, PRG_SUCCESS);
    expect(request(3)).toBeGreaterThanOrEqual(0);
    config.write(at + 0x0c, 4, 0xffffffff);
    let sent = 0;
    while (request(9) >= 0) sent++;
    expect(sent).toBe(30);
    expect(pri.outstanding).toBe(config.read(at + 8));
  });

  test('a group of several requests counts each, and ends once', () => {
    const { fn, pri, agent, codes, respond } = setUp();
    const group = pri.open(fn, 5, (code) => codes.push(code));
    expect(pri.send(group, ACCESS_READ, 0, 1, false)).toBe(true);
    expect(pri.send(group, ACCESS_READ | ACCESS_WRITE, 0, 2, false)).toBe(true);
    expect(pri.send(group, ACCESS_WRITE | ACCESS_EXECUTE, 0, 3, true)).toBe(true);
    expect(pri.send(group, ACCESS_READ, 0, 4, true)).toBe(false);
    expect(agent.pageRequests.map(({ last, access }) => [last, access])).toEqual([
      [false, 1],
      [false, 3],
      [true, 6],
    ]);
    expect(pri.outstanding).toBe(3);
    respond(group, PRG_SUCCESS);
    expect(codes).toEqual([PRG_SUCCESS]);
    expect(pri.outstanding).toBe(0);
    expect(pri.send(group, ACCESS_READ, 0, 5, true)).toBe(false);
  });

  test('outstanding groups have different indices', () => {
    const { request } = setUp();
    const groups = Array.from({ length: 32 }, (_, page) => request(page));
    expect(new Set(groups).size).toBe(32);
  });

  test('indices run through all 512 and come again', () => {
    const { request, respond } = setUp();
    const held = request();
    const seen = new Set<number>();
    for (let i = 0; i < 1022; i++) {
      const group = request();
      expect(group).not.toBe(held);
      seen.add(group);
      respond(group, PRG_SUCCESS);
    }
    expect(seen.size).toBe(511);
  });

  test('a response to no group, to another PASID or function is unexpected', () => {
    const { config, at, codes, request, respond, status } = setUp(1);
    const group = request();
    const clear = () => config.write(at + STATUS, 2, UNEXPECTED);
    for (const [index, pasid] of [
      [(group + 1) % 512, 5],
      [group, 6],
      [group, NO_PASID],
    ] as const) {
      respond(index, PRG_SUCCESS, pasid);
      expect(status() & UNEXPECTED).toBe(UNEXPECTED);
      clear();
      expect(status() & UNEXPECTED).toBe(0);
    }
    expect(codes).toEqual([]);
    respond(group, PRG_SUCCESS);
    expect(codes).toEqual([PRG_SUCCESS]);
    respond(group, PRG_SUCCESS);
    expect(codes).toEqual([PRG_SUCCESS]);
    expect(status() & UNEXPECTED).toBe(UNEXPECTED);
  });

  test('without the PASID requirement a response needs none', () => {
    const { memory, fabric, scheduler, agent } = machine();
    fabric.setAgent(agent);
    const fn = new PciFunction({ vendorId: 1, deviceId: 1, classCode: 0 });
    fn.add(new PasidCapability({ width: 4 }));
    const pri = fn.add(new PageRequestInterface({ capacity: 4, responsePasid: false }));
    fabric.plug(fn, RID);
    const config = enableAll(memory, fn);
    expect(config.read(config.extended().get(0x13)! + STATUS, 2) & 0x8000).toBe(0);
    const codes: number[] = [];
    const group = pri.request(fn, 5, ACCESS_READ, 0, 1, (code) => codes.push(code));
    fabric.respond({ rid: RID, pasid: NO_PASID, code: PRG_SUCCESS, group });
    scheduler.advance(1000);
    expect(codes).toEqual([PRG_SUCCESS]);
    expect(pri.request(fn, 16, ACCESS_READ, 0, 1, () => {})).toBe(-1);
    expect(pri.request(fn, 5, ACCESS_READ | ACCESS_EXECUTE, 0, 1, () => {})).toBe(-1);
  });
});

describe('the page request interface', () => {
  test('is stopped after reset, and when disabled with nothing outstanding', () => {
    const { config, at, request, respond, status } = setUp();
    expect(status()).toBe(0x8000);
    const group = request();
    config.write(at + 4, 2, 0);
    expect(status() & STOPPED).toBe(0);
    expect(request()).toBe(-1);
    respond(group, PRG_SUCCESS);
    expect(status() & STOPPED).toBe(STOPPED);
  });

  test('reset while disabled drops what is outstanding; while enabled it does nothing', () => {
    const { config, at, pri, codes, request, respond, status } = setUp();
    const group = request();
    config.write(at + 4, 2, 3);
    expect(pri.outstanding).toBe(1);
    expect(config.read(at + 4, 2)).toBe(1);
    config.write(at + 4, 2, 2);
    expect(config.read(at + 4, 2)).toBe(0);
    expect(pri.outstanding).toBe(0);
    expect(codes).toEqual([PRG_RESPONSE_FAILURE]);
    expect(status() & STOPPED).toBe(STOPPED);
    respond(group, PRG_SUCCESS);
    expect(codes).toEqual([PRG_RESPONSE_FAILURE]);
    expect(status() & UNEXPECTED).toBe(UNEXPECTED);
  });

  test('function-level reset forgets groups without a word and leaves it stopped', () => {
    const { config, pri, codes, request, respond, status } = setUp();
    const group = request();
    config.write(config.standard().get(0x10)! + 8, 2, 0x8000);
    expect(pri.outstanding).toBe(0);
    expect(status()).toBe(0x8000 | STOPPED);
    respond(group, PRG_SUCCESS);
    expect(codes).toEqual([]);
  });

  test('a stop marker carries the PASID, asks for nothing and needs no allocation', () => {
    const { config, at, fn, pri, agent, request } = setUp();
    config.write(at + 0x0c, 4, 1);
    request();
    expect(pri.stopMarker(fn, 5)).toBe(true);
    expect(agent.pageRequests[1]).toMatchObject({ pasid: 5, access: 0, last: true });
    expect(pri.outstanding).toBe(1);
    expect(pri.stopMarker(fn, NO_PASID)).toBe(false);
    config.write(at + 4, 2, 0);
    expect(pri.stopMarker(fn, 5)).toBe(false);
  });

  test('without bus master, PASID enable or any access nothing is sent', () => {
    const { config, fn, pri, agent, request } = setUp();
    expect(pri.request(fn, 5, 0, 0, 1, () => {})).toBe(-1);
    config.pasid(0);
    expect(request()).toBe(-1);
    config.pasid(7);
    config.write(4, 2, 2);
    expect(request()).toBe(-1);
    expect(agent.pageRequests).toEqual([]);
    expect(pri.outstanding).toBe(0);
  });

  test('VFs send through the interface of their PF with their own requester id', () => {
    const { memory, fabric, config, pri, agent, respond } = setUp(2);
    const sriov = config.extended().get(0x10)!;
    config.write(sriov + 0x10, 2, 2);
    config.write(sriov + 8, 2, 1);
    const vf = fabric.functionAt(RID + 1)!;
    new Config(memory, vf.rid).enable();
    const codes: number[] = [];
    const group = pri.request(vf, 5, ACCESS_READ, 0, 1, (code) => codes.push(code));
    expect(agent.pageRequests[0]).toMatchObject({ rid: RID + 1, pasid: 5 });
    respond(group, PRG_SUCCESS);
    expect(codes).toEqual([]);
    respond(group, PRG_SUCCESS, 5, RID + 1);
    expect(codes).toEqual([PRG_SUCCESS]);
    pri.request(vf, 5, ACCESS_READ, 0, 1, (code) => codes.push(code));
    config.write(sriov + 8, 2, 0);
    expect(pri.outstanding).toBe(0);
    expect(codes).toEqual([PRG_SUCCESS]);
  });
});
