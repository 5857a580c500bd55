import { describe, expect, test } from 'vitest';
import { compareWithTable } from '../src/compare.ts';
import type { UapiTable } from '../src/table.ts';

const table: UapiTable = {
  linux: '1.2.3',
  header: 'some.h',
  structures: {
    some_request: {
      size: 24,
      fields: {
        size: [0, 4],
        'head.flags': [4, 4],
        user_va: [8, 8],
        in_type: [16, 4],
        out_type: [16, 4],
        __reserved: [20, 4],
        data: [24, 0],
      },
    },
  },
  requests: { SOME_REQUEST: 0x3b80 },
  constants: { SOME_FLAG: 4, TOP_BIT: -0x80000000 },
};

type Fields = { [name: string]: [offset: number, width: number] };

/** What `struct` makes, for any offsets. */
function layout(size: number, fields: Fields): object {
  return {
    size,
    offset: (name: string) => fields[name]![0],
    end: (name: string) => fields[name]![0] + fields[name]![1],
    read: () => ({ ...fields }),
  };
}

const FIELDS: Fields = {
  size: [0, 4],
  flags: [4, 4],
  userVa: [8, 8],
  outType: [16, 4],
  reserved0: [20, 2],
  reserved1: [22, 2],
};

function differences(size: number, fields: Fields): string[] {
  return compareWithTable({ someRequest: layout(size, fields) }, table).differences;
}

describe('a structure', () => {
  test('matches by names in camel case, in members and in reserved fields', () => {
    expect(compareWithTable({ someRequest: layout(24, FIELDS) }, table)).toEqual({
      structures: 1,
      numbers: 0,
      differences: [],
    });
  });

  test.each<[string, number, Fields]>([
    ['size', 32, FIELDS],
    ['offset', 24, { ...FIELDS, flags: [0, 4] }],
    ['width', 24, { ...FIELDS, outType: [16, 2] }],
    ['name', 24, { ...FIELDS, other: [8, 8] }],
    ['reserved field', 24, { ...FIELDS, reserved1: [16, 2] }],
  ])('of another %s is a difference', (_, size, fields) => {
    expect(differences(size, fields).length).toBeGreaterThan(0);
  });

  test.each(Object.keys(FIELDS))('without %s is a difference', (name) => {
    const { [name]: _, ...rest } = FIELDS;
    expect(differences(24, rest)[0]).toContain('nothing stands for byte');
  });

  test('may begin inside the one of the header', () => {
    const tail = layout(8, { outType: [0, 4], reserved: [4, 4] });
    const renamed = { tail: { structure: 'some_request', from: 16 } };
    expect(compareWithTable({ tail }, table, { renamed })).toEqual({ structures: 1, numbers: 0, differences: [] });
    expect(
      compareWithTable({ tail }, table, { renamed: { tail: { structure: 'some_request' } } }).differences,
    ).not.toEqual([]);
  });

  test('that the header does not have is a difference without a reason', () => {
    const unknown = layout(8, {});
    expect(compareWithTable({ unknown }, table).differences).toEqual(['unknown is not in some.h: no struct unknown']);
    expect(compareWithTable({ unknown }, table, { absent: { unknown: 'historic' } }).differences).toEqual([]);
  });
});

describe('a number', () => {
  test('matches by its name, whatever C says of the sign', () => {
    expect(compareWithTable({ SOME_FLAG: 4, SOME_REQUEST: 0x3b80, TOP_BIT: 0x80000000 }, table)).toEqual({
      structures: 0,
      numbers: 3,
      differences: [],
    });
  });

  test('of another value is a difference', () => {
    expect(compareWithTable({ SOME_FLAG: 8 }, table).differences).toEqual(['SOME_FLAG is 8, not 4']);
  });

  test('that the header does not have is a difference without a reason', () => {
    expect(compareWithTable({ OTHER: 1 }, table).differences).toEqual(['OTHER is not in some.h']);
    expect(compareWithTable({ OTHER: 1 }, table, { absent: { OTHER: 'a limit' } }).differences).toEqual([]);
  });
});

test('exceptions that are none are differences', () => {
  expect(compareWithTable({ SOME_FLAG: 4 }, table, { absent: { SOME_FLAG: 'a reason', GONE: 'a reason' } })).toEqual({
    structures: 0,
    numbers: 1,
    differences: ['SOME_FLAG is in some.h, though listed as absent', 'GONE is an exception and not exported'],
  });
});

test('functions are not compared', () => {
  expect(compareWithTable({ request: () => 0 }, table)).toEqual({ structures: 0, numbers: 0, differences: [] });
});
