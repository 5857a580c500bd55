import { defineConfig } from 'tsup';

// Shared by the four library packages: one ES module, its types and its source map.
export default defineConfig({
  entry: ['src/index.ts'],
  format: 'esm',
  target: 'es2023',
  sourcemap: true,
  clean: true,
  // The dts build sets options of its own that clash with project references and are deprecated in TypeScript 6.
  dts: { compilerOptions: { composite: false, ignoreDeprecations: '6.0' } },
});
