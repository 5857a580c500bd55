/** Guest images made by hand, for guests that mean harm: an ELF executable around a few bytes of machine code. */

const LOAD_ADDRESS = 0x10_0000;
const HEADERS = 64 + 56;

/** Where the actions' image has its own page tables and its table of actions. */
export const PML4: number = LOAD_ADDRESS + 0x1000;
const ACTIONS = LOAD_ADDRESS + 0x9000;
const ACTION_BYTES = 32;
/** What the image's page tables map, each at its own address. */
const GIBIBYTES = [0, 1, 2, 3, 512];

/** One instruction of the guest's. `address` is physical, below 4 GiB or in the GiB from 512 GiB on, or a port. */
export type Action = {
  readonly what: keyof typeof HANDLERS;
  readonly address: number;
  /** What is written; for `spin` how often to turn; for the 64-byte writes where the bytes are; for `pasid` IA32_PASID. */
  readonly value: bigint;
};

/** Code that does one action with RBX = address, RCX = value, and goes on with the next. */
const HANDLERS = {
  write8: [0x88, 0x0b],
  write16: [0x66, 0x89, 0x0b],
  write32: [0x89, 0x0b],
  write64: [0x48, 0x89, 0x0b],
  read8: [0x8a, 0x03],
  read16: [0x66, 0x8b, 0x03],
  read32: [0x8b, 0x03],
  read64: [0x48, 0x8b, 0x03],
  /** mov edx, ebx; mov eax, ecx; out dx, al or eax */
  out8: [0x89, 0xda, 0x89, 0xc8, 0xee],
  out32: [0x89, 0xda, 0x89, 0xc8, 0xef],
  /** mov edx, ebx; in eax, dx */
  in32: [0x89, 0xda, 0xed],
  /** movdir64b rbx, [rcx] */
  movdir64b: [0x66, 0x0f, 0x38, 0xf8, 0x19],
  /** enqcmd rbx, [rcx]; setz al; add al, '0'; mov dx, 0x3f8; out dx, al: the console gets the zero flag. */
  enqcmd: [0xf2, 0x0f, 0x38, 0xf8, 0x19, 0x0f, 0x94, 0xc0, 0x04, 0x30, 0x66, 0xba, 0xf8, 0x03, 0xee],
  /** mov eax, ecx; or eax, 0x80000000; xor edx, edx; mov ecx, 0xd93; wrmsr: IA32_PASID */
  pasid: [0x89, 0xc8, 0x0d, 0, 0, 0, 0x80, 0x31, 0xd2, 0xb9, 0x93, 0x0d, 0, 0, 0x0f, 0x30],
  /** dec ecx; jnz: time passes */
  spin: [0xff, 0xc9, 0x75, 0xfc],
} as const;

export const ACTION_KINDS: readonly Action['what'][] = Object.keys(HANDLERS) as Action['what'][];

/** An executable whose one segment is `segment` and whose entry is its first byte. */
export function executable(segment: Uint8Array): Uint8Array {
  const image = new Uint8Array(HEADERS + segment.length);
  const view = new DataView(image.buffer);
  view.setUint32(0, 0x464c457f, true);
  image[4] = 2;
  image[5] = 1;
  view.setUint16(16, 2, true);
  view.setUint16(18, 62, true);
  view.setBigUint64(24, BigInt(LOAD_ADDRESS), true);
  view.setBigUint64(32, 64n, true);
  view.setUint16(54, 56, true);
  view.setUint16(56, 1, true);
  view.setUint32(64, 1, true);
  view.setBigUint64(72, BigInt(HEADERS), true);
  view.setBigUint64(88, BigInt(LOAD_ADDRESS), true);
  view.setBigUint64(96, BigInt(segment.length), true);
  view.setBigUint64(104, BigInt(segment.length), true);
  image.set(segment, HEADERS);
  return image;
}

/** An executable that does `actions` in order and then powers off with status 0. */
export function actionImage(actions: readonly Action[]): Uint8Array {
  const segment = new Uint8Array(ACTIONS - LOAD_ADDRESS + (actions.length + 2) * ACTION_BYTES);
  const view = new DataView(segment.buffer);
  // mov eax, PML4; mov cr3, rax; mov esi, ACTIONS - ACTION_BYTES
  const code: number[] = [0xb8, ...word(PML4), 0x0f, 0x22, 0xd8, 0xbe, ...word(ACTIONS - ACTION_BYTES)];
  const next = code.length;
  // add rsi, 32; mov rbx, [rsi]; mov rcx, [rsi + 8]; mov rdx, [rsi + 16]; jmp rdx
  code.push(0x48, 0x83, 0xc6, ACTION_BYTES, 0x48, 0x8b, 0x1e, 0x48, 0x8b, 0x4e, 8, 0x48, 0x8b, 0x56, 16, 0xff, 0xe2);
  const handlers = new Map<Action['what'], number>();
  for (const what of ACTION_KINDS) {
    handlers.set(what, LOAD_ADDRESS + code.length);
    code.push(...HANDLERS[what], 0xe9, ...word(next - (code.length + HANDLERS[what].length + 5)));
  }
  segment.set(code);
  const table = (index: number): number => PML4 + 0x1000 * index;
  const entry = (index: number, slot: number, content: bigint): void => {
    view.setBigUint64(table(index) - LOAD_ADDRESS + 8 * slot, content, true);
  };
  // Tables 0: the root; 1 and 2: one for each 512 GiB; 3 to 7: 2 MiB pages of one GiB each.
  for (let half = 0; half < 2; half++) entry(0, half, BigInt(table(1 + half)) | 7n);
  GIBIBYTES.forEach((gibibyte, index) => {
    entry(1 + (gibibyte >> 9), gibibyte & 511, BigInt(table(3 + index)) | 7n);
    for (let slot = 0; slot < 512; slot++) entry(3 + index, slot, (BigInt(gibibyte * 512 + slot) << 21n) | 0x87n);
  });
  [...actions, { what: 'out32', address: 0xf4, value: 0n } as const].forEach(({ what, address, value }, index) => {
    const at = ACTIONS - LOAD_ADDRESS + index * ACTION_BYTES;
    view.setBigUint64(at, BigInt(address), true);
    view.setBigUint64(at + 8, BigInt.asUintN(64, value), true);
    view.setBigUint64(at + 16, BigInt(handlers.get(what)!), true);
  });
  return executable(segment);
}

function word(value: number): number[] {
  return [value & 255, (value >> 8) & 255, (value >> 16) & 255, (value >> 24) & 255];
}
