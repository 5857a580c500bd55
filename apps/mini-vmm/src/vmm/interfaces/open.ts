/** The kernel interfaces that the VMM knows, by the names on its command line. */

import type { DmaInterface, DmaOptions } from '../dma-interface.ts';
import { GuestPasidDma } from './gpasid.ts';
import { IoasidDma } from './ioasid.ts';
import { IommufdDma } from './iommufd.ts';

export const INTERFACES = ['iommufd', 'ioasid', 'gpasid'] as const;
export type InterfaceKind = (typeof INTERFACES)[number];

const CLASSES: Readonly<Record<InterfaceKind, new (options: DmaOptions) => DmaInterface>> = {
  iommufd: IommufdDma,
  ioasid: IoasidDma,
  gpasid: GuestPasidDma,
};

/** Guest memory and the device, in the hands of one of the kernel's interfaces. @throws {SysError} what the host refuses */
export function openDma(kind: InterfaceKind, options: DmaOptions): DmaInterface {
  return new CLASSES[kind](options);
}
