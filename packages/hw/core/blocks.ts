/**
 * The cache of decoded blocks. A block is the straight run of instructions from one address to the first jump, system
 * instruction or page end; it is found by its address and the host bytes behind it, so no flush of translations ever
 * drops it. A write to its frame kills it: all its records turn into STALE, which is safe even while it executes.
 * When the arena is full everything is forgotten at once, between two blocks.
 */

import { decodeBlock, decodeSingle } from './decode.ts';
import { Access, Place, translate } from './paging.ts';
import { Block, Operation, Record } from './record.ts';
import { cpu, State } from './state.ts';

const HASH_ENTRIES: u32 = 8192;
const FRAME_ENTRIES: u32 = 1024;
/** More than the longest block takes. */
const BLOCK_ROOM: u32 = 4096;
/** PhysicalMemory's FRAME_HAS_CODE. */
const HAS_CODE: u8 = 1;

@inline
function hashSlot(rip: u64): usize {
  return cpu + State.BLOCK_HASH + (((<u32>rip ^ <u32>(rip >> 13)) & (HASH_ENTRIES - 1)) << 2);
}

/** The block at `rip` when it is decoded already and its page is in the execute cache; 0 otherwise. */
export function findBlock(rip: u64): usize {
  const entry = load<u32>(cpu, State.TLB) + 8192 + ((<u32>(rip >> 12) & 255) << 4);
  if (load<u64>(entry) != (rip & ~(<u64>0xfff))) return 0;
  const block = load<u32>(hashSlot(rip));
  if (!block || load<u64>(block) != rip || load<u32>(block, Block.HOST) != <u32>rip + load<u32>(entry, 8)) return 0;
  return block;
}

/** The block at `rip`, decoded if need be. 0: an exception is pending. */
export function getBlock(rip: u64): usize {
  const found = findBlock(rip);
  if (found) return found;
  const place = translate(rip, Access.EXECUTE, load<u32>(cpu, State.MODE), false);
  if (place == Place.FAULT) return 0;
  if (place == Place.BUS) return decodeSingle(rip, 0xffffffff);
  const host = load<u32>(cpu, State.HOST);
  const slot = hashSlot(rip);
  const known = load<u32>(slot);
  if (known && load<u64>(known) == rip && load<u32>(known, Block.HOST) == host) return known;

  if (<usize>load<u32>(cpu, State.ARENA_NEXT) + BLOCK_ROOM > cpu + State.END) forgetBlocks();
  const block = load<u32>(cpu, State.ARENA_NEXT);
  const end = decodeBlock(block, rip, host);
  if (!end) return decodeSingle(rip, host);
  store<u32>(cpu, <u32>end, State.ARENA_NEXT);
  const frame = host >> 12;
  const chain = cpu + State.FRAME_HASH + ((frame & (FRAME_ENTRIES - 1)) << 2);
  store<u32>(block, load<u32>(chain), Block.NEXT);
  store<u32>(chain, <u32>block);
  store<u32>(slot, <u32>block);
  const flags = load<u32>(cpu, State.FRAME_FLAGS) + frame;
  store<u8>(flags, load<u8>(flags) | HAS_CODE);
  return block;
}

/** The first `count` instructions of `block`, as a block of their own. */
export function headOfBlock(block: usize, count: u32): usize {
  if (count >= load<u32>(block, Block.COUNT)) return block;
  const copy = cpu + State.SINGLE;
  memory.copy(copy, block, Block.HEADER);
  store<u32>(copy, count, Block.COUNT);
  let from = block + Block.HEADER;
  let to = copy + Block.HEADER;
  while (load<u8>(from, Record.ORDINAL) < count) {
    memory.copy(to, from, Record.SIZE);
    from += Record.SIZE;
    to += Record.SIZE;
  }
  memory.fill(to, 0, Record.SIZE);
  store<u16>(to, Operation.END);
  store<u8>(to, <u8>count, Record.ORDINAL);
  store<u16>(to, load<u16>(from, Record.OFFSET), Record.OFFSET);
  store<u32>(copy, <u32>to + Record.SIZE, Block.END);
  return copy;
}

/** The block's address stays: an instruction that is under way still counts from it. Its host address matches nothing. */
function kill(block: usize): void {
  const end = load<u32>(block, Block.END);
  for (let at = block + Block.HEADER; at < end; at += Record.SIZE) store<u16>(at, Operation.STALE);
  store<u32>(block, 0xffffffff, Block.HOST);
}

/** Kills the blocks of a frame that was written, and takes its code flag away. */
export function killFrame(frame: u32): void {
  const chain = cpu + State.FRAME_HASH + ((frame & (FRAME_ENTRIES - 1)) << 2);
  let link = chain;
  let block = load<u32>(link);
  while (block) {
    const next = load<u32>(block, Block.NEXT);
    if (load<u32>(block, Block.HOST) >> 12 == frame) {
      store<u32>(link, next);
      kill(block);
    } else link = block + Block.NEXT;
    block = next;
  }
  const single = cpu + State.SINGLE;
  if (load<u32>(single, Block.HOST) >> 12 == frame && load<u32>(single, Block.END)) kill(single);
  const flags = load<u32>(cpu, State.FRAME_FLAGS) + frame;
  store<u8>(flags, load<u8>(flags) & ~HAS_CODE);
}

export function forgetBlocks(): void {
  memory.fill(cpu + State.BLOCK_HASH, 0, HASH_ENTRIES * 4);
  memory.fill(cpu + State.FRAME_HASH, 0, FRAME_ENTRIES * 4);
  store<u32>(cpu, cpu + State.ARENA, State.ARENA_NEXT);
  store<u32>(cpu, 0, State.LINK_FROM);
}
