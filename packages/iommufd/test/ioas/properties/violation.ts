/** What breaks one of the numbered properties of an I/O address space, or differs from the model. */
export class Violation extends Error {
  constructor(property: number | 'model', what: string) {
    super(property === 'model' ? `differs from the model: ${what}` : `property ${property}: ${what}`);
  }
}

export function ensure(holds: boolean, property: number | 'model', what: () => string): void {
  if (!holds) throw new Violation(property, what());
}

/** A closed range in hexadecimal. */
export function spell(first: bigint, last: bigint): string {
  return `0x${first.toString(16)}..0x${last.toString(16)}`;
}
