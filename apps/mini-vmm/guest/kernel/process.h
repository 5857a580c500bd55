/* process.c: processes, their address spaces and the scheduler. */

#pragma once

#include "kernel.h"
#include "syscall.h"

#define REGION_READ 1
#define REGION_WRITE 2
#define REGION_EXECUTE 4
#define MAX_REGIONS 32

/* [start, end) of a process's address space, filled page by page when it is touched. */
struct region {
  u64 start, end; /* end 0: unused */
  u32 access; /* REGION_ bits */
  const u8 *image; /* what the region starts with; the rest is zero */
  u64 image_bytes;
};

enum process_state { PROCESS_NONE, PROCESS_READY, PROCESS_SLEEPING, PROCESS_GONE };

struct process {
  u32 pid;
  enum process_state state;
  u32 wake_tick; /* of a sleeping process */
  u64 *pml4;
  u64 cr3;
  u64 stack; /* saved kernel RSP */
  u32 pasid; /* 0: not bound */
  u32 last_pasid;
  bool shared_queue;
  u32 dedicated_queue; /* 0: none */
  u64 page_requests;
  struct job job;
  struct report report;
  struct region regions[MAX_REGIONS];
};

/* The running process; NULL while the kernel idles. */
extern struct process *current;
/* Processes that are not gone. */
extern u32 processes_alive;
/* A process was gone whose report is not as it should be. */
extern bool processes_failed;

/* Makes a process that will run the user program; its pid is `pid`. */
void process_create(u32 pid);
/* Ends the current process. */
void process_exit(void) __attribute__((noreturn));
struct process *process_of_pasid(u32 pasid);

/* Runs the next process that is ready; called by one, it comes back when its turn has come again. */
void schedule(void);
/* Runs processes until all are gone. */
void process_run_all(void);
/* Sleeps until the next tick. */
void process_wait_tick(void);

/*
 * The page of `address` is wanted for `access` (one REGION_ bit): puts it into the page table. False when the process
 * has no right to it, or no memory is left.
 */
bool process_fault(struct process *process, u64 address, u32 access);
/* Whether all of [address, address + bytes) may be accessed so. */
bool process_may_access(const struct process *process, u64 address, u64 bytes, u32 access);
u64 process_map(struct process *process, u64 bytes);
i64 process_unmap(struct process *process, u64 address);
i64 process_bind(struct process *process);
i64 process_open_queue(struct process *process, u32 kind);
i64 process_close_queue(struct process *process, u32 kind);
