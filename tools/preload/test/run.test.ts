import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { checkProgram, findProgram } from '../src/elf.ts';
import { parseOptions } from '../src/options.ts';
import { buildShim, FLAGS, SOURCES } from '../src/shim.ts';
import { UsageError } from '../src/usage-error.ts';
import { hasCompiler, outcome, why } from './support/harness.ts';

const PACKAGE = fileURLToPath(new URL('..', import.meta.url));
const NODE = ['--conditions=@iommukit/source', '--import', 'tsx'];
const MAIN = [...NODE, join(PACKAGE, 'src/main.ts')];
const DUMP = [...NODE, join(PACKAGE, 'src/iommufd.ts'), 'dump'];

describe.skipIf(!hasCompiler)(`iommukit-run${why}`, () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'iommukit-run-'));
    const build = (name: string, source: string, ...flags: string[]): void => {
      execFileSync('cc', ['-o', join(folder, name), join(PACKAGE, source), ...flags]);
    };
    build('dma', 'examples/dma.c', '-Wall', '-Werror');
    build('holder', 'test/programs/holder.c');
    build('orphan', 'test/programs/orphan.c');
    build('static', 'test/programs/orphan.c', '-static');
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  function start(args: readonly string[], environment: { readonly [name: string]: string } = {}): ChildProcess {
    const env = { ...process.env, TMPDIR: folder, ...environment };
    return spawn(process.execPath, [...MAIN, ...args], { cwd: PACKAGE, env, stdio: ['pipe', 'pipe', 'pipe'] });
  }
  const run = (args: readonly string[], environment = {}) => outcome(start(args, environment));

  test('the example of the README has a device write to its memory, and leaves nothing behind', async () => {
    const { code, output } = await run(['--machine', 'machines/test-device.json', '--', join(folder, 'dma')]);
    expect(output).toContain('written by the device at device 1\n');
    expect(code).toBe(0);
    expect(readdirSync(folder).filter((name) => name.startsWith('iommukit-'))).toEqual([]);
  });

  test('a program is run by a dynamic linker that is named', async () => {
    const linker = { x64: '/lib64/ld-linux-x86-64.so.2', arm64: '/lib/ld-linux-aarch64.so.1' }[
      process.arch as 'x64' | 'arm64'
    ];
    const { code, output } = await run(['--machine', 'machines/test-device.json', '--', linker, join(folder, 'dma')]);
    expect(output).toContain('written by the device at device 1\n');
    expect(code).toBe(0);
  });

  test('arguments, exit codes and signals are the program’s', async () => {
    const child = start(['sh', '-c', 'trap "echo caught; exit 3" TERM; echo ready; while :; do sleep 0.1; done']);
    const end = outcome(child);
    once(child.stdout!, 'data').then(() => child.kill('SIGTERM'));
    const [exited, killed, trapped] = await Promise.all([
      run(['sh', '-c', 'echo "$0 $1"; exit 7', 'a', '--trace']),
      run(['sh', '-c', 'kill -SEGV $$']),
      end,
    ]);
    expect(exited).toMatchObject({ code: 7, output: 'a --trace\n' });
    expect(killed).toMatchObject({ code: null, signal: 'SIGSEGV' });
    expect(readdirSync(folder).filter((name) => name.startsWith('iommukit-'))).toEqual([]);
    expect(trapped).toMatchObject({ code: 3, output: 'ready\ncaught\n' });
  });

  test('a program that cannot be reached, or run, is refused with the reason', async () => {
    const refused = await run([join(folder, 'static')]);
    expect(refused).toMatchObject({ code: 125, output: expect.stringContaining('is statically linked') });
    expect(() => checkProgram(join(PACKAGE, 'package.json'))).toThrow('neither an ELF program nor a script');
    const script = (name: string, line: string): string => {
      writeFileSync(join(folder, name), `${line}\n`, { mode: 0o755 });
      return join(folder, name);
    };
    expect(() => checkProgram(script('lost', '#!/nowhere/sh -e'))).toThrow('interpreter, "/nowhere/sh -e"');
    expect(() => checkProgram(script('empty', '#!'))).toThrow(UsageError);
    expect(() => checkProgram(script('loop', `#!${join(folder, 'loop')}`))).toThrow(UsageError);
    expect(() => checkProgram(script('fine', '#!  /bin/sh  -e'))).not.toThrow();
    expect(() => findProgram('no-such-program')).toThrow('no such program');
    expect(() => findProgram(join(PACKAGE, 'package.json'))).toThrow('may not be executed');
    expect(() => findProgram(PACKAGE)).toThrow('a folder or a device');
    expect(() => parseOptions([])).toThrow('no program is named');
    expect(() => parseOptions(['--grant', 'CAP_CHOWN', 'true'])).toThrow('not CAP_CHOWN');
    expect(() => parseOptions(['--nonsense', 'true'])).toThrow(UsageError);
  });

  test('the library compiles without a warning', () => {
    const sources = readdirSync(SOURCES).filter((file) => file.endsWith('.c'));
    const options = [...FLAGS, '-Wall', '-Wextra', '-Werror', '-o', join(folder, 'library.so')];
    execFileSync('cc', [...options, ...sources.map((file) => join(SOURCES, file))]);
  });

  test('without a C compiler it uses the library of before, or says what to install', () => {
    const saved = { ...process.env };
    const cache = join(folder, 'cache');
    try {
      process.env['XDG_CACHE_HOME'] = cache;
      process.env['CC'] = '/nowhere/cc';
      expect(() => buildShim()).toThrow('A C compiler is needed once');
      process.env['CC'] = 'cc';
      const library = buildShim();
      expect(library).toContain(cache);
      process.env['CC'] = '/nowhere/cc';
      expect(buildShim()).toBe(library);
      rmSync(library);
      process.env['CC'] = 'cc -g0';
      expect(buildShim()).toBe(library);
      process.env['CC'] = '/nowhere/cc';
      process.env['XDG_CACHE_HOME'] = 'relative';
      process.env['HOME'] = cache;
      expect(() => buildShim()).toThrow('A C compiler is needed once');
      expect(readdirSync(join(cache, '.cache/iommukit'))).toEqual([]);
    } finally {
      process.env = saved;
    }
  });

  test('the library is kept in another place where there is none at home', async () => {
    const elsewhere = join(folder, 'elsewhere');
    mkdirSync(elsewhere);
    const check = (HOME: string, TMPDIR: string) => run(['--check'], { HOME, TMPDIR, XDG_CACHE_HOME: '' });
    const kept = await Promise.all(['/nowhere', '/proc', '/dev/null'].map((home) => check(home, elsewhere)));
    for (const { output } of kept) expect(output).toContain(`${elsewhere}/iommukit-cache-`);
    const colon = join(folder, 'one:two');
    mkdirSync(colon);
    expect((await check('/nowhere', colon)).output).toContain('XDG_CACHE_HOME can name one');
  });

  test('a folder for temporary files that cannot be used is named', async () => {
    const long = join(folder, 'x'.repeat(100));
    mkdirSync(long);
    const { code, output } = await run(['true'], { TMPDIR: long });
    expect(output).toContain('is too long a path for a socket');
    expect(code).toBe(125);
  });

  test('when it is killed, the program gets EIO and goes on', async () => {
    const child = start([join(folder, 'orphan')]);
    const end = outcome(child);
    await once(child.stdout!, 'data');
    child.kill('SIGKILL');
    await once(child, 'exit');
    child.stdin!.write('\n');
    expect((await end).output).toBe('ready\ndone\n');
  });

  test('the trace shows calls with the reason of a refusal', async () => {
    const { output } = await run(['--trace', join(folder, 'dma'), '/dev/vfio/devices/vfio9']);
    expect(output).toContain('open(/dev/vfio/devices/vfio9) = -1 open: no /dev/vfio/devices/vfio9 (ENOENT)');
    const fine = await run(['--trace', '--machine', 'machines/test-device.json', join(folder, 'dma')]);
    expect(fine.output).toMatch(/ioctl\(\/dev\/iommu, IOMMU_IOAS_MAP, 0x[0-9a-f]+\) = 0/);
    expect(fine.output).toMatch(/ioctl\(\/dev\/vfio\/devices\/vfio0, VFIO_DEVICE_ATTACH_IOMMUFD_PT, 0x[0-9a-f]+\) = 0/);
  });

  test('iommukit-iommufd dump shows what a running program holds, and --dump what is left of it', async () => {
    const dump = async (...args: string[]) => outcome(spawn(process.execPath, [...DUMP, ...args], { cwd: PACKAGE }));
    const file = join(folder, 'dump');
    const child = start(['--dump', file, join(folder, 'holder')]);
    const end = outcome(child);
    await once(child.stdout!, 'data');
    const [text, json] = await Promise.all([dump('--pid', `${child.pid}`), dump('--json', '--pid', `${child.pid}`)]);
    expect(text.code).toBe(0);
    expect(text.output).toContain('context 1: 3 objects, 1 pages pinned');
    expect(text.output).toContain('iova 0x10000 last 0x10fff');
    expect(text.output).toContain('context 2: 0 objects, 0 pages pinned');
    expect(JSON.parse(json.output).map(({ objects }: { objects: unknown[] }) => objects.length)).toEqual([3, 0]);
    const unread = spawn(process.execPath, [...DUMP, '--pid', `${child.pid}`], { cwd: PACKAGE });
    unread.stdout.destroy();
    expect(await outcome(unread)).toMatchObject({ code: 1, output: '' });
    child.stdin!.write('\n');
    expect(await end).toMatchObject({ code: 5, output: 'ready\n' });
    expect(readFileSync(file, 'utf8')).toBe('no context is open\n');
    const refused = await dump('--pid', '999999999');
    expect(refused).toMatchObject({ code: 1, output: expect.stringContaining('there is no process 999999999') });
    expect((await run(['--dump', '/nowhere/dump', 'true'])).code).toBe(125);
  });

  test('a program can look at itself with iommukit-iommufd dump', async () => {
    const { output, code } = await run(['sh', '-c', `exec 9<>/dev/iommu; "$@"`, 'sh', process.execPath, ...DUMP]);
    expect(output).toContain('context 1: 0 objects');
    expect(code).toBe(0);
  });

  test('--check says what can be used, and fails when programs cannot be served', async () => {
    const [fine, lacking] = await Promise.all([
      run(['--check']),
      run(['--check'], { XDG_CACHE_HOME: join(folder, 'no-library'), CC: '/nowhere/cc' }),
    ]);
    expect(fine.output).toContain('/proc/PID/mem');
    expect(fine.output).toContain('/proc/PID/map_files');
    expect(fine.code).toBe(0);
    expect(lacking.output).toContain('which is "/nowhere/cc" and does not run');
    expect(lacking.code).toBe(1);
  });

  test('--check succeeds without any capability, and says what that costs', async () => {
    const drop = process.getuid?.() === 0 ? ['setpriv', '--bounding-set=-all', '--inh-caps=-all'] : ['env'];
    const args = [...drop.slice(1), process.execPath, ...MAIN, '--check'];
    const { code, output } = await outcome(spawn(drop[0]!, args, { cwd: PACKAGE }));
    expect(output).toContain('Shared memory that is pinned by its address is lost');
    expect(code).toBe(0);
  });

  test('the README shows the example as it is', () => {
    expect(readFileSync(join(PACKAGE, 'README.md'), 'utf8')).toContain(
      readFileSync(join(PACKAGE, 'examples/dma.c'), 'utf8').split('*/\n\n').slice(1).join('*/\n\n'),
    );
  });
});
