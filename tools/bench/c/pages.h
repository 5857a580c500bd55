/*
 * Where the frames of a mapping come from, and their pins: each frame has a count of the page tables that map it, a count
 * of pins and flags, and each pin group an array of its frames. Counted once for each page, whatever the number of domains.
 */

enum { CACHED = 1, DIRTY = 2 };
enum kind { USER, FILE_PAGES, SYNTHETIC };

/* Memory of a process by its x86 page table, a file by the array of its pages, or frames that are nowhere. */
struct source {
	enum kind kind;
	u32 root;
	u32 *cache;
	/* Synthetic: frame of each block of 512 pages, above SYNTHETIC_BASE. */
	u32 *blocks;
};

#define SYNTHETIC_BASE (1ull << 21)

struct frame_counts {
	u32 *mappings, *pins;
	uint8_t *flags;
	/* Of the frames from SYNTHETIC_BASE. */
	u32 *synthetic_pins;
	u64 pinned;
};
static struct frame_counts counts;

struct pages {
	const struct source *source;
	u64 first, count;
	u32 frames[];
};

static int pin_user(struct pages *pages)
{
	u64 page = pages->first, done = 0;

	while (done < pages->count) {
		u32 table = pages->source->root;
		u64 *entries;

		for (int level = 3; level > 0; level--) {
			u64 entry = memory[(u64)table * 512 + ((page >> (9 * level)) & 511)];

			if (!(entry & 1))
				return -1;
			table = (entry & ADDRESS) >> 12;
		}
		entries = memory + (u64)table * 512;
		for (u32 index = page & 511; index < 512 && done < pages->count; index++, page++) {
			u64 entry = entries[index];
			u32 pfn = (entry & ADDRESS) >> 12;

			if ((entry & 3) != 3 || counts.mappings[pfn] != 1 || counts.flags[pfn] & CACHED)
				return -1;
			counts.pins[pfn]++;
			pages->frames[done++] = pfn;
		}
	}
	return 0;
}

static int pin_pages(struct pages *pages)
{
	const struct source *source = pages->source;

	counts.pinned += pages->count;
	if (source->kind == USER)
		return pin_user(pages);
	for (u64 done = 0; done < pages->count; done++) {
		u64 page = pages->first + done;

		if (source->kind == FILE_PAGES) {
			u32 pfn = source->cache[page];

			if (!pfn)
				return -1;
			counts.pins[pfn]++;
			pages->frames[done] = pfn;
		} else {
			u32 frame = source->blocks[page >> 9] + (page & 511);

			counts.synthetic_pins[frame]++;
			pages->frames[done] = SYNTHETIC_BASE + frame;
		}
	}
	return 0;
}

static void unpin_pages(struct pages *pages)
{
	for (u64 done = 0; done < pages->count; done++) {
		u32 pfn = pages->frames[done];

		if (pages->source->kind == SYNTHETIC) {
			if (!counts.synthetic_pins[pfn - SYNTHETIC_BASE]--)
				exit(5);
			continue;
		}
		if (!counts.pins[pfn]--)
			exit(5);
		counts.flags[pfn] |= DIRTY;
		if (!counts.pins[pfn] && !counts.mappings[pfn] && !(counts.flags[pfn] & CACHED))
			free_frame(pfn);
	}
	counts.pinned -= pages->count;
}

/*
 * Memory of `count` pages, page i of which holds the number i. The page that is `touched` as the n-th gets frame n of those
 * from `frames`, which nothing else uses.
 */

static void make_counts(void)
{
	counts.mappings = calloc(FRAMES, sizeof *counts.mappings);
	counts.pins = calloc(FRAMES, sizeof *counts.pins);
	counts.flags = calloc(FRAMES, 1);
}

static struct source *make_user(u32 count, const u32 *touched, u32 frames)
{
	struct source *source = calloc(1, sizeof *source);

	source->kind = USER;
	source->root = allocate_frame();
	used[source->root] = 0;
	for (u32 i = 0; i < count; i++) {
		u32 page = touched ? touched[i] : i;

		if (map_range(&x86, source->root, 3, 1, page, frames + i, 1))
			exit(3);
		counts.mappings[frames + i] = 1;
		*(u32 *)(memory + (u64)(frames + i) * 512) = page;
	}
	return source;
}

static struct source *make_file(u32 count, const u32 *touched, u32 frames)
{
	struct source *source = calloc(1, sizeof *source);

	source->kind = FILE_PAGES;
	source->cache = calloc(count, sizeof *source->cache);
	for (u32 i = 0; i < count; i++) {
		source->cache[touched[i]] = frames + i;
		counts.flags[frames + i] = CACHED;
		*(u32 *)(memory + (u64)(frames + i) * 512) = touched[i];
	}
	return source;
}

/* Frames in shuffled blocks of 2 MiB that start one page behind such a boundary, so that no large leaf fits. */
static struct source *make_synthetic(u32 count)
{
	struct source *source = calloc(1, sizeof *source);
	u32 blocks = count / 512;

	source->kind = SYNTHETIC;
	source->blocks = calloc(blocks, sizeof *source->blocks);
	shuffle(source->blocks, blocks);
	for (u32 i = 0; i < blocks; i++)
		source->blocks[i] = source->blocks[i] * 512 + 1;
	counts.synthetic_pins = calloc(count + 512, sizeof *counts.synthetic_pins);
	return source;
}
