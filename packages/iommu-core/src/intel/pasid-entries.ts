/**
 * Putting a domain behind a PASID-table entry, changing it and taking it away, in the order that leaves nothing of the
 * old behind: entry, PASID cache, IOTLB, device TLB, page requests (Intel VT-d specification, revision 4.1, sections
 * 6.5.3 and 7.10).
 */

import { type Attachments, addEntryFlush, entryIndex } from './attachments.ts';
import type { IntelDevice } from './intel-device.ts';
import { encodePasidEntry, type PasidEntry } from './pasid-entry.ts';
import type { IntelUnit } from './unit.ts';

/** A domain that has an entry. */
export type TableDomain = {
  readonly kind: string;
  readonly attachments: Attachments;
  /** @throws {SysError} ENODEV what the entry would point to is gone */
  entry(): PasidEntry;
};

/**
 * Writes the entry, over a present one without a gap. On failure the old entry is as before.
 * @throws {SysError} ENOMEM, EIO, ETIMEDOUT, ENODEV
 */
export function setEntry(unit: IntelUnit, own: IntelDevice, pasid: number, domain: TableDomain): void {
  const { pasidTable } = own;
  const index = entryIndex(pasid);
  const entry = domain.entry();
  // Going back to a default domain is part of tear-down, which does not fail.
  if (domain.kind !== 'dma' && domain.kind !== 'identity') unit.kernel.checkpoint('pasid_entry');
  pasidTable.reserve(index);
  const old = pasidTable.tag(index);
  const saved = pasidTable.save(index);
  pasidTable.write(index, encodePasidEntry(entry));
  // A unit in caching mode may have kept that there was no entry.
  if (old !== null) addEntryFlush(unit.queue, own, pasid, old.domainId, old.translation);
  else if (unit.capabilities.cachingMode) addEntryFlush(unit.queue, own, pasid, entry.domainId, entry.translation);
  try {
    unit.queue.submitChecked('iommu_attach_device');
  } catch (error) {
    pasidTable.write(index, saved);
    addEntryFlush(unit.queue, own, pasid, entry.domainId, entry.translation);
    unit.queue.submit();
    throw error;
  }
  if (old !== null) unit.pageRequests?.drain(own, pasid, old.domainId, old.translation);
  const name = old === null ? 'pasid_entry_set' : 'pasid_entry_replace';
  if (unit.trace.enabled) unit.trace.emit({ name, rid: own.device.rid, pasid, domainId: entry.domainId });
}

/** Takes the entry away, with everything cached through it and every page request under way. Never fails. */
export function clearEntry(unit: IntelUnit, own: IntelDevice, pasid: number): void {
  const index = entryIndex(pasid);
  const old = own.pasidTable.tag(index);
  if (old === null) return;
  own.pasidTable.clear(index);
  addEntryFlush(unit.queue, own, pasid, old.domainId, old.translation);
  unit.queue.submit();
  unit.pageRequests?.drain(own, pasid, old.domainId, old.translation);
  if (unit.trace.enabled) {
    unit.trace.emit({ name: 'pasid_entry_clear', rid: own.device.rid, pasid, domainId: old.domainId });
  }
}

/** Writes the entries of all attachments anew, after something in `entry()` of their domain has changed. */
export function refreshEntries(unit: IntelUnit, domain: TableDomain): void {
  for (const { device, pasid } of domain.attachments.list) {
    const index = entryIndex(pasid);
    const old = device.pasidTable.tag(index);
    if (old === null) continue;
    device.pasidTable.write(index, encodePasidEntry(domain.entry()));
    addEntryFlush(unit.queue, device, pasid, old.domainId, old.translation);
  }
  unit.queue.submit();
}
