/**
 * The core's walk on random tables: against a walk written straight from the tables of the Intel SDM (volume 3A,
 * section 4.5), and against the first-stage walker that a device's DMA takes.
 */

import {
  ACCESS_EXECUTE,
  ACCESS_PRIVILEGED,
  ACCESS_READ,
  ACCESS_WRITE,
  CONTROL_NO_EXECUTE,
  CONTROL_SMEP,
  CONTROL_WRITE_PROTECT,
  high32,
  low32,
  pageHigh,
  pageLow,
  WALK_NOT_PRESENT,
  WALK_OK,
  WALK_RESERVED,
  WALK_UNREACHABLE,
  X86Walker,
} from '@iommukit/hw';
import { expect, test } from 'vitest';
import { CpuFixture } from '../support/cpu-fixture.ts';
import { Random } from '../support/random.ts';

const ROOT = 0x200000n;
/** All of RAM is the guest's, so that the core and the device reach the same tables. */
const FRAMES = 2048;
const PHYSICAL_BITS = 46n;

type Access = 'read' | 'write' | 'execute';
type Regime = { user: boolean; wp: boolean; nxe: boolean; smep: boolean; smap: boolean; ac: boolean };

const bit = (value: bigint, n: number): boolean => ((value >> BigInt(n)) & 1n) === 1n;

/** The specification, step by step. Gives the address or the error code; sets flags when the access is allowed. */
function naiveWalk(
  fixture: CpuFixture,
  address: bigint,
  access: Access,
  regime: Regime,
): { gpa: bigint } | { errorCode: number } {
  const { user, wp, nxe, smep, smap, ac } = regime;
  const code = (access === 'write' ? 2 : 0) | (user ? 4 : 0) | (access === 'execute' && (nxe || smep) ? 16 : 0);
  const entries: { at: bigint; value: bigint }[] = [];
  let table = ROOT;
  let page = 12;
  for (let level = 4; level >= 1; level--) {
    const at = table + 8n * ((address >> BigInt(3 + 9 * level)) & 511n);
    const inside = at < BigInt(FRAMES) << 12n;
    const value = inside ? fixture.read64(at) : (1n << 64n) - 1n;
    entries.push({ at, value });
    if (!bit(value, 0)) return { errorCode: code };
    let reserved = ((1n << 52n) - 1n) & ~((1n << PHYSICAL_BITS) - 1n);
    if (!nxe) reserved |= 1n << 63n;
    if (level >= 3) reserved |= 1n << 7n;
    const large = level === 2 && bit(value, 7);
    if (large) reserved |= 0x1fe000n;
    if ((value & reserved) !== 0n) return { errorCode: code | 1 | 8 };
    if (large) {
      page = 21;
      break;
    }
    table = value & 0x000f_ffff_ffff_f000n;
  }
  const isUser = entries.every(({ value }) => bit(value, 2));
  const isWritable = entries.every(({ value }) => bit(value, 1));
  const isNoExecute = nxe && entries.some(({ value }) => bit(value, 63));
  let allowed = user ? isUser : true;
  if (!user && isUser && access === 'execute' && smep) allowed = false;
  if (!user && isUser && access !== 'execute' && smap && !ac) allowed = false;
  if (access === 'write' && !isWritable && (user || wp)) allowed = false;
  if (access === 'execute' && isNoExecute) allowed = false;
  if (!allowed) return { errorCode: code | 1 };
  entries.forEach(({ at, value }, index) => {
    const leaf = index === entries.length - 1;
    const set = leaf && access === 'write' ? 0x60n : 0x20n;
    if (at < BigInt(FRAMES) << 12n && (value | set) !== value) fixture.write64(at, value | set);
  });
  const mask = (1n << BigInt(page)) - 1n;
  const leaf = entries[entries.length - 1]!.value;
  return { gpa: (leaf & 0x000f_ffff_ffff_f000n & ~mask) | (address & mask) };
}

/** Tables in frames 0x200..0x23f with all kinds of entries, mostly good ones. */
function randomTables(fixture: CpuFixture, random: Random): void {
  for (let frame = 0x200; frame < 0x240; frame++) {
    for (let i = 0; i < 512; i++) {
      let entry = BigInt(0x200 + random.below(0x40)) << 12n;
      entry |= BigInt(random.bits() & 0x67f);
      entry |= random.chance(90) ? 7n : 0n;
      if (random.chance(15)) entry |= 0x80n;
      if (random.chance(20)) entry &= ~BigInt(1 << random.below(3));
      if (random.chance(10)) entry |= 1n << BigInt(12 + random.below(52));
      if (random.chance(10)) entry |= 1n << 63n;
      if (random.chance(30)) entry &= ~0x1fe000n;
      fixture.write64(BigInt(frame * 4096 + i * 8), entry);
    }
  }
}

function randomAddress(random: Random): bigint {
  const value = (BigInt(random.bits() >>> 0) << 16n) | BigInt(random.below(65536));
  return BigInt.asUintN(64, BigInt.asIntN(48, value));
}

const tablesOf = (fixture: CpuFixture): Uint8Array => fixture.memory.bytes.slice(0x200000, 0x240000);

function regimeOf(random: Random): Regime {
  const coin = (): boolean => random.chance(50);
  return { user: false, wp: coin(), nxe: random.chance(70), smep: coin(), smap: coin(), ac: coin() };
}

function applyRegime(fixture: CpuFixture, regime: Regime): void {
  fixture.reset(0n);
  fixture.cpu.writeRegisters({
    ...fixture.cpu.readRegisters(),
    cr3: ROOT,
    cr0: 0x80000011n | (regime.wp ? 0x10000n : 0n),
    cr4: 0x20n | (regime.smep ? 1n << 20n : 0n) | (regime.smap ? 1n << 21n : 0n),
    efer: 0x500n | (regime.nxe ? 0x800n : 0n),
    rflags: 2n | (regime.ac ? 0x40000n : 0n),
  });
}

test('20000 walks agree with the specification, flags and error codes included', { timeout: 60_000 }, () => {
  let good = 0;
  for (let seed = 1; seed <= 40; seed++) {
    const random = new Random(seed);
    const core = new CpuFixture({ physicalAddressBits: Number(PHYSICAL_BITS), guestFrames: FRAMES });
    const naive = new CpuFixture();
    randomTables(core, random);
    naive.memory.bytes.set(tablesOf(core), 0x200000);
    const regime = regimeOf(random);
    applyRegime(core, regime);
    for (let i = 0; i < 500; i++) {
      const address = randomAddress(random);
      const access = random.pick(['read', 'write', 'execute'] as const);
      const user = random.chance(50);
      const expected = naiveWalk(naive, address, access, { ...regime, user });
      expect(core.cpu.translate(address, access, user), `seed ${seed} walk ${i}`).toEqual(expected);
      if ('gpa' in expected) good++;
    }
    expect(Buffer.compare(tablesOf(core), tablesOf(naive)), `flags of seed ${seed}`).toBe(0);
  }
  expect(good).toBeGreaterThan(2000);
});

const ACCESS_BITS: Record<Access, number> = {
  read: ACCESS_READ,
  write: ACCESS_WRITE,
  execute: ACCESS_READ | ACCESS_EXECUTE,
};

test("20000 walks agree with the device's first-stage walker, flags included", { timeout: 60_000 }, () => {
  let good = 0;
  for (let seed = 101; seed <= 140; seed++) {
    const random = new Random(seed);
    const core = new CpuFixture({ physicalAddressBits: Number(PHYSICAL_BITS), guestFrames: FRAMES });
    const device = new CpuFixture();
    randomTables(core, random);
    device.memory.bytes.set(tablesOf(core), 0x200000);
    // A device has no SMAP.
    const regime: Regime = { ...regimeOf(random), smap: false };
    applyRegime(core, regime);
    const walker = new X86Walker(device.memory, { physicalBits: Number(PHYSICAL_BITS), page1G: false });
    const control =
      (regime.wp ? CONTROL_WRITE_PROTECT : 0) |
      (regime.nxe ? CONTROL_NO_EXECUTE : 0) |
      (regime.smep ? CONTROL_SMEP : 0);
    for (let i = 0; i < 500; i++) {
      const address = randomAddress(random);
      const access = random.pick(['read', 'write', 'execute'] as const);
      const user = random.chance(50);
      const bits = ACCESS_BITS[access] | (user ? 0 : ACCESS_PRIVILEGED);
      const hi = high32(address);
      const code = walker.walk(Number(ROOT >> 12n), 3, pageHigh(hi), pageLow(low32(address), hi), bits, control);
      const found = core.cpu.translate(address, access, user);
      let same: string;
      if ('gpa' in found) {
        good++;
        same = `pfn ${found.gpa >> 12n}`;
      } else same = (found.errorCode! & 8) !== 0 ? 'reserved' : (found.errorCode! & 1) !== 0 ? 'denied' : 'absent';
      // Where no memory is, the processor reads ones, of which some are reserved.
      const reserved = code === WALK_RESERVED || code === WALK_UNREACHABLE;
      const said =
        code === WALK_OK
          ? `pfn ${walker.pfn}`
          : reserved
            ? 'reserved'
            : code === WALK_NOT_PRESENT
              ? 'absent'
              : 'denied';
      expect(said, `seed ${seed} walk ${i}`).toBe(same);
    }
    expect(Buffer.compare(tablesOf(core), tablesOf(device)), `flags of seed ${seed}`).toBe(0);
  }
  expect(good).toBeGreaterThan(2000);
});
