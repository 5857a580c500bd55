import { describe, expect, test } from 'vitest';
import { FakeDriver, fakeKernel } from '../../support/fakes.ts';
import { RecordingDomain } from './recording-domain.ts';
import { runSequences } from './sequences.ts';
import type { DomainMaker } from './world.ts';

/** All in all, over the tests below. */
const SEQUENCES = Number(process.env['IOMMUKIT_SEQUENCES'] ?? 2000);
const PARTS = 5;

function recordingDomains(): DomainMaker {
  const kernel = fakeKernel(2 << 20);
  const driver = new FakeDriver(kernel);
  let domains = 0;
  return { kernel, make: (options) => new RecordingDomain(kernel, driver, ++domains, options) };
}

/** Ends of calls that the sequences are there to reach. */
const REACHED = [
  ...['EEXIST', 'EFAULT', 'EINVAL', 'ENOSPC', 'EOVERFLOW', 'failpoint', 'ok'].map((end) => `map ${end}`),
  ...['EEXIST', 'EINVAL', 'ENODEV', 'failpoint', 'ok'].map((end) => `map-file ${end}`),
  ...['EEXIST', 'EFAULT', 'ENOENT', 'EPERM', 'failpoint', 'ok'].map((end) => `copy ${end}`),
  ...['ENOENT', 'ok'].map((end) => `unmap ${end}`),
  ...['EADDRINUSE', 'EFAULT', 'EINVAL', 'failpoint', 'ok'].map((end) => `add-domain ${end}`),
  ...['EINVAL', 'failpoint', 'ok'].map((end) => `allow ${end}`),
  ...['EINVAL', 'EOPNOTSUPP', 'ok'].map((end) => `cut ${end}`),
  ...['EADDRINUSE', 'EINVAL', 'ok'].map((end) => `huge-pages ${end}`),
  ...['EINVAL', 'ok'].map((end) => `change-process ${end}`),
  ...['EFAULT', 'EINVAL', 'ENOENT', 'EPERM', 'failpoint', 'ok'].map((end) => `pin ${end}`),
  ...['EFAULT', 'EINVAL', 'ENOENT', 'EPERM', 'ok'].flatMap((end) => [`read ${end}`, `write ${end}`]),
  ...[
    'attach ok',
    'replace ok',
    'replace EADDRINUSE',
    'lock ok',
    'unlock ok',
    'unpin ok',
    'detach ok',
    'remove-domain ok',
  ],
];

describe('properties 1 to 13 of an I/O address space, with failpoints, against a naive model', () => {
  test.each(Array.from({ length: PARTS }, (_, part) => part + 1))(
    'X1 X3 X5 X6 C5 C6 sequences of 50 operations, part %i',
    (part) => {
      const sequences = Math.ceil(SEQUENCES / PARTS);
      const outcomes = runSequences({ sequences, seed: part, maker: recordingDomains });
      if (sequences >= 400) expect(REACHED.filter((end) => !outcomes.has(end))).toEqual([]);
    },
    Math.max(120_000, SEQUENCES * 300),
  );
});
