/*
 * Submission and completion from ring 3. Between the process and the device there is a portal page and a record in
 * memory, and no kernel.
 */

#include "accelerator.h"

#define PIECE (64 * 1024) /* bytes of one descriptor of a move */
#define PATIENCE 300 /* ticks until a completion counts as lost */
#define QUEUE_PATIENCE 30000 /* ticks until a dedicated queue counts as lost */

struct job job;
struct report result;
struct dsa_completion records[IN_FLIGHT] __attribute__((aligned(4096)));

static volatile void *portals[2];

static bool is_open(u32 queue) {
  return portals[queue] != NULL;
}

bool open_queue(u32 queue) {
  for (u32 tries = 0; !is_open(queue); tries++) {
    i64 address = system_call(SYS_QUEUE_OPEN, queue, 0);
    if (address > 0) portals[queue] = (volatile void *)address;
    else if (address != ERROR_BUSY || tries > QUEUE_PATIENCE) return false;
    else system_call(SYS_WAIT_TICK, 0, 0);
  }
  return true;
}

void close_queue(u32 queue) {
  if (is_open(queue)) system_call(SYS_QUEUE_CLOSE, queue, 0);
  portals[queue] = NULL;
}

u32 in_flight(void) {
  return job.dedicated_entries < IN_FLIGHT ? job.dedicated_entries : IN_FLIGHT;
}

bool submit(u32 queue, u32 slot, u32 operation, u32 flags, u64 source, u64 destination, u32 size) {
  struct dsa_descriptor descriptor = {
      .flags_opcode = operation << 24 | flags | DSA_COMPLETION_VALID | DSA_REQUEST_COMPLETION,
      .completion = (u64)&records[slot],
      .source = source,
      .destination = destination,
      .size = size,
  };
  records[slot] = (struct dsa_completion){.status = DSA_STATUS_NONE};
  result.submitted++;
  if (queue == QUEUE_DEDICATED) {
    movdir64b(portals[queue], &descriptor);
    return true;
  }
  for (u32 tries = 1; !enqcmd(portals[queue], &descriptor); tries++) {
    if (tries % 256 == 0) system_call(SYS_WAIT_TICK, 0, 0);
    if (tries < 256 * PATIENCE) continue;
    result.submitted--;
    result.timeouts++;
    return false;
  }
  return true;
}

u8 await(u32 slot) {
  /* Once one is lost, the others are not waited for long. */
  u32 patience = result.timeouts ? PATIENCE / 30 : PATIENCE;
  for (u32 waits = 0; waits < patience; waits++) {
    for (u32 spins = 0; spins < 256; spins++) {
      u8 status = records[slot].status;
      /* The status is written last: the rest of the record is read after it. */
      asm volatile("pause" ::: "memory");
      if (!status) continue;
      result.completed++;
      return status;
    }
    system_call(waits < 4 ? SYS_YIELD : SYS_WAIT_TICK, 0, 0);
  }
  result.timeouts++;
  return DSA_STATUS_NONE;
}

bool run(u32 queue, u32 operation, u64 source, u64 destination, u32 size) {
  u8 status = DSA_STATUS_NONE;
  if (submit(queue, 0, operation, DSA_BLOCK_ON_FAULT, source, destination, size)) status = await(0);
  if (status == DSA_STATUS_SUCCESS) return true;
  if (status) result.mismatches++;
  return false;
}

bool move(u32 queue, u64 source, u64 destination, u64 bytes) {
  u32 limit = in_flight();
  u64 pieces = (bytes + PIECE - 1) / PIECE, submitted = 0, awaited = 0;
  bool good = true;
  while (awaited < submitted || (good && submitted < pieces)) {
    if (good && submitted < pieces && submitted - awaited < limit) {
      u64 offset = submitted * PIECE;
      u32 size = bytes - offset < PIECE ? (u32)(bytes - offset) : PIECE;
      good = submit(queue, submitted % limit, DSA_MEMORY_MOVE, DSA_BLOCK_ON_FAULT, source + offset,
                    destination + offset, size);
      submitted += good;
    } else {
      if (await(awaited % limit) != DSA_STATUS_SUCCESS) good = false;
      awaited++;
    }
  }
  if (!good && !result.timeouts) result.mismatches++;
  return good;
}
