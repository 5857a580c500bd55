/**
 * How many IOASIDs the system has, and how many of them are promised to nobody (ioasid_install_capacity and relatives
 * of the V4 proposal, February 2021). Numbers are not given out here; a promise is a count.
 */

import { SysError } from '../errno.ts';

/** PASIDs have 20 bits. */
export const IOASID_CAPACITY: number = 2 ** 20;

export class IoasidCapacity {
  private installed = false;
  private all = IOASID_CAPACITY;
  private left = IOASID_CAPACITY;
  private reserved = 0;

  get total(): number {
    return this.all;
  }

  get available(): number {
    return this.left;
  }

  /**
   * Sets the total, once, before anything is promised. False, and nothing changes, afterwards.
   * @throws {SysError} EINVAL not 1..2^20
   */
  install(total: number): boolean {
    if (!Number.isInteger(total) || total < 1 || total > IOASID_CAPACITY) {
      throw new SysError(
        'EINVAL',
        'ioasid_install_capacity',
        `a system has 1..${IOASID_CAPACITY} IOASIDs, not ${total}`,
      );
    }
    if (this.installed || this.left < this.all) return false;
    this.installed = true;
    this.all = total;
    this.left = total;
    return true;
  }

  /** Takes `count` from what is available, 0 for all of it; gives what it took. @throws {SysError} ENOSPC, EINVAL */
  reserve(count: number): number {
    const taken = this.check('ioasid_reserve_capacity', count);
    this.take(taken);
    this.reserved += taken;
    return taken;
  }

  /**
   * Gives back what `reserve` took; gives what is then available.
   * @throws {SysError} EINVAL more than is reserved. The proposal trusts its callers, up to the total
   */
  cancel(count: number): number {
    if (!isCount(count) || count > this.reserved) {
      throw new SysError('EINVAL', 'ioasid_cancel_capacity', `${this.reserved} reserved, ${count} given back`);
    }
    this.reserved -= count;
    this.left += count;
    return this.left;
  }

  /** What asking for `count` means: 0 stands for all that is available. @throws {SysError} ENOSPC, EINVAL */
  check(call: string, count: number): number {
    if (!isCount(count)) throw new SysError('EINVAL', call, `${count} is no number of IOASIDs`);
    if (count > this.left) throw new SysError('ENOSPC', call, `${count} wanted, ${this.left} available`);
    return count === 0 ? this.left : count;
  }

  /** Takes the quota of a set; negative gives it back. */
  take(count: number): void {
    this.left -= count;
  }
}

function isCount(value: number): boolean {
  return Number.isInteger(value) && value >= 0;
}
