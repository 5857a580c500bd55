/*
 * The C side of the benchmarks: each job in the obvious way, with the checks that the TypeScript makes, on the same
 * mappings, so that both print the same checksum. No locks, no tricks.
 *
 * Prints one line for each measurement: name, nanoseconds of CPU time per operation, checksum.
 */
/* As many as the machine of ../src/machine.ts. */
#define FRAMES 65536u
#include "memory.h"
#include "measure.h"
#include "page-table.h"
#include "random.h"

static uint8_t *frame_flags;

/* Walkers. */

enum { READ = 1, WRITE = 2, EXECUTE = 4, PRIVILEGED = 8 };
enum { OK, NOT_PRESENT, RESERVED, DENIED, UNREACHABLE, OUT_OF_RANGE };
enum { WRITE_PROTECT = 1, NO_EXECUTE = 2, SMEP = 4, EXTENDED = 8, STAGE2_DIRTY = 16, STAGE2_EXECUTE = 32 };

struct result {
	u64 pfn;
	int size_lg2, rights, table_level;
	u64 leaf, table_pfn, table_all, table_any, reads;
	int fault_level;
};

static u64 reserved_address;
static u64 x86_leaf_reserved[3], ss_leaf_reserved[3];

static int allowed(int rights, int access)
{
	int wanted = access & 7;

	return ((rights >> (access & PRIVILEGED ? 4 : 0)) & wanted) == wanted;
}

__attribute__((noinline)) static int
x86_walk(struct result *result, u32 root, int top, u64 page, int access, int control)
{
	u64 all = ~0ull, any = 0, *path[5];
	u64 accessed = 0x20 | (control & EXTENDED ? 0x400 : 0);
	u64 reserved = reserved_address | (control & NO_EXECUTE ? 0 : 1ull << 63);
	int64_t sign = (int64_t)(page << 12) >> (9 * top + 20);
	u64 table = root, before_all = all, before_any = any;

	if (sign != 0 && sign != -1)
		return OUT_OF_RANGE;
	for (int level = top;; level--) {
		u64 entry;
		int leaf;

		result->fault_level = level;
		if (table >= FRAMES)
			return UNREACHABLE;
		path[level] = memory + table * 512 + ((page >> (9 * level)) & 511);
		entry = *path[level];
		result->reads++;
		if (!(entry & 1))
			return NOT_PRESENT;
		leaf = level == 0 || (entry & LARGE && level <= 2);
		if (entry & reserved)
			return RESERVED;
		if (leaf ? entry & x86_leaf_reserved[level] : (level > 2 && entry & LARGE))
			return RESERVED;
		before_all = all;
		before_any = any;
		all &= entry;
		any |= entry;
		if (leaf) {
			int execute = any >> 63 && control & NO_EXECUTE ? 0 : EXECUTE;
			int user = all & 4 ? READ | (all & 2) | execute : 0;
			int write = control & WRITE_PROTECT ? all & 2 : WRITE;
			int rights = user | (READ | write | (control & SMEP && user ? 0 : execute)) << 4;
			u64 inside = (1ull << (9 * level)) - 1;

			if (!allowed(rights, access))
				return DENIED;
			if ((accessed & ~all) || (access & WRITE && !(entry & 0x40))) {
				for (int at = top; at >= level; at--)
					*path[at] |= accessed;
				if (access & WRITE)
					*path[level] |= 0x40;
			}
			result->pfn = ((entry & ADDRESS) >> 12 & ~inside) | (page & inside);
			result->size_lg2 = 9 * level + 12;
			result->rights = rights;
			result->leaf = *path[level];
			result->table_pfn = table;
			result->table_level = level;
			result->table_all = before_all;
			result->table_any = before_any;
			return OK;
		}
		table = (entry & ADDRESS) >> 12;
	}
}

__attribute__((noinline)) static int
ss_walk(struct result *result, u32 root, int top, u64 page, int access, int control)
{
	u64 all = ~0ull, *path[5], table = root, before_all = all;
	u64 reserved = reserved_address | 1ull << 62;

	if (page >> (9 * top + 9))
		return OUT_OF_RANGE;
	for (int level = top;; level--) {
		u64 entry;
		int leaf;

		result->fault_level = level;
		if (table >= FRAMES)
			return UNREACHABLE;
		path[level] = memory + table * 512 + ((page >> (9 * level)) & 511);
		entry = *path[level];
		result->reads++;
		if (!(entry & 3))
			return NOT_PRESENT;
		leaf = level == 0 || (entry & LARGE && level <= 2);
		if (entry & reserved)
			return RESERVED;
		if (leaf ? entry & ss_leaf_reserved[level] : (entry & 0x800 || (level > 2 && entry & LARGE)))
			return RESERVED;
		before_all = all;
		all &= entry;
		if (leaf) {
			int rights = (all & 3) | (control & STAGE2_EXECUTE ? all & 4 : (all & 1) << 2);
			u64 inside = (1ull << (9 * level)) - 1;

			rights |= rights << 4;
			if (!allowed(rights, access & 7))
				return DENIED;
			if (control & STAGE2_DIRTY && (!(all & 0x100) || (access & WRITE && !(entry & 0x200)))) {
				for (int at = top; at >= level; at--)
					*path[at] |= 0x100;
				if (access & WRITE)
					*path[level] |= 0x200;
			}
			result->pfn = ((entry & ADDRESS) >> 12 & ~inside) | (page & inside);
			result->size_lg2 = 9 * level + 12;
			result->rights = rights;
			result->leaf = *path[level];
			result->table_pfn = table;
			result->table_level = level;
			result->table_all = before_all;
			return OK;
		}
		table = (entry & ADDRESS) >> 12;
	}
}

__attribute__((noinline)) static int nested_walk(struct result *result, struct result *second, u32 root_gfn, int top,
						 u32 root, int top2, u64 page, int access, int control)
{
	u64 all = ~0ull, any = 0, *path[5], guest[5], gfn = root_gfn, before_all = all, before_any = any;
	u64 accessed = 0x20 | (control & EXTENDED ? 0x400 : 0);
	u64 reserved = reserved_address | (control & NO_EXECUTE ? 0 : 1ull << 63);
	int64_t sign = (int64_t)(page << 12) >> (9 * top + 20);

	if (sign != 0 && sign != -1)
		return OUT_OF_RANGE;
	for (int level = top;; level--) {
		u64 entry;
		int leaf, code = ss_walk(second, root, top2, gfn, READ, control);

		if (code)
			return code;
		result->fault_level = level;
		if (second->pfn >= FRAMES)
			return UNREACHABLE;
		path[level] = memory + second->pfn * 512 + ((page >> (9 * level)) & 511);
		guest[level] = gfn;
		entry = *path[level];
		result->reads++;
		if (!(entry & 1))
			return NOT_PRESENT;
		leaf = level == 0 || (entry & LARGE && level <= 2);
		if (entry & reserved)
			return RESERVED;
		if (leaf ? entry & x86_leaf_reserved[level] : (level > 2 && entry & LARGE))
			return RESERVED;
		before_all = all;
		before_any = any;
		all &= entry;
		any |= entry;
		if (leaf) {
			int execute = any >> 63 && control & NO_EXECUTE ? 0 : EXECUTE;
			int user = all & 4 ? READ | (all & 2) | execute : 0;
			int write = control & WRITE_PROTECT ? all & 2 : WRITE;
			int rights = user | (READ | write | (control & SMEP && user ? 0 : execute)) << 4;
			u64 inside = (1ull << (9 * level)) - 1;
			u64 table = second->pfn, target = ((entry & ADDRESS) >> 12 & ~inside) | (page & inside);

			if (!allowed(rights, access))
				return DENIED;
			code = ss_walk(second, root, top2, target, access & 7, control);
			if (code)
				return code;
			if ((accessed & ~all) || (access & WRITE && !(entry & 0x40))) {
				struct result write_back;

				for (int at = top; at >= level; at--) {
					u64 bits = accessed | (at == level && access & WRITE ? 0x40 : 0);

					if (!(bits & ~*path[at]))
						continue;
					code = ss_walk(&write_back, root, top2, guest[at], WRITE, control);
					if (code)
						return code;
					*path[at] |= bits;
				}
			}
			result->pfn = second->pfn;
			result->size_lg2 = 9 * level + 12 < second->size_lg2 ? 9 * level + 12 : second->size_lg2;
			result->rights = rights & second->rights;
			result->leaf = *path[level];
			result->table_pfn = table;
			result->table_level = level;
			result->table_all = before_all;
			result->table_any = before_any;
			return OK;
		}
		gfn = (entry & ADDRESS) >> 12;
	}
}

/* IOTLB with context and PASID look-up. */

#define SETS 512
struct entry {
	u64 page, pfn;
	u32 epoch, size, rights, extra;
};
struct binding {
	u32 epoch, refused, implied, root, top;
};
struct request {
	int rid, pasid;
	struct binding *binding;
};
struct unit {
	struct entry entries[SETS][4];
	uint8_t victims[SETS];
	u32 sizes;
	struct request requests[256];
	u64 hits, misses, pfn;
	int pasids;
	struct binding bindings[64];
	int rids[64], pasid_of[64], count;
};
static struct unit unit;

static u32 set_of(u32 epoch, u64 page)
{
	return (page ^ page >> 9 ^ page >> 18 ^ epoch << 4) & (SETS - 1);
}

static u32 slot_of(int rid, int pasid)
{
	return (rid ^ pasid << 1 ^ pasid >> 7) & 255;
}

static struct entry *probe(u32 epoch, u64 page)
{
	for (u32 sizes = unit.sizes; sizes; sizes &= sizes - 1) {
		u32 size = __builtin_ctz(sizes);
		u64 first = page >> size << size;
		struct entry *set = unit.entries[set_of(epoch, first)];

		for (int way = 0; way < 4; way++)
			if (set[way].page == first && set[way].epoch == epoch && set[way].size == size)
				return &set[way];
	}
	return NULL;
}

static struct binding *find_binding(int rid, int pasid)
{
	for (int i = 0; i < unit.count; i++)
		if (unit.rids[i] == rid && unit.pasid_of[i] == pasid)
			return &unit.bindings[i];
	return NULL;
}

static int translate_slowly(int rid, int pasid, int access, u64 page)
{
	struct request *request = &unit.requests[slot_of(rid, pasid)];
	struct binding *binding = find_binding(rid, pasid);
	struct result result = { 0 };
	u32 set, size;
	struct entry *entry;

	unit.misses++;
	if (!binding)
		return 1;
	*request = (struct request){ rid, pasid, binding };
	if (x86_walk(&result, binding->root, binding->top, page, access | binding->implied, WRITE_PROTECT | NO_EXECUTE))
		return 1;
	size = result.size_lg2 - 12;
	set = set_of(binding->epoch, page >> size << size);
	entry = &unit.entries[set][unit.victims[set]++ & 3];
	*entry = (struct entry){ page >> size << size, result.pfn, binding->epoch, size, result.rights, 0 };
	unit.sizes |= 1u << size;
	unit.pfn = result.pfn;
	return 0;
}

__attribute__((noinline)) static int translate(int rid, int pasid, int access, int address_type, u64 page)
{
	struct request *request = &unit.requests[slot_of(rid, pasid)];

	if (address_type == 0 && page >> 8 != 0xfee && request->binding && request->rid == rid &&
	    request->pasid == pasid) {
		struct binding *binding = request->binding;
		int wanted = access | binding->implied;
		struct entry *entry = probe(binding->epoch, page);

		if (entry && !(wanted & binding->refused) && allowed(entry->rights, wanted)) {
			unit.hits++;
			unit.pfn = entry->pfn + (page - entry->page);
			return 0;
		}
	}
	return translate_slowly(rid, pasid, access, page);
}

__attribute__((noinline)) static int dma_write(int rid, int pasid, u64 address, const uint8_t *from, u32 length)
{
	while (length) {
		u32 offset = address & 4095, part = 4096 - offset;

		if (part > length)
			part = length;
		if (translate(rid, pasid, WRITE, 0, address >> 12) || unit.pfn >= FRAMES)
			return 1;
		memcpy((uint8_t *)memory + unit.pfn * 4096 + offset, from, part);
		if (frame_flags[unit.pfn])
			return 2;
		address += part;
		from += part;
		length -= part;
	}
	return 0;
}

#define PAGES 4096u
#define WALKS 262144u
#define DATA 0x8000u
#define SOURCE 0x3000u
static u32 permutation[PAGES], order[WALKS], kinds[WALKS];

static u32 build(const struct format *format, int levels, u64 first)
{
	u32 root = allocate_frame();

	used[root] = 0;
	for (u32 i = 0; i < PAGES; i++)
		if (map_range(format, root, levels - 1, 1, first + i, DATA + permutation[i], 1))
			exit(3);
	return root;
}

static void measure_map(const char *map, const char *unmap, int level, u64 leaves, int sizes)
{
	double mapping[PASSES], unmapping[PASSES];
	u32 root = allocate_frame(), sum = 0;
	u64 pages = leaves << (9 * level);

	used[root] = 0;
	for (int pass = -WARM; pass < PASSES; pass++) {
		double start = now_ns(), middle;
		u64 unmapped;

		if (map_range(&second_stage, root, 3, sizes, 0, 1ull << 20, pages))
			exit(3);
		middle = now_ns();
		unmapped = unmap_range(root, 3, 0, pages);
		free_gathered();
		if (pass >= 0) {
			mapping[pass] = middle - start;
			unmapping[pass] = now_ns() - middle;
		}
		sum = unmapped;
	}
	report(map, mapping, leaves, sum);
	report(unmap, unmapping, leaves, sum);
}

int main(void)
{
	const int control = WRITE_PROTECT | NO_EXECUTE;
	u32 roots[5];
	struct result result = { 0 }, second = { 0 };

	make_memory();
	frame_flags = calloc(FRAMES, 1);
	x86_leaf_reserved[1] = 0x1fe000;
	x86_leaf_reserved[2] = 0x3fffe000;
	ss_leaf_reserved[1] = 0x1ff000;
	ss_leaf_reserved[2] = 0x3ffff000;
	shuffle(permutation, PAGES);
	for (u32 i = 0; i < WALKS; i++)
		order[i] = draw() % PAGES;
	for (u32 i = 0; i < WALKS; i++)
		kinds[i] = draw() % 5;

	roots[0] = build(&x86, 4, 0x12345000);
	roots[1] = build(&x86, 5, 0x12345000);
	roots[2] = build(&second_stage, 3, 0x2345000);
	roots[3] = build(&second_stage, 4, 0x12345000);
	roots[4] = build(&second_stage, 5, 0x12345000);
	MEASURE("walk", WALKS, for (u32 i = 0; i < WALKS; i++) {
		if (x86_walk(&result, roots[0], 3, 0x12345000 + order[i], READ, control) == OK)
			sum += result.pfn + result.rights;
	});
	MEASURE("mixed", WALKS, for (u32 i = 0; i < WALKS; i++) {
		u64 page = (kinds[i] == 2 ? 0x2345000 : 0x12345000) + order[i];
		int code;

		switch (kinds[i]) {
		case 0: code = x86_walk(&result, roots[0], 3, page, READ, control); break;
		case 1: code = x86_walk(&result, roots[1], 4, page, READ, control); break;
		case 2: code = ss_walk(&result, roots[2], 2, page, READ, control); break;
		case 3: code = ss_walk(&result, roots[3], 3, page, READ, control); break;
		default: code = ss_walk(&result, roots[4], 4, page, READ, control);
		}
		if (code == OK)
			sum += result.pfn + result.rights;
	});

	/* Nested: guest frames 0..16383 lie behind host frames 0x4000 + a permutation; guest tables from guest frame 8192. */
	{
		enum { GUEST = 16384, TABLES = 8192 };
		static u32 host[GUEST];
		u32 root2 = allocate_frame(), next = TABLES + 1;

		shuffle(host, GUEST);
		used[root2] = 0;
		for (u32 gfn = 0; gfn < GUEST; gfn++) {
			host[gfn] += 0x4000;
			if (map_range(&second_stage, root2, 3, 1, gfn, host[gfn], 1))
				exit(3);
		}
		for (u32 i = 0; i < PAGES; i++) {
			u64 page = 0x12345000 + i;
			u32 gfn = TABLES;

			for (int level = 3; level > 0; level--) {
				u64 *entry = memory + (u64)host[gfn] * 512 + ((page >> (9 * level)) & 511);

				if (!*entry)
					*entry = (u64)next++ << 12 | 0x67;
				gfn = (*entry & ADDRESS) >> 12;
			}
			memory[(u64)host[gfn] * 512 + (page & 511)] = (u64)permutation[i] << 12 | 0x67;
		}
		MEASURE("nested", WALKS, for (u32 i = 0; i < WALKS; i++) {
			u64 page = 0x12345000 + order[i];

			if (nested_walk(&result, &second, TABLES, 3, root2, 3, page, READ, control) == OK)
				sum += result.pfn + result.rights;
		});
	}

	/* Sixteen (requester, PASID) of 64 pages each. */
	for (int i = 0; i < 16; i++) {
		unit.rids[i] = 8 * (1 + i / 4);
		unit.pasid_of[i] = 1 + i % 4;
		unit.bindings[i] = (struct binding){ 1 + i, EXECUTE | PRIVILEGED, 0, roots[0], 3 };
		unit.count = i + 1;
		for (u64 page = 0; page < 64; page++)
			translate(unit.rids[i], unit.pasid_of[i], READ, 0, 0x12345000 + 64 * i + page);
	}
	MEASURE("iotlb", WALKS, for (u32 i = 0; i < WALKS; i++) {
		u32 pick = order[i] & 1023;
		int rid = 8 * (1 + (pick >> 8));
		int pasid = 1 + ((pick >> 6) & 3);

		if (!translate(rid, pasid, READ, 0, 0x12345000 + pick))
			sum += unit.pfn;
	});
	MEASURE("dma", WALKS / 16, for (u32 i = 0; i < WALKS / 16; i++) {
		u32 pick = order[i] & 1023;
		int rid = 8 * (1 + (pick >> 8));
		int pasid = 1 + ((pick >> 6) & 3);

		if (!dma_write(rid, pasid, (u64)(0x12345000 + pick) << 12,
			       (const uint8_t *)memory + (u64)(SOURCE + (pick & 63)) * 4096, 4096))
			sum += unit.pfn;
	});
	if (unit.misses != 1024)
		exit(4);

	measure_map("map-4k", "unmap-4k", 0, 262144, 1);
	measure_map("map-2m", "unmap-2m", 1, 32768, 3);
	measure_map("map-1g", "unmap-1g", 2, 4096, 7);
	return 0;
}
