/*
 * Page frames and page tables.
 *
 * A free frame is full of poison, which is looked at when the frame is used again and when the machine stops: a device
 * that writes to memory it no longer owns is found out. Frames are used again as late as possible.
 */

#include "memory.h"

#define POISON 0xdeadf4a3deadf4a3ul
/* A freed frame rests until this many others are free too. */
#define RESTING_FRAMES 256

extern u64 boot_directories[2048];
extern char kernel_end[];

static u32 *next_free; /* by frame number */
static u32 first_free, last_free;
static u64 free_count;
static u64 unused, unused_end; /* frame numbers never handed out */
static u64 damaged;

void memory_init(u64 ram_bytes) {
  /* Above RAM come devices. */
  for (u32 i = 0xc0000000u >> 21; i < 2048; i++) boot_directories[i] |= PTE_UNCACHED;
  u64 frames = ram_bytes / PAGE_SIZE;
  u64 links = to_physical(kernel_end);
  next_free = to_virtual(links);
  unused = (links + frames * sizeof(u32) + PAGE_SIZE - 1) / PAGE_SIZE;
  unused_end = frames;
  if (unused + 1024 > unused_end) panic("%lu MiB of memory are not enough", ram_bytes >> 20);
}

static void fill(u64 frame, u64 value) {
  void *at = to_virtual(frame);
  u64 count = PAGE_SIZE / 8;
  asm volatile("rep stosq" : "+D"(at), "+c"(count) : "a"(value) : "memory");
}

static bool is_poisoned(u64 frame) {
  const u64 *words = to_virtual(frame);
  u64 difference = 0;
  for (u32 i = 0; i < PAGE_SIZE / 8; i += 4) {
    difference |= (words[i] ^ POISON) | (words[i + 1] ^ POISON) | (words[i + 2] ^ POISON) | (words[i + 3] ^ POISON);
  }
  return difference == 0;
}

u64 frame_allocate(void) {
  u64 frame;
  if (free_count > RESTING_FRAMES || (unused == unused_end && free_count > 0)) {
    frame = (u64)first_free * PAGE_SIZE;
    first_free = next_free[first_free];
    free_count--;
    if (!is_poisoned(frame)) damaged++;
  } else if (unused < unused_end) {
    frame = unused++ * PAGE_SIZE;
  } else {
    return 0;
  }
  fill(frame, 0);
  return frame;
}

u64 frame_require(void) {
  u64 frame = frame_allocate();
  if (!frame) panic("out of memory");
  return frame;
}

void frame_free(u64 frame) {
  u32 number = (u32)(frame / PAGE_SIZE);
  fill(frame, POISON);
  if (free_count++ == 0) first_free = number;
  else next_free[last_free] = number;
  last_free = number;
}

u64 frames_damaged(void) {
  u64 now = 0;
  u32 number = first_free;
  for (u64 i = 0; i < free_count; i++, number = next_free[number]) now += !is_poisoned((u64)number * PAGE_SIZE);
  return damaged + now;
}

u64 *page_entry(u64 *pml4, u64 address, bool create) {
  u64 *table = pml4;
  for (u32 shift = 39; shift > 12; shift -= 9) {
    u64 *entry = &table[address >> shift & 511];
    if (!(*entry & PTE_PRESENT)) {
      u64 frame = create ? frame_allocate() : 0;
      if (!frame) return NULL;
      *entry = frame | PTE_PRESENT | PTE_WRITABLE | (address < USER_END ? PTE_USER : 0);
    }
    table = to_virtual(*entry & PTE_ADDRESS);
  }
  return &table[address >> 12 & 511];
}

volatile void *map_device(u64 physical, u64 bytes) {
  u64 first = physical & PAGE_MASK;
  if (physical >= 1ul << 40) panic("device registers at 0x%lx are out of reach", physical);
  /* The low 4 GiB are mapped already. */
  for (u64 page = first; page >= 1ul << 32 && page < physical + bytes; page += PAGE_SIZE) {
    u64 *entry = page_entry(kernel_pml4, page + DIRECT_MAP, true);
    if (!entry) panic("out of memory");
    *entry = page | PTE_PRESENT | PTE_WRITABLE | PTE_UNCACHED | PTE_NO_EXECUTE;
  }
  return to_virtual(physical);
}

u64 *page_table_create(void) {
  u64 frame = frame_allocate();
  if (!frame) return NULL;
  u64 *pml4 = to_virtual(frame);
  for (u32 i = 256; i < 512; i++) pml4[i] = kernel_pml4[i];
  return pml4;
}

static void destroy(u64 entry, u32 level) {
  u64 frame = entry & PTE_ADDRESS;
  u64 *table = to_virtual(frame);
  if (level > 0) {
    for (u32 i = 0; i < 512; i++) {
      if (table[i] & PTE_PRESENT) destroy(table[i], level - 1);
    }
  } else if ((entry & PTE_UNCACHED) == PTE_UNCACHED) {
    return;
  }
  frame_free(frame);
}

void page_table_destroy(u64 *pml4) {
  for (u32 i = 0; i < 256; i++) {
    if (pml4[i] & PTE_PRESENT) destroy(pml4[i], 3);
  }
  frame_free(to_physical(pml4));
}
