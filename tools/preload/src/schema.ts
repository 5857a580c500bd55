/**
 * Checks a JSON value against a JSON schema (draft 2020-12), as far as schemas here go. Of alternatives that are told
 * apart by a constant `type`, the one that the value names is meant.
 */

export type Schema = {
  readonly $ref?: string;
  readonly $defs?: { readonly [name: string]: Schema };
  readonly type?: string;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly pattern?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly properties?: { readonly [name: string]: Schema };
  readonly required?: readonly string[];
  readonly additionalProperties?: boolean;
  readonly items?: Schema;
  readonly minItems?: number;
  readonly oneOf?: readonly Schema[];
};

/** What is wrong with `value`, each with the place where it is; nothing when it fits. */
export function violations(schema: Schema, value: unknown, root: Schema = schema, at = '$'): string[] {
  const { $ref, oneOf } = schema;
  if ($ref !== undefined) return violations(resolve(root, $ref), value, root, at);
  if (oneOf !== undefined) return violations(choose(root, oneOf, value), value, root, at);
  if (schema.const !== undefined && value !== schema.const) return [`${at} must be ${JSON.stringify(schema.const)}`];
  if (schema.type !== undefined && !isOfType(value, schema.type)) return [`${at} must be of type ${schema.type}`];
  if (schema.enum !== undefined && !schema.enum.includes(value))
    return [`${at} must be one of ${schema.enum.join(', ')}`];
  if (typeof value === 'string') return stringViolations(schema, value, at);
  if (typeof value === 'number') return numberViolations(schema, value, at);
  if (Array.isArray(value)) return arrayViolations(schema, value, root, at);
  if (typeof value === 'object' && value !== null) return objectViolations(schema, value, root, at);
  return [];
}

function resolve(root: Schema, reference: string): Schema {
  const name = reference.replace('#/$defs/', '');
  const found = root.$defs?.[name];
  if (found === undefined) throw new Error(`the schema has no ${reference}`);
  return found;
}

function choose(root: Schema, alternatives: readonly Schema[], value: unknown): Schema {
  const all = alternatives.map((one) => (one.$ref === undefined ? one : resolve(root, one.$ref)));
  const named = (value as { type?: unknown } | null)?.type;
  const names = all.map((one) => one.properties?.['type']?.const);
  return all[names.indexOf(named)] ?? { type: 'object', properties: { type: { enum: names } }, required: ['type'] };
}

function isOfType(value: unknown, type: string): boolean {
  switch (type) {
    case 'integer':
      return Number.isInteger(value);
    case 'array':
      return Array.isArray(value);
    case 'object':
      return typeof value === 'object' && value !== null && !Array.isArray(value);
    default:
      return typeof value === type;
  }
}

function stringViolations({ pattern }: Schema, value: string, at: string): string[] {
  return pattern === undefined || new RegExp(pattern).test(value) ? [] : [`${at}, "${value}", must match ${pattern}`];
}

function numberViolations({ minimum = -Infinity, maximum = Infinity }: Schema, value: number, at: string): string[] {
  return value >= minimum && value <= maximum ? [] : [`${at}, ${value}, must be in ${minimum}..${maximum}`];
}

function arrayViolations({ items, minItems = 0 }: Schema, values: unknown[], root: Schema, at: string): string[] {
  if (values.length < minItems) return [`${at} must have at least ${minItems} element`];
  if (items === undefined) return [];
  return values.flatMap((element, index) => violations(items, element, root, `${at}[${index}]`));
}

function objectViolations(schema: Schema, object: object, root: Schema, at: string): string[] {
  const { properties = {}, required = [], additionalProperties = true } = schema;
  const missing = required.filter((name) => !Object.hasOwn(object, name)).map((name) => `${at}.${name} is missing`);
  const wrong = Object.entries(object).flatMap(([name, property]) => {
    const expected = Object.hasOwn(properties, name) ? properties[name] : undefined;
    if (expected !== undefined) return violations(expected, property, root, `${at}.${name}`);
    return additionalProperties ? [] : [`${at}.${name} is not known`];
  });
  return [...missing, ...wrong];
}
