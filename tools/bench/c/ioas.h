/* An I/O address space: its areas, and the tables of the domains that show it. */

struct domain {
	const struct format *format;
	u32 root;
};

struct ioas {
	struct area_tree areas;
	struct domain domains[8];
	int count;
};

/* Leaves of 4 KiB, 2 MiB and 1 GiB. */
#define SIZES 7

static void unmap_area(struct ioas *ioas, struct area *area)
{
	for (int i = 0; i < ioas->count; i++)
		unmap_range(ioas->domains[i].root, 3, area->start >> 12, (area->last - area->start + 1) >> 12);
	free_gathered();
	area_remove(&ioas->areas, area);
	unpin_pages(area->pages);
	free(area->pages);
	free(area);
}

__attribute__((noinline)) static int
ioas_map(struct ioas *ioas, const struct source *source, u64 first, u64 iova, u64 count)
{
	struct area *area = area_from(&ioas->areas, iova);
	u64 page = iova >> 12;

	if (area && area->start < iova + count * 4096)
		return -1;
	area = malloc(sizeof *area);
	area->pages = malloc(sizeof *area->pages + count * sizeof *area->pages->frames);
	area->pages->source = source;
	area->pages->first = first;
	area->pages->count = count;
	area->start = iova;
	area->last = iova + count * 4096 - 1;
	area_insert(&ioas->areas, area);
	if (ioas->count == 0)
		return 0;
	if (pin_pages(area->pages))
		return -1;
	for (int i = 0; i < ioas->count; i++) {
		struct domain *domain = &ioas->domains[i];
		u32 *frames = area->pages->frames;

		for (u64 at = 0, run; at < count; at += run) {
			for (run = 1; at + run < count && frames[at + run] == frames[at] + run; run++)
				;
			if (map_range(domain->format, domain->root, 3, SIZES, page + at, frames[at], run))
				return -1;
		}
	}
	return 0;
}

/* Unmaps the areas that lie in a range; -1 when one lies there only in part. */
__attribute__((noinline)) static int64_t ioas_unmap(struct ioas *ioas, u64 iova, u64 length)
{
	int64_t unmapped = 0;

	for (;;) {
		struct area *area = area_from(&ioas->areas, iova);

		if (!area || area->start > iova + length - 1)
			return unmapped;
		if (area->start < iova || area->last > iova + length - 1)
			return -1;
		unmapped += area->last - area->start + 1;
		unmap_area(ioas, area);
	}
}

static struct ioas *make_ioas(int domains)
{
	struct ioas *ioas = calloc(1, sizeof *ioas);

	ioas->count = domains;
	for (int i = 0; i < domains; i++) {
		ioas->domains[i].format = i & 1 ? &second_stage : &x86;
		ioas->domains[i].root = allocate_frame();
		used[ioas->domains[i].root] = 0;
	}
	return ioas;
}

/* The frame behind a page of a domain. */
static u64 translate(const struct domain *domain, u64 page)
{
	u64 table = domain->root;

	for (int level = 3;; level--) {
		u64 entry = memory[table * 512 + ((page >> (9 * level)) & 511)];

		if (!entry)
			exit(6);
		table = (entry & ADDRESS) >> 12;
		if (level == 0 || entry & LARGE)
			return table + (page & ((1ull << (9 * level)) - 1));
	}
}

/* What the tables lead to: the numbers in every 61st page, or the frames where there is no memory. */
static u32 look(const struct ioas *ioas, u64 first, u64 count)
{
	u32 sum = 0;

	for (int i = 0; i < ioas->count; i++)
		for (u64 page = 0; page < count; page += 61) {
			u64 pfn = translate(&ioas->domains[i], first + page);

			sum += pfn < FRAMES ? *(u32 *)(memory + pfn * 512) : pfn - SYNTHETIC_BASE;
		}
	return sum;
}
