import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const main = fileURLToPath(new URL('../src/main.ts', import.meta.url));

const NODE = ['--conditions=@iommukit/source', '--import', 'tsx', main];

function vmm(...args: string[]) {
  const node = [...NODE, ...args];
  const { status, stdout, stderr } = spawnSync(process.execPath, node, { encoding: 'utf8', maxBuffer: 256 << 20 });
  return { status, stdout, stderr };
}

describe('the command', () => {
  test('shows the console, the eight steps in order and the counters', () => {
    const { status, stdout } = vmm('--bytes', '64K');
    expect(status).toBe(0);
    const steps = [...stdout.matchAll(/^(\d)\. .+\n {3}(.+)$/gm)];
    expect(steps.map(([, number]) => number)).toEqual(['1', '2', '3', '4', '5', '6', '7', '8']);
    for (const [, , observed] of steps) expect(observed).not.toMatch(/did not happen/);
    expect(stdout.indexOf('64 KiB moved and verified')).toBeLessThan(stdout.indexOf('1. '));
    for (const counter of ['translations', 'IOTLB hits', 'stage 1 reads', 'page requests', 'invalidations']) {
      expect(stdout).toMatch(new RegExp(`${counter} +[1-9]`));
    }
    expect(stdout).toMatch(/pins at the end +0\n/);
  });

  test('ends without a word when nobody reads any more', async () => {
    const child = spawn(process.execPath, [...NODE, '--bytes', '64K'], { stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    child.stderr.on('data', (data) => {
      said += data;
    });
    child.stdout.destroy();
    expect(await once(child, 'close')).toEqual([1, null]);
    expect(said).toBe('');
  });

  test('--json prints one report and nothing else on stdout; console and trace go to stderr', () => {
    const { status, stdout, stderr } = vmm('--json', '--trace', '--processes', '1', '--bytes', '64K');
    expect(status).toBe(0);
    expect(stdout.trimEnd()).not.toContain('\n');
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({
      ok: true,
      guest: { processes: [{ bytes: 65536, verified: 65536 }] },
      leftovers: { pins: 0, pasids: 0, objects: 0, mappings: 0, frames: 0 },
    });
    expect(Object.keys(report.guest.processes[0])).toEqual([
      'pid',
      'pasid',
      'bytes',
      'verified',
      'pageRequests',
      'faultsReported',
    ]);
    expect(stderr).toContain('64 KiB moved and verified');
    expect(stderr).toMatch(/^ +\d+\.\d{3} vmm +shadow_set pasid=1 /m);
  });

  test('a bad flag is one clear line and exit code 2', () => {
    const { status, stdout, stderr } = vmm('--processes', 'many');
    expect(status).toBe(2);
    expect(stdout).toBe('');
    expect(stderr).toMatch(/^vmm: .*--processes.*\n$/);
  });
});
