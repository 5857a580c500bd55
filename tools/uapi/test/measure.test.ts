import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { changes } from '../src/changes.ts';
import { readDeclarations } from '../src/declarations.ts';
import { measure } from '../src/measure.ts';
import { formatTable } from '../src/table.ts';

const HEADER = `
#ifndef SOME_H
#define SOME_H
#include <stdint.h>
#define NAME "text"
#define SOME_TYPE (';')
#define _IO(type, nr) (((type) << 8) | (nr))
#define SOME_REQUEST _IO(SOME_TYPE, 0x80 + 2)
enum { FIRST, SECOND = 1 << 4, THIRD = (2 + SECOND), };
enum kind { KIND_TOP = 0xdeadbeefU };
struct opaque;
struct head { uint16_t id, version; };
struct some {
  struct head header;
  union { uint32_t in; uint32_t out; };
  union { struct { uint64_t start, last; } range; uint8_t bytes[3]; };
  uint64_t aligned __attribute__((aligned(16)));
  struct head many[2];
  enum kind kind;
  uint32_t data[];
} __attribute__((packed));
typedef struct { int left; } out;
#endif
`;

const WANTED = {
  structures: {
    head: { size: 4, fields: { id: [0, 2], version: [2, 2] } },
    some: {
      size: 64,
      fields: {
        'header.id': [0, 2],
        'header.version': [2, 2],
        in: [4, 4],
        out: [4, 4],
        'range.start': [8, 8],
        'range.last': [16, 8],
        bytes: [8, 3],
        aligned: [32, 8],
        many: [40, 8],
        kind: [48, 4],
        data: [52, 0],
      },
    },
  },
  requests: { SOME_REQUEST: 0x3b82 },
  constants: { FIRST: 0, SECOND: 16, THIRD: 18, KIND_TOP: 0xdeadbeef, SOME_TYPE: 0x3b },
};

test.skipIf(spawnSync('cc', ['--version']).status !== 0)(
  'a header is measured as a C compiler lays it out (skipped without cc)',
  () => {
    const folder = mkdtempSync(join(tmpdir(), 'uapi-test-'));
    try {
      const file = join(folder, 'some.h');
      writeFileSync(file, HEADER);
      expect(measure(file, folder)).toEqual(WANTED);
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
);

test('only what the header itself declares is read', () => {
  const text =
    '# 1 "/a/other.h"\nstruct other { int a; };\n#define OTHER 1\n# 1 "/a/some.h" 2\nenum { MINE };\n#define ALSO 2';
  expect(readDeclarations(text, '/some.h')).toEqual({
    structures: new Map(),
    requests: [],
    constants: ['MINE', 'ALSO'],
  });
});

test.each([
  ['a bit field', 'struct some { int a : 3; };'],
  ['an open enumeration', 'enum { FIRST, '],
  ['an open attribute', 'struct some { int a; } __attribute__((packed'],
  ['an open structure', 'struct some { int a;'],
  ['an open array', 'struct some { int a[3; };'],
])('%s is refused', (_, code) => {
  expect(() => readDeclarations(`# 1 "some.h"\n${code}`, 'some.h')).toThrow(Error);
});

test('changes between two tables name structure, field and number', () => {
  const before = {
    linux: '1.0.0',
    header: 'some.h',
    structures: { some: { size: 8, fields: { a: [0, 4] as const, b: [4, 4] as const } } },
    requests: { REQUEST: 0x3b80 },
    constants: {},
  };
  const after = {
    ...before,
    linux: '1.0.1',
    structures: { some: { size: 12, fields: { a: [0, 4] as const, b: [4, 8] as const } } },
    requests: { REQUEST: 0x3b81 },
    constants: { NEW: 1 },
  };
  expect(changes(before, before)).toEqual([]);
  expect(changes(before, after)).toEqual([
    'struct some: 8 bytes before, 12 bytes now',
    'struct some.b: 4 bytes at 4 before, 8 bytes at 4 now',
    'REQUEST: 0x3b80 before, 0x3b81 now',
    'NEW: not there before, 0x1 now',
  ]);
  expect(JSON.parse(formatTable(after))).toEqual(after);
});
