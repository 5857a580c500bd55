/**
 * Which functions the fabric cannot keep apart (Linux: pci_device_group, drivers/iommu/iommu.c; pci_acs_enabled,
 * drivers/pci/pci.c): a request may reach another function without passing the IOMMU unless every port on its way up
 * redirects, and functions of one multifunction device unless each of them does.
 */

import type { PciDevice } from './pci-device.ts';
import * as reg from './registers.ts';

/** The functions that `device` shares a group with, itself left out. */
export function isolationSet(device: PciDevice): PciDevice[] {
  const { bus } = device;
  const shared = new Set<PciDevice>();
  const pending = [device];
  for (let member = pending.pop(); member !== undefined; member = pending.pop()) {
    if (shared.has(member)) continue;
    shared.add(member);
    if (!isolatesWithin(member)) pending.push(...slotNeighbours(member));
    const port = nearestLeak(member);
    if (port !== null) pending.push(port, ...bus.devices.filter((other) => isBelow(other, port)));
  }
  shared.delete(device);
  return [...shared];
}

/** The lowest port above `device` that does not redirect, or null when every one does. */
function nearestLeak(device: PciDevice): PciDevice | null {
  for (let port = upstreamPort(device); port !== null; port = upstreamPort(port)) {
    if (!redirects(port)) return port;
  }
  return null;
}

function upstreamPort(device: PciDevice): PciDevice | null {
  const anchor = device.physicalFunction ?? device;
  return anchor.bus.bridgeTo(anchor.rid >> 8);
}

function isBelow(device: PciDevice, port: PciDevice): boolean {
  for (let up = upstreamPort(device); up !== null; up = upstreamPort(up)) if (up === port) return true;
  return false;
}

/** A port keeps what is below it apart. An upstream port has no way to: what matters is the ports around it. */
function redirects(port: PciDevice): boolean {
  return port.portType === reg.EXPRESS_TYPE_UPSTREAM || hasAcs(port);
}

/** Functions of a multifunction device talk to each other unless they redirect; a single function has no one to. */
function isolatesWithin(device: PciDevice): boolean {
  return !device.multifunction || hasAcs(device);
}

function slotNeighbours(device: PciDevice): PciDevice[] {
  return device.bus.devices.filter(
    (other) => other.rid >> 3 === device.rid >> 3 && other.multifunction && !isolatesWithin(other),
  );
}

function hasAcs(device: PciDevice): boolean {
  const { acsOffset, config } = device;
  if (acsOffset === 0) return false;
  const capability = config.read(acsOffset + reg.ACS_CONTROL - 2, 2);
  const control = config.read(acsOffset + reg.ACS_CONTROL, 2);
  // What a port does not implement it need not be told to do (Linux: pci_acs_flags_enabled).
  const wanted = reg.ACS_ISOLATING & (capability | 1);
  return (control & wanted) === wanted;
}
