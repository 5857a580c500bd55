/**
 * What the guest writes to its second serial port: one fact a line, a word and `key=value` pairs. The guest is not
 * trusted: a line that does not read so is passed over, and lines end at 1 KiB.
 */

const LINE_MAX = 1024;

export type GuestFact = {
  readonly word: string;
  /** The number behind a key; NaN when the key is absent or its value is no number. Hexadecimal with 0x. */
  number(key: string): number;
  /** The same for addresses; 0 when absent. */
  address(key: string): bigint;
};

export class GuestReport {
  private readonly hear: (fact: GuestFact) => void;
  private line = '';

  constructor(hear: (fact: GuestFact) => void) {
    this.hear = hear;
  }

  /** One byte from the serial port. */
  byte(value: number): void {
    if (value !== 10) {
      if (this.line.length < LINE_MAX) this.line += String.fromCharCode(value);
      return;
    }
    const [word, ...pairs] = this.line.trim().split(/ +/);
    this.line = '';
    if (word === undefined || !/^[a-z_]+$/.test(word)) return;
    const values = new Map(pairs.map((pair) => pair.split('=', 2) as [string, string | undefined]));
    const text = (key: string): string => values.get(key) ?? '';
    const isNumber = (key: string): boolean => /^(0x[0-9a-f]{1,16}|\d{1,20})$/.test(text(key));
    this.hear({
      word,
      number: (key) => (isNumber(key) ? Number(text(key)) : Number.NaN),
      address: (key) => (isNumber(key) ? BigInt(text(key)) : 0n),
    });
  }
}
