import { describe, expect, test } from 'vitest';
import { parseOptions, UsageError } from '../src/options.ts';

const parse = (...args: string[]) => parseOptions(args, () => {});

describe('command line', () => {
  test('without arguments runs two processes of 1 MiB', () => {
    expect(parse()).toEqual({
      processes: 2,
      bytes: 1 << 20,
      seed: 1,
      interface: 'iommufd',
      submit: 'both',
      trace: false,
      json: false,
    });
  });

  test('reads every option', () => {
    const args = '--processes 4 --bytes 16M --seed 7 --interface iommufd --submit enqcmd --trace --json'.split(' ');
    expect(parse(...args)).toEqual({
      processes: 4,
      bytes: 16 << 20,
      seed: 7,
      interface: 'iommufd',
      submit: 'enqcmd',
      trace: true,
      json: true,
    });
  });

  test('passes over a leading -- as package managers leave it', () => {
    expect(parse('--', '--json')?.json).toBe(true);
  });

  test.each([
    ['64K', 65536],
    ['1M', 1048576],
    ['131072', 131072],
  ])('--bytes %s is %i bytes', (text, bytes) => {
    expect(parse('--bytes', text)?.bytes).toBe(bytes);
  });

  test.each([
    ['--processes', '0'],
    ['--processes', '17'],
    ['--processes', '-1'],
    ['--processes', '1.5'],
    ['--processes', 'many'],
    ['--bytes', '0'],
    ['--bytes', '1000'],
    ['--bytes', '99999999K'],
    ['--bytes', '1m'],
    ['--bytes', '2T'],
    ['--bytes', '65537'],
    ['--seed', '-3'],
    ['--seed', '4294967296'],
    ['--interface', 'vfio'],
    ['--submit', 'both,enqcmd'],
    ['--submit', 'ENQCMD'],
    ['--nonsense', ''],
    ['stray', 'words'],
  ])('%s %s is refused in one line', (...args) => {
    let message = '';
    try {
      parse(...args);
    } catch (error) {
      expect(error).toBeInstanceOf(UsageError);
      message = (error as Error).message;
    }
    expect(message).not.toBe('');
    expect(message).not.toContain('\n');
  });

  test('--help prints the options and asks for nothing else', () => {
    let printed = '';
    expect(parseOptions(['--help'], (text) => (printed += text))).toBeNull();
    for (const option of ['processes', 'bytes', 'seed', 'interface', 'submit', 'trace', 'json']) {
      expect(printed).toContain(`--${option}`);
    }
  });
});
