import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['{packages,apps,tools}/*/test/**/*.test.ts'],
    passWithNoTests: true,
    // One by default on a machine of two cores, whose other core would wait.
    maxWorkers: '100%',
    // Ends what hangs. Properties take seconds, and the machine may have other things to do.
    testTimeout: 120_000,
  },
  // Tests run on the sources of every package. A list replaces Vite's defaults, so they are spelt out.
  ssr: { resolve: { conditions: ['@iommukit/source', 'module', 'node', 'development|production'] } },
});
