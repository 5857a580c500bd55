/**
 * The names that a C header declares, from the preprocessor's output with macro definitions (`cc -E -dD`). Only names
 * are taken from the text; sizes, offsets and values come out of a compiled program (measure.ts), which does not
 * compile when a name is wrong.
 */

export type Field = {
  /** A field of an anonymous member is a field of the structure; one of a named member is `member.field`. */
  readonly path: string;
  /** An array without length, of which C knows no size. */
  readonly unsized: boolean;
};

export type Declarations = {
  readonly structures: Map<string, Field[]>;
  /** Macros defined as a request number of an ioctl. */
  readonly requests: string[];
  /** Enumerators, and other macros that stand for an expression. */
  readonly constants: string[];
};

/** The declarations of the file whose path ends in `header`; those of the files it includes are left out. */
export function readDeclarations(preprocessed: string, header: string): Declarations {
  const requests: string[] = [];
  const constants: string[] = [];
  const code: string[] = [];
  let inside = false;
  for (const line of preprocessed.split('\n')) {
    const marker = /^# \d+ "(.*?)"/.exec(line);
    if (marker !== null) inside = marker[1]!.endsWith(header);
    else if (!inside) continue;
    else if (!line.startsWith('#')) code.push(line);
    else {
      const macro = /^#define (\w+) (.+)$/.exec(line);
      if (macro === null || macro[2]!.startsWith('"')) continue;
      (/^_IO[RW]*\(/.test(macro[2]!) ? requests : constants).push(macro[1]!);
    }
  }
  const parser = new Parser(code.join('\n'));
  parser.file();
  return { structures: parser.structures, requests, constants: [...parser.enumerators, ...constants] };
}

type Declarator = { readonly name: string; readonly array: boolean; readonly unsized: boolean };

/** Reads structures, unions and enumerations, and steps over everything else. */
class Parser {
  readonly structures = new Map<string, Field[]>();
  readonly enumerators: string[] = [];
  private readonly tokens: string[];
  private at = 0;

  constructor(code: string) {
    this.tokens = code.replace(/__extension__/g, '').match(/[A-Za-z_]\w*|\d\w*|\S/g) ?? [];
  }

  file(): void {
    while (this.at < this.tokens.length) {
      this.members();
      this.statement();
    }
  }

  /** The fields of the definition of a structure or union that begins here, or null when none does. */
  private members(): Field[] | null {
    const [keyword, name, brace] = this.tokens.slice(this.at, this.at + 3);
    if (keyword !== 'struct' && keyword !== 'union') return null;
    const named = name !== '{';
    if (named && brace !== '{') return null;
    this.at += named ? 3 : 2;
    const fields: Field[] = [];
    while (this.tokens[this.at] !== '}') {
      if (this.at >= this.tokens.length) throw new Error(`${keyword} ${named ? name : ''} is not closed`);
      fields.push(...this.member());
    }
    this.at += 1;
    if (named && keyword === 'struct') this.structures.set(name!, fields);
    return fields;
  }

  /** What one declaration inside a structure adds to it. */
  private member(): Field[] {
    const inner = this.members();
    const [type, tag] = this.tokens.slice(this.at, this.at + 2);
    const known = type === 'struct' ? this.structures.get(tag!) : undefined;
    const declarators = this.statement();
    if (inner !== null && declarators.length === 0) return inner;
    const parts = inner ?? known;
    return declarators.flatMap(({ name, array, unsized }) =>
      array || parts === undefined
        ? [{ path: name, unsized }]
        : parts.map((part) => ({ path: `${name}.${part.path}`, unsized: part.unsized })),
    );
  }

  /** What a declaration declares, up to its semicolon: the last name before each comma, bracket or the end. */
  private statement(): Declarator[] {
    const declarators: Declarator[] = [];
    let next: Declarator = { name: '', array: false, unsized: false };
    for (;;) {
      const token = this.tokens[this.at++];
      if (token === undefined || token === ';' || token === ',') {
        if (next.name !== '') declarators.push(next);
        if (token !== ',') return declarators;
        next = { name: '', array: false, unsized: false };
      } else if (token === '__attribute__') this.parentheses();
      else if (token === '{') this.braces();
      else if (token === '[') {
        next = { ...next, array: true, unsized: this.tokens[this.at] === ']' };
        this.at = this.tokens.indexOf(']', this.at) + 1;
        if (this.at === 0) throw new Error(`the length of ${next.name} is not closed`);
      } else if (token === ':') throw new Error(`${next.name} is a bit field, which has no offset`);
      else if (/^[A-Za-z_]/.test(token)) next = { ...next, name: token };
    }
  }

  /** Behind an opening brace that belongs to no structure; the names in it when it is an enumeration's. */
  private braces(): void {
    const enumeration = this.tokens[this.at - 2] === 'enum' || this.tokens[this.at - 3] === 'enum';
    let expectsName = enumeration;
    for (let depth = 1; depth > 0; ) {
      const token = this.tokens[this.at++];
      if (token === undefined) throw new Error('a brace is not closed');
      if (token === '{' || token === '(') depth += 1;
      else if (token === '}' || token === ')') depth -= 1;
      else if (expectsName) {
        this.enumerators.push(token);
        expectsName = false;
      } else if (token === ',' && depth === 1) expectsName = enumeration;
    }
  }

  /** To behind the parenthesis that closes the next one. */
  private parentheses(): void {
    let depth = 0;
    do {
      const token = this.tokens[this.at++];
      if (token === undefined) throw new Error('a parenthesis is not closed');
      if (token === '(') depth += 1;
      else if (token === ')') depth -= 1;
    } while (depth > 0);
  }
}
