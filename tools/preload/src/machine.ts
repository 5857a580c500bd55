/** The machine that programs run on: an IOMMU unit, devices behind it, and the kernel that drives them. */

import {
  DsaFunction,
  type DsaOptions,
  Machine,
  type PciFunction,
  RootPort,
  requesterId,
  TestFunction,
  Trace,
  type VtdFeatures,
} from '@iommukit/hw';
import { Host } from '@iommukit/iommu-core';
import { DeviceNodes, type IommufdEvent, type IommufdNode, registerIommufd } from '@iommukit/iommufd';
import { SelftestIommu } from '@iommukit/iommufd/selftest';
import { Vfio } from '@iommukit/vfio';

/** `bb:dd.f` in hexadecimal. */
export type Slot = string;

export type DeviceDescription = {
  readonly slot: Slot;
  /** Offered to programs by VFIO; true by default. */
  readonly vfio?: boolean;
} & (
  | ({ readonly type: 'dsa' } & Pick<DsaOptions, 'queues' | 'engines' | 'groups' | 'pageRequests'>)
  | { readonly type: 'test'; readonly virtualFunctions?: number; readonly pageRequests?: number }
  | { readonly type: 'root-port'; readonly bus: number; readonly acs?: boolean }
);

export type MachineDescription = {
  readonly iommu: { readonly type: 'vtd'; readonly features?: Partial<VtdFeatures> };
  /** Functions of one device, and those below a port without ACS, share a group. */
  readonly devices: readonly DeviceDescription[];
};

export const DEFAULT_MACHINE: MachineDescription = {
  iommu: { type: 'vtd' },
  devices: [{ type: 'dsa', slot: '00:01.0' }],
};

export type Model = {
  readonly host: Host;
  readonly nodes: DeviceNodes;
  readonly iommufd: IommufdNode;
  readonly iommufdTrace: Trace<IommufdEvent>;
  readonly vfio: Vfio;
};

/** Bytes of RAM, which holds page tables only: what programs map stays in their memory. */
const RAM = 256 << 20;

/** Vendor and device of a root port, as a common one has them. */
const ROOT_PORT = { vendorId: 0x8086, deviceId: 0x3420 } as const;

/**
 * Builds the machine, boots its kernel, and offers /dev/iommu and the devices; with `selftest`, /dev/iommu has what the
 * kernel's own tests need. @throws {RangeError} a slot is taken
 */
export function createModel(description: MachineDescription = DEFAULT_MACHINE, selftest = false): Model {
  const machine = new Machine({ ramBytes: RAM, features: description.iommu.features ?? {} });
  const ports = description.devices.filter(({ type }) => type === 'root-port');
  const endpoints = description.devices.filter(({ type }) => type !== 'root-port');
  for (const device of [...ports, ...endpoints]) machine.plug(createFunction(machine, device), parseSlot(device.slot));
  const host = new Host(machine);
  const nodes = new DeviceNodes();
  const iommufdTrace = new Trace<IommufdEvent>(machine.scheduler);
  const { kernel, trace } = host;
  const commands = selftest ? new SelftestIommu({ kernel, trace }).commands : [];
  const iommufd = registerIommufd(nodes, { kernel, trace: iommufdTrace }, commands);
  const vfio = new Vfio({ nodes, core: host.core, iommufd });
  for (const device of endpoints) {
    const { rid } = host.device(parseSlot(device.slot)).pci;
    const virtual = device.type === 'test' ? (device.virtualFunctions ?? 0) : 0;
    const physical = host.bus.device(rid)!;
    const functions = [physical, ...(virtual === 0 ? [] : host.bus.enableVirtualFunctions(physical, virtual))];
    if (device.vfio === false) continue;
    for (const pci of functions) vfio.register(host.device(pci.rid), { bars: 'trapped' });
  }
  return { host, nodes, iommufd, iommufdTrace, vfio };
}

/** The requester id of a slot. @throws {RangeError} */
export function parseSlot(slot: Slot): number {
  const parts = /^(?:0000:)?([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-7])$/i.exec(slot)?.slice(1);
  const [bus = 256, device = 32, fn = 8] = parts?.map((part) => Number.parseInt(part, 16)) ?? [];
  if (bus > 255 || device > 31) throw new RangeError(`${slot} is not a slot`);
  return requesterId(bus, device, fn);
}

function createFunction(machine: Machine, description: DeviceDescription): PciFunction {
  switch (description.type) {
    case 'dsa':
      return new DsaFunction({ ...machine, ...description });
    case 'test':
      return new TestFunction({ ...machine, ...description, totalVfs: description.virtualFunctions ?? 0 });
    case 'root-port': {
      const { bus, acs = true } = description;
      return new RootPort({ ...ROOT_PORT, secondary: bus, acs });
    }
  }
}
