/* Calls on descriptors: those of the server's files go there, all others on to the C library. */

#include "shim.h"
#include <fcntl.h>
#include <stdarg.h>
#include <sys/uio.h>
#include <unistd.h>

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
static long try_open(int directory, const char *path, int flags)
{
	char served[PATH_MAX];
	if ((flags & O_DIRECTORY) != 0 || !served_path(directory, path, served)) return -ENOENT;
	return served_open(served, flags);
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
		long fd = try_open(directory, path, flags);                     \
		if (fd != -ENOENT) return (int)finish(fd, saved);               \
		fd = status_file(path, flags);                                  \
		if (fd >= 0) return (int)finish(fd, saved);                     \
		errno = saved;                                                  \
		char buffer[PATH_MAX];                                          \
		return REAL(real)(__VA_ARGS__ redirected(directory, path, buffer), flags, mode); \
	}

EXPORT int open(const char *path, int flags, ...) OPEN(open, open, AT_FDCWD, )
EXPORT int open64(const char *path, int flags, ...) OPEN(open64, open64, AT_FDCWD, )
EXPORT int openat(int directory, const char *path, int flags, ...) OPEN(openat, openat, directory, directory, )
EXPORT int openat64(int directory, const char *path, int flags, ...) OPEN(openat64, openat64, directory, directory, )

EXPORT int creat(const char *path, mode_t mode)
{
	return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

EXPORT int creat64(const char *path, mode_t mode)
{
	return creat(path, mode);
}

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
static long served_vector(uint32_t kind, int fd, uint64_t inode, const struct iovec *parts, int count, int64_t offset)
{
	long done = 0;
	if (count < 0 || count > IOV_MAX || (offset < 0 && offset != NO_OFFSET)) return -EINVAL;
	for (int i = 0; i < count; i++) {
		if (parts[i].iov_len == 0) continue;
		int64_t position = offset == NO_OFFSET ? NO_OFFSET : offset + done;
		long moved = served_transfer(kind, fd, inode, (uintptr_t)parts[i].iov_base, parts[i].iov_len, position);
		if (moved < 0) return done > 0 ? done : moved;
		done += moved;
		if ((size_t)moved < parts[i].iov_len) break;
	}
	return done;
}

#define VECTOR(kind, offset, ...)                                                    \
	{                                                                                \
		uint64_t inode;                                                              \
		int saved = errno;                                                           \
		if (!is_served(fd, &inode)) return __VA_ARGS__;                              \
		return finish(served_vector(kind, fd, inode, parts, count, offset), saved);  \
	}

EXPORT ssize_t readv(int fd, const struct iovec *parts, int count)
	VECTOR(ASK_READ, NO_OFFSET, REAL(readv)(fd, parts, count))
EXPORT ssize_t writev(int fd, const struct iovec *parts, int count)
	VECTOR(ASK_WRITE, NO_OFFSET, REAL(writev)(fd, parts, count))
EXPORT ssize_t preadv(int fd, const struct iovec *parts, int count, off_t offset)
	VECTOR(ASK_READ, offset, REAL(preadv)(fd, parts, count, offset))
EXPORT ssize_t preadv64(int fd, const struct iovec *parts, int count, off64_t offset)
	VECTOR(ASK_READ, offset, REAL(preadv64)(fd, parts, count, offset))
EXPORT ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
	VECTOR(ASK_WRITE, offset, REAL(pwritev)(fd, parts, count, offset))
EXPORT ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset)
	VECTOR(ASK_WRITE, offset, REAL(pwritev64)(fd, parts, count, offset))

/* Of preadv2(2), where -1 is the file's own place. */
static int64_t place(off_t offset)
{
	return offset == -1 ? NO_OFFSET : offset;
}

EXPORT ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
	VECTOR(ASK_READ, place(offset), REAL(preadv2)(fd, parts, count, offset, flags))
EXPORT ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags)
	VECTOR(ASK_READ, place(offset), REAL(preadv64v2)(fd, parts, count, offset, flags))
EXPORT ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
	VECTOR(ASK_WRITE, place(offset), REAL(pwritev2)(fd, parts, count, offset, flags))
EXPORT ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags)
	VECTOR(ASK_WRITE, place(offset), REAL(pwritev64v2)(fd, parts, count, offset, flags))
