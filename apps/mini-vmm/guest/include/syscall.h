/*
 * System calls: number in RAX, arguments in RDI and RSI, result in RAX; RCX and R11 are lost. A negative result is one
 * of the ERROR_ values.
 */

#pragma once

#include "types.h"

enum {
  SYS_EXIT, /* (): never returns */
  SYS_WRITE, /* (text, bytes): to the console */
  SYS_MMAP, /* (bytes): address of zeroed memory that appears when it is touched; guard pages around it */
  SYS_MUNMAP, /* (address): gives back what one mmap gave */
  SYS_GETPID, /* () */
  SYS_SVA_BIND, /* (): the process's PASID; the accelerator shares its address space from now on */
  SYS_QUEUE_OPEN, /* (QUEUE_ kind): address of a submission portal, or ERROR_BUSY */
  SYS_QUEUE_CLOSE, /* (QUEUE_ kind) */
  SYS_YIELD, /* () */
  SYS_WAIT_TICK, /* (): sleeps until the next tick */
  SYS_GET_FAULTS, /* (): page requests that the kernel answered for this process */
  SYS_GET_JOB, /* (struct job *) */
  SYS_REPORT, /* (const struct report *) */
};

#define ERROR_INVALID (-1)
#define ERROR_MEMORY (-2)
#define ERROR_BUSY (-3)
#define ERROR_DEVICE (-4)

#define QUEUE_SHARED 0 /* for ENQCMD */
#define QUEUE_DEDICATED 1 /* for MOVDIR64B, one process at a time */

/* What a process has to do. */
struct job {
  u64 bytes;
  u64 seed;
  u32 submit; /* SUBMIT_ of bootinfo.h */
  u32 exit_in_flight;
  u32 dedicated_entries; /* descriptors that a dedicated queue holds */
};

/* What came of it. */
struct report {
  u64 verified;
  u32 faults_reported;
  u32 timeouts;
  u32 stale;
  u32 mismatches;
  u64 submitted;
  u64 completed;
};
