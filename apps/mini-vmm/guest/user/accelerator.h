/* accelerator.c: the process's way to the accelerator. What it does is counted in `result`. */

#pragma once

#include "system.h"

#define IN_FLIGHT 8

extern struct job job;
extern struct report result;
/* The device writes them; nothing else lies in their page. */
extern struct dsa_completion records[IN_FLIGHT];

/* Opens a queue unless it is open; waits while a dedicated one is another process's. */
bool open_queue(u32 queue);
void close_queue(u32 queue);
/* Descriptors that may be under way, whatever the queue. */
u32 in_flight(void);

/* Submits one descriptor whose result goes to records[slot]. False, and a time-out, when the queue never takes it. */
bool submit(u32 queue, u32 slot, u32 operation, u32 flags, u64 source, u64 destination, u32 size);
/* The status of records[slot], or DSA_STATUS_NONE when it never came. */
u8 await(u32 slot);
/* One descriptor from start to end, with records[0]; false and a count when it is not a success. */
bool run(u32 queue, u32 operation, u64 source, u64 destination, u32 size);
/* Moves `bytes` with up to in_flight() descriptors under way. */
bool move(u32 queue, u64 source, u64 destination, u64 bytes);
