/* The memory of a machine of FRAMES frames, and which of them are free. */
#include "types.h"
#include <sys/mman.h>

static u64 *memory;
static u32 next_frame = 1;
static u32 *free_frames, free_count;

static void make_memory(void)
{
	memory = mmap(NULL, (size_t)FRAMES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	free_frames = malloc(FRAMES * sizeof *free_frames);
}

static u32 allocate_frame(void)
{
	u32 pfn = free_count ? free_frames[--free_count] : next_frame++;

	if (pfn >= FRAMES)
		exit(3);
	memset(memory + (u64)pfn * 512, 0, 4096);
	return pfn;
}

static void free_frame(u32 pfn)
{
	free_frames[free_count++] = pfn;
}
