/**
 * A VFIO device for programs written in TypeScript: each method is one system call on an open device file, and runs
 * the same code as the ioctl of its name.
 */

import { ACCESS_READ, ACCESS_WRITE, toU64, type U64 } from '@iommukit/hw';
import {
  IOMMU_PAGE_RESP_INVALID,
  IOMMU_PAGE_RESP_PASID_VALID,
  IOMMU_PAGE_RESP_SUCCESS,
  IOMMU_PAGE_RESP_VERSION_1,
  iommuPageResponse,
  SysError,
} from '@iommukit/iommu-core';
import { EventFd, iommufdContextOf, type SystemCalls } from '@iommukit/iommufd';
import { ioasidContextOf } from '@iommukit/iommufd/ioasid';
import { ContainerDma } from './container/container-dma.ts';
import { type DmaFault, dmaFaultIrq, readDmaFaults } from './container/dma-faults.ts';
import { VfioDeviceFile } from './device-file.ts';
import type { DeviceInfo, IrqData, IrqInfo, RegionInfo } from './device-user.ts';
import {
  allowIoasid,
  attachIoasid,
  bindIoasid,
  detachIoasid,
  disallowIoasid,
  type IoasidGrant,
  unbindIoasid,
} from './ioasid/ioasid-dma.ts';
import * as uapi from './uapi/vfio.ts';

/** Of an attachment: the PASID, or none for requests without PASID. */
export type PasidOption = { pasid?: number };

export type IrqTarget = {
  /** VFIO_PCI_MSIX_IRQ_INDEX and so on. */
  index: number;
  /** First interrupt at that index; 0 by default. */
  start?: number;
};

export class VfioDeviceClient {
  readonly system: SystemCalls;
  readonly fd: number;
  private readonly file: VfioDeviceFile;

  /** `fd` is a descriptor of a /dev/vfio/devices/ node. @throws {SysError} EBADF; EINVAL it is another file */
  constructor(system: SystemCalls, fd: number) {
    const file = system.file(fd);
    if (!(file instanceof VfioDeviceFile)) throw new SysError('EINVAL', 'vfio', `${file.name} is not a VFIO device`);
    this.system = system;
    this.fd = fd;
    this.file = file;
  }

  /** Binds to the /dev/iommu open as `iommufd`. @returns id of the device there. @throws {SysError} as VFIO_DEVICE_BIND_IOMMUFD */
  bind(iommufd: number, token: Uint8Array | null = null): number {
    const context = () => iommufdContextOf(this.system.file(iommufd));
    return this.call('VFIO_DEVICE_BIND_IOMMUFD', () => this.file.bind({ context, token: () => token }));
  }

  /** Attaches to a page table or IOAS, or replaces. @returns id of the hardware page table. @throws {SysError} as `attach` of the file */
  attach(ptId: number, { pasid }: PasidOption = {}): number {
    return this.call('VFIO_DEVICE_ATTACH_IOMMUFD_PT', () => this.file.attach(ptId, pasid ?? null));
  }

  /** @throws {SysError} EINVAL not bound */
  detach({ pasid }: PasidOption = {}): void {
    this.call('VFIO_DEVICE_DETACH_IOMMUFD_PT', () => this.file.detach(pasid ?? null));
  }

  /**
   * Binds to the /dev/ioasid open as `ioasidFd`, under a cookie of the user's choice, which names the device there.
   * @throws {SysError} as `bindIoasid`
   */
  bindIoasid(ioasidFd: number, cookie: U64, token: Uint8Array | null = null): void {
    const context = () => ioasidContextOf(this.system.file(ioasidFd));
    const request = { context, cookie: toU64(cookie), token: () => token };
    this.call('VFIO_BIND_IOASID_FD', () => bindIoasid(this.file, request));
  }

  /** @throws {SysError} as `unbindIoasid` */
  unbindIoasid(): void {
    this.call('VFIO_UNBIND_IOASID_FD', () => unbindIoasid(this.file));
  }

  /**
   * Routes the device's DMA, or that with a PASID, to an IOASID. @returns the PASID to give to the device, or null.
   * @throws {SysError} as `attachIoasid`
   */
  attachIoasid(ioasid: number, { pasid }: PasidOption = {}): number | null {
    return this.call('VFIO_ATTACH_IOASID', () => attachIoasid(this.file, ioasid, pasid ?? null));
  }

  /** @throws {SysError} as `detachIoasid` */
  detachIoasid(ioasid: number, { pasid }: PasidOption = {}): void {
    this.call('VFIO_DETACH_IOASID', () => detachIoasid(this.file, ioasid, pasid ?? null));
  }

  /**
   * Authorises the device to use an IOASID with a PASID, whatever is mapped there; shows both files.
   * @throws {SysError} as `allowIoasid`
   */
  allowIoasid(ioasidFd: number, ioasid: number, pasid: number): void {
    this.call('VFIO_DEVICE_ALLOW_IOASID', () => allowIoasid(this.file, this.grant(ioasidFd, ioasid, pasid)));
  }

  /** @throws {SysError} as `disallowIoasid` */
  disallowIoasid(ioasidFd: number, ioasid: number, pasid: number): void {
    this.call('VFIO_DEVICE_DISALLOW_IOASID', () => disallowIoasid(this.file, this.grant(ioasidFd, ioasid, pasid)));
  }

  /** @throws {SysError} EINVAL not bound */
  info(): DeviceInfo {
    return this.call('VFIO_DEVICE_GET_INFO', () => this.file.user.info);
  }

  /** @throws {SysError} EINVAL not bound, no such region */
  regionInfo(index: number): RegionInfo {
    return this.call('VFIO_DEVICE_GET_REGION_INFO', () => this.file.user.regionInfo(index));
  }

  /** @throws {SysError} EINVAL not bound, no such index */
  irqInfo(index: number): IrqInfo {
    return this.call('VFIO_DEVICE_GET_IRQ_INFO', () => this.file.user.interrupts.info(index));
  }

  /** Lets interrupts signal the eventfds open as `fds`; -1 takes a trigger away. @throws {SysError} as VFIO_DEVICE_SET_IRQS */
  setTriggers(target: IrqTarget, fds: readonly number[]): void {
    this.setIrqs(target, fds.length, () => ({ kind: 'eventfd', values: fds.map((fd) => this.eventfd(fd)) }));
  }

  /** Raises `count` interrupts as the device would. @throws {SysError} EINVAL */
  raise(target: IrqTarget, count = 1): void {
    this.setIrqs(target, count, () => ({ kind: 'none' }));
  }

  /** Takes every trigger of an index away. @throws {SysError} EINVAL there are none */
  disableIrqs(index: number): void {
    this.setIrqs({ index }, 0, () => ({ kind: 'none' }));
  }

  /** Function-level reset. @throws {SysError} EINVAL, EBUSY */
  reset(): void {
    this.call('VFIO_DEVICE_RESET', () => this.file.user.reset());
  }

  /** Reads from a region, up to its end. @returns bytes read. @throws {SysError} EINVAL, EIO, EFAULT */
  read(region: number, offset: U64, into: Uint8Array): number {
    return this.system.read(this.fd, into, position(region, offset));
  }

  /** Writes to a region, up to its end. @returns bytes written. @throws {SysError} EINVAL, EIO, EFAULT */
  write(region: number, offset: U64, from: Uint8Array): number {
    return this.system.write(this.fd, from, position(region, offset));
  }

  /** A register of configuration space, unsigned. @throws {SysError} EINVAL, EFAULT */
  readConfig(offset: number, width: 1 | 2 | 4): number {
    const bytes = new Uint8Array(4);
    this.read(uapi.VFIO_PCI_CONFIG_REGION_INDEX, offset, bytes.subarray(0, width));
    return new DataView(bytes.buffer).getUint32(0, true);
  }

  /** @throws {SysError} EINVAL, EFAULT */
  writeConfig(offset: number, width: 1 | 2 | 4, value: number): void {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value >>> 0, true);
    this.write(uapi.VFIO_PCI_CONFIG_REGION_INDEX, offset, bytes.subarray(0, width));
  }

  /** Maps part of a BAR. @returns the address. @throws {SysError} EINVAL it cannot be mapped; ENOMEM */
  map(region: number, offset: U64, length: U64, protection: number = ACCESS_READ | ACCESS_WRITE): bigint {
    return this.system.mmap({ fd: this.fd, offset: position(region, offset), length, protection, shared: true });
  }

  /** Takes every record out of the device's fault ring, oldest first. @throws {SysError} ENODEV the device has none */
  readDmaFaults(): DmaFault[] {
    return readDmaFaults(this);
  }

  /** Lets the eventfd open as `fd` be signalled for each record; -1 takes it away. @throws {SysError} ENODEV the device has no fault ring */
  setDmaFaultTrigger(fd: number): void {
    this.setTriggers({ index: dmaFaultIrq(this) }, [fd]);
  }

  /** Answers the group of page requests that a record of the fault ring names. @throws {SysError} EINVAL no such group waits; ENODEV */
  respondPage({ pasid, group }: { pasid: number | null; group: number }, success: boolean): void {
    const call = 'VFIO_DEVICE_PAGE_RESPONSE';
    const response = {
      argsz: iommuPageResponse.size,
      version: IOMMU_PAGE_RESP_VERSION_1,
      flags: pasid === null ? 0 : IOMMU_PAGE_RESP_PASID_VALID,
      pasid: pasid ?? 0,
      grpid: group,
      code: success ? IOMMU_PAGE_RESP_SUCCESS : IOMMU_PAGE_RESP_INVALID,
    };
    this.call(call, () => this.file.dma(call, ContainerDma).pageResponse(response));
  }

  private grant(ioasidFd: number, ioasid: number, pasid: number): IoasidGrant {
    return { context: () => ioasidContextOf(this.system.file(ioasidFd)), ioasid, pasid };
  }

  private setIrqs({ index, start = 0 }: IrqTarget, count: number, data: () => IrqData): void {
    const action = uapi.VFIO_IRQ_SET_ACTION_TRIGGER;
    this.call('VFIO_DEVICE_SET_IRQS', () => {
      this.file.user.interrupts.set({ action, index, start, count, data: data() });
    });
  }

  private eventfd(fd: number): EventFd | null {
    if (fd < 0) return null;
    const file = this.system.file(fd);
    if (file instanceof EventFd) return file;
    throw new SysError('EINVAL', 'VFIO_DEVICE_SET_IRQS', `${file.name} is not an eventfd`);
  }

  private call<T>(name: string, body: () => T): T {
    return this.file.entry.kernel.call(name, body);
  }
}

function position(region: number, offset: U64): bigint {
  return (BigInt(region) << BigInt(uapi.VFIO_PCI_OFFSET_SHIFT)) + toU64(offset);
}
