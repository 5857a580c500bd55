import { describe, expect, test } from 'vitest';
import {
  IOMMU_TEST_IOTLB_DEFAULT,
  IOMMU_TEST_OP_ACCESS_REPLACE_IOAS,
  IOMMU_TEST_OP_CREATE_ACCESS,
  IOMMU_TEST_OP_DMABUF_GET,
  IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE,
  IOMMU_TEST_OP_PASID_ATTACH,
  IOMMU_TEST_OP_PASID_REPLACE,
  MOCK_FLAGS_DEVICE_PASID,
} from '../../src/selftest/index.ts';
import * as uapi from '../../src/uapi/iommufd.ts';
import { ENOMEM } from '../support/errno.ts';
import { SelftestHost } from './support.ts';

function setUp() {
  const host = new SelftestHost();
  host.poke(host.memory, new Uint8Array(4 * 4096));
  const ioas = host.ioas();
  host.map(ioas, 1n << 24n, 0, 4);
  const { stdev, idev } = host.device(ioas, MOCK_FLAGS_DEVICE_PASID);
  const parent = host.hwpt(idev, ioas, uapi.IOMMU_HWPT_ALLOC_NEST_PARENT);
  const table = host.hwpt(idev, ioas, uapi.IOMMU_HWPT_ALLOC_PASID);
  const other = host.hwpt(idev, ioas, uapi.IOMMU_HWPT_ALLOC_PASID);
  host.test(IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, 'mockDomainReplace', stdev, { ptId: table });
  host.test(IOMMU_TEST_OP_PASID_ATTACH, 'pasidAttach', stdev, { pasid: 7, ptId: table });
  const { cmd } = host.test(IOMMU_TEST_OP_CREATE_ACCESS, 'createAccess', ioas);
  const spare = host.ioas();
  const plain = host.device(ioas).stdev;
  return { host, plain, ioas, stdev, idev, parent, table, other, access: cmd.outAccessFd, spare };
}

type Site = ReturnType<typeof setUp>;

const steps: [string, (site: Site) => number][] = [
  ['GET_HW_INFO', ({ host, idev }) => host.ioctl(uapi.IOMMU_GET_HW_INFO, uapi.iommuHwInfo, { devId: idev }).result],
  ['HWPT_ALLOC of a paging table', ({ host, idev, ioas }) => host.hwpt(idev, ioas)],
  [
    'HWPT_ALLOC of a nested table',
    ({ host, idev, parent }) => host.hwpt(idev, parent, 0, { iotlb: IOMMU_TEST_IOTLB_DEFAULT, pagetableType: 0 }),
  ],
  [
    'MOCK_DOMAIN_REPLACE by an IOAS',
    ({ host, plain, spare }) =>
      host.test(IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, 'mockDomainReplace', plain, { ptId: spare }).result,
  ],
  [
    'PASID_ATTACH',
    ({ host, stdev, other }) =>
      host.test(IOMMU_TEST_OP_PASID_ATTACH, 'pasidAttach', stdev, { pasid: 8, ptId: other }).result,
  ],
  [
    'PASID_REPLACE',
    ({ host, stdev, other }) =>
      host.test(IOMMU_TEST_OP_PASID_REPLACE, 'pasidReplace', stdev, { pasid: 7, ptId: other }).result,
  ],
  ['CREATE_ACCESS', ({ host, ioas }) => host.test(IOMMU_TEST_OP_CREATE_ACCESS, 'createAccess', ioas).result],
  [
    'ACCESS_REPLACE_IOAS',
    ({ host, access, spare }) =>
      host.test(IOMMU_TEST_OP_ACCESS_REPLACE_IOAS, 'accessReplaceIoas', access, { ioasId: spare }).result,
  ],
  ['DMABUF_GET', ({ host }) => host.test(IOMMU_TEST_OP_DMABUF_GET, 'dmabufGet', 0, { length: 8192 }).result],
];

describe('an allocation that fails leaves everything as it was', () => {
  test.each(steps)('%s', (_name, step) => {
    const site = setUp();
    const { host } = site;
    const { failpoints } = host.kernel;
    const before = host.snapshot();
    const routes = (): unknown =>
      host.selftest.core.groups.map(({ domain, pasidHandles }) => [domain, [...pasidHandles]]);
    const routed = routes();
    const failed: string[] = [];
    for (let nth = 1; ; nth++) {
      failpoints.arm(nth);
      const result = step(site);
      const { hit } = failpoints;
      failpoints.arm(0);
      if (hit === null) {
        expect(result).toBeGreaterThanOrEqual(0);
        break;
      }
      expect([hit, result]).toEqual([hit, ENOMEM]);
      expect(host.snapshot()).toEqual(before);
      expect(routes()).toEqual(routed);
      failed.push(hit);
    }
    expect(failed.length).toBeGreaterThan(0);
    host.system.exit();
    expect([host.node.contexts.size, host.selftest.devices, host.kernel.frames.allocated]).toEqual([0, 0, 0]);
  });
});
