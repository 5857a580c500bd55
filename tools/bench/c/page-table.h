/* Page tables: ranges mapped and unmapped with the largest leaves that fit, empty tables gathered. */

#define ADDRESS 0x000ffffffffff000ull
#define LARGE 0x80ull

struct format {
	u64 table, leaf;
};

static const struct format x86 = { .table = 0x7, .leaf = 0x67 };
static const struct format second_stage = { .table = 0x7, .leaf = 0x7 };
static uint16_t used[FRAMES];

static int map_range(const struct format *format, u32 table, int level, int sizes, u64 page, u64 pfn, u64 pages)
{
	u64 span = 1ull << (9 * level), leaf = format->leaf | (level ? LARGE : 0);
	u64 *entries = memory + (u64)table * 512;
	u32 index = (page >> (9 * level)) & 511;

	while (pages) {
		u64 part = span - (page & (span - 1));
		u64 entry;

		if ((sizes >> level & 1) && pages >= span && !((page | pfn) & (span - 1))) {
			u32 count = 512 - index;

			if (count > pages >> (9 * level))
				count = pages >> (9 * level);
			for (u32 i = 0; i < count; i++) {
				if (entries[index + i])
					return -1;
				entries[index + i] = (pfn + ((u64)i << (9 * level))) << 12 | leaf;
			}
			used[table] += count;
			index += count;
			part = (u64)count << (9 * level);
		} else {
			if (part > pages)
				part = pages;
			entry = entries[index];
			if (!entry) {
				u32 child = allocate_frame();

				used[child] = 0;
				entry = entries[index] = (u64)child << 12 | format->table;
				used[table]++;
			} else if (level == 0 || (entry & LARGE)) {
				return -1;
			}
			if (map_range(format, (entry & ADDRESS) >> 12, level - 1, sizes, page, pfn, part))
				return -1;
			index++;
		}
		page += part;
		pfn += part;
		pages -= part;
	}
	return 0;
}

static u32 gathered[FRAMES], gathered_count;

static u64 unmap_range(u32 table, int level, u64 page, u64 pages)
{
	u64 span = 1ull << (9 * level), unmapped = 0;
	u64 *entries = memory + (u64)table * 512;
	u32 first = (page >> (9 * level)) & 511, last = ((page + pages - 1) >> (9 * level)) & 511, leaves = 0;

	if (level == 0) {
		for (u32 index = first; index <= last; index++) {
			leaves += entries[index] != 0;
			entries[index] = 0;
		}
		used[table] -= leaves;
		return leaves;
	}
	for (u32 index = first; index <= last; index++) {
		u64 entry = entries[index];
		u64 start = index == first ? page : page - (page & (span - 1)) + (index - first) * span;
		u64 end = page - (page & (span - 1)) + (index - first + 1) * span;
		u32 child = (entry & ADDRESS) >> 12;

		if (!entry)
			continue;
		if (entry & LARGE) {
			entries[index] = 0;
			leaves++;
			continue;
		}
		if (end > page + pages)
			end = page + pages;
		unmapped += unmap_range(child, level - 1, start, end - start);
		if (used[child] == 0) {
			gathered[gathered_count++] = child;
			entries[index] = 0;
			used[table]--;
		}
	}
	used[table] -= leaves;
	return unmapped + leaves * span;
}

static void free_gathered(void)
{
	while (gathered_count)
		free_frame(gathered[--gathered_count]);
}
