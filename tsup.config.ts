import { readFileSync } from 'node:fs';
import { defineConfig } from 'tsup';

type Exports = { [path: string]: { '@iommukit/source': string } };

// `.` becomes index, `./ioasid` ioasid.
const { exports } = JSON.parse(readFileSync('package.json', 'utf8')) as { exports: Exports };
const entry = Object.fromEntries(
  Object.entries(exports).map(([path, source]) => [path.slice(2) || 'index', source['@iommukit/source']]),
);

// Shared by the four library packages: an ES module for each path that the package exports, on shared chunks, with its
// types and its source map.
export default defineConfig({
  entry,
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
