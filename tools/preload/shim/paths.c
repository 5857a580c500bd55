/* Calls on paths: a tree that the server has made stands in for parts of /dev and /sys. */

#include "shim.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Where the server's tree stands in, if it has that part. */
static const char *const roots[] = {
	"/dev/iommu", "/dev/vfio", "/sys/bus/pci/devices", "/sys/bus/pci/drivers/vfio-pci", "/sys/devices/pci0000:00",
	"/sys/kernel/iommu_groups", "/sys/class/vfio-dev", "/sys/kernel/debug",
};

const char *redirected(const char *path, char buffer[4096])
{
	if (path == NULL || path[0] != '/' || server_folder() == NULL) return path;
	for (size_t i = 0; i < sizeof roots / sizeof *roots; i++) {
		size_t length = strlen(roots[i]);
		if (strncmp(path, roots[i], length) != 0 || (path[length] != 0 && path[length] != '/')) continue;
		struct stat status;
		snprintf(buffer, 4096, "%s/root%s", server_folder(), roots[i]);
		if (REAL(syscall)(SYS_newfstatat, AT_FDCWD, buffer, &status, 0) != 0) return path;
		if (snprintf(buffer, 4096, "%s/root%s", server_folder(), path) >= 4096) return path;
		return buffer;
	}
	return path;
}

/* A line such as `VmPin:	       0 kB` with `more` added. */
static int add_line(char *to, size_t room, const char *line, const char *name, unsigned long long more)
{
	unsigned long long value = strtoull(line + strlen(name), NULL, 10);
	return snprintf(to, room, "%s\t%8llu kB\n", name, value + more);
}

/* The pid that a path /proc/PID/status names, 0 for the process itself, -1 when it is another path. */
static long status_pid(const char *path)
{
	if (path == NULL || strncmp(path, "/proc/", 6) != 0) return -1;
	path += 6;
	if (strcmp(path, "self/status") == 0) return 0;
	char *end;
	long pid = strtol(path, &end, 10);
	return pid > 0 && strcmp(end, "/status") == 0 ? pid : -1;
}

int status_file(const char *path, int flags)
{
	long pid = server_folder() == NULL ? -1 : status_pid(path);
	if (pid < 0 || (flags & O_ACCMODE) != O_RDONLY) return -1;
	struct question question = { .kind = ASK_STATUS, .arguments = { pid == 0 ? getpid() : pid } };
	struct answer answer;
	if (ask(&question, NULL, &answer) < 0) return -1;
	char text[8192], changed[8192];
	int source = REAL(open)(path, O_RDONLY | O_CLOEXEC);
	if (source < 0) return -1;
	ssize_t length = REAL(read)(source, text, sizeof text - 1);
	close(source);
	if (length <= 0) return -1;
	text[length] = 0;
	size_t filled = 0;
	for (char *line = text, *next; line != NULL && *line != 0 && filled < sizeof changed - 256; line = next) {
		next = strchr(line, '\n');
		size_t bytes = next == NULL ? strlen(line) : (size_t)(++next - line);
		if (strncmp(line, "VmPin:", 6) == 0) {
			filled += add_line(changed + filled, 64, line, "VmPin:", answer.values[0]);
		} else if (strncmp(line, "VmLck:", 6) == 0) {
			filled += add_line(changed + filled, 64, line, "VmLck:", answer.values[1]);
		} else if (bytes < sizeof changed - filled) {
			memcpy(changed + filled, line, bytes);
			filled += bytes;
		}
	}
	int file = memfd_create("status", (flags & O_CLOEXEC) != 0 ? MFD_CLOEXEC : 0);
	if (file < 0) return -1;
	if (REAL(write)(file, changed, filled) != (ssize_t)filled || lseek(file, 0, SEEK_SET) != 0) {
		close(file);
		return -1;
	}
	return file;
}

static FILE *open_stream(const char *path, const char *mode, FILE *(*real)(const char *, const char *))
{
	char buffer[4096];
	int saved = errno;
	int file = mode[0] == 'r' && strchr(mode, '+') == NULL ? status_file(path, O_RDONLY) : -1;
	errno = saved;
	if (file < 0) return real(redirected(path, buffer), mode);
	FILE *stream = fdopen(file, mode);
	if (stream == NULL) close(file);
	return stream;
}

EXPORT FILE *fopen(const char *path, const char *mode)
{
	return open_stream(path, mode, REAL(fopen));
}

EXPORT FILE *fopen64(const char *path, const char *mode)
{
	return open_stream(path, mode, REAL(fopen64));
}

#define REDIRECT(type, name, parameters, ...) \
	EXPORT type name parameters               \
	{                                         \
		char buffer[4096];                    \
		path = redirected(path, buffer);      \
		return REAL(name)(__VA_ARGS__);       \
	}

REDIRECT(DIR *, opendir, (const char *path), path)
REDIRECT(int, access, (const char *path, int mode), path, mode)
REDIRECT(int, faccessat, (int directory, const char *path, int mode, int flags), directory, path, mode, flags)
REDIRECT(ssize_t, readlink, (const char *path, char *into, size_t bytes), path, into, bytes)
REDIRECT(ssize_t, readlinkat, (int directory, const char *path, char *into, size_t bytes), directory, path, into, bytes)
REDIRECT(int, chdir, (const char *path), path)
REDIRECT(int, scandir, (const char *path, struct dirent ***list, int (*filter)(const struct dirent *),
			int (*compare)(const struct dirent **, const struct dirent **)), path, list, filter, compare)

/* A path that the server's tree answers for, without the tree's own place in front. */
static char *unredirected(char *resolved)
{
	const char *folder = server_folder();
	size_t length = folder == NULL || resolved == NULL ? 0 : strlen(folder);
	if (length > 0 && strncmp(resolved, folder, length) == 0 && strncmp(resolved + length, "/root/", 6) == 0) {
		memmove(resolved, resolved + length + 5, strlen(resolved + length + 5) + 1);
	}
	return resolved;
}

EXPORT char *realpath(const char *path, char *resolved)
{
	char buffer[4096];
	return unredirected(REAL(realpath)(redirected(path, buffer), resolved));
}

EXPORT char *__realpath_chk(const char *path, char *resolved, size_t room)
{
	(void)room;
	return realpath(path, resolved);
}

/* The tree's files under /dev are plain, and stand for character devices. */
static bool is_device(const char *path, bool regular)
{
	return path != NULL && regular && strncmp(path, "/dev/", 5) == 0;
}

#define DEVICE_NUMBER makedev(10, 125)

#define STATUS(name, kind, directory_parameter, flags_parameter, ...)                      \
	EXPORT int name(directory_parameter const char *path, struct kind *status flags_parameter) \
	{                                                                                  \
		char buffer[4096];                                                             \
		const char *real = redirected(path, buffer);                                   \
		int result = REAL(name)(__VA_ARGS__);                                          \
		if (result == 0 && real != path && is_device(path, S_ISREG(status->st_mode))) { \
			status->st_mode = S_IFCHR | 0600;                                          \
			status->st_rdev = DEVICE_NUMBER;                                           \
		}                                                                              \
		return result;                                                                 \
	}

#define NONE
#define DIRECTORY int directory,
#define FLAGS , int flags

STATUS(stat, stat, NONE, NONE, real, status)
STATUS(stat64, stat64, NONE, NONE, real, status)
STATUS(lstat, stat, NONE, NONE, real, status)
STATUS(lstat64, stat64, NONE, NONE, real, status)
STATUS(fstatat, stat, DIRECTORY, FLAGS, directory, real, status, flags)
STATUS(fstatat64, stat64, DIRECTORY, FLAGS, directory, real, status, flags)

EXPORT int statx(int directory, const char *restrict path, int flags, unsigned mask, struct statx *restrict status)
{
	char buffer[4096];
	const char *real = redirected(path, buffer);
	int result = REAL(statx)(directory, real, flags, mask, status);
	if (result == 0 && real != path && is_device(path, S_ISREG(status->stx_mode))) {
		status->stx_mode = S_IFCHR | 0600;
		status->stx_rdev_major = major(DEVICE_NUMBER);
		status->stx_rdev_minor = minor(DEVICE_NUMBER);
	}
	return result;
}
