/** The unit at the root of the PCI fabric, with a function that uses ATS, PASID and PRI. */

import { expect, test } from 'vitest';
import { TEST_REGISTER as at, TEST_COMMAND as cmd, TestFunction } from '../../src/devices/test-function.ts';
import { ECAM_SIZE, PciFabric } from '../../src/pci/fabric.ts';
import type { DownstreamPort } from '../../src/pci/transaction.ts';
import * as reg from '../../src/vtd/registers.ts';
import { Config, ECAM_BASE, enableAll } from '../pci/support.ts';
import { Bench, PAGE, PAGE_QUEUE } from './bench.ts';

const RID = 0x28;
const PASID = 5;
const DID = 7n;
const BAR = 0xd000_0000;
const IOVA = 0x1234_5000n;

function setUp() {
  let fabric: PciFabric | null = null;
  const port: DownstreamPort = {
    invalidate: (request, done) => fabric!.invalidate(request, done),
    respond: (response) => fabric!.respond(response),
  };
  const bench = new Bench({ port, reservedBytes: 1 << 20 });
  const { memory, scheduler } = bench;
  fabric = new PciFabric({ memory, scheduler, interrupts: { deliver() {} } });
  memory.mapMmio(ECAM_BASE / 4096, ECAM_SIZE / 4096, fabric.ecam);
  fabric.setAgent(bench.unit);
  const fn = fabric.plug(new TestFunction({ memory, scheduler }), RID);
  new Config(memory, RID).write(0x10, 4, BAR);
  enableAll(memory, fn);
  bench.enable(1);
  const root1 = bench.frame() * PAGE;
  const root2 = bench.frame() * PAGE;
  const context = bench.context(RID, 0x1dn, 0n);
  const word0 = root2 | (2n << 2n) | (3n << 6n) | 1n;
  bench.pasidEntry(context, PASID, [word0, DID | (1n << 23n), root1]);
  for (let frame = 16n; frame < 100n; frame++) bench.map(root2, 4, frame * PAGE, (frame * PAGE) | 7n, 7n);
  const start = (command: number): void => {
    memory.store(BAR + at.pasid, 4, PASID);
    memory.store(BAR + at.address, 8, IOVA);
    memory.store(BAR + at.length, 4, 8);
    memory.store(BAR + at.command, 4, command | cmd.withPasid | cmd.cached);
  };
  const result = (): number => Number(memory.load(BAR + at.result, 4));
  return { bench, memory, root1, start, result };
}

test('a page that is not there is requested, mapped by software, answered, and then written', () => {
  const { bench, memory, root1, start, result } = setUp();
  memory.store(BAR + at.buffer, 8, 0x1122_3344_5566_7788n);
  start(cmd.write | cmd.wantWrite | cmd.pageRequestOnDenial);
  bench.run();
  expect(bench.read64(reg.REG_PQT)).toBe(32n);
  const [word0, word1] = [bench.get64(PAGE_QUEUE * PAGE), bench.get64(PAGE_QUEUE * PAGE + 8n)];
  expect(word0).toBe(1n | (1n << 8n) | (BigInt(RID) << 16n) | (BigInt(PASID) << 32n));
  expect(word1 & ~0xfffn).toBe(IOVA);
  bench.map(root1, 4, IOVA, (50n * PAGE) | 7n, 7n);
  bench.submit([9n | 0x10n | (BigInt(RID) << 16n) | (BigInt(PASID) << 32n), word1 & 0xff8n]);
  expect(result()).toBe(0);
  expect(bench.get64(50n * PAGE)).toBe(0x1122_3344_5566_7788n);
  expect(bench.faults()).toEqual([]);
  expect(bench.unit.counters).toMatchObject({ pageRequests: 1, pageResponses: 1 });
});

test('the function goes on using its device TLB until a descriptor invalidates it', () => {
  const { bench, root1, start, result } = setUp();
  bench.map(root1, 4, IOVA, (50n * PAGE) | 0x67n, 0x27n);
  const write = (): bigint => {
    bench.put64(50n * PAGE, 0n);
    bench.put64(60n * PAGE, 0n);
    start(cmd.write | cmd.wantWrite);
    bench.run();
    expect(result()).toBe(0);
    return bench.get64(50n * PAGE) !== 0n ? 50n : 60n;
  };
  bench.memory.store(BAR + at.buffer, 8, 1n);
  expect(write()).toBe(50n);
  bench.map(root1, 4, IOVA, (60n * PAGE) | 0x67n, 0x27n);
  bench.submit([0x36n | (DID << 16n) | (BigInt(PASID) << 32n), IOVA]);
  expect(write()).toBe(50n);
  expect(bench.submit([8n | (BigInt(RID) << 16n) | (BigInt(PASID) << 32n), IOVA])).toBe(true);
  expect(write()).toBe(60n);
});

test('a function that does not answer an invalidation times out', () => {
  const { bench, memory } = setUp();
  memory.store(BAR + at.control, 4, 1);
  expect(bench.submit([8n | (BigInt(RID) << 16n) | (BigInt(PASID) << 32n), IOVA])).toBe(false);
  expect(bench.read32(reg.REG_FSTS)).toBe(reg.FSTS_ITE);
});
