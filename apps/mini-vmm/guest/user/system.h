/* System calls and the two instructions that submit work, from ring 3. */

#pragma once

#include "bootinfo.h"
#include "dsa.h"
#include "lib.h"
#include "syscall.h"
#include "types.h"

static inline i64 system_call(u64 number, u64 first, u64 second) {
  i64 result;
  asm volatile("syscall" : "=a"(result) : "a"(number), "D"(first), "S"(second) : "rcx", "r11", "memory");
  return result;
}

/* One 64-byte write that cannot fail: the queue must have room. */
static inline void movdir64b(volatile void *portal, const struct dsa_descriptor *descriptor) {
  asm volatile("movdir64b %1, %0" ::"r"(portal), "m"(*descriptor) : "memory");
}

/* As movdir64b, with IA32_PASID in the descriptor; false when the queue is full. */
static inline bool enqcmd(volatile void *portal, const struct dsa_descriptor *descriptor) {
  bool retry;
  asm volatile("enqcmd %2, %1" : "=@ccz"(retry) : "r"(portal), "m"(*descriptor) : "memory");
  return !retry;
}

/* crc.c: CRC-32C of `bytes` (a multiple of 8) at `from`, going on from the CRC `seed` of what came before. */
void crc_init(void);
u32 crc32c(u32 seed, const void *from, u64 bytes);
