/* trap.S and trap.c: exceptions, interrupts and the way to ring 3. */

#pragma once

#include "types.h"

#define VECTOR_TICK 0x40
#define VECTOR_PAGE_REQUEST 0x50
#define VECTOR_DMA_FAULT 0x51
#define VECTOR_DSA 0x52
#define VECTOR_SPURIOUS 0xff

#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10
#define USER_DATA 0x1b
#define USER_CODE 0x23

/* What trap.S pushes; a system call's frame looks the same. */
struct trap_frame {
  u64 r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
  u64 vector, error;
  u64 rip, cs, rflags, rsp, ss;
};

void trap_init(void);
/* Where the next trap or system call from ring 3 puts its frame. */
void set_kernel_stack(u64 top);

void trap_return(void);
void system_call_entry(void);
