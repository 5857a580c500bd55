import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['{packages,apps,tools}/*/test/**/*.test.ts'],
    passWithNoTests: true,
  },
  // Tests run on the sources of every package. A list replaces Vite's defaults, so they are spelt out.
  ssr: { resolve: { conditions: ['@iommukit/source', 'module', 'node', 'development|production'] } },
});
