/* memory.c: page frames and the page tables of CPU and device. */

#pragma once

#include "kernel.h"
#include "layout.h"

#define PTE_PRESENT (1ul << 0)
#define PTE_WRITABLE (1ul << 1)
#define PTE_USER (1ul << 2)
#define PTE_UNCACHED (3ul << 3) /* PCD and PWT */
#define PTE_LARGE (1ul << 7)
#define PTE_GLOBAL (1ul << 8)
#define PTE_NO_EXECUTE (1ul << 63)
#define PTE_ADDRESS 0x000ffffffffff000ul

extern u64 kernel_pml4[512];

static inline void *to_virtual(u64 physical) {
  return (void *)(physical + DIRECT_MAP);
}

/* Of an address in the direct map or in the kernel's image. */
static inline u64 to_physical(const void *address) {
  u64 virtual = (u64)address;
  return virtual >= KERNEL_BASE ? virtual - KERNEL_BASE : virtual - DIRECT_MAP;
}

void memory_init(u64 ram_bytes);

/* Physical address of a frame of zeros, or 0. */
u64 frame_allocate(void);
/* As frame_allocate; there is no memory left: panic. */
u64 frame_require(void);
void frame_free(u64 frame);
/* Free frames whose poison something has overwritten, now and before. */
u64 frames_damaged(void);

/* The registers of a device, mapped uncached in the kernel's half. */
volatile void *map_device(u64 physical, u64 bytes);

/*
 * The entry of `address` in the tables below `pml4`; missing tables are made when `create`. NULL: no table, or no
 * memory for one.
 */
u64 *page_entry(u64 *pml4, u64 address, bool create);
/* A new table whose upper half is the kernel's, or NULL. */
u64 *page_table_create(void);
/* Frees the lower half: tables, and the frames of pages that are not devices'. */
void page_table_destroy(u64 *pml4);
