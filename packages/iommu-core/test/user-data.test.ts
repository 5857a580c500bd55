import { describe, expect, test } from 'vitest';
import {
  readUserArray,
  readUserData,
  SysError,
  struct,
  type UserArray,
  type UserReply,
  writeUserData,
} from '../src/index.ts';
import { refusal } from './support/fake-driver.ts';

const layout = struct({ first: 'u32', second: 'u32', third: 'u64' } as const);
const TYPE = 7;

function reply(bytes: Uint8Array, type = TYPE): UserReply & { readonly stored: Uint8Array[] } {
  const stored: Uint8Array[] = [];
  return { type, length: bytes.length, read: () => bytes, write: (answer) => stored.push(answer.slice()), stored };
}

describe('a structure of the user', () => {
  test('is filled up with zeros, and answered as far as it goes', () => {
    const data = reply(Uint8Array.of(1, 0, 0, 0, 2, 0, 0, 0));
    const values = readUserData('test', data, TYPE, layout, 'second');
    expect(values).toEqual({ first: 1, second: 2, third: 0n });
    writeUserData('test', data, TYPE, layout, 'second', { first: 3, second: 4, third: 5n });
    expect(data.stored).toEqual([Uint8Array.of(3, 0, 0, 0, 4, 0, 0, 0)]);
  });

  test('is EINVAL with another type, without a field, and with one too many, before it is fetched', () => {
    for (const [length, type] of [
      [16, 8],
      [7, TYPE],
      [0, TYPE],
      [17, TYPE],
    ] as const) {
      const data: UserReply = {
        ...reply(new Uint8Array(length), type),
        read: () => {
          throw new SysError('EFAULT', 'test', 'fetched');
        },
      };
      expect(refusal(() => readUserData('test', data, TYPE, layout, 'second'))).toBe('EINVAL');
      const values = { first: 0, second: 0, third: 0n };
      expect(refusal(() => writeUserData('test', data, TYPE, layout, 'second', values))).toBe('EINVAL');
    }
  });
});

describe('an array of the user', () => {
  /** Entries of `length` bytes, each filled with its index from 1, up to `end` bytes. */
  function array(
    count: number,
    length: number,
    options: { type?: number; tail?: number; end?: number } = {},
  ): UserArray {
    const { type = TYPE, tail = 0, end = count * length } = options;
    const bytes = new Uint8Array(count * length).map((_, at) => {
      return at % length < 4 ? Math.floor(at / length) + 1 : tail;
    });
    return {
      type,
      entryLength: length,
      count,
      read(first, entries) {
        if ((first + entries) * length > end) throw new SysError('EFAULT', 'test', 'the end');
        return bytes.slice(first * length, (first + entries) * length);
      },
    };
  }

  test('comes whole, with entries shorter and longer than the structure', () => {
    const expected = Uint8Array.of(1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    expect(readUserArray('test', array(3, 4), TYPE, 4)).toEqual(expected);
    expect(readUserArray('test', array(3, 9), TYPE, 4)).toEqual(expected);
    const short = readUserArray('test', array(3, 2), TYPE, 4);
    expect(short).toEqual(Uint8Array.of(1, 1, 0, 0, 2, 2, 0, 0, 3, 3, 0, 0));
  });

  test('is refused as a whole', () => {
    expect(refusal(() => readUserArray('test', array(3, 4, { type: 8 }), TYPE, 4))).toBe('EINVAL');
    expect(refusal(() => readUserArray('test', array(0, 4), TYPE, 4))).toBe('EINVAL');
    expect(refusal(() => readUserArray('test', array(3, 5, { tail: 1 }), TYPE, 4))).toBe('E2BIG');
    expect(refusal(() => readUserArray('test', array(3, 4, { end: 8 }), TYPE, 4))).toBe('EFAULT');
    expect(refusal(() => readUserArray('test', array(3, 5, { end: 10 }), TYPE, 4))).toBe('EFAULT');
  });
});
