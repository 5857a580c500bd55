/**
 * Injected failure. Every allocation, pin and hardware map of the kernel passes a failpoint; arming the n-th one makes
 * it fail there, which is how a test sweeps an operation through all of its error paths.
 */

export class Failpoints {
  private countdown = 0;
  private passed = 0;
  private last: string | null = null;

  /** The next `nth` failpoint (1 = the very next) fails, once. 0 disarms. */
  arm(nth: number): void {
    this.countdown = nth;
    this.passed = 0;
    this.last = null;
  }

  /** Name of the failpoint that failed since `arm`, or null. */
  get hit(): string | null {
    return this.last;
  }

  /** Failpoints that are still passed before one fails, that one included; 0 when none will. */
  get remaining(): number {
    return this.countdown;
  }

  /** Failpoints passed since `arm`. */
  get count(): number {
    return this.passed;
  }

  /** True when the operation at this point must fail. */
  shouldFail(name: string): boolean {
    this.passed++;
    if (this.countdown === 0 || --this.countdown !== 0) return false;
    this.last = name;
    return true;
  }
}
