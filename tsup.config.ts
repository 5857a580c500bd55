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
  plugins: [
    {
      // The bundler turns every top-level const into var, which V8 does not fold into machine code.
      name: 'keep-constants',
      renderChunk: (code) => ({ code: code.replace(/^var ([A-Z][A-Z0-9_]* = [^;\n]+;)$/gm, 'const $1') }),
    },
  ],
});
