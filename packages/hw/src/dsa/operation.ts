/**
 * The data operations of a DSA, a piece of at most one page of each operand at a time (Intel Data Streaming Accelerator
 * Architecture Specification, order number 341204, revision 1.0). A piece is done or it is not: after a
 * fault the operation goes on where it stopped, or ends there.
 *
 * Data passes through two page-sized buffers in the reserved storage of PhysicalMemory, so that moves from and to RAM
 * are moves within one array.
 */

import type { PhysicalMemory } from '../memory/physical-memory.ts';
import { PAGE_SIZE } from '../memory/physical-memory.ts';
import { reverse32, reverseBytes, updateCrc32c } from './crc32c.ts';
import { isWithin, operationOf } from './descriptor-check.ts';
import { DSA_DESCRIPTOR10_EXPECTED, DSA_FLAG as FLAG, DSA_OPERATION as OPERATION } from './descriptor-format.ts';
import { DMA_DONE, DMA_FAULT, type DsaDma } from './dma.ts';

/** Outcomes of a step besides the DMA_ codes; DMA_DONE means that there is more to do. */
export const STEP_COMPLETE = 16;
export const STEP_READBACK_ERROR = 17;

const PATTERN_SIZE = 8;
/** Word of a descriptor with the low half of an operand's address. */
const SOURCE = 4;
const DESTINATION = 6;
const SECOND = 10;
const SEED = 12;

export class Operation {
  /** Bytes of each operand that have been processed. */
  done = 0;
  /** From the last byte to the first, because the destination lies over the source's upper part. */
  backward = false;
  /** Compare operations: 1 when a difference was found, at byte `done`. */
  result = 0;
  private readonly memory: PhysicalMemory;
  private readonly dma: DsaDma;
  private readonly first: number;
  private readonly second: number;
  private words: Int32Array = new Int32Array(16);
  private operation = 0;
  private size = 0;
  private flags = 0;
  /** The CRC register, reflected. */
  private crc = 0;
  private seedRead = false;
  private lo = 0;
  private hi = 0;

  constructor(memory: PhysicalMemory, dma: DsaDma) {
    this.memory = memory;
    this.dma = dma;
    this.first = memory.reserve(PAGE_SIZE + PATTERN_SIZE);
    this.second = memory.reserve(PAGE_SIZE + PATTERN_SIZE);
  }

  /** Starts over with a checked descriptor of a data operation. */
  begin(words: Int32Array): void {
    this.words = words;
    this.operation = operationOf(words);
    this.flags = words[1]!;
    this.size = words[8]! >>> 0;
    this.done = 0;
    this.result = 0;
    this.backward =
      this.operation === OPERATION.move &&
      (words[SOURCE] !== words[DESTINATION] || words[SOURCE + 1] !== words[DESTINATION + 1]) &&
      isWithin(words, DESTINATION, SOURCE, this.size);
    this.seedRead = (this.flags & FLAG.readCrcSeed) === 0;
    this.seed(words[SECOND]!);
    if (this.operation === OPERATION.fill) this.expandPattern(SOURCE);
    else if (this.operation === OPERATION.comparePattern) this.expandPattern(DESTINATION);
  }

  /** CRC of the bytes done so far, as the completion record shows it. */
  get crcValue(): number {
    return (this.flags & FLAG.crcRaw) === 0 ? ~this.crc : reverse32(this.crc);
  }

  get isCrc(): boolean {
    return this.operation === OPERATION.crc || this.operation === OPERATION.copyCrc;
  }

  /** The result is not the one that the descriptor expects. */
  get falsePredicate(): boolean {
    return (this.flags & FLAG.checkResult) !== 0 && (this.words[SECOND]! & DSA_DESCRIPTOR10_EXPECTED) !== this.result;
  }

  /** Processes up to `budget` bytes. STEP_COMPLETE, STEP_READBACK_ERROR, DMA_DONE for more, or what went wrong. */
  step(budget: number): number {
    if (this.isCrc && !this.seedRead) {
      const outcome = this.readSeed();
      if (outcome !== DMA_DONE) return outcome;
    }
    let rest = Math.min(budget, this.size - this.done);
    while (rest > 0) {
      const count = this.pieceSize(rest);
      const outcome = this.piece(count);
      if (outcome !== DMA_DONE) return outcome;
      this.done += count;
      rest -= count;
    }
    return this.done < this.size ? DMA_DONE : this.readback();
  }

  /** One piece of the operation at hand. `done` moves with success, to the difference when a comparison ends. */
  private piece(count: number): number {
    switch (this.operation) {
      case OPERATION.move:
        return this.read(SOURCE, this.first, count) || this.write(DESTINATION, this.first, count);
      case OPERATION.fill:
        return this.write(DESTINATION, this.first + (this.done & 7), count);
      case OPERATION.dualcast:
        return (
          this.read(SOURCE, this.first, count) ||
          this.write(DESTINATION, this.first, count) ||
          this.write(SECOND, this.first, count)
        );
      case OPERATION.compare:
        return (
          this.read(SOURCE, this.first, count) ||
          this.read(DESTINATION, this.second, count) ||
          this.compare(this.second, count)
        );
      case OPERATION.comparePattern:
        return this.read(SOURCE, this.first, count) || this.compare(this.second + (this.done & 7), count);
      case OPERATION.crc:
        return this.read(SOURCE, this.first, count) || this.addToCrc(count);
      default:
        return (
          this.read(SOURCE, this.first, count) || this.write(DESTINATION, this.first, count) || this.addToCrc(count)
        );
    }
  }

  /** Bytes that lie in one page of each operand, from where the operation stands. */
  private pieceSize(limit: number): number {
    let count = Math.min(limit, PAGE_SIZE);
    const { operation } = this;
    if (operation !== OPERATION.fill) count = Math.min(count, this.inPage(SOURCE));
    if (operation !== OPERATION.comparePattern && operation !== OPERATION.crc) {
      count = Math.min(count, this.inPage(DESTINATION));
    }
    return count;
  }

  /** Bytes from where the operation stands to the end of the operand's page, in the operation's direction. */
  private inPage(operand: number): number {
    const base = this.words[operand]! & 0xfff;
    return this.backward ? ((base + this.size - this.done - 1) & 0xfff) + 1 : PAGE_SIZE - ((base + this.done) & 0xfff);
  }

  private read(operand: number, at: number, count: number): number {
    this.locate(operand, this.backward ? this.size - this.done - count : this.done);
    return this.dma.read(this.lo, this.hi, count, at);
  }

  private write(operand: number, at: number, count: number): number {
    this.locate(operand, this.backward ? this.size - this.done - count : this.done);
    return this.dma.write(this.lo, this.hi, count, at);
  }

  /** Puts the address `offset` bytes into an operand in `lo` and `hi`. */
  private locate(operand: number, offset: number): void {
    const base = this.words[operand]!;
    this.lo = (base + offset) | 0;
    const carry = this.lo >>> 0 < base >>> 0 ? 1 : 0;
    this.hi = (this.words[operand + 1]! + carry) | 0;
  }

  /** Compares the first buffer with what stands at `at`: by words as far as that is aligned and equal. */
  private compare(at: number, count: number): number {
    const { bytes, words } = this.memory;
    const { first } = this;
    let i = 0;
    if ((at & 3) === 0) {
      const last = count >> 2;
      let word = 0;
      while (word < last && words[(first >> 2) + word] === words[(at >> 2) + word]) word++;
      i = word << 2;
    }
    for (; i < count; i++) {
      if (bytes[first + i] !== bytes[at + i]) {
        this.done += i;
        this.result = 1;
        return STEP_COMPLETE;
      }
    }
    return DMA_DONE;
  }

  private addToCrc(count: number): number {
    const { memory, first } = this;
    if ((this.flags & FLAG.crcRawData) !== 0) reverseBytes(memory.bytes, first, count);
    this.crc = updateCrc32c(this.crc, memory.words, memory.bytes, first, count);
    return DMA_DONE;
  }

  private readSeed(): number {
    const outcome = this.dma.read(this.words[SEED]!, this.words[SEED + 1]!, 4, this.first);
    if (outcome === DMA_DONE) {
      this.seed(this.memory.words[this.first >> 2]!);
      this.seedRead = true;
    }
    return outcome;
  }

  private seed(value: number): void {
    this.crc = (this.flags & FLAG.crcRaw) === 0 ? ~value : reverse32(value);
  }

  /** Reads back the last byte of each destination, so that every write before has arrived. */
  private readback(): number {
    if ((this.flags & FLAG.readback) === 0) return STEP_COMPLETE;
    const operands = this.operation === OPERATION.dualcast ? [DESTINATION, SECOND] : [DESTINATION];
    for (const operand of operands) {
      this.locate(operand, this.backward ? 0 : this.size - 1);
      const outcome = this.dma.read(this.lo, this.hi, 1, this.first);
      if (outcome === DMA_FAULT) return outcome;
      if (outcome !== DMA_DONE) return STEP_READBACK_ERROR;
    }
    return STEP_COMPLETE;
  }

  /** Fills the buffer that the operation takes its pattern from; the pattern lies in words `from` and `from` + 1. */
  private expandPattern(from: number): void {
    const at = (from === SOURCE ? this.first : this.second) >> 2;
    for (let word = 0; word < (PAGE_SIZE + PATTERN_SIZE) >> 2; word += 2) {
      this.memory.words[at + word] = this.words[from]!;
      this.memory.words[at + word + 1] = this.words[from + 1]!;
    }
  }
}
