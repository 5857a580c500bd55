/** The TypeScript side: the jobs of c/ioas.c, in the same order. Prints a line of JSON for each measurement. */

import { print } from '../measure.ts';
import { measureAreas } from './areas.ts';
import { measureDirty, trackedTable } from './dirty.ts';
import { useInEveryWay } from './every-way.ts';
import { GIB_PAGES, program, programIn } from './host.ts';
import { measureMapping } from './mapping.ts';
import { adjoiningMemory, SyntheticMemory, scatteredFile, scatteredMemory } from './memory.ts';
import { measureSystemCalls } from './system-calls.ts';

const BIG = { warm: 2, measured: 5 };

const synthetic = programIn(new SyntheticMemory(64 * GIB_PAGES));
useInEveryWay(synthetic);
const scattered = scatteredMemory();
const adjoining = adjoiningMemory();
const fd = scatteredFile();
print(...measureMapping('4k', program, { va: scattered }, GIB_PAGES, 1));
print(...measureMapping('4k-2', program, { va: scattered }, GIB_PAGES, 2));
print(...measureMapping('4k-8', program, { va: scattered }, GIB_PAGES, 8));
print(...measureMapping('2m', program, { va: adjoining }, GIB_PAGES, 1));
print(...measureMapping('file', program, { fd }, GIB_PAGES, 1));
print(...measureMapping('64g', synthetic, { va: 0n }, 64 * GIB_PAGES, 1, BIG));

const hwptId = trackedTable(scattered);
print(measureDirty('dirty-none', hwptId, 0));
print(measureDirty('dirty-half', hwptId, 2));
print(measureDirty('dirty-all', hwptId, 1));
program.inKernel(() => program.device.detach());

for (let count = 100; count <= 1_000_000; count *= 10) print(...measureAreas(count, scattered));
print(...measureSystemCalls(scattered));
