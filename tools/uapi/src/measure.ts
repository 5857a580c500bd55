/** Sizes, offsets and numbers of a header, from a C program that includes it and prints them. */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Declarations, type Field, readDeclarations } from './declarations.ts';
import type { UapiTable } from './table.ts';

const COMPILER = 'cc';

/**
 * @param file the header to include, by its path.
 * @param include folder of the installed headers that it includes in its turn.
 * @throws Error when there is no compiler, or what it says when the header does not compile.
 */
export function measure(file: string, include: string): Omit<UapiTable, 'linux' | 'header'> {
  const folder = mkdtempSync(join(tmpdir(), 'uapi-'));
  try {
    const source = join(folder, 'header.c');
    writeFileSync(source, `#include "${file}"\n`);
    const preprocessed = execFileSync(COMPILER, ['-E', '-dD', '-I', include, source], { encoding: 'utf8' });
    const program = join(folder, 'table.c');
    writeFileSync(program, tableProgram(file, readDeclarations(preprocessed, file)));
    execFileSync(COMPILER, ['-I', include, '-o', join(folder, 'table'), program]);
    return JSON.parse(execFileSync(join(folder, 'table'), { encoding: 'utf8' }));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function tableProgram(file: string, { structures, requests, constants }: Declarations): string {
  const structure = ([name, fields]: [string, Field[]]): string[] => [
    `entry("${name}"); printf("{\\"size\\": %zu", sizeof(struct ${name})); group("fields");`,
    ...fields.map(({ path, unsized }) => {
      const width = unsized ? '(size_t)0' : `sizeof(((struct ${name} *)0)->${path})`;
      return `entry("${path}"); printf("[%zu, %zu]", offsetof(struct ${name}, ${path}), ${width});`;
    }),
    'close(); printf("}");',
  ];
  const number = (name: string): string =>
    `entry("${name}"); printf((${name}) < 0 ? "%lld" : "%llu", (long long)(${name}));`;
  return [
    `#include <stddef.h>\n#include <stdio.h>\n#include "${file}"`,
    'static const char *separator = "{";',
    'static void entry(const char *name) { printf("%s\\n\\"%s\\": ", separator, name); separator = ","; }',
    'static void group(const char *name) { entry(name); separator = "{"; }',
    'static void close(void) { printf(separator[0] == \'{\' ? "{}" : "}"); separator = ","; }',
    'int main(void) {',
    'group("structures");',
    ...[...structures].flatMap(structure),
    'close(); group("requests");',
    ...requests.map(number),
    'close(); group("constants");',
    ...constants.map(number),
    'close(); printf("}\\n"); return 0; }',
  ].join('\n');
}
