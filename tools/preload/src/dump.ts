/** What all open contexts of /dev/iommu hold, as text or JSON. */

import { type ContextDump, dumpContext, formatDump, type IommufdNode } from '@iommukit/iommufd';

export function dumpAll({ contexts }: IommufdNode): ContextDump[] {
  return [...contexts].map(dumpContext);
}

export function formatDumps(dumps: readonly ContextDump[], json: boolean): string {
  if (json) return `${JSON.stringify(dumps, null, 2)}\n`;
  return dumps.length === 0 ? 'no context is open\n' : dumps.map(formatDump).join('');
}
