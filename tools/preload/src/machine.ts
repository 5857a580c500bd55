/** The machine that programs run on: an IOMMU unit, devices behind it, and the kernel that drives them. */

import { DsaFunction, Machine, requesterId } from '@iommukit/hw';
import { Host } from '@iommukit/iommu-core';
import { DeviceNodes, registerIommufd } from '@iommukit/iommufd';

export type Model = { readonly host: Host; readonly nodes: DeviceNodes };

/** Bytes of RAM, which holds page tables only: what programs map stays in their memory. */
const RAM = 256 << 20;

/** One VT-d unit with one DSA, and /dev/iommu. */
export function createModel(): Model {
  const machine = new Machine({ ramBytes: RAM });
  machine.plug(new DsaFunction(machine), requesterId(0, 1, 0));
  const host = new Host(machine);
  const nodes = new DeviceNodes();
  registerIommufd(nodes, { kernel: host.kernel });
  return { host, nodes };
}
