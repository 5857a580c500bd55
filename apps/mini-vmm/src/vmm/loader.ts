/**
 * Puts an ELF64 executable into guest memory and says how its CPU starts: 64-bit mode on an identity map of the low
 * memory, with the boot information below 1 MiB (guest/include/bootinfo.h).
 */

const ELF_MAGIC = 0x464c457f;
const CLASS_64 = 2;
const LITTLE_ENDIAN = 1;
const TYPE_EXECUTABLE = 2;
const MACHINE_X86_64 = 62;
const SEGMENT_LOAD = 1;

/** Where the loader's own structures go, below anything an image may use. */
const BOOT_INFO = 0x1000;
const PML4 = 0x2000;
const PDPT = 0x3000;
const PAGE_DIRECTORY = 0x4000;
const STACK_TOP = 0x8000;
const FIRST_IMAGE_BYTE = 0x10_0000;

/** Present, writable; with PS for the 2 MiB leaves. */
const TABLE_ENTRY = 3n;
const LARGE_LEAF = 0x83n;
const LARGE_PAGE = 2 << 20;

export type StartState = { readonly rip: bigint; readonly cr3: bigint; readonly rsp: bigint; readonly rdi: bigint };

/**
 * Loads `image` and `bootInfo`. `memoryBytes` is the size of guest memory, at least 2 MiB.
 * @throws {RangeError} the image is no executable for this machine, or does not fit
 */
export function loadGuest(
  image: Uint8Array,
  bootInfo: Uint8Array,
  memoryBytes: number,
  write: (gpa: number, from: Uint8Array) => void,
): StartState {
  const entry = loadElf(image, memoryBytes, write);
  write(BOOT_INFO, bootInfo);
  write(PML4, quadwords([BigInt(PDPT) | TABLE_ENTRY]));
  write(PDPT, quadwords([BigInt(PAGE_DIRECTORY) | TABLE_ENTRY]));
  const leaves = Math.min(512, Math.floor(memoryBytes / LARGE_PAGE));
  write(PAGE_DIRECTORY, quadwords(Array.from({ length: leaves }, (_, i) => BigInt(i * LARGE_PAGE) | LARGE_LEAF)));
  return { rip: entry, cr3: BigInt(PML4), rsp: BigInt(STACK_TOP), rdi: BigInt(BOOT_INFO) };
}

function loadElf(image: Uint8Array, memoryBytes: number, write: (gpa: number, from: Uint8Array) => void): bigint {
  const view = new DataView(image.buffer, image.byteOffset, image.length);
  if (
    image.length < 64 ||
    view.getUint32(0, true) !== ELF_MAGIC ||
    image[4] !== CLASS_64 ||
    image[5] !== LITTLE_ENDIAN ||
    view.getUint16(16, true) !== TYPE_EXECUTABLE ||
    view.getUint16(18, true) !== MACHINE_X86_64
  ) {
    throw new RangeError('guest image is not an x86-64 ELF executable');
  }
  const headers = Number(view.getBigUint64(32, true));
  const headerSize = view.getUint16(54, true);
  const count = view.getUint16(56, true);
  if (headerSize < 56 || headers + count * headerSize > image.length) throw new RangeError('guest image is cut off');
  for (let at = headers; at < headers + count * headerSize; at += headerSize) {
    if (view.getUint32(at, true) !== SEGMENT_LOAD) continue;
    const offset = Number(view.getBigUint64(at + 8, true));
    const address = Number(view.getBigUint64(at + 24, true));
    const fileSize = Number(view.getBigUint64(at + 32, true));
    const memorySize = Number(view.getBigUint64(at + 40, true));
    if (address < FIRST_IMAGE_BYTE || address + memorySize > memoryBytes || memorySize < fileSize) {
      throw new RangeError(`guest image wants ${memorySize} bytes at 0x${address.toString(16)}`);
    }
    if (offset + fileSize > image.length) throw new RangeError('guest image is cut off');
    write(address, image.subarray(offset, offset + fileSize));
    if (memorySize > fileSize) write(address + fileSize, new Uint8Array(memorySize - fileSize));
  }
  return view.getBigUint64(24, true);
}

function quadwords(values: readonly bigint[]): Uint8Array {
  return new Uint8Array(BigUint64Array.from(values).buffer);
}
