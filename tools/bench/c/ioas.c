/*
 * The C side of the benchmarks of /dev/iommu: areas in a red-black tree, their pages pinned one by one into an array, the
 * runs of adjoining frames put into the table of each domain; and back. No locks, no tricks.
 *
 * Prints one line for each measurement: name, nanoseconds of CPU time per operation, checksum.
 */
/* As many as the machine of ../src/ioas-host.ts. */
#define FRAMES 917504u
#include <malloc.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "memory.h"
#include "measure.h"
#include "page-table.h"
#include "random.h"
#include "pages.h"
#include "area-tree.h"
#include "ioas.h"

/* The first of these frames are for tables. */
#define TABLES 131072u
#define GIB 262144u
#define DIRTY_PAGES 32768u
#define IOVA (1ull << 30)

static void measure_map(const char *name, const struct source *source, u64 first, u64 count, int domains)
{
	struct ioas *ioas = make_ioas(domains);
	double mapping[PASSES], unmapping[PASSES];
	char label[64];
	u32 sum = 0;

	for (int pass = -WARM; pass < PASSES; pass++) {
		double start = now_ns(), middle, end;

		if (ioas_map(ioas, source, first, IOVA, count))
			exit(3);
		middle = now_ns();
		sum = look(ioas, IOVA >> 12, count);
		end = now_ns();
		if (ioas_unmap(ioas, IOVA, count * 4096) != (int64_t)count * 4096)
			exit(3);
		if (pass >= 0) {
			mapping[pass] = middle - start;
			unmapping[pass] = now_ns() - end;
		}
	}
	snprintf(label, sizeof label, "map-%s", name);
	report(label, mapping, count, sum);
	snprintf(label, sizeof label, "unmap-%s", name);
	report(label, unmapping, count, sum);
}

/* Dirty bits of a second-stage table as a bitmap, read and cleared. A device has just written the pages. */

#define SS_DIRTY 0x200ull

static void read_dirty(u32 table, int level, u64 page, u64 pages, u64 base, uint8_t *bitmap)
{
	u64 *entries = memory + (u64)table * 512, span = 1ull << (9 * level);

	while (pages) {
		u64 part = span - (page & (span - 1)), *entry = &entries[(page >> (9 * level)) & 511];

		if (part > pages)
			part = pages;
		if (*entry && (level == 0 || *entry & LARGE)) {
			if (*entry & SS_DIRTY) {
				*entry &= ~SS_DIRTY;
				for (u64 bit = page - base; bit < page - base + part; bit++)
					bitmap[bit >> 3] |= 1 << (bit & 7);
			}
		} else if (*entry) {
			read_dirty((*entry & ADDRESS) >> 12, level - 1, page, part, base, bitmap);
		}
		page += part;
		pages -= part;
	}
}

static void measure_dirty(const char *name, struct ioas *ioas, u64 count, u32 step)
{
	struct domain *domain = &ioas->domains[0];
	uint8_t *bitmap = malloc(count / 8);
	double times[PASSES];
	u32 sum = 0;

	for (int pass = -WARM; pass < PASSES; pass++) {
		double start;

		for (u64 page = 0; step && page < count; page += step) {
			u64 at = (IOVA >> 12) + page, table = domain->root;

			for (int level = 3; level > 0; level--)
				table = (memory[table * 512 + ((at >> (9 * level)) & 511)] & ADDRESS) >> 12;
			memory[table * 512 + (at & 511)] |= SS_DIRTY;
			*(u32 *)(memory + translate(domain, at) * 512) = page;
		}
		memset(bitmap, 0, count / 8);
		start = now_ns();
		for (struct area *area = area_from(&ioas->areas, IOVA); area; area = area_after(area)) {
			u64 page = area->start >> 12;

			read_dirty(domain->root, 3, page, (area->last >> 12) - page + 1, IOVA >> 12, bitmap);
		}
		if (pass >= 0)
			times[pass] = now_ns() - start;
		sum = 0;
		for (u64 byte = 0; byte < count / 8; byte++)
			sum = sum * 31 + bitmap[byte];
	}
	report(name, times, count, sum);
	free(bitmap);
}

/* What grows with the number of areas. Area i is page 2 i + 1; behind nine tenths of them a gap of 65 pages is left. */

#define OPERATIONS 65536u
#define CALLS 8192u
#define GAP_PAGES 64u

static u64 iova_of(u32 i, u32 count)
{
	return (2ull * i + 1 + (i >= count / 10 * 9 ? GAP_PAGES : 0)) * 4096;
}

static void measure_areas(u32 count, const struct source *source, u64 first)
{
	struct ioas *ioas = make_ioas(1);
	struct area **areas = malloc(count * sizeof *areas);
	u32 *order = malloc(count * sizeof *order), *drawn = malloc(OPERATIONS * sizeof *drawn);
	u32 searches = 100000 / count + 1;
	u64 *inside = malloc(OPERATIONS * sizeof *inside);
	char label[64];

	random_state = 1;
	shuffle(order, count);
	for (u32 i = 0; i < OPERATIONS; i++)
		drawn[i] = draw() % count;
	for (u32 i = 0; i < count; i++) {
		u64 iova = iova_of(order[i], count);

		if (ioas_map(ioas, source, first + (order[i] & 0xffff), iova, 1))
			exit(3);
		areas[order[i]] = area_from(&ioas->areas, iova);
	}
	for (u32 i = 0; i < OPERATIONS; i++)
		inside[i] = iova_of(drawn[i], count) + 5;
	snprintf(label, sizeof label, "area-lookup@%u", count);
	MEASURE(label, OPERATIONS, for (u32 i = 0; i < OPERATIONS; i++) {
		sum += area_from(&ioas->areas, inside[i])->start >> 12;
	});
	snprintf(label, sizeof label, "area-update@%u", count);
	MEASURE(label, OPERATIONS, for (u32 i = 0; i < OPERATIONS; i++) {
		struct area *area = areas[drawn[i]];

		area_remove(&ioas->areas, area);
		area_insert(&ioas->areas, area);
		sum += area->start >> 12;
	});
	snprintf(label, sizeof label, "first-fit@%u", count);
	MEASURE(label, searches, for (u32 i = 0; i < searches; i++) {
		sum = first_fit(&ioas->areas, GAP_PAGES * 4096, 4096) >> 12;
	});
	snprintf(label, sizeof label, "map-page@%u", count);
	MEASURE(label, CALLS, for (u32 i = 0; i < CALLS; i++) {
		u64 iova = iova_of(drawn[i], count) + 4096;

		if (ioas_map(ioas, source, first + (drawn[i] & 0xffff), iova, 1))
			exit(3);
		sum += ioas_unmap(ioas, iova, 4096) >> 12;
	});
	for (u32 i = 0; i < count; i++)
		unmap_area(ioas, areas[i]);
	free(areas);
	free(order);
	free(drawn);
	free(inside);
	free(ioas);
}

/* Does nothing in the kernel but to go in, look a file up and come out. */
static void measure_system_call(void)
{
	int ends[2], waiting;

	if (pipe(ends))
		exit(3);
	MEASURE("ioctl-query", CALLS, for (u32 i = 0; i < CALLS; i++) {
		sum += ioctl(ends[0], FIONREAD, &waiting) == 0;
	});
}

int main(void)
{
	static u32 order[GIB];
	struct source *scattered, *adjoining, *file;
	struct ioas *tracked;

	mallopt(M_MMAP_THRESHOLD, 1 << 30);
	mallopt(M_TRIM_THRESHOLD, -1);
	make_memory();
	make_counts();
	shuffle(order, GIB);
	scattered = make_user(GIB, order, TABLES);
	adjoining = make_user(GIB, NULL, TABLES + GIB);
	file = make_file(GIB, order, TABLES + 2 * GIB);

	measure_map("4k", scattered, 0, GIB, 1);
	measure_map("4k-2", scattered, 0, GIB, 2);
	measure_map("4k-8", scattered, 0, GIB, 8);
	measure_map("2m", adjoining, 0, GIB, 1);
	measure_map("file", file, 0, GIB, 1);
	measure_map("64g", make_synthetic(64 * GIB), 0, 64 * GIB, 1);

	tracked = make_ioas(1);
	if (ioas_map(tracked, scattered, 0, IOVA, DIRTY_PAGES))
		exit(3);
	measure_dirty("dirty-none", tracked, DIRTY_PAGES, 0);
	measure_dirty("dirty-half", tracked, DIRTY_PAGES, 2);
	measure_dirty("dirty-all", tracked, DIRTY_PAGES, 1);

	for (u32 count = 100; count <= 1000000; count *= 10)
		measure_areas(count, scattered, 0);
	measure_system_call();
	return 0;
}
