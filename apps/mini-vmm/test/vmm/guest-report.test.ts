import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type GuestFact, GuestReport } from '../../src/vmm/guest-report.ts';

function hear(text: string | Uint8Array): GuestFact[] {
  const facts: GuestFact[] = [];
  const report = new GuestReport((fact) => facts.push(fact));
  for (const byte of typeof text === 'string' ? new TextEncoder().encode(text) : text) report.byte(byte);
  return facts;
}

describe("the guest's report", () => {
  test('is a word and numbers, decimal or hexadecimal', () => {
    const [fact] = hear('process pid=3 address=0xffff800000001000 odd=x\r\n');
    expect(fact?.word).toBe('process');
    expect(fact?.number('pid')).toBe(3);
    expect(fact?.address('address')).toBe(0xffff800000001000n);
    expect(fact?.number('odd')).toBeNaN();
    expect(fact?.number('absent')).toBeNaN();
    expect(fact?.address('absent')).toBe(0n);
  });

  test('counts only whole lines', () => {
    expect(hear('a x=1\nb x=2').map(({ word }) => word)).toEqual(['a']);
  });

  test('may be anything: nothing throws, and no line is longer than it may be', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 4000 }), (bytes) => {
        for (const fact of hear(bytes)) {
          expect(fact.word.length).toBeLessThanOrEqual(1024);
          fact.number('pid');
          fact.address('address');
        }
      }),
    );
    expect(hear(`${'a'.repeat(5000)}\n`)[0]?.word.length).toBe(1024);
  });
});
