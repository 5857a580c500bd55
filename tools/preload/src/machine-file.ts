/** The machine file: JSON by machine.schema.json. */

import { readFileSync } from 'node:fs';
import { SysError } from '@iommukit/iommu-core';
import schema from '../machine.schema.json' with { type: 'json' };
import { createModel, type MachineDescription, type Model } from './machine.ts';
import { type Schema, violations } from './schema.ts';
import { UsageError } from './usage-error.ts';

/** The machine that a file describes. @throws {UsageError} the file is not there, or describes none */
export function loadMachine(path: string, selftest = false): Model {
  const description = parseMachine(path);
  try {
    return createModel(description, selftest);
  } catch (error) {
    if (!(error instanceof RangeError || error instanceof SysError)) throw error;
    throw new UsageError(`${path}: there is no such machine: ${error.message}`);
  }
}

function parseMachine(path: string): MachineDescription {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw new UsageError(`${path}: ${(error as Error).message}`);
  }
  const wrong = violations(schema as Schema, value);
  if (wrong.length > 0) throw new UsageError(`${path} does not fit machine.schema.json:\n  ${wrong.join('\n  ')}`);
  return value as MachineDescription;
}
