/* System calls. */

#include "syscall.h"

#include "apic.h"
#include "process.h"
#include "trap.h"

#define LONGEST_WRITE 4096

static i64 write(u64 text, u64 bytes) {
  if (bytes > LONGEST_WRITE || !process_may_access(current, text, bytes, REGION_READ)) return ERROR_INVALID;
  console_write((const char *)text, bytes);
  return (i64)bytes;
}

static i64 get_job(u64 to) {
  if (!process_may_access(current, to, sizeof(struct job), REGION_WRITE)) return ERROR_INVALID;
  memcpy((void *)to, &current->job, sizeof(struct job));
  return 0;
}

static i64 take_report(u64 from) {
  if (!process_may_access(current, from, sizeof(struct report), REGION_READ)) return ERROR_INVALID;
  memcpy(&current->report, (const void *)from, sizeof(struct report));
  return 0;
}

/* Called by trap.S with interrupts off. */
void system_call(struct trap_frame *frame) {
  i64 result = 0;
  switch (frame->rax) {
    case SYS_EXIT:
      process_exit();
    case SYS_WRITE:
      result = write(frame->rdi, frame->rsi);
      break;
    case SYS_MMAP: {
      u64 address = process_map(current, frame->rdi);
      result = address ? (i64)address : ERROR_MEMORY;
      break;
    }
    case SYS_MUNMAP:
      result = process_unmap(current, frame->rdi);
      break;
    case SYS_GETPID:
      result = current->pid;
      break;
    case SYS_SVA_BIND:
      result = process_bind(current);
      break;
    case SYS_QUEUE_OPEN:
      result = process_open_queue(current, (u32)frame->rdi);
      break;
    case SYS_QUEUE_CLOSE:
      result = process_close_queue(current, (u32)frame->rdi);
      break;
    case SYS_YIELD:
      schedule();
      break;
    case SYS_WAIT_TICK:
      process_wait_tick();
      break;
    case SYS_GET_FAULTS:
      result = (i64)current->page_requests;
      break;
    case SYS_GET_JOB:
      result = get_job(frame->rdi);
      break;
    case SYS_REPORT:
      result = take_report(frame->rdi);
      break;
    default:
      result = ERROR_INVALID;
  }
  frame->rax = (u64)result;
}
