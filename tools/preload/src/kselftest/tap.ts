/** What a program of the kernel's test harness says: TAP version 13, a line for each case. */

export type Outcome = 'pass' | 'skip' | 'fail';

export type Case = {
  /** `fixture.test`, or `fixture.variant.test`. */
  readonly name: string;
  readonly outcome: Outcome;
  /** What the case said before it ended: why it failed, or was skipped. */
  readonly said: readonly string[];
};

/** Reads the output line by line; `onCase` hears of each case when it has ended. */
export class TapReader {
  /** How many cases the program has announced; null when it has not. */
  planned: number | null = null;
  readonly cases: Case[] = [];
  private readonly onCase: (ended: Case) => void;
  private said: string[] = [];

  constructor(onCase: (ended: Case) => void = () => {}) {
    this.onCase = onCase;
  }

  /** What was said since the last result. */
  get rest(): readonly string[] {
    return this.said;
  }

  line(text: string): void {
    const plan = /^1\.\.(\d+)$/.exec(text);
    if (plan !== null) this.planned ??= Number(plan[1]);
    const result = /^(not )?ok (\d+) (\S+)(.*)$/.exec(text);
    // A number out of order is what a case says, and no result.
    if (result === null || Number(result[2]) !== this.cases.length + 1) {
      if (plan === null) this.said.push(text.replace(/^#/, '').trim());
      return;
    }
    const [, not, , name, directive] = result;
    const outcome = not !== undefined ? 'fail' : /# SKIP\b/.test(directive!) ? 'skip' : 'pass';
    const ended: Case = {
      name: name!,
      outcome,
      said: this.said.filter((word) => !/^(TAP version|Starting|RUN|OK|FAIL|SKIP)\b/.test(word)),
    };
    this.said = [];
    this.cases.push(ended);
    this.onCase(ended);
  }
}

/** The fixture of a case. */
export function fixtureOf(name: string): string {
  return name.slice(0, name.indexOf('.'));
}
