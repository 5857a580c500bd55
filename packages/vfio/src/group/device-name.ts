/** The names by which devices are got from their group (Linux: vfio_pci_core_match, drivers/vfio/pci/vfio_pci_core.c). */

import { SysError } from '@iommukit/iommu-core';
import { VF_TOKEN_BYTES } from '../vf-token.ts';

const OPTION = 'vf_token=';
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/i;
const UUID_LENGTH = 36;

/**
 * Compares `text`, a name with options behind it, with a device's name. Null: another device is meant.
 * @throws {SysError} EINVAL an option that is unknown, given twice, or no UUID
 */
export function parseDeviceName(call: string, text: string, name: string): { token: Uint8Array | null } | null {
  if (!text.startsWith(name)) return null;
  let rest = text.slice(name.length);
  if (rest !== '' && !rest.startsWith(' ')) return null;
  let token: Uint8Array | null = null;
  for (rest = rest.trimStart(); rest !== ''; rest = rest.trimStart()) {
    const value = rest.slice(OPTION.length);
    if (token !== null || !rest.startsWith(OPTION) || !UUID.test(value)) {
      throw new SysError('EINVAL', call, `cannot make sense of ${rest}`);
    }
    token = uuidBytes(value.slice(0, UUID_LENGTH));
    rest = value.slice(UUID_LENGTH);
  }
  return { token };
}

/** In the order of the digits. */
function uuidBytes(uuid: string): Uint8Array {
  const digits = uuid.replaceAll('-', '');
  return Uint8Array.from({ length: VF_TOKEN_BYTES }, (_, i) => Number.parseInt(digits.slice(2 * i, 2 * i + 2), 16));
}
