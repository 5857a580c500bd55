/** How requests of /dev/iommu and of the type1 interface are numbered: _IO(';', nr), without direction and size. */

const IOMMUFD_TYPE = 0x3b;
/** Command numbers below this belong to the type1 interface. */
export const IOMMUFD_CMD_BASE = 0x80;

export function request(command: number): number {
  return (IOMMUFD_TYPE << 8) | command;
}
