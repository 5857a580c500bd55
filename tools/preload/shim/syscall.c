/* syscall(): the same calls, made by number. */

#include "shim.h"
#include <fcntl.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

EXPORT long syscall(long number, ...)
{
	va_list arguments;
	va_start(arguments, number);
	long a = va_arg(arguments, long), b = va_arg(arguments, long), c = va_arg(arguments, long);
	long d = va_arg(arguments, long), e = va_arg(arguments, long), f = va_arg(arguments, long);
	va_end(arguments);
	switch (number) {
#ifdef SYS_open
	case SYS_open:
		return open((const char *)a, (int)b, (mode_t)c);
#endif
	case SYS_openat:
		return openat((int)a, (const char *)b, (int)c, (mode_t)d);
	case SYS_ioctl:
		return ioctl((int)a, (unsigned long)b, c);
	case SYS_read:
		return read((int)a, (void *)b, (size_t)c);
	case SYS_write:
		return write((int)a, (const void *)b, (size_t)c);
	case SYS_pread64:
		return pread((int)a, (void *)b, (size_t)c, d);
	case SYS_pwrite64:
		return pwrite((int)a, (const void *)b, (size_t)c, d);
	case SYS_readv:
		return readv((int)a, (const struct iovec *)b, (int)c);
	case SYS_writev:
		return writev((int)a, (const struct iovec *)b, (int)c);
	case SYS_preadv:
		return preadv((int)a, (const struct iovec *)b, (int)c, d);
	case SYS_pwritev:
		return pwritev((int)a, (const struct iovec *)b, (int)c, d);
#ifdef SYS_stat
	case SYS_stat:
		return stat((const char *)a, (struct stat *)b);
	case SYS_lstat:
		return lstat((const char *)a, (struct stat *)b);
	case SYS_access:
		return access((const char *)a, (int)b);
	case SYS_readlink:
		return readlink((const char *)a, (char *)b, (size_t)c);
#endif
	case SYS_fstat:
		return fstat((int)a, (struct stat *)b);
	case SYS_newfstatat:
		return fstatat((int)a, (const char *)b, (struct stat *)c, (int)d);
	case SYS_statx:
		return statx((int)a, (const char *)b, (int)c, (unsigned)d, (struct statx *)e);
	case SYS_faccessat:
		return faccessat((int)a, (const char *)b, (int)c, 0);
	case SYS_faccessat2:
		return faccessat((int)a, (const char *)b, (int)c, (int)d);
	case SYS_readlinkat:
		return readlinkat((int)a, (const char *)b, (char *)c, (size_t)d);
	case SYS_chdir:
		return chdir((const char *)a);
	case SYS_mmap:
		return (long)mmap((void *)a, (size_t)b, (int)c, (int)d, (int)e, f);
	case SYS_munmap:
		return munmap((void *)a, (size_t)b);
	case SYS_mprotect:
		return mprotect((void *)a, (size_t)b, (int)c);
	case SYS_mremap:
		return (long)mremap((void *)a, (size_t)b, (size_t)c, (int)d, (void *)e);
	default:
		return REAL(syscall)(number, a, b, c, d, e, f);
	}
}
