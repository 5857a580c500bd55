/* Calls that change the process's mappings, of which the server takes note. */

#include "shim.h"
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

/* Ordinary pages in place of huge ones, where the system has none to give: nothing reads back which they are. */
static void *map_small(void *address, size_t length, int protection, int flags)
{
	int small = flags & ~(MAP_HUGETLB | (MAP_HUGE_MASK << MAP_HUGE_SHIFT));
	int huge_lg2 = (flags >> MAP_HUGE_SHIFT) & MAP_HUGE_MASK;
	size_t huge = 1ul << (huge_lg2 == 0 ? 21 : huge_lg2);
	length = (length + huge - 1) & ~(huge - 1);
	if ((flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0) return REAL(mmap)(address, length, protection, small, -1, 0);
	char *room = REAL(mmap)(NULL, length + huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED) return MAP_FAILED;
	char *start = (char *)(((uintptr_t)room + huge - 1) & ~(huge - 1));
	void *mapped = REAL(mmap)(start, length, protection, small | MAP_FIXED, -1, 0);
	if (mapped == MAP_FAILED) {
		REAL(munmap)(room, length + huge);
		return MAP_FAILED;
	}
	if (start > room) REAL(munmap)(room, start - room);
	if (start < room + huge) REAL(munmap)(start + length, room + huge - start);
	return mapped;
}

/* Whether a file of the server's is, or was, mapped here: it wants to know when it is mapped no more. */
static atomic_bool has_served_mapping;

static void mappings_changed(void)
{
	layout_changed();
	if (!atomic_load(&has_served_mapping)) return;
	int saved = errno;
	struct question question = { .kind = ASK_MAPPINGS };
	struct answer answer;
	ask(&question, NULL, &answer);
	errno = saved;
}

/* Maps the file that stands for a part of the served one. */
static void *map_served(int fd, uint64_t inode, void *address, size_t length, int protection, int flags, off_t offset)
{
	struct question question = { .kind = ASK_MMAP, .fd = fd, .inode = inode };
	question.arguments[0] = length;
	question.arguments[1] = protection;
	question.arguments[2] = flags;
	question.arguments[3] = offset;
	struct answer answer;
	int saved = errno;
	char path[PATH_MAX];
	long result = ask(&question, NULL, &answer);
	if (result < 0) {
		finish(result, saved);
		return MAP_FAILED;
	}
	snprintf(path, sizeof path, "%s/memory/%llu", server_folder(), (unsigned long long)answer.values[0]);
	int file = REAL(open)(path, O_RDWR | O_CLOEXEC);
	if (file < 0) return MAP_FAILED;
	void *mapped = REAL(mmap)(address, length, protection, flags, file, 0);
	close(file);
	atomic_store(&has_served_mapping, true);
	mappings_changed();
	return mapped;
}

EXPORT void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
	uint64_t inode;
	if ((flags & MAP_ANONYMOUS) == 0 && is_served(fd, &inode)) {
		return map_served(fd, inode, address, length, protection, flags, offset);
	}
	int saved = errno;
	void *mapped = REAL(mmap)(address, length, protection, flags, fd, offset);
	/* The system has no huge pages left, or none of that size at all. */
	if (mapped == MAP_FAILED && (errno == ENOMEM || errno == EINVAL) && server_folder() != NULL &&
	    (flags & (MAP_HUGETLB | MAP_ANONYMOUS)) == (MAP_HUGETLB | MAP_ANONYMOUS)) {
		mapped = map_small(address, length, protection, flags);
		if (mapped != MAP_FAILED) errno = saved;
	}
	mappings_changed();
	return mapped;
}

EXPORT void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset)
{
	return mmap(address, length, protection, flags, fd, offset);
}

EXPORT int munmap(void *address, size_t length)
{
	int result = REAL(munmap)(address, length);
	mappings_changed();
	return result;
}

EXPORT void *mremap(void *address, size_t length, size_t wanted, int flags, ...)
{
	va_list arguments;
	va_start(arguments, flags);
	void *place = (flags & MREMAP_FIXED) != 0 ? va_arg(arguments, void *) : NULL;
	va_end(arguments);
	void *mapped = REAL(mremap)(address, length, wanted, flags, place);
	mappings_changed();
	return mapped;
}

EXPORT int mprotect(void *address, size_t length, int protection)
{
	int result = REAL(mprotect)(address, length, protection);
	layout_changed();
	return result;
}
