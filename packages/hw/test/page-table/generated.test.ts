import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

type Entry = { format: string; walker: string };
type Generator = {
  formats: Entry[];
  walkerSource: (entry: Entry) => string;
  walkerFile: (entry: Entry) => URL;
};

const script = new URL('../../scripts/generate-walkers.mjs', import.meta.url).href;
const { formats, walkerFile, walkerSource } = (await import(script)) as Generator;

test.each(formats)('the walker of $format is what its template gives', (entry) => {
  expect(readFileSync(walkerFile(entry), 'utf8')).toBe(walkerSource(entry));
});
