/** What VFIO_IOMMU_GET_INFO says of a container: what it says of any IOAS, and what guests' tables are nested on. */

import { IOMMU_PASID_FORMAT_INTEL_VTD } from '@iommukit/iommu-core';
import {
  IOMMU_HW_INFO_TYPE_INTEL_VTD,
  iommuHwInfoVtd,
  type Type1Info,
  type1Capabilities,
  type1Info,
} from '@iommukit/iommufd';
import type { InfoCapability } from '../info-capability.ts';
import * as nesting from '../uapi/nesting.ts';
import type { VfioContainer } from './container.ts';

/** Of the IOMMU that guests' tables are nested on. */
export type NestingInfo = {
  /** Bits of an address of the second stage. */
  readonly addressBits: number;
  /** Bits of a PASID, of the device with the fewest. */
  readonly pasidBits: number;
  /** Capability and extended capability register of the VT-d unit. */
  readonly capability: bigint;
  readonly extendedCapability: bigint;
};

export type ContainerInfo = Type1Info & {
  /** Mappings that can still be made. */
  readonly mappingsLeft: number;
  /** Null when the container is not of the nesting type, or its unit is not VT-d. */
  readonly nesting: NestingInfo | null;
};

/** @throws {SysError} EINVAL no IOMMU is set */
export function containerInfo(container: VfioContainer): ContainerInfo {
  const { ioas, mappingsLeft } = container.iommu;
  return { ...type1Info(ioas), mappingsLeft, nesting: nestingInfo(container) };
}

/** As the chain behind struct vfio_iommu_type1_info. */
export function infoCapabilities(info: ContainerInfo): InfoCapability[] {
  const capabilities: InfoCapability[] = type1Capabilities(info, info.mappingsLeft);
  const { nesting: nests } = info;
  if (nests !== null) {
    capabilities.push({ id: nesting.VFIO_IOMMU_TYPE1_INFO_CAP_NESTING, version: 1, data: encodeNesting(nests) });
  }
  return capabilities;
}

function nestingInfo(container: VfioContainer): NestingInfo | null {
  const { hwpt } = container.iommu;
  const devices = container.groupDevices;
  const [first] = devices;
  if (!hwpt.domain.nestParent || first === undefined) return null;
  const { type, data } = first.hwInfo();
  if (type !== IOMMU_HW_INFO_TYPE_INTEL_VTD) return null;
  const { capReg, ecapReg } = iommuHwInfoVtd.read(data);
  const pasids = Math.min(...devices.map(({ maxPasids }) => maxPasids));
  return {
    addressBits: hwpt.domain.aperture.last.toString(2).length,
    pasidBits: pasids === 0 ? 0 : Math.floor(Math.log2(pasids)),
    capability: capReg,
    extendedCapability: ecapReg,
  };
}

function encodeNesting(info: NestingInfo): Uint8Array {
  const layout = nesting.iommuNestingInfo;
  const bytes = new Uint8Array(layout.size);
  const features =
    nesting.IOMMU_NESTING_FEAT_SYSWIDE_PASID |
    nesting.IOMMU_NESTING_FEAT_BIND_PGTBL |
    nesting.IOMMU_NESTING_FEAT_CACHE_INVLD;
  layout.write(
    {
      argsz: layout.size,
      flags: 0,
      format: IOMMU_PASID_FORMAT_INTEL_VTD,
      features,
      addrWidth: info.addressBits,
      pasidBits: info.pasidBits,
      padding0: 0,
      padding1: 0,
      padding2: 0,
      vtdFlags: 0,
      vtdPadding: 0,
      vtdCapReg: info.capability,
      vtdEcapReg: info.extendedCapability,
    },
    bytes,
  );
  return bytes;
}
