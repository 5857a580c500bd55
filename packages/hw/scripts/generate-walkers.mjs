/**
 * Writes the walker of each page-table format from that of x86-64: the same text over another format's bits, so that
 * every walker is monomorphic code of its own. `--check` compares instead of writing.
 */

import { readFileSync, writeFileSync } from 'node:fs';

const folder = new URL('../src/page-table/', import.meta.url);
const template = readFileSync(new URL('x86-walker.ts', folder), 'utf8');

/** Format file and walker class of each format that is not the template's. */
export const formats = [{ format: 'vtd-second-stage', walker: 'VtdSecondStageWalker' }];

export function walkerSource({ format, walker }) {
  return template
    .replace('/**\n', '/* Generated from x86-walker.ts by scripts/generate-walkers.mjs. */\n\n/**\n')
    .replace("'./formats/x86-64.ts'", `'./formats/${format}.ts'`)
    .replace('class X86Walker', `class ${walker}`);
}

export function walkerFile({ format }) {
  return new URL(`${format}-walker.ts`, folder);
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  for (const entry of formats) {
    if (!process.argv.includes('--check')) writeFileSync(walkerFile(entry), walkerSource(entry));
    else if (readFileSync(walkerFile(entry), 'utf8') !== walkerSource(entry)) {
      console.error(`${walkerFile(entry).pathname} differs from what its template gives`);
      process.exitCode = 1;
    }
  }
}
