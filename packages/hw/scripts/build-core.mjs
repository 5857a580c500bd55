/**
 * Compiles the CPU core (core/index.ts, AssemblyScript) to WebAssembly and writes it as base64 text into
 * src/x86/core.wasm.ts, so that the package needs no file access to load it. Does nothing when the output was made
 * from the same inputs: their hash is its first line.
 */

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const core = join(root, 'core');
const output = join(root, 'src', 'x86', 'core.wasm.ts');

const flags = [
  '-O3',
  '--noAssert',
  // The machine's memory is the core's memory, so the module brings none and nothing that would allocate in it.
  '--importMemory',
  '--noExportMemory',
  '--runtime',
  'stub',
  '--use',
  'abort=',
];

const sources = existsSync(core)
  ? readdirSync(core, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
      .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
      .sort()
  : [];
if (sources.length === 0) {
  console.error('packages/hw/core is empty: no CPU core to build');
  process.exit(0);
}

const assemblyscript = createRequire(import.meta.url).resolve('assemblyscript/package.json');
const hash = createHash('sha256');
for (const file of [fileURLToPath(import.meta.url), assemblyscript, ...sources]) {
  hash
    .update(`${relative(root, file)}\0`)
    .update(readFileSync(file))
    .update('\0');
}
const head = `// Generated from core/ by scripts/build-core.mjs, inputs ${hash.digest('hex')}\n`;
if (existsSync(output) && readFileSync(output, 'utf8').startsWith(head)) process.exit(0);

// The compiler is slow to load: only when there is something to compile.
const { default: asc } = await import('assemblyscript/asc');
let wasm = new Uint8Array();
const { error, stderr } = await asc.main(['index.ts', '--baseDir', core, '--outFile', 'core.wasm', ...flags], {
  writeFile: (name, contents) => {
    if (name === 'core.wasm') wasm = contents;
  },
});
process.stderr.write(stderr.toString());
if (error) {
  console.error(`The CPU core does not compile: ${error.message}`);
  process.exit(1);
}
if (hasDataSection(wasm)) {
  console.error('The CPU core has static data, which would overwrite guest memory when it is instantiated');
  process.exit(1);
}

const text = `${head}export const coreModule: string =\n  '${Buffer.from(wasm).toString('base64')}';\n`;
mkdirSync(dirname(output), { recursive: true });
const temporary = `${output}.${process.pid}`;
writeFileSync(temporary, text);
renameSync(temporary, output);
console.error(`CPU core: ${wasm.length} bytes of WebAssembly`);

/** Whether a module has a section of id 11; sections follow an 8-byte header as id, LEB128 size, body. */
function hasDataSection(bytes) {
  let at = 8;
  while (at < bytes.length) {
    const id = bytes[at++];
    let size = 0;
    for (let shift = 0, more = true; more; shift += 7) {
      const byte = bytes[at++];
      size |= (byte & 0x7f) << shift;
      more = byte >= 0x80;
    }
    if (id === 11) return true;
    at += size;
  }
  return false;
}
