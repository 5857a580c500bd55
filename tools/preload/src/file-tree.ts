/**
 * What programs find in /dev and /sys about the models' devices (Linux: Documentation/ABI/testing/sysfs-bus-pci,
 * sysfs-kernel-iommu_groups): a tree of plain files and links in a folder, to which the library takes their paths.
 * Configuration space in it is as it was when the tree was made.
 */

import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import type { Device, IommuGroup, PciDevice, ReservedRegion } from '@iommukit/iommu-core';
import type { Vfio } from '@iommukit/vfio';
import { deviceNumber } from './device-numbers.ts';
import type { Model } from './machine.ts';

const DEVICES = '/sys/devices/pci0000:00';
const GROUPS = '/sys/kernel/iommu_groups';

/** Flags of a resource (include/linux/ioport.h). */
const IORESOURCE_MEM = 0x200;
const IORESOURCE_PREFETCH = 0x2000;
const IORESOURCE_MEM_64 = 0x100000;

/** Programs look whether they are loaded before they look for devices. */
const MODULES = ['vfio', 'vfio_pci', 'vfio_iommu_type1', 'iommufd'];

/** Fault injection of Linux, as far as programs set it up (Documentation/fault-injection). */
const FAULT_ATTRIBUTES: { readonly [name: string]: readonly string[] } = {
  failslab: ['ignore-gfp-wait', 'verbose'],
  fail_page_alloc: ['ignore-gfp-wait', 'ignore-gfp-highmem', 'verbose'],
  fail_iommufd: ['verbose'],
};

export class FileTree {
  private readonly folder: string;

  /** The tree of a model below `folder`, with the files of fault injection if asked for. */
  constructor(folder: string, { nodes, host, vfio }: Model, failpoints: boolean) {
    this.folder = folder;
    for (const path of nodes.list()) this.file(path, '');
    mkdirSync(join(folder, '/sys/bus/pci/devices'), { recursive: true });
    mkdirSync(join(folder, GROUPS), { recursive: true });
    for (const name of MODULES) this.file(`/sys/module/${name}/initstate`, 'live\n');
    for (const pci of host.bus.devices) {
      const device = host.core.deviceOf(pci);
      this.addFunction(pci, vfio);
      if (device !== null) this.addToGroup(device);
      host.bus.devices
        .filter(({ physicalFunction }) => physicalFunction === pci)
        .forEach((virtual, index) => this.addVirtualFunction(pci, virtual, index));
    }
    if (!failpoints) return;
    for (const [name, files] of Object.entries(FAULT_ATTRIBUTES)) {
      for (const file of files) this.file(`/sys/kernel/debug/${name}/${file}`, '');
    }
  }

  private addFunction(pci: PciDevice, vfio: Vfio): void {
    const folder = `${DEVICES}/${pci.name}`;
    const config = new Uint8Array(4096);
    for (let offset = 0; offset < config.length; offset += 4) {
      new DataView(config.buffer).setUint32(offset, pci.config.read(offset, 4), true);
    }
    const word = (at: number): string => `${hex(config[at]! | (config[at + 1]! << 8), 4)}\n`;
    this.file(`${folder}/config`, config);
    this.file(`${folder}/vendor`, `${hex(pci.vendorId, 4)}\n`);
    this.file(`${folder}/device`, `${hex(pci.deviceId, 4)}\n`);
    this.file(`${folder}/subsystem_vendor`, word(0x2c));
    this.file(`${folder}/subsystem_device`, word(0x2e));
    this.file(`${folder}/class`, `${hex(pci.classCode, 6)}\n`);
    this.file(`${folder}/revision`, `${hex(config[8]!, 2)}\n`);
    this.file(`${folder}/resource`, resources(pci));
    this.file(`${folder}/irq`, '0\n');
    this.file(`${folder}/numa_node`, '-1\n');
    this.file(`${folder}/driver_override`, '(null)\n');
    this.file(`${folder}/uevent`, `PCI_SLOT_NAME=${pci.name}\n`);
    this.link(`${folder}/subsystem`, '/sys/bus/pci');
    this.link(`/sys/bus/pci/devices/${pci.name}`, folder);
    const entry = vfio.find(pci);
    if (entry === null) return;
    const name = `vfio${entry.index}`;
    this.link(`${folder}/driver`, '/sys/bus/pci/drivers/vfio-pci');
    this.link(`/sys/bus/pci/drivers/vfio-pci/${pci.name}`, folder);
    const { major, minor } = deviceNumber(entry.path)!;
    const cdev = `${folder}/vfio-dev/${name}`;
    this.file(`${cdev}/dev`, `${major}:${minor}\n`);
    this.file(`${cdev}/uevent`, `MAJOR=${major}\nMINOR=${minor}\nDEVNAME=${entry.path.slice('/dev/'.length)}\n`);
    this.link(`${cdev}/device`, folder);
    this.link(`${cdev}/subsystem`, '/sys/class/vfio-dev');
    this.link(`/sys/class/vfio-dev/${name}`, cdev);
  }

  private addVirtualFunction(pf: PciDevice, vf: PciDevice, index: number): void {
    this.link(`${DEVICES}/${pf.name}/virtfn${index}`, `${DEVICES}/${vf.name}`);
    this.link(`${DEVICES}/${vf.name}/physfn`, `${DEVICES}/${pf.name}`);
  }

  private addToGroup(device: Device): void {
    const { group, pci } = device;
    const folder = `${GROUPS}/${group.id}`;
    this.link(`${DEVICES}/${pci.name}/iommu_group`, folder);
    this.link(`${folder}/devices/${pci.name}`, `${DEVICES}/${pci.name}`);
    this.file(`${folder}/reserved_regions`, reservedRegions(group));
    this.file(`${folder}/type`, `${group.defaultDomain.kind === 'identity' ? 'identity' : 'DMA'}\n`);
  }

  private file(path: string, content: string | Uint8Array): void {
    const place = join(this.folder, path);
    mkdirSync(dirname(place), { recursive: true });
    writeFileSync(place, content);
  }

  private link(path: string, target: string): void {
    const place = join(this.folder, path);
    mkdirSync(dirname(place), { recursive: true });
    symlinkSync(relative(dirname(path), target), place);
  }
}

/** A line for each BAR, the ROM and, of a device without bridge windows, nothing more. */
function resources(pci: PciDevice): string {
  let text = '';
  for (let bar = 0; bar < 7; bar++) {
    const resource = pci.resource(bar);
    if (resource === null) {
      text += `${hex(0, 16)} ${hex(0, 16)} ${hex(0, 16)}\n`;
      continue;
    }
    const { address, size, prefetchable, is64 } = resource;
    const flags = IORESOURCE_MEM | (prefetchable ? IORESOURCE_PREFETCH : 0) | (is64 ? IORESOURCE_MEM_64 : 0);
    text += `${hex(address, 16)} ${hex(address + size - 1n, 16)} ${hex(flags, 16)}\n`;
  }
  return text;
}

function reservedRegions({ devices }: IommuGroup): string {
  const lines = devices.flatMap((device) => device.reservedRegions().map(line));
  return [...new Set(lines)].sort().join('');
}

function line({ first, last, kind }: ReservedRegion): string {
  const type = kind === 'sw-msi' ? 'msi' : kind;
  return `${hex(first, 16)} ${hex(last, 16)} ${type}\n`;
}

function hex(value: number | bigint, digits: number): string {
  return `0x${value.toString(16).padStart(digits, '0')}`;
}
