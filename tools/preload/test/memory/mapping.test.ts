import { ACCESS_READ, ACCESS_WRITE } from '@iommukit/hw';
import { describe, expect, test } from 'vitest';
import { fileName, findMapping, parseMappings } from '../../src/memory/mapping.ts';

const MAPS = `55d0c0000000-55d0c0002000 r--p 00001000 fe:00 1234                       /usr/bin/a program
7f0000000000-7f0000200000 rw-s 00000000 00:01 2048                       /dev/zero (deleted)
7f0000200000-7f0000201000 ---p 00000000 00:00 0
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
`;

describe('mappings as /proc shows them', () => {
  const mappings = parseMappings(MAPS);

  test('have ranges, permissions and files', () => {
    expect(mappings).toHaveLength(5);
    expect(mappings[0]).toEqual({
      start: 0x55d0c0000,
      end: 0x55d0c0002,
      access: ACCESS_READ,
      shared: false,
      file: 'fe:00:1234',
      filePage: 1,
      range: '55d0c0000000-55d0c0002000',
    });
    expect(mappings[1]).toMatchObject({ access: ACCESS_READ | ACCESS_WRITE, shared: true, file: '00:01:2048' });
    expect(mappings[2]).toMatchObject({ access: 0, file: null });
  });

  test('are found by page', () => {
    expect(findMapping(mappings, 0x7f0000000)).toBe(mappings[1]);
    expect(findMapping(mappings, 0x7f00001ff)).toBe(mappings[1]);
    expect(findMapping(mappings, 0x7f0000200)).toBe(mappings[2]);
    expect(findMapping(mappings, 0x7f0000201)).toBeNull();
    expect(findMapping([], 5)).toBeNull();
  });

  test('name a file as stat does, minor numbers above 255 too', () => {
    expect(fileName(0x0001, 2048)).toBe('00:01:2048');
    expect(fileName((0xfe << 8) | 0, 1234)).toBe('fe:00:1234');
    expect(fileName((0x103 << 8) | 0x05 | (0x2 << 20), 9)).toBe('103:205:9');
  });
});
