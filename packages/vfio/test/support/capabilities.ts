import type { InfoCapability } from '../../src/index.ts';
import { vfioInfoCapHeader } from '../../src/uapi/vfio.ts';

/** The entries of a chain whose first lies at byte `first` of `bytes`, a structure with what lies behind it; 0 is none. */
export function decodeCapabilities(bytes: Uint8Array, first: number): InfoCapability[] {
  const capabilities: InfoCapability[] = [];
  for (let at = first; at !== 0; ) {
    const { id, version, next } = vfioInfoCapHeader.read(bytes, at);
    const data = bytes.subarray(at + vfioInfoCapHeader.size, next === 0 ? bytes.length : next);
    capabilities.push({ id, version, data });
    at = next;
  }
  return capabilities;
}
