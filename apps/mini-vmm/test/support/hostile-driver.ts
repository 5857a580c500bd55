/** What a guest's driver does before its accelerator works, as actions: where an attack gets furthest from. */

import {
  AW_48,
  CONTEXT0_PASIDE,
  CONTEXT0_PRESENT,
  DESCRIPTOR_IOTLB,
  DESCRIPTOR_PAGE_GROUP_RESPONSE,
  DESCRIPTOR_PASID_CACHE,
  DESCRIPTOR_PASID_IOTLB,
  DESCRIPTOR_WAIT,
  DIRECTORY0_PRESENT,
  DSA_COMMAND,
  DSA_OPERATION,
  DSA_REGISTER,
  fieldPrep,
  GCMD_QIE,
  GCMD_SRTP,
  GCMD_TE,
  IQA_LO_DW,
  PASID_CACHE_GLOBAL,
  PASID_CACHE_PASID,
  PASID0_AW,
  PASID0_PGTT,
  PASID0_PRESENT,
  PGTT_FIRST_STAGE,
  PGTT_PASS_THROUGH,
  REG_GCMD,
  REG_IQA,
  REG_IQT,
  REG_PQA,
  REG_RTADDR,
  TTM_SCALABLE,
} from '@iommukit/hw';
import { type Action, PML4 } from './hostile-image.ts';

export const GUEST_RID = 0x10;
export const CONFIG: number = 0xe000_0000 + GUEST_RID * 4096;
export const VTD = 0xfed9_0000;
/** Where the driver puts BAR 0 and BAR 2. */
export const REGISTERS = 0x80_0000_0000;
export const PORTALS = 0x80_0010_0000;
/** The portal for programs of queue 0. */
export const PORTAL: number = PORTALS + 0x1000;
/** The PASID of the one entry; its first stage is the image's own table. */
export const PASID = 1;

/** Guest memory. */
export const QUEUE = 0x20_0000;
export const ENTRY = 0x20_4040;
const ROOT = 0x20_1000;
const CONTEXTS = 0x20_2000;
const DIRECTORY = 0x20_3000;
const TABLE = 0x20_4000;
const REQUESTS = 0x20_5000;
/** A descriptor that fills mapped memory, and one whose memory is not in the table: it waits for a page request. */
export const FILL = 0x20_6000;
export const FILL_UNMAPPED = 0x20_6040;
const RECORD = 0x20_7000;
const UNMAPPED = 0x40_0000_0000;

/** Offsets in configuration space. */
export const CONFIG_COMMAND = 0x04;
export const CONFIG_FLR = 0x48;
const CONFIG_MSIX = 0x7c;

export const write32 = (address: number, value: number): Action => ({
  what: 'write32',
  address,
  value: BigInt(value >>> 0),
});
export const write64 = (address: number, value: number): Action => ({ what: 'write64', address, value: BigInt(value) });
export const spin = (turns: number): Action => ({ what: 'spin', address: 0, value: BigInt(turns) });
export const setPasid = (pasid: number): Action => ({ what: 'pasid', address: 0, value: BigInt(pasid) });
export const enqcmd = (descriptor: number): Action => ({ what: 'enqcmd', address: PORTAL, value: BigInt(descriptor) });

/** Makes the unit carry out what lies in the invalidation queue up to `slot`. */
export const ring = (slot: number): Action => write32(VTD + REG_IQT, slot * 32);

/** Puts a descriptor into the invalidation queue. */
export function queue(slot: number, words: readonly number[]): Action[] {
  return words.map((word, index) => write32(QUEUE + slot * 32 + index * 4, word));
}

const pasidCache = (granularity: number): number[] => [DESCRIPTOR_PASID_CACHE | (granularity << 4) | (1 << 16), PASID];
/** What an attacker finds in the queue, ready to be rung. */
export const QUEUED: readonly (readonly number[])[] = [
  pasidCache(PASID_CACHE_PASID),
  pasidCache(PASID_CACHE_GLOBAL),
  [DESCRIPTOR_PAGE_GROUP_RESPONSE | (1 << 4) | (GUEST_RID << 16), PASID],
  [DESCRIPTOR_PASID_IOTLB | (2 << 4) | (1 << 16), PASID],
  [DESCRIPTOR_IOTLB | (1 << 4)],
  [DESCRIPTOR_WAIT | (1 << 5), 1, RECORD],
];

const firstStage = PASID0_PRESENT | fieldPrep(PASID0_PGTT, PGTT_FIRST_STAGE);
/** The entry present, with the table at `table`; and absent. */
export const present = (table: number = PML4): Action[] => [write64(ENTRY + 16, table), write64(ENTRY, firstStage)];
export const absent: Action = write64(ENTRY, 0);

const fill = (at: number, destination: number): Action[] => [
  write64(at, DSA_OPERATION.fill * 2 ** 56 + 0xe * 2 ** 32),
  write64(at + 8, RECORD),
  write64(at + 16, 0),
  write64(at + 24, destination),
  write64(at + 32, 64),
];

/** BARs placed, memory decode and bus mastering on, interrupt 0 routed. */
export const placed: readonly Action[] = [
  write64(CONFIG + 0x10, REGISTERS),
  write64(CONFIG + 0x18, PORTALS),
  write32(CONFIG + CONFIG_COMMAND, 6),
  write32(REGISTERS + DSA_REGISTER.msixTable, 0xfee0_0000),
  write32(REGISTERS + DSA_REGISTER.msixTable + 8, 0x40),
  write32(REGISTERS + DSA_REGISTER.msixTable + 12, 0),
  write32(CONFIG + CONFIG_MSIX, 0x8000_0000 | 0x11),
];

/** The accelerator with one shared queue. */
export const sharedQueue: readonly Action[] = [
  write32(REGISTERS + DSA_REGISTER.genctrl, 1),
  write32(REGISTERS + DSA_REGISTER.grpcfg, 1),
  write32(REGISTERS + DSA_REGISTER.grpcfg + 0x20, 1),
  write32(REGISTERS + DSA_REGISTER.grpcfg + 0x28, 96 << 20),
  write32(REGISTERS + DSA_REGISTER.wqcfg, 16),
  write32(REGISTERS + DSA_REGISTER.wqcfg + 4, 16),
  write32(REGISTERS + DSA_REGISTER.wqcfg + 8, 2 | (10 << 4) | (1 << 28)),
  write32(REGISTERS + DSA_REGISTER.wqcfg + 12, 31 | (10 << 5)),
  write32(REGISTERS + DSA_REGISTER.cmd, DSA_COMMAND.enableDevice << 20),
  spin(2000),
  write32(REGISTERS + DSA_REGISTER.cmd, DSA_COMMAND.enableQueue << 20),
  spin(2000),
];

/** The same, and the unit with the tables of one PASID, which nobody has flushed yet. */
export const driven: readonly Action[] = [
  ...placed,
  ...sharedQueue,
  ...fill(FILL, 0x20_8000),
  ...fill(FILL_UNMAPPED, UNMAPPED),
  write64(ROOT, CONTEXTS | 1),
  write64(CONTEXTS + GUEST_RID * 32, DIRECTORY | CONTEXT0_PRESENT | CONTEXT0_PASIDE),
  write64(DIRECTORY, TABLE | DIRECTORY0_PRESENT),
  write64(TABLE, PASID0_PRESENT | fieldPrep(PASID0_PGTT, PGTT_PASS_THROUGH) | fieldPrep(PASID0_AW, AW_48)),
  write64(ENTRY + 8, 1),
  ...QUEUED.flatMap((words, slot) => queue(slot, words)),
  write64(VTD + REG_IQA, QUEUE | IQA_LO_DW),
  write64(VTD + REG_PQA, REQUESTS),
  write32(VTD + REG_GCMD, GCMD_QIE),
  spin(2000),
  write64(VTD + REG_RTADDR, ROOT | (TTM_SCALABLE << 10)),
  write32(VTD + REG_GCMD, GCMD_QIE | GCMD_SRTP),
  spin(2000),
  write32(VTD + REG_GCMD, GCMD_QIE | GCMD_TE),
  spin(2000),
  ...present(),
  setPasid(PASID),
];
