/* Calls on descriptors: those of the server's files go there, all others on to the C library. */

#include "shim.h"
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

bool is_served_path(const char *path)
{
	if (path == NULL || server_folder() == NULL) return false;
	if (strcmp(path, "/dev/iommu") == 0 || strncmp(path, "/dev/vfio/", 10) == 0) return true;
	size_t length = strlen(path);
	return strncmp(path, "/proc/", 6) == 0 && length > 9 && strcmp(path + length - 9, "/fail-nth") == 0;
}

long served_open(const char *path, int flags)
{
	int fd = dial(ASK_FILE, 0, (flags & O_CLOEXEC) != 0);
	if (fd < 0) return fd;
	struct question question = { .kind = ASK_OPEN, .offered_fd = fd, .offered_inode = inode_of(fd) };
	struct answer answer;
	long result = ask(&question, path, &answer);
	if (result >= 0) return fd;
	close(fd);
	return result;
}

long served_ioctl(int fd, uint64_t inode, unsigned long request, unsigned long argument)
{
	struct question question = { .kind = ASK_IOCTL, .fd = fd, .inode = inode, .arguments = { request, argument } };
	struct answer answer;
	return ask(&question, NULL, &answer);
}

long served_transfer(uint32_t kind, int fd, uint64_t inode, uintptr_t buffer, size_t bytes, int64_t offset)
{
	struct question question = { .kind = kind, .fd = fd, .inode = inode, .arguments = { buffer, bytes, offset } };
	struct answer answer;
	return ask(&question, NULL, &answer);
}

/* Opens what the server has; -ENOENT when it has nothing there and the file system is to be asked. */
static long try_open(const char *path, int flags)
{
	if (!is_served_path(path)) return -ENOENT;
	return served_open(path, flags);
}

static mode_t mode_of(int flags, va_list arguments)
{
	return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, mode_t) : 0;
}

#define OPEN(name, real, directory, ...)                                \
	{                                                                   \
		va_list arguments;                                              \
		va_start(arguments, flags);                                     \
		mode_t mode = mode_of(flags, arguments);                        \
		va_end(arguments);                                              \
		int saved = errno;                                              \
		long fd = try_open(path, flags);                                \
		if (fd != -ENOENT) return (int)finish(fd, saved);               \
		fd = status_file(path, flags);                                  \
		if (fd >= 0) return (int)finish(fd, saved);                     \
		errno = saved;                                                  \
		char buffer[4096];                                              \
		return REAL(real)(__VA_ARGS__ redirected(path, buffer), flags, mode); \
	}

EXPORT int open(const char *path, int flags, ...) OPEN(open, open, AT_FDCWD, )
EXPORT int open64(const char *path, int flags, ...) OPEN(open64, open64, AT_FDCWD, )
EXPORT int openat(int directory, const char *path, int flags, ...) OPEN(openat, openat, directory, directory, )
EXPORT int openat64(int directory, const char *path, int flags, ...) OPEN(openat64, openat64, directory, directory, )

EXPORT int __open_2(const char *path, int flags)
{
	return open(path, flags);
}

EXPORT int __open64_2(const char *path, int flags)
{
	return open64(path, flags);
}

EXPORT int __openat_2(int directory, const char *path, int flags)
{
	return openat(directory, path, flags);
}

EXPORT int __openat64_2(int directory, const char *path, int flags)
{
	return openat64(directory, path, flags);
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	va_start(arguments, request);
	unsigned long argument = va_arg(arguments, unsigned long);
	va_end(arguments);
	uint64_t inode;
	int saved = errno;
	if (!is_served(fd, &inode)) return REAL(ioctl)(fd, request, argument);
	return (int)finish(served_ioctl(fd, inode, request, argument), saved);
}

/* Of read(2) and write(2), which go by the file's own. */
#define NO_OFFSET INT64_MIN

#define TRANSFER(kind, offset, ...)                                                             \
	{                                                                                           \
		uint64_t inode;                                                                         \
		int saved = errno;                                                                      \
		if (!is_served(fd, &inode)) return __VA_ARGS__;                                         \
		if (offset < 0 && offset != NO_OFFSET) return finish(-EINVAL, saved);                                  \
		return finish(served_transfer(kind, fd, inode, (uintptr_t)buffer, bytes, offset), saved); \
	}

EXPORT ssize_t read(int fd, void *buffer, size_t bytes)
	TRANSFER(ASK_READ, NO_OFFSET, REAL(read)(fd, buffer, bytes))
EXPORT ssize_t write(int fd, const void *buffer, size_t bytes)
	TRANSFER(ASK_WRITE, NO_OFFSET, REAL(write)(fd, buffer, bytes))
EXPORT ssize_t pread(int fd, void *buffer, size_t bytes, off_t offset)
	TRANSFER(ASK_READ, offset, REAL(pread)(fd, buffer, bytes, offset))
EXPORT ssize_t pread64(int fd, void *buffer, size_t bytes, off64_t offset)
	TRANSFER(ASK_READ, offset, REAL(pread64)(fd, buffer, bytes, offset))
EXPORT ssize_t pwrite(int fd, const void *buffer, size_t bytes, off_t offset)
	TRANSFER(ASK_WRITE, offset, REAL(pwrite)(fd, buffer, bytes, offset))
EXPORT ssize_t pwrite64(int fd, const void *buffer, size_t bytes, off64_t offset)
	TRANSFER(ASK_WRITE, offset, REAL(pwrite64)(fd, buffer, bytes, offset))

/* What _FORTIFY_SOURCE calls where it knows the size of the buffer. */
extern void __chk_fail(void) __attribute__((noreturn));

EXPORT ssize_t __read_chk(int fd, void *buffer, size_t bytes, size_t room)
{
	if (bytes > room) __chk_fail();
	return read(fd, buffer, bytes);
}

EXPORT ssize_t __pread_chk(int fd, void *buffer, size_t bytes, off_t offset, size_t room)
{
	if (bytes > room) __chk_fail();
	return pread(fd, buffer, bytes, offset);
}

EXPORT ssize_t __pread64_chk(int fd, void *buffer, size_t bytes, off64_t offset, size_t room)
{
	if (bytes > room) __chk_fail();
	return pread64(fd, buffer, bytes, offset);
}

/* Moves the parts one by one until one of them is moved in part. */
static long served_vector(uint32_t kind, int fd, uint64_t inode, const struct iovec *parts, int count)
{
	long done = 0;
	if (count < 0 || count > IOV_MAX) return -EINVAL;
	for (int i = 0; i < count; i++) {
		if (parts[i].iov_len == 0) continue;
		long moved = served_transfer(kind, fd, inode, (uintptr_t)parts[i].iov_base, parts[i].iov_len, NO_OFFSET);
		if (moved < 0) return done > 0 ? done : moved;
		done += moved;
		if ((size_t)moved < parts[i].iov_len) break;
	}
	return done;
}

EXPORT ssize_t readv(int fd, const struct iovec *parts, int count)
{
	uint64_t inode;
	int saved = errno;
	if (!is_served(fd, &inode)) return REAL(readv)(fd, parts, count);
	return finish(served_vector(ASK_READ, fd, inode, parts, count), saved);
}

EXPORT ssize_t writev(int fd, const struct iovec *parts, int count)
{
	uint64_t inode;
	int saved = errno;
	if (!is_served(fd, &inode)) return REAL(writev)(fd, parts, count);
	return finish(served_vector(ASK_WRITE, fd, inode, parts, count), saved);
}

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

EXPORT int mprotect(void *address, size_t length, int protection)
{
	int result = REAL(mprotect)(address, length, protection);
	layout_changed();
	return result;
}
