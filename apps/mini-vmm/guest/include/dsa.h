/*
 * Work descriptors and completion records of the Data Streaming Accelerator (Intel DSA Architecture Specification,
 * order 341204, revision 1.1, chapter 8), as programs use them.
 */

#pragma once

#include "types.h"

#define DSA_NOOP 0x00
#define DSA_MEMORY_MOVE 0x03
#define DSA_FILL 0x04
#define DSA_COMPARE 0x05
#define DSA_CRC 0x10

#define DSA_BLOCK_ON_FAULT (1u << 1)
#define DSA_COMPLETION_VALID (1u << 2)
#define DSA_REQUEST_COMPLETION (1u << 3)

struct dsa_descriptor {
  u32 pasid; /* set by ENQCMD, or the queue's */
  u32 flags_opcode; /* flags in bits 23..0, opcode in bits 31..24 */
  u64 completion;
  u64 source; /* pattern of a fill */
  u64 destination; /* second source of a compare */
  u32 size;
  u16 interrupt_handle;
  u16 reserved;
  u32 crc_seed;
  u32 operands[5];
} __attribute__((aligned(64)));

#define DSA_STATUS_NONE 0
#define DSA_STATUS_SUCCESS 1
#define DSA_STATUS_PAGE_FAULT 3 /* not blocked on */
#define DSA_STATUS_PAGE_REFUSED 4 /* blocked on, and the answer was no */
#define DSA_STATUS_WRITE 0x80 /* the faulting access was a write */

struct dsa_completion {
  volatile u8 status;
  u8 result; /* compare: 1 when different */
  u16 reserved;
  u32 bytes_completed;
  u64 fault_address;
  u64 crc;
  u64 operands;
} __attribute__((aligned(32)));

_Static_assert(sizeof(struct dsa_descriptor) == 64, "descriptor");
_Static_assert(sizeof(struct dsa_completion) == 32, "completion record");
