import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { parseOptions } from '../../src/kselftest/options.ts';
import { runProgram } from '../../src/kselftest/run.ts';
import { buildPrograms, versionOf } from '../../src/kselftest/selftests.ts';
import { UsageError } from '../../src/usage-error.ts';
import { hasCompiler, why } from '../support/harness.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kselftest-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function write(path: string, text: string): string {
  const file = join(folder, path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, text);
  return file;
}

describe('options', () => {
  test('selectors keep their order, as the first that fits a case decides', () => {
    const options = parseOptions(['--source', 'linux', '-T', 'slow', '-f', 'door', '-r', 'wall.left.stands', '--json']);
    expect(options).toEqual({
      source: 'linux',
      sysroot: null,
      output: null,
      programs: ['iommufd', 'iommufd_fail_nth'],
      selectors: ['-T', 'slow', '-f', 'door', '-r', 'wall.left.stands'],
      writeDocs: false,
      json: true,
    });
  });

  test('may stand behind the dashes that pnpm hands on', () => {
    const options = parseOptions(['--', '--source', 'linux', '--program', 'iommufd']);
    expect(options).toMatchObject({ source: 'linux', programs: ['iommufd'] });
    expect(parseOptions(['--help'])).toBeNull();
  });

  test.each([
    [[], '--source'],
    [['--source'], '--source'],
    [['--source', 'linux', '--program', 'vfio'], 'vfio'],
    [['--source', 'linux', '--unknown'], '--unknown'],
    [['--source', 'linux', 'more'], 'more'],
    [['--source', 'linux', '--write-docs', '-f', 'door'], 'whole runs'],
    [['--source', 'linux', '--write-docs', '--program', 'iommufd'], 'whole runs'],
  ])('%j are refused', (args, named) => {
    expect(() => parseOptions(args)).toThrow(UsageError);
    expect(() => parseOptions(args)).toThrow(named);
  });
});

describe.skipIf(!hasCompiler)(`a test program${why}`, () => {
  function program(text: string): string {
    const file = write('program', `#!/bin/sh\n${text}\n`);
    chmodSync(file, 0o755);
    return file;
  }

  test('runs on the models, and what it says on both its outputs keeps its order', async () => {
    const told: string[] = [];
    const path = program(
      'echo 1..2; test -e /dev/iommu && echo "ok 1 node.there"; echo "# no key" >&2; echo "not ok 2 $1.$2"; exit 1',
    );
    expect(await runProgram(path, ['-f', 'door'], (line) => told.push(line))).toEqual([
      { name: 'node.there', outcome: 'pass', said: [] },
      { name: '-f.door', outcome: 'fail', said: ['no key'] },
    ]);
    expect(told).toEqual(['-f.door FAILS\n      no key']);
  });

  test('that ends early is an error with what it said last', async () => {
    const path = program('echo 1..2; echo "ok 1 a.b"; echo "lost" >&2; kill -SEGV $$');
    await expect(runProgram(path, [], () => {})).rejects.toThrow(/ended with SIGSEGV after 1 of 2 cases\n {2}lost/);
  });
});

describe.skipIf(!hasCompiler)(`the build${why}`, () => {
  const TESTS = 'tree/tools/testing/selftests/iommu';
  let source: string;
  let sysroot: string;
  let output: string;

  beforeAll(() => {
    [source, sysroot, output] = ['tree', 'sysroot', 'output/programs'].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    write('tree/Makefile', 'VERSION = 7\nPATCHLEVEL = 2\nSUBLEVEL = 1\nEXTRAVERSION = -rc3\nheaders:\n\tfalse\n');
    write('tree/usr/include/linux/version.h', '');
    write(`${TESTS}/Makefile`, 'all:\n\techo "$(USERCFLAGS) $(USERLDFLAGS)" > $(OUTPUT)/iommufd\n\ttest ! -e broken\n');
    write('sysroot/usr/include/sys/capability.h', 'int cap_get_proc(void);\n');
    write('cap.c', 'int cap_get_proc(void) { return 1; }\n');
    mkdirSync(join(sysroot, 'usr/lib'));
    execFileSync('cc', ['-shared', '-o', join(sysroot, 'usr/lib/libcap.so'), join(folder, 'cap.c')]);
  });
  afterEach(() => rmSync(join(folder, TESTS, 'broken'), { force: true }));

  test('goes to a folder outside the tree, with libcap from where it is told to be', () => {
    expect(versionOf(source)).toBe('7.2.1-rc3');
    buildPrograms({ source, sysroot, output });
    expect(readFileSync(join(output, 'iommufd'), 'utf8')).toBe(`-I${sysroot}/usr/include -L${sysroot}/usr/lib\n`);
  });

  test('says what is wrong', () => {
    expect(() => versionOf('/nowhere')).toThrow('/nowhere is not a Linux source tree');
    expect(() => buildPrograms({ source, sysroot: source, output })).toThrow('there is no libcap in');
    write(`${TESTS}/broken`, '');
    expect(() => buildPrograms({ source, sysroot, output })).toThrow(UsageError);
    rmSync(join(source, 'usr'), { recursive: true });
    expect(() => buildPrograms({ source, sysroot, output })).toThrow('make -C');
  });
});
