/**
 * Random sequences of unprivileged integer instructions: every form, size and prefix of the table below, with operands
 * in registers and in the data window. Flags that an instruction leaves undefined are cleared behind it.
 */

import type { Random } from '../support/random.ts';
import { DATA, DATA_BYTES, STACK, WINDOW } from './native-runner.ts';

const CF = 1;
const PF = 4;
const AF = 0x10;
const ZF = 0x40;
const SF = 0x80;
const OF = 0x800;
const RSP = 4;

/** First byte of the window. */
const WINDOW_START = DATA + (DATA_BYTES - WINDOW) / 2;
/** Operands stay this far inside the window. */
const MARGIN = 128;

type Form = {
  name: string;
  /** Host feature without which the form is skipped. */
  feature?: string;
  weight?: number;
  /** Appends the instruction; gives the flags that it leaves undefined. */
  emit: (writer: CodeWriter) => number;
};

/** A register or memory operand, ready to be encoded. */
type Operand = { register: number } | { base: number; index: number; scale: number; displacement: number };

export class CodeWriter {
  readonly bytes: number[] = [];
  readonly names: string[] = [];
  readonly random: Random;

  constructor(random: Random) {
    this.random = random;
  }

  /** A general register that may be overwritten. */
  register(): number {
    const number = this.random.below(15);
    return number >= RSP ? number + 1 : number;
  }

  size(): number {
    return this.random.pick([1, 2, 4, 8]);
  }

  fullSize(): number {
    return this.random.pick([2, 4, 8]);
  }

  put(...bytes: number[]): void {
    for (const byte of bytes) this.bytes.push(byte & 0xff);
  }

  /** Little-endian immediate of `size` bytes (8 becomes 4), with values near the edges. */
  immediate(size: number): number[] {
    const bytes = Math.min(size, 4);
    const value = this.random.chance(40)
      ? this.random.pick([0, 1, -1, 0x7f, 0x80, -128, 0x7fff, -32768, 0x7fffffff, -0x80000000])
      : this.random.bits();
    return Array.from({ length: bytes }, (_, i) => (value >> (8 * i)) & 0xff);
  }

  /** MOV register, value. */
  set(register: number, value: bigint): void {
    this.put(0x48 | (register >> 3), 0xb8 | (register & 7));
    for (let i = 0n; i < 64n; i += 8n) this.put(Number((value >> i) & 0xffn));
  }

  randomValue(): bigint {
    const random = this.random;
    if (random.chance(30)) {
      return BigInt.asUintN(
        64,
        random.pick([0n, 1n, -1n, 0x7fn, 0x80n, 0xffn, 0x7fffn, 0x8000n, 0x7fffffffn, 0x80000000n, -(1n << 63n)]),
      );
    }
    return (BigInt(random.bits() >>> 0) << 32n) | BigInt(random.bits() >>> 0);
  }

  /** A memory operand in the window whose base and index registers are loaded here. Any alignment, often split. */
  memory(): Operand {
    const random = this.random;
    const target = WINDOW_START + MARGIN + random.below(WINDOW - 2 * MARGIN);
    // Nothing is mapped behind the data, and an access across its end does nothing at all.
    if (random.chance(1)) return this.memoryAt(DATA + DATA_BYTES - random.below(9));
    // The page boundary is in the middle.
    return this.memoryAt(random.chance(20) ? DATA + DATA_BYTES / 2 - random.below(9) : target);
  }

  memoryAt(target: number): Operand {
    const random = this.random;
    if (random.chance(15)) return { base: -1, index: -1, scale: 0, displacement: target };
    const base = this.register();
    const displacement = random.pick([0, 0, random.below(256) - 128, random.bits() >> 8]);
    if (random.chance(50)) {
      this.set(base, BigInt(target - displacement));
      return { base, index: -1, scale: 0, displacement };
    }
    let index = this.register();
    while (index === base) index = this.register();
    const scale = random.below(4);
    const steps = random.below(2001) - 1000;
    this.set(index, BigInt.asUintN(64, BigInt(steps)));
    this.set(base, BigInt.asUintN(64, BigInt(target - displacement - steps * (1 << scale))));
    return { base, index, scale, displacement };
  }

  /** Register or memory, evenly. */
  operand(): Operand {
    return this.random.chance(50) ? { register: this.register() } : this.memory();
  }

  /** An instruction with ModRM. `prefix` 0 for none; `map` the bytes before the opcode. */
  modRm(
    size: number,
    map: number[],
    opcode: number,
    reg: number,
    operand: Operand,
    tail: number[] = [],
    prefix = 0,
    byteRegisters = size === 1,
  ): void {
    const random = this.random;
    // Segment overrides without effect, and a lock where nothing forbids it is for the forms themselves.
    if (random.chance(3)) this.put(random.pick([0x26, 0x2e, 0x36, 0x3e]));
    if (size === 2) this.put(0x66);
    if (prefix !== 0) this.put(prefix);
    const isRegister = 'register' in operand;
    let rex = size === 8 ? 0x48 : 0;
    if (reg >= 8) rex |= 0x44;
    if (isRegister) {
      if (operand.register >= 8) rex |= 0x41;
    } else {
      if (operand.base >= 8) rex |= 0x41;
      if (operand.index >= 8) rex |= 0x42;
    }
    // Without REX, byte registers 4..7 are the high halves: both kinds, but never the parts of RSP.
    if (rex === 0 && byteRegisters && random.chance(50)) rex = 0x40;
    if (rex !== 0) this.put(rex);
    this.put(...map, opcode);
    if (isRegister) this.put(0xc0 | ((reg & 7) << 3) | (operand.register & 7));
    else this.putMemory(reg, operand);
    this.put(...tail);
  }

  /** ModRM, SIB and displacement of a memory operand. */
  putMemory(reg: number, operand: Exclude<Operand, { register: number }>): void {
    const { base, index, scale, displacement } = operand;
    const field = (reg & 7) << 3;
    const bytes = (value: number): number[] => [value, value >> 8, value >> 16, value >> 24];
    if (base < 0) {
      this.put(field | 4, 0x25, ...bytes(displacement));
      return;
    }
    const short = displacement >= -128 && displacement < 128;
    const mod = displacement === 0 && (base & 7) !== 5 ? 0 : short ? 0x40 : 0x80;
    if (index < 0 && (base & 7) !== 4) this.put(mod | field | (base & 7));
    else this.put(mod | field | 4, (scale << 6) | ((index < 0 ? 4 : index & 7) << 3) | (base & 7));
    if (mod === 0x40) this.put(displacement);
    else if (mod === 0x80) this.put(...bytes(displacement));
  }

  /** Clears flags: PUSHF; AND qword [rsp], ~mask; POPF. */
  clearFlags(mask: number): void {
    const value = ~mask;
    this.put(0x9c, 0x48, 0x81, 0x24, 0x24, value, value >> 8, value >> 16, value >> 24, 0x9d);
  }

  /** Up to `count` instructions of `forms`, then INT3. */
  write(forms: readonly Form[], count: number): void {
    const total = forms.reduce((sum, form) => sum + (form.weight ?? 1), 0);
    for (let i = 0; i < count; i++) {
      let at = this.random.below(total);
      const form = forms.find((each) => {
        at -= each.weight ?? 1;
        return at < 0;
      }) as Form;
      this.names.push(form.name);
      const undefinedFlags = form.emit(this);
      if (undefinedFlags !== 0) this.clearFlags(undefinedFlags);
    }
    this.put(0xcc);
  }
}

const ALU = ['add', 'or', 'adc', 'sbb', 'and', 'sub', 'xor', 'cmp'];
const aluUndefined = (alu: number): number => (alu === 1 || alu === 4 || alu === 6 ? AF : 0);

function opcodeOf(size: number, byteOpcode: number): number {
  return size === 1 ? byteOpcode : byteOpcode + 1;
}

function aluForms(): Form[] {
  return ALU.flatMap((name, alu) => [
    {
      name: `${name} r/m, r`,
      emit: (w: CodeWriter) => {
        const size = w.size();
        const operand = w.operand();
        const lock = !('register' in operand) && alu !== 7 && w.random.chance(20) ? 0xf0 : 0;
        w.modRm(size, [], opcodeOf(size, alu << 3), w.register(), operand, [], lock);
        return aluUndefined(alu);
      },
    },
    {
      name: `${name} r, r/m`,
      emit: (w: CodeWriter) => {
        const size = w.size();
        w.modRm(size, [], opcodeOf(size, (alu << 3) + 2), w.register(), w.operand());
        return aluUndefined(alu);
      },
    },
    {
      name: `${name} r/m, imm`,
      emit: (w: CodeWriter) => {
        const size = w.size();
        const operand = w.operand();
        if (size > 1 && w.random.chance(50)) w.modRm(size, [], 0x83, alu, operand, w.immediate(1));
        else w.modRm(size, [], opcodeOf(size, 0x80), alu, operand, w.immediate(size));
        return aluUndefined(alu);
      },
    },
    {
      name: `${name} acc, imm`,
      emit: (w: CodeWriter) => {
        const size = w.size();
        if (size === 2) w.put(0x66);
        if (size === 8) w.put(0x48);
        w.put(opcodeOf(size, (alu << 3) + 4), ...w.immediate(size));
        return aluUndefined(alu);
      },
    },
  ]);
}

const SHIFTS = ['rol', 'ror', 'rcl', 'rcr', 'shl', 'shr', 'sal', 'sar'];

function shiftUndefined(kind: number, size: number, count: number): number {
  const masked = count & (size === 8 ? 63 : 31);
  let flags = masked === 1 || masked === 0 ? 0 : OF;
  if (kind >= 4 && masked !== 0) flags |= AF;
  // The carry of a shift by more than the operand has bits; by exactly as many it is defined for none but SAR.
  if (kind >= 4 && kind !== 7 && masked >= size * 8) flags |= CF;
  return flags;
}

function shiftForms(): Form[] {
  return SHIFTS.flatMap((name, kind) => [
    {
      name: `${name} r/m, imm8`,
      emit: (w: CodeWriter) => {
        const size = w.size();
        const count = w.random.below(256);
        w.modRm(size, [], opcodeOf(size, 0xc0), kind, w.operand(), [count]);
        return shiftUndefined(kind, size, count);
      },
    },
    {
      name: `${name} r/m, 1`,
      emit: (w: CodeWriter) => {
        const size = w.size();
        w.modRm(size, [], opcodeOf(size, 0xd0), kind, w.operand());
        return shiftUndefined(kind, size, 1);
      },
    },
    {
      name: `${name} r/m, cl`,
      emit: (w: CodeWriter) => {
        const size = w.size();
        const operand = w.operand();
        // MOV CL may change the base of the operand: memory goes by absolute address then.
        const usesRcx = 'base' in operand && (operand.base === 1 || operand.index === 1);
        const count = w.random.below(256);
        w.put(0xb1, count);
        w.modRm(size, [], opcodeOf(size, 0xd2), kind, usesRcx ? { register: w.register() } : operand);
        return shiftUndefined(kind, size, count);
      },
    },
  ]);
}

function doubleShift(name: string, opcode: number): Form {
  return {
    name,
    emit: (w) => {
      const size = w.fullSize();
      const count = size === 2 ? w.random.below(17) : w.random.below(64);
      const masked = count & (size === 8 ? 63 : 31);
      const operand = w.operand();
      const usesRcx = 'base' in operand && (operand.base === 1 || operand.index === 1);
      if (w.random.chance(50) || usesRcx) w.modRm(size, [0x0f], opcode, w.register(), operand, [count]);
      else {
        w.put(0xb1, count);
        w.modRm(size, [0x0f], opcode + 1, w.register(), operand);
      }
      return masked === 0 ? 0 : masked === 1 ? AF : AF | OF;
    },
  };
}

function unary(name: string, byteOpcode: number, extension: number, lockable: boolean): Form {
  return {
    name,
    emit: (w) => {
      const size = w.size();
      const operand = w.operand();
      const lock = lockable && !('register' in operand) && w.random.chance(20) ? 0xf0 : 0;
      w.modRm(size, [], opcodeOf(size, byteOpcode), extension, operand, [], lock);
      return 0;
    },
  };
}

/** MUL, IMUL, DIV, IDIV. Division gets a dividend that mostly fits. */
function accumulatorForm(name: string, extension: number): Form {
  return {
    name,
    weight: 2,
    emit: (w) => {
      const size = w.size();
      const divides = extension >= 6;
      let operand = w.operand();
      if (divides) {
        if ('register' in operand && (operand.register === 0 || operand.register === 2)) operand = { register: 9 };
        if ('base' in operand) operand = w.memoryAt(WINDOW_START + MARGIN);
        const uses = (each: Operand, register: number): boolean =>
          'base' in each && (each.base === register || each.index === register);
        const usesPair = uses(operand, 0) || uses(operand, 2);
        if (usesPair) operand = { register: 10 };
        if (w.random.chance(90)) w.set(2, w.random.pick([0n, 1n, BigInt(w.random.below(100))]));
        if (w.random.chance(30)) w.set(0, w.randomValue());
        if (size === 1 && w.random.chance(80))
          w.put(0x66, 0x98); // CBW
        else if (extension === 7 && w.random.chance(50)) {
          if (size === 2) w.put(0x66);
          if (size === 8) w.put(0x48);
          w.put(0x99);
        }
        if ('register' in operand && size === 1) operand = { register: 9 };
        if ('register' in operand && w.random.chance(80)) w.set(operand.register, w.randomValue() | 1n);
      }
      w.modRm(size, [], opcodeOf(size, 0xf6), extension, operand);
      return divides ? CF | PF | AF | ZF | SF | OF : PF | AF | ZF | SF;
    },
  };
}

const BIT_TESTS: readonly (readonly [string, number])[] = [
  ['bt', 4],
  ['bts', 5],
  ['btr', 6],
  ['btc', 7],
];

function bitForms(): Form[] {
  return BIT_TESTS.flatMap(([name, extension]) => [
    {
      name: `${name} r/m, imm8`,
      emit: (w: CodeWriter) => {
        w.modRm(w.fullSize(), [0x0f], 0xba, extension, w.operand(), [w.random.below(256)]);
        return OF | SF | AF | PF;
      },
    },
    {
      name: `${name} r/m, r`,
      emit: (w: CodeWriter) => {
        const size = w.fullSize();
        const opcode = 0x83 | (extension << 3);
        const offset = w.register();
        let operand = w.operand();
        if ('base' in operand) {
          // The offset reaches around the operand: keep it near.
          if (operand.base === offset || operand.index === offset) {
            operand = { base: -1, index: -1, scale: 0, displacement: WINDOW_START + WINDOW / 2 };
          }
          w.set(offset, BigInt.asUintN(64, BigInt(w.random.below(800) - 400)));
        }
        w.modRm(size, [0x0f], opcode, offset, operand);
        return OF | SF | AF | PF;
      },
    },
  ]);
}

function counting(name: string, opcode: number, prefix: number, undefinedFlags: number, feature?: string): Form {
  return {
    name,
    ...(feature === undefined ? {} : { feature }),
    weight: 2,
    emit: (w) => {
      w.modRm(w.fullSize(), [0x0f], opcode, w.register(), w.operand(), [], prefix);
      return undefinedFlags;
    },
  };
}

/** VEX.LZ.0F38: `third` is the operand of the vvvv field. */
function vex(w: CodeWriter, opcode: number, reg: number, third: number, operand: Operand, wide: boolean): void {
  const isRegister = 'register' in operand;
  const b = isRegister ? operand.register >> 3 : operand.base >= 8 ? 1 : 0;
  const x = isRegister ? 0 : operand.index >= 8 ? 1 : 0;
  w.put(0xc4, ((~reg & 8) << 4) | ((x ^ 1) << 6) | ((b ^ 1) << 5) | 2, (wide ? 0x80 : 0) | ((~third & 15) << 3));
  // The bytes behind VEX are those of an instruction without REX.
  const plain: Operand = isRegister
    ? { register: operand.register & 7 }
    : {
        base: operand.base < 0 ? -1 : operand.base & 7,
        index: operand.index < 0 ? -1 : operand.index & 7,
        scale: operand.scale,
        displacement: operand.displacement,
      };
  w.put(opcode);
  if ('register' in plain) w.put(0xc0 | ((reg & 7) << 3) | plain.register);
  else w.putMemory(reg & 7, plain);
}

function string(name: string, opcode: number, compares: boolean): Form {
  return {
    name,
    weight: 2,
    emit: (w) => {
      const random = w.random;
      const size = w.size();
      const backwards = random.chance(25);
      const bulk = random.chance(30);
      const count = bulk ? random.below(40) : random.below(8);
      const span = count * size;
      const middle = DATA + DATA_BYTES / 2;
      const near = (): number => middle - span - 16 + random.below(2 * span + 32);
      w.set(6, BigInt(near()));
      w.set(7, BigInt(near()));
      const repeat = random.chance(70);
      if (repeat) w.set(1, BigInt(count));
      if (backwards) w.put(0xfd);
      if (random.chance(10)) w.put(0x67);
      if (repeat) w.put(compares ? random.pick([0xf2, 0xf3]) : 0xf3);
      if (size === 2) w.put(0x66);
      if (size === 8) w.put(0x48);
      w.put(opcodeOf(size, opcode));
      if (backwards) w.put(0xfc);
      return 0;
    },
  };
}

const simple = (name: string, ...bytes: number[]): Form => ({
  name,
  emit: (w) => {
    w.put(...bytes);
    return 0;
  },
});

export const FORMS: readonly Form[] = [
  ...aluForms(),
  ...shiftForms(),
  doubleShift('shld', 0xa4),
  doubleShift('shrd', 0xac),
  ...bitForms(),
  {
    name: 'test r/m, r',
    weight: 2,
    emit: (w) => {
      const size = w.size();
      w.modRm(size, [], opcodeOf(size, 0x84), w.register(), w.operand());
      return AF;
    },
  },
  {
    name: 'test r/m, imm',
    weight: 2,
    emit: (w) => {
      const size = w.size();
      w.modRm(size, [], opcodeOf(size, 0xf6), 0, w.operand(), w.immediate(size));
      return AF;
    },
  },
  {
    name: 'mov r/m, r',
    weight: 3,
    emit: (w) => {
      const size = w.size();
      w.modRm(size, [], opcodeOf(size, 0x88), w.register(), w.operand());
      return 0;
    },
  },
  {
    name: 'mov r, r/m',
    weight: 3,
    emit: (w) => {
      const size = w.size();
      w.modRm(size, [], opcodeOf(size, 0x8a), w.register(), w.operand());
      return 0;
    },
  },
  {
    name: 'mov r/m, imm',
    weight: 2,
    emit: (w) => {
      const size = w.size();
      w.modRm(size, [], opcodeOf(size, 0xc6), 0, w.operand(), w.immediate(size));
      return 0;
    },
  },
  {
    name: 'mov r, imm',
    emit: (w) => {
      const size = w.random.pick([1, 2, 4]);
      const register = w.register();
      if (size === 2) w.put(0x66);
      if (register >= 8) w.put(0x41);
      else if (size === 1) w.put(0x40);
      w.put((size === 1 ? 0xb0 : 0xb8) | (register & 7), ...w.immediate(size));
      return 0;
    },
  },
  {
    name: 'mov moffs',
    emit: (w) => {
      const size = w.size();
      if (size === 2) w.put(0x66);
      if (size === 8) w.put(0x48);
      w.put(opcodeOf(size, w.random.pick([0xa0, 0xa2])));
      const target = WINDOW_START + MARGIN + w.random.below(WINDOW - 2 * MARGIN);
      w.put(target, target >> 8, target >> 16, target >> 24, 0, 0, 0, 0);
      return 0;
    },
  },
  {
    name: 'lea',
    weight: 3,
    emit: (w) => {
      const operand = w.memory();
      if (w.random.chance(30)) w.put(0x67);
      w.modRm(w.fullSize(), [], 0x8d, w.register(), operand);
      return 0;
    },
  },
  {
    name: '32-bit address',
    weight: 2,
    emit: (w) => {
      const operand = w.memory();
      w.put(0x67);
      w.modRm(w.fullSize(), [], w.random.pick([0x8b, 0x89, 0x01, 0x03]), w.register(), operand);
      return 0;
    },
  },
  {
    name: 'movzx, movsx',
    weight: 4,
    emit: (w) => {
      const opcode = w.random.pick([0xb6, 0xb7, 0xbe, 0xbf]);
      const source = opcode & 1 ? 2 : 1;
      w.modRm(w.fullSize(), [0x0f], opcode, w.register(), w.operand(), [], 0, source === 1);
      return 0;
    },
  },
  {
    name: 'movsxd',
    weight: 2,
    emit: (w) => {
      w.modRm(w.random.pick([4, 8]), [], 0x63, w.register(), w.operand());
      return 0;
    },
  },
  {
    name: 'cmov',
    weight: 4,
    emit: (w) => {
      w.modRm(w.fullSize(), [0x0f], 0x40 | w.random.below(16), w.register(), w.operand());
      return 0;
    },
  },
  {
    name: 'setcc',
    weight: 4,
    emit: (w) => {
      w.modRm(1, [0x0f], 0x90 | w.random.below(16), 0, w.operand());
      return 0;
    },
  },
  {
    name: 'jcc',
    weight: 6,
    emit: (w) => {
      const condition = w.random.below(16);
      const register = w.register();
      const skipped = [0x48 | (register >> 3), 0xff, 0xc0 | (register & 7)];
      if (w.random.chance(50)) w.put(0x70 | condition, skipped.length);
      else w.put(0x0f, 0x80 | condition, skipped.length, 0, 0, 0);
      w.put(...skipped);
      return 0;
    },
  },
  {
    name: 'jmp, call, ret',
    weight: 2,
    emit: (w) => {
      // call +2; jmp +1; ret
      w.put(0xe8, 2, 0, 0, 0, 0xeb, 1, 0xc3);
      return 0;
    },
  },
  {
    name: 'ret imm16',
    emit: (w) => {
      w.put(0x6a, 0x11, 0xe8, 2, 0, 0, 0, 0xeb, 3, 0xc2, 8, 0);
      return 0;
    },
  },
  {
    name: 'loop, jrcxz',
    weight: 2,
    emit: (w) => {
      const opcode = w.random.pick([0xe0, 0xe1, 0xe2, 0xe3]);
      w.set(1, BigInt(w.random.below(3)));
      if (w.random.chance(20)) w.put(0x67);
      w.put(opcode, 3, 0x48, 0xff, 0xc0);
      return 0;
    },
  },
  {
    name: 'xchg r/m, r',
    weight: 2,
    emit: (w) => {
      const size = w.size();
      w.modRm(size, [], opcodeOf(size, 0x86), w.register(), w.operand());
      return 0;
    },
  },
  {
    name: 'xchg acc, r',
    emit: (w) => {
      const register = w.register();
      const size = w.fullSize();
      if (size === 2) w.put(0x66);
      const rex = (size === 8 ? 0x48 : 0) | (register >= 8 ? 0x41 : 0);
      if (rex !== 0) w.put(rex);
      w.put(0x90 | (register & 7));
      return 0;
    },
  },
  {
    name: 'xadd',
    weight: 2,
    emit: (w) => {
      const size = w.size();
      const operand = w.operand();
      const lock = !('register' in operand) && w.random.chance(50) ? 0xf0 : 0;
      w.modRm(size, [0x0f], opcodeOf(size, 0xc0), w.register(), operand, [], lock);
      return 0;
    },
  },
  {
    name: 'cmpxchg',
    weight: 3,
    emit: (w) => {
      const size = w.size();
      const operand = w.operand();
      const lock = !('register' in operand) && w.random.chance(50) ? 0xf0 : 0;
      const usesRax = 'base' in operand && (operand.base === 0 || operand.index === 0);
      // Load the operand first in half of the cases, so that the comparison succeeds.
      if (w.random.chance(50) && !usesRax) w.modRm(size, [], opcodeOf(size, 0x8a), 0, operand);
      w.modRm(size, [0x0f], opcodeOf(size, 0xb0), w.register(), operand, [], lock);
      return 0;
    },
  },
  {
    name: 'cmpxchg8b, cmpxchg16b',
    weight: 2,
    emit: (w) => {
      const wide = w.random.chance(50);
      const target = WINDOW_START + 16 * (8 + w.random.below(16));
      const operand: Operand = { base: -1, index: -1, scale: 0, displacement: target };
      if (w.random.chance(50)) {
        w.modRm(wide ? 8 : 4, [], 0x8b, 0, operand);
        w.modRm(wide ? 8 : 4, [], 0x8b, 2, { ...operand, displacement: target + (wide ? 8 : 4) });
      }
      w.modRm(wide ? 8 : 4, [0x0f], 0xc7, 1, operand, [], w.random.pick([0, 0xf0]));
      return 0;
    },
  },
  unary('inc', 0xfe, 0, true),
  unary('dec', 0xfe, 1, true),
  unary('not', 0xf6, 2, true),
  unary('neg', 0xf6, 3, true),
  accumulatorForm('mul', 4),
  accumulatorForm('imul', 5),
  accumulatorForm('div', 6),
  accumulatorForm('idiv', 7),
  {
    name: 'imul r, r/m',
    weight: 2,
    emit: (w) => {
      w.modRm(w.fullSize(), [0x0f], 0xaf, w.register(), w.operand());
      return PF | AF | ZF | SF;
    },
  },
  {
    name: 'imul r, r/m, imm',
    weight: 2,
    emit: (w) => {
      const size = w.fullSize();
      const operand = w.operand();
      if (w.random.chance(50)) w.modRm(size, [], 0x6b, w.register(), operand, w.immediate(1));
      else w.modRm(size, [], 0x69, w.register(), operand, w.immediate(size));
      return PF | AF | ZF | SF;
    },
  },
  counting('bsf', 0xbc, 0, CF | OF | SF | AF | PF),
  counting('bsr', 0xbd, 0, CF | OF | SF | AF | PF),
  counting('tzcnt', 0xbc, 0xf3, OF | SF | AF | PF, 'bmi1'),
  counting('lzcnt', 0xbd, 0xf3, OF | SF | AF | PF, 'abm'),
  counting('popcnt', 0xb8, 0xf3, 0, 'popcnt'),
  {
    name: 'bswap',
    emit: (w) => {
      const register = w.register();
      const rex = (w.random.chance(50) ? 0x48 : 0) | (register >= 8 ? 0x41 : 0);
      if (rex !== 0) w.put(rex);
      w.put(0x0f, 0xc8 | (register & 7));
      return 0;
    },
  },
  {
    name: 'movbe',
    feature: 'movbe',
    emit: (w) => {
      w.modRm(w.fullSize(), [0x0f, 0x38], w.random.pick([0xf0, 0xf1]), w.register(), w.memory());
      return 0;
    },
  },
  {
    name: 'andn',
    feature: 'bmi1',
    emit: (w) => {
      vex(w, 0xf2, w.register(), w.register(), w.operand(), w.random.chance(50));
      return AF | PF;
    },
  },
  {
    name: 'bextr',
    feature: 'bmi1',
    emit: (w) => {
      const control = w.register();
      w.set(control, BigInt(w.random.below(80) | (w.random.below(80) << 8)));
      const operand = w.operand();
      const clash = 'base' in operand && (operand.base === control || operand.index === control);
      vex(w, 0xf7, w.register(), control, clash ? { register: control } : operand, w.random.chance(50));
      return AF | SF | PF;
    },
  },
  {
    name: 'blsr, blsmsk, blsi',
    feature: 'bmi1',
    emit: (w) => {
      vex(w, 0xf3, 1 + w.random.below(3), w.register(), w.operand(), w.random.chance(50));
      return AF | PF;
    },
  },
  {
    name: 'movnti',
    emit: (w) => {
      w.modRm(w.random.pick([4, 8]), [0x0f], 0xc3, w.register(), w.memory());
      return 0;
    },
  },
  {
    name: 'movdiri',
    feature: 'movdiri',
    emit: (w) => {
      w.modRm(w.random.pick([4, 8]), [0x0f, 0x38], 0xf9, w.register(), w.memory());
      return 0;
    },
  },
  {
    name: 'movdir64b',
    feature: 'movdir64b',
    emit: (w) => {
      const operand = w.memory();
      w.set(15, BigInt(WINDOW_START + 64 * w.random.below(8)));
      const clash = 'base' in operand && (operand.base === 15 || operand.index === 15);
      const source: Operand = clash ? { base: -1, index: -1, scale: 0, displacement: WINDOW_START + 200 } : operand;
      w.modRm(4, [0x0f, 0x38], 0xf8, 15, source, [], 0x66);
      return 0;
    },
  },
  {
    name: 'push r, pop r',
    weight: 2,
    emit: (w) => {
      const from = w.register();
      const to = w.register();
      const short = w.random.chance(25);
      for (const [register, opcode] of [
        [from, 0x50],
        [to, 0x58],
      ] as const) {
        if (short) w.put(0x66);
        if (register >= 8) w.put(0x41);
        w.put(opcode | (register & 7));
      }
      return 0;
    },
  },
  {
    name: 'push r/m, pop r/m',
    weight: 2,
    emit: (w) => {
      const from = w.operand();
      w.modRm(4, [], 0xff, 6, from);
      w.modRm(4, [], 0x8f, 0, w.operand());
      return 0;
    },
  },
  {
    name: 'push imm, pop [rsp + disp]',
    emit: (w) => {
      w.put(0x6a, 0x80, 0x68, ...w.immediate(4));
      // pop qword [rsp + 8]: the address is taken after the pop.
      w.put(0x8f, 0x44, 0x24, 8);
      w.put(0x48, 0x83, 0xc4, 8);
      return AF;
    },
  },
  {
    name: 'pushf, popf',
    emit: (w) => {
      // pushf; xor dword [rsp], flags; popf
      const flags = w.random.bits() & 0xcd5 & ~0x400;
      w.put(0x9c, 0x81, 0x34, 0x24, flags, flags >> 8, 0, 0, 0x9d);
      return 0;
    },
  },
  {
    name: 'pushfw, popfw',
    emit: (w) => {
      w.put(0x66, 0x9c, 0x66, 0x81, 0x34, 0x24, w.random.bits() & 0xd5, 0, 0x66, 0x9d);
      return 0;
    },
  },
  {
    name: 'enter, leave',
    weight: 2,
    emit: (w) => {
      // The outer frames of higher levels are read through RBP.
      w.set(5, BigInt(STACK + 3072));
      w.put(0xc8, w.random.below(64), 0, w.random.pick([0, 0, 1, 2, 5]), 0xc9);
      return 0;
    },
  },
  {
    name: 'xlat',
    emit: (w) => {
      w.set(3, BigInt(WINDOW_START + MARGIN));
      w.put(0xd7);
      return 0;
    },
  },
  string('movs', 0xa4, false),
  string('cmps', 0xa6, true),
  string('stos', 0xaa, false),
  string('lods', 0xac, false),
  string('scas', 0xae, true),
  simple('cbw', 0x66, 0x98),
  simple('cwde', 0x98),
  simple('cdqe', 0x48, 0x98),
  simple('cwd', 0x66, 0x99),
  simple('cdq', 0x99),
  simple('cqo', 0x48, 0x99),
  simple('lahf', 0x9f),
  simple('sahf', 0x9e),
  simple('clc', 0xf8),
  simple('stc', 0xf9),
  simple('cmc', 0xf5),
  simple('nop', 0x90),
  simple('pause', 0xf3, 0x90),
  simple('long nop', 0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0),
  simple('endbr64', 0xf3, 0x0f, 0x1e, 0xfa),
  simple('lfence', 0x0f, 0xae, 0xe8),
  simple('mfence', 0x0f, 0xae, 0xf0),
  simple('sfence', 0x0f, 0xae, 0xf8),
  {
    name: 'ud2',
    emit: (w) => {
      if (w.random.chance(5)) w.put(0x0f, 0x0b);
      return 0;
    },
  },
];
