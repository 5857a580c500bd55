/**
 * Uses the packages as a stranger does: packs them, installs the tarballs in a project outside the workspace, then
 * compiles and runs the examples there. An example is a block marked `ts` in README.md, a package's README.md or a page
 * of docs, or a module in a package's folder `examples`, where a module that is not an example lies in a folder below.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const packages = ['hw', 'iommu-core', 'iommufd', 'vfio'];
const published = [...packages.map((name) => `packages/${name}`), 'tools/preload'];
/** What a program can import: the packages and their sub-paths. */
const entries = [...packages, 'iommufd/ioasid', 'iommufd/selftest'];
const project = mkdtempSync(join(tmpdir(), 'iommukit-consumer-'));

function run(cwd: string, command: string, ...args: string[]): string {
  try {
    return execFileSync(command, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8' });
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    console.error(`${command} ${args.join(' ')} failed in ${cwd}\n${stdout}${stderr}`);
    process.exit(1);
  }
}

function install(): void {
  for (const folder of published) {
    run(join(root, folder), join(root, 'node_modules/.bin/pnpm'), 'pack', '--pack-destination', project);
  }
  const tarballs = readdirSync(project).filter((file) => file.endsWith('.tgz'));
  const dependencies = Object.fromEntries(
    published.map((folder) => {
      const name = basename(folder);
      const tarball = tarballs.find((file) => new RegExp(`^iommukit-${name}-\\d`).test(file));
      return [`@iommukit/${name}`, `file:${tarball}`];
    }),
  );
  writeFileSync(join(project, 'package.json'), JSON.stringify({ private: true, type: 'module', dependencies }));
  // The tarballs depend on each other alone, so nothing may be asked of the registry.
  run(project, 'npm', 'install', '--offline', '--no-audit', '--no-fund');
}

/** Writes every example into its own module, with a first one that loads all packages. Returns the module names. */
function writeExamples(): string[] {
  const source = join(project, 'src');
  mkdirSync(source);
  const names = ['packages'];
  writeFileSync(join(source, 'packages.ts'), entries.map((name) => `import '@iommukit/${name}';\n`).join(''));
  const pages = readdirSync(join(root, 'docs')).filter((file) => file.endsWith('.md'));
  const readmes = packages.map((name) => `packages/${name}/README.md`);
  for (const page of ['README.md', ...readmes, ...pages.map((file) => `docs/${file}`)]) {
    const blocks = readFileSync(join(root, page), 'utf8').matchAll(/^```ts\n(.*?)^```$/gms);
    for (const [index, [, code]] of [...blocks].entries()) {
      const name = `${page.replace(/\W+/g, '-')}-${index + 1}`;
      writeFileSync(join(source, `${name}.ts`), `${code}\nexport {};\n`);
      names.push(name);
    }
  }
  for (const name of packages) {
    const examples = join(root, 'packages', name, 'examples');
    if (!existsSync(examples)) continue;
    cpSync(examples, join(source, name), { recursive: true });
    for (const file of readdirSync(examples)) {
      if (file.endsWith('.ts')) names.push(`${name}/${file.slice(0, -'.ts'.length)}`);
    }
  }
  return names;
}

function compile(): void {
  const compilerOptions = {
    strict: true,
    target: 'ES2023',
    lib: ['ES2023', 'DOM'],
    module: 'NodeNext',
    rewriteRelativeImportExtensions: true,
    typeRoots: [join(root, 'node_modules/@types')],
    types: ['node'],
    rootDir: 'src',
    outDir: 'out',
  };
  writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['src'] }));
  run(project, process.execPath, join(root, 'node_modules/typescript/bin/tsc'), '-p', '.');
}

/** The example in C of the preload package, by the command that the package installs. */
function runProgram(): string {
  const preload = join(project, 'node_modules/@iommukit/preload');
  if (spawnSync('cc', ['--version']).status !== 0) return 'no C compiler: the example in C did not run';
  run(project, 'cc', '-o', 'dma', join(preload, 'examples/dma.c'));
  const command = join(project, 'node_modules/.bin/iommukit-run');
  const said = run(project, command, '--machine', join(preload, 'machines/test-device.json'), '--', './dma');
  if (said === 'written by the device at device 1\n') return 'one in C ran on /dev/iommu';
  console.error(`the example in C said: ${said}`);
  process.exit(1);
}

install();
const names = writeExamples();
compile();
for (const name of names) run(project, process.execPath, `out/${name}.js`);
const program = runProgram();
rmSync(project, { recursive: true });
console.log(`Packages installed from tarballs: ${names.length - 1} examples compiled and ran; ${program}`);
