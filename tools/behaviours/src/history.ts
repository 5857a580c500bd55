/** What history had where iommukit decides otherwise, by behaviour (docs/history.md has more). */
export const history: Readonly<Record<string, string>> = {
  A1: 'merged kernels answered EBUSY to disable; the patch ENODEV, as here',
  A8: 'VT-d kept the number after the last detach and used it again',
  A9: 'VT-d: EPERM for any unmanaged domain as soon as the feature was enabled',
  A10: 'VT-d: as A9',
  A12: 'a comment promised EBUSY; VT-d disabled the feature and answered 0',
  A14: 'VT-d kept the number of a failed first attach',
  A22: 'Linux 7.2 blocks the PASID on VT-d before it replaces',
  B4: 'the V4 series never gave a quota back, and ended a set with its last id',
  B8: 'the V4 series left it to notified users to have let go',
  B16: 'the V4 series let the IOMMU driver be told first or last, by priority alone',
  C1: 'the RFC: refused, without an errno',
  C15: 'v1 of the RFC refused commands until all devices of a group were attached',
  D16: 'Linux 5.10 to 5.17 handed unknown codes to the hardware',
  V14: 'the V4 series relied on the CPU to have been notified',
};
