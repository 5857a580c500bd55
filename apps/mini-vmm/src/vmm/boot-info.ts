/** The boot information that the guest finds in memory: struct boot_info of guest/include/bootinfo.h. */

/** BOOT_INFO_MAGIC, and BOOT_INFO_VERSION of the layout below. */
const MAGIC = 0x49564d47;
const VERSION = 1;
const BYTES = 48;

/** How the guest's processes submit descriptors, each at its SUBMIT_ value; `both` is in turn. */
export const SUBMIT_MODES = ['both', 'enqcmd', 'movdir64b'] as const;
export type SubmitMode = (typeof SUBMIT_MODES)[number];

/** What the guest's kernel does wrong on purpose: BREAK_ bits. */
export const BREAK_PASID_CACHE_FLUSH = 1;
export const BREAK_UNMAP_INVALIDATION = 2;
export const BREAK_PASID_ENTRY_RESERVED = 4;

/** What the guest powers off with: EXIT_ values. */
export const GUEST_EXIT_OK = 0;
export const GUEST_EXIT_FAILED = 1;
export const GUEST_EXIT_PANIC = 2;

/** Deliberate bad requests of each process: BAD_REQUESTS. */
export const GUEST_BAD_REQUESTS = 6;

export type BootInfo = {
  /** Bytes of RAM from 0. */
  ramBytes: number;
  /** 1..16. */
  processes: number;
  /** Whole pages. */
  bytesPerProcess: number;
  seed: number;
  /** `both` by default. */
  submit?: SubmitMode;
  /** BREAK_ bits; none by default. */
  breakage?: number;
  /** Counts of the local APIC timer in a second, before division; a count is a nanosecond by default. */
  timerHz?: number;
};

/** RAM that a guest needs, in bytes. */
export function guestMemoryBytes(processes: number): number {
  return (16 + 4 * processes) * 2 ** 20;
}

export function encodeBootInfo(info: BootInfo): Uint8Array {
  const bytes = new Uint8Array(BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, VERSION, true);
  view.setBigUint64(8, BigInt(info.ramBytes), true);
  view.setUint32(16, info.processes, true);
  view.setUint32(20, SUBMIT_MODES.indexOf(info.submit ?? 'both'), true);
  view.setBigUint64(24, BigInt(info.bytesPerProcess), true);
  view.setBigUint64(32, BigInt(info.seed), true);
  view.setUint32(40, info.breakage ?? 0, true);
  view.setUint32(44, info.timerHz ?? 1_000_000_000, true);
  return bytes;
}
