/*
 * What each process does: it hands its own pointers to the accelerator, checks what comes back, tries what it may not,
 * and leaves, some with work in flight.
 */

#include "accelerator.h"

#define WINDOW (1024 * 1024) /* bytes mapped at a time */
#define LAST_WORK (512 * 1024) /* bytes left to move at the end */

/* A page that it may only read. */
static const u64 constants[512] __attribute__((aligned(4096))) = {1};

static u64 random_state;

static u64 random(void) {
  random_state += 0x9e3779b97f4a7c15;
  u64 value = random_state;
  value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
  value = (value ^ value >> 27) * 0x94d049bb133111eb;
  return value ^ value >> 31;
}

/* Writes every other page or so; the others stay as they are, zero and never touched. */
static void fill_some(u64 *words, u64 bytes) {
  for (u64 page = 0; page < bytes / PAGE_SIZE; page++) {
    u64 value = random();
    if (value & 1) continue;
    for (u32 i = 0; i < PAGE_SIZE / 8; i++) {
      words[page * (PAGE_SIZE / 8) + i] = value;
      value = value * 0x5851f42d4c957f2d + 0x14057b7ef767814f;
    }
  }
}

static u32 queue_of_turn(u64 turn) {
  if (job.submit == SUBMIT_BOTH) return turn & 1 ? QUEUE_DEDICATED : QUEUE_SHARED;
  return job.submit == SUBMIT_ENQCMD ? QUEUE_SHARED : QUEUE_DEDICATED;
}

/* A queue for the work of one turn. */
static bool take_turn(u64 turn, u32 *queue) {
  *queue = queue_of_turn(turn);
  if (open_queue(*queue)) return true;
  result.mismatches++;
  return false;
}

/* Moves one window and checks it: CRC by the device and by the processor, of both ends, and a comparison. */
static bool move_window(u32 queue, u64 bytes) {
  u64 source = (u64)system_call(SYS_MMAP, bytes, 0);
  u64 destination = (u64)system_call(SYS_MMAP, bytes, 0);
  if ((i64)source < 0 || (i64)destination < 0) {
    result.mismatches++;
    return false;
  }
  fill_some((u64 *)source, bytes);
  bool good = move(queue, source, destination, bytes);
  if (good && (good = run(queue, DSA_CRC, source, 0, (u32)bytes))) {
    u32 crc = (u32)records[0].crc;
    good = run(queue, DSA_CRC, destination, 0, (u32)bytes) && (u32)records[0].crc == crc &&
           crc32c(0, (const void *)source, bytes) == crc && crc32c(0, (const void *)destination, bytes) == crc &&
           run(queue, DSA_COMPARE, source, destination, (u32)bytes) && records[0].result == 0;
    if (!good && !result.timeouts) result.mismatches++;
  }
  system_call(SYS_MUNMAP, source, 0);
  system_call(SYS_MUNMAP, destination, 0);
  if (good) result.verified += bytes;
  return good;
}

/* Fill, and a comparison that finds the difference. */
static void check_fill(u32 queue) {
  u64 bytes = 2 * PAGE_SIZE, pattern = random();
  u64 *words = (u64 *)system_call(SYS_MMAP, bytes, 0);
  u64 *other = (u64 *)system_call(SYS_MMAP, bytes, 0);
  bool good = run(queue, DSA_FILL, pattern, (u64)words, (u32)bytes);
  for (u64 i = 0; good && i < bytes / 8; i++) good = words[i] == pattern;
  good = good && run(queue, DSA_COMPARE, (u64)words, (u64)other, (u32)bytes) && records[0].result == 1;
  if (!good && !result.timeouts) result.mismatches++;
  system_call(SYS_MUNMAP, (u64)words, 0);
  system_call(SYS_MUNMAP, (u64)other, 0);
}

/* A request that must end with `expected` at `address`, after `completed` good bytes. */
static void bad_request(u32 queue, u32 operation, u32 flags, u64 source, u64 destination, u32 size, u8 expected,
                        u64 address, u32 completed) {
  u8 status = DSA_STATUS_NONE;
  if (submit(queue, 0, operation, flags, source, destination, size)) status = await(0);
  const struct dsa_completion *record = &records[0];
  if (status == expected && (record->fault_address & PAGE_MASK) == address && record->bytes_completed == completed)
    result.faults_reported++;
  else if (status == DSA_STATUS_SUCCESS) result.stale++;
  else if (status) result.mismatches++;
}

/* BAD_REQUESTS things that a process may not do. */
static void misbehave(u32 queue) {
  u64 good = (u64)system_call(SYS_MMAP, 2 * PAGE_SIZE, 0);
  u64 gone = (u64)system_call(SYS_MMAP, 2 * PAGE_SIZE, 0);
  u64 constant = (u64)constants, guard = good + 2 * PAGE_SIZE, nothing = 0x123456789000, kernel = 0xffffffff80100000;
  *(volatile u64 *)good = 1;
  /* Memory that it may only read. */
  bad_request(queue, DSA_MEMORY_MOVE, DSA_BLOCK_ON_FAULT, good, constant, PAGE_SIZE,
              DSA_STATUS_PAGE_REFUSED | DSA_STATUS_WRITE, constant, 0);
  /* Memory that does not exist, with and without waiting for the kernel's answer. */
  bad_request(queue, DSA_MEMORY_MOVE, DSA_BLOCK_ON_FAULT, good, nothing, PAGE_SIZE,
              DSA_STATUS_PAGE_REFUSED | DSA_STATUS_WRITE, nothing, 0);
  bad_request(queue, DSA_MEMORY_MOVE, 0, nothing, good, PAGE_SIZE, DSA_STATUS_PAGE_FAULT, nothing, 0);
  /* The page behind its own. */
  bad_request(queue, DSA_FILL, DSA_BLOCK_ON_FAULT, 0, good, 3 * PAGE_SIZE, DSA_STATUS_PAGE_REFUSED | DSA_STATUS_WRITE,
              guard, 2 * PAGE_SIZE);
  /* The kernel, which is in its page tables. */
  bad_request(queue, DSA_MEMORY_MOVE, DSA_BLOCK_ON_FAULT, kernel, good, PAGE_SIZE, DSA_STATUS_PAGE_REFUSED, kernel, 0);
  /* Memory that it has used and given back. */
  if (run(queue, DSA_FILL, 1, gone, 2 * PAGE_SIZE)) {
    system_call(SYS_MUNMAP, gone, 0);
    bad_request(queue, DSA_FILL, DSA_BLOCK_ON_FAULT, 2, gone, PAGE_SIZE, DSA_STATUS_PAGE_REFUSED | DSA_STATUS_WRITE,
                gone, 0);
  }
  system_call(SYS_MUNMAP, good, 0);
}

/* Moves memory that nobody has touched, and does not wait. */
static void leave_work_behind(void) {
  u32 queue;
  if (!take_turn(0, &queue)) return;
  u64 source = (u64)system_call(SYS_MMAP, LAST_WORK, 0);
  u64 destination = (u64)system_call(SYS_MMAP, LAST_WORK, 0);
  u32 size = LAST_WORK / IN_FLIGHT;
  for (u32 i = 0; i < in_flight(); i++)
    submit(queue, i, DSA_MEMORY_MOVE, DSA_BLOCK_ON_FAULT, source + i * size, destination + i * size, size);
}

static void print_result(void) {
  struct line line = {.length = 0};
  format(&line, "[%lu] %lu KiB moved and verified, %lu page requests, %u of %u bad requests refused\n",
         system_call(SYS_GETPID, 0, 0), result.verified >> 10, system_call(SYS_GET_FAULTS, 0, 0),
         result.faults_reported, BAD_REQUESTS);
  system_call(SYS_WRITE, (u64)line.text, line.length);
}

static void work(void) {
  u64 turn = 0;
  u32 queue;
  for (u64 done = 0; done < job.bytes; done += WINDOW) {
    u64 bytes = job.bytes - done < WINDOW ? job.bytes - done : WINDOW;
    if (!take_turn(turn++, &queue) || !move_window(queue, bytes)) return;
    /* Others may be waiting for it. */
    close_queue(QUEUE_DEDICATED);
  }
  if (!take_turn(turn, &queue)) return;
  check_fill(queue);
  misbehave(queue);
}

void main(void) {
  system_call(SYS_GET_JOB, (u64)&job, 0);
  random_state = job.seed;
  crc_init();
  i64 pasid = system_call(SYS_SVA_BIND, 0, 0);
  if (pasid > 0) work();
  else result.mismatches++;
  print_result();
  if (job.exit_in_flight && result.faults_reported == BAD_REQUESTS) leave_work_behind();
  system_call(SYS_REPORT, (u64)&result, 0);
}
