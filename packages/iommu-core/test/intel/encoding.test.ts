import { fc, test } from '@fast-check/vitest';
import { NO_PASID, PGTT_NESTED } from '@iommukit/hw';
import { describe, expect } from 'vitest';
import { coveringRange } from '../../src/intel/attachments.ts';
import * as encode from '../../src/intel/descriptors.ts';
import { decodeEntryTag, encodePasidEntry } from '../../src/intel/pasid-entry.ts';

const MAX_PAGE = 2 ** 52 - 1;
const page = fc.oneof(fc.nat(64), fc.integer({ min: 0, max: MAX_PAGE }), fc.constant(MAX_PAGE));

describe('covering ranges', () => {
  test.prop([page, fc.oneof(fc.nat(600), fc.nat(MAX_PAGE))])(
    'hold the pages, are aligned, and no smaller one does',
    (first, span) => {
      const last = Math.min(MAX_PAGE, first + span);
      const { address, sizeLg2 } = coveringRange(first, last);
      const size = 1n << BigInt(sizeLg2);
      const [start, end] = [BigInt(first) << 12n, (BigInt(last) + 1n) << 12n];
      expect(address % size).toBe(0n);
      expect(address <= start && end <= address + size).toBe(true);
      if (sizeLg2 > 12) expect(start / (size / 2n)).not.toBe((end - 1n) / (size / 2n));
    },
  );
});

describe('descriptors', () => {
  const device = { rid: 0xabcd, pfRid: 0x1234, queueDepth: 7 };

  test.prop([page, fc.integer({ min: 12, max: 64 }), fc.constantFrom(NO_PASID, 0x98765)])(
    'a device TLB range is told by its lowest zero bit',
    (first, sizeLg2, pasid) => {
      const size = 1n << BigInt(sizeLg2);
      const address = ((BigInt(first) << 12n) / size) * size;
      const words = encode.flushDeviceTlb(device, pasid, address, sizeLg2);
      const value = (BigInt(words[3] >>> 0) << 32n) | BigInt(words[2] >>> 0);
      const sized = (value & (pasid === NO_PASID ? 1n : 1n << 11n)) !== 0n;
      let bit = 12n;
      while (sized && (value & (1n << bit)) !== 0n) bit++;
      expect(sized ? Number(bit) + 1 : 12).toBe(sizeLg2);
      expect(value & ~(size - 1n) & ~0xfffn & ((1n << 64n) - 1n)).toBe(address);
    },
  );

  test('fields lie where the specification has them', () => {
    expect(encode.flushDeviceTlb(device, NO_PASID, 0x5000n, 12)).toEqual([
      0x3 | (4 << 12) | (7 << 16),
      0xabcd | (0x123 << 20) | 0,
      0x5000,
      0,
    ]);
    expect(encode.flushPasid(0x4321, 0x98765)).toEqual([0x43210000 | 0x17 | 0, 0x98765, 0, 0]);
    expect(encode.flushPasidIotlbPages(2, 3, 0x7_0000_4000n, 14, true)).toEqual([0x20036, 3, 0x4042, 7]);
    expect(encode.pageGroupResponse(0x108, 5, 0x1ff, 1)).toEqual([0x01081019, 5, 0xff8, 0]);
    expect(encode.pageGroupResponse(0x108, NO_PASID, 1, 15)).toEqual([0x0108f009, 0, 8, 0]);
    expect(encode.waitStatus(0x1_2345_6780n, 2, true)).toEqual([0xa5, 2, 0x23456780, 1]);
  });

  test('a nested PASID entry names both tables, the domain and the rules of the first stage', () => {
    const words = encodePasidEntry({
      domainId: 0xbeef,
      translation: PGTT_NESTED,
      stage2Levels: 4,
      stage2Root: 0x12_3456_7000n,
      stage2Dirty: true,
      stage1Root: 0xab_cdef_0000n,
      stage1FiveLevels: true,
      supervisor: true,
      writeProtect: true,
      noExecute: true,
      extendedAccessed: true,
      pageWalkSnoop: true,
    });
    expect([...words.slice(0, 6)].map((word) => (word >>> 0).toString(16))).toEqual([
      (0x34567000 | (1 << 9) | (3 << 6) | (2 << 2) | 1).toString(16),
      '12',
      (0xbeef | (1 << 23)).toString(16),
      '0',
      ((0xcdef0000 | 0xb5) >>> 0).toString(16),
      'ab',
    ]);
    expect(words.slice(6).every((word) => word === 0)).toBe(true);
    expect(decodeEntryTag(words[0]!, words[2]!)).toEqual({ domainId: 0xbeef, translation: PGTT_NESTED });
    expect(decodeEntryTag(words[0]! & ~1, words[2]!)).toBeNull();
  });
});
