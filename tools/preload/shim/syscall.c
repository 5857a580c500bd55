/* syscall(): the same calls, made by number. */

#include "shim.h"
#include <fcntl.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
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
	case SYS_mmap:
		return (long)mmap((void *)a, (size_t)b, (int)c, (int)d, (int)e, f);
	case SYS_munmap:
		return munmap((void *)a, (size_t)b);
	default:
		return REAL(syscall)(number, a, b, c, d, e, f);
	}
}
