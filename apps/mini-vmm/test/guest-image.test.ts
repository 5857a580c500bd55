/** The committed guest image is what its sources make. */

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { BareMetal, GUEST_IMAGE, type GuestRun } from './support/bare-metal.ts';

const BUILD = fileURLToPath(new URL('../guest/build.mjs', import.meta.url));
const RECORD = new URL('../guest/image/guest.txt', import.meta.url);

/** The versions in a record, without the checksum at its end. */
function versions(record: string): string {
  return record.slice(0, record.indexOf('sha256'));
}

function installedVersions(): string | null {
  try {
    return ['gcc', 'ld', 'as']
      .map((tool) => `${execFileSync(tool, ['--version'], { encoding: 'utf8' }).split('\n', 1)[0]}\n`)
      .join('');
  } catch {
    return null;
  }
}

const committed = readFileSync(RECORD, 'utf8');
const installed = installedVersions();
const sameTools = installed === versions(committed);
const noTools = installed === null ? ' (skipped: no gcc and binutils here)' : '';
const otherTools = sameTools ? '' : ' (skipped: not the versions of gcc and binutils that made it)';

let directory = '';

beforeAll(() => {
  if (installed === null) return;
  directory = mkdtempSync(join(tmpdir(), 'guest-image-'));
  execFileSync(process.execPath, [BUILD, directory]);
});

afterAll(() => {
  if (directory !== '') rmSync(directory, { recursive: true });
});

test('the image has the recorded checksum', () => {
  const sum = createHash('sha256').update(readFileSync(GUEST_IMAGE)).digest('hex');
  expect(committed).toContain(`sha256 ${sum}\n`);
});

test.skipIf(!sameTools)(`the sources make the image, byte for byte${noTools || otherTools}`, () => {
  expect(readFileSync(join(directory, 'guest.txt'), 'utf8')).toBe(committed);
  expect(readFileSync(join(directory, 'guest.elf')).equals(readFileSync(GUEST_IMAGE))).toBe(true);
});

test.skipIf(installed === null)(`the image that the sources make reports what the committed one does${noTools}`, () => {
  const rebuilt = new BareMetal({ image: readFileSync(join(directory, 'guest.elf')) }).run();
  expect(outcome(rebuilt)).toEqual(outcome(new BareMetal().run()));
  expect(rebuilt.status).toBe(0);
});

/** What does not depend on how fast the code is. */
function outcome(run: GuestRun): string[] {
  const keys = ['pid', 'pasid', 'bytes', 'verified', 'faults_reported', 'timeouts', 'stale', 'mismatches', 'ok'];
  return run.facts
    .filter((fact) => fact.word === 'process' || fact.word === 'done')
    .map((fact) => [fact.word, ...keys.map((key) => fact.number(key))].join(' '))
    .sort();
}
