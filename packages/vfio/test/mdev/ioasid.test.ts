/** Mediated devices in the hands of a /dev/ioasid: what the user attaches at PASID v has another on the wire. */

import { NO_PASID, TEST_RESULT_REFUSED } from '@iommukit/hw';
import { IoasidClient, registerIoasid } from '@iommukit/iommufd/ioasid';
import { describe, expect, test } from 'vitest';
import type { Mdev } from '../../src/index.ts';
import { IOVA, MdevUser, PAGE, refusal, Site } from './support.ts';

class Program {
  readonly site = new Site();
  readonly system: MdevUser['system'];
  readonly ioasids: IoasidClient;
  private cookies = 0n;

  constructor(rules: 'v1' | 'v2') {
    registerIoasid(this.site.nodes, { kernel: this.site.host.kernel, rules, core: this.site.host.core });
    this.system = this.site.program();
    this.ioasids = new IoasidClient(this.system, this.system.open('/dev/ioasid'));
  }

  bind(mdev: Mdev): MdevUser {
    return MdevUser.take(this.site, mdev, this.system, (vfio) => {
      vfio.bindIoasid(this.ioasids.fd, ++this.cookies);
      return 0;
    });
  }

  /** New memory at IOVA of an IOASID, to which a device is attached. */
  map(ioasid: number): bigint {
    const vaddr = this.system.mmap({ length: PAGE });
    this.ioasids.map({ ioasid, iova: IOVA, vaddr, size: PAGE });
    return vaddr;
  }
}

describe.each(['v1', 'v2'] as const)('%s', (rules) => {
  test('an address space without PASID, and two devices with the same v', () => {
    const program = new Program(rules);
    const { site, ioasids } = program;
    const [one, other] = [program.bind(site.create('pasids')), program.bind(site.create('pasids'))];
    const [plain, mine, theirs] = [ioasids.alloc(), ioasids.alloc(), ioasids.alloc()];
    expect(one.vfio.attachIoasid(plain)).toBeNull();
    expect(one.vfio.attachIoasid(mine, { pasid: 7 })).toBe(7);
    expect(other.vfio.attachIoasid(theirs, { pasid: 7 })).toBe(7);
    const vas = [plain, mine, theirs].map((ioasid) => program.map(ioasid));
    const wires = [one, other].map(({ mdev }) => mdev.dma!.physical(7));
    expect(new Set([...wires, 7]).size).toBe(3);
    expect([one.write(IOVA, 1), one.write(IOVA, 2, 7), other.write(IOVA, 3, 7)]).toEqual([true, true, true]);
    expect(vas.map((va) => one.byteAt(va))).toEqual([1, 2, 3]);
    expect(other.run(IOVA)).toBe(TEST_RESULT_REFUSED);
    one.vfio.detachIoasid(mine, { pasid: 7 });
    expect([one.run(IOVA, { pasid: 7 }), other.write(IOVA, 4, 7)]).toEqual([TEST_RESULT_REFUSED, true]);
    program.system.exit();
    expect([site.pasids.size, site.host.processes.counts.pinned]).toEqual([0, 0]);
  });

  test('a device with one address space takes no PASID', () => {
    const program = new Program(rules);
    const user = program.bind(program.site.create());
    const ioasid = program.ioasids.alloc();
    expect(refusal(() => user.vfio.attachIoasid(ioasid, { pasid: 7 }))).toBe('EOPNOTSUPP');
    user.vfio.attachIoasid(ioasid);
    expect(user.mdev.dma!.physical(NO_PASID)).toBeGreaterThan(0);
    const va = program.map(ioasid);
    expect([user.write(IOVA, 6), user.byteAt(va)]).toEqual([true, 6]);
  });
});
