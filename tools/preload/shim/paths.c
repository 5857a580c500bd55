/* Calls on paths and on what is at them: the server's tree answers for parts of /dev and /sys. */

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
#include <sys/xattr.h>
#include <unistd.h>

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
	char buffer[PATH_MAX];
	int saved = errno;
	int file = mode[0] == 'r' && strchr(mode, '+') == NULL ? status_file(path, O_RDONLY) : -1;
	errno = saved;
	if (file < 0) return real(redirected(AT_FDCWD, path, buffer), mode);
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

#define REDIRECT(type, name, directory, parameters, ...) \
	EXPORT type name parameters                          \
	{                                                    \
		char buffer[PATH_MAX];                           \
		path = redirected(directory, path, buffer);      \
		return REAL(name)(__VA_ARGS__);                  \
	}

REDIRECT(DIR *, opendir, AT_FDCWD, (const char *path), path)
REDIRECT(int, access, AT_FDCWD, (const char *path, int mode), path, mode)
REDIRECT(int, eaccess, AT_FDCWD, (const char *path, int mode), path, mode)
REDIRECT(int, euidaccess, AT_FDCWD, (const char *path, int mode), path, mode)
REDIRECT(int, faccessat, directory, (int directory, const char *path, int mode, int flags), directory, path, mode, flags)
REDIRECT(ssize_t, readlink, AT_FDCWD, (const char *path, char *into, size_t bytes), path, into, bytes)
REDIRECT(ssize_t, readlinkat, directory, (int directory, const char *path, char *into, size_t bytes), directory, path,
	 into, bytes)
REDIRECT(ssize_t, getxattr, AT_FDCWD, (const char *path, const char *attribute, void *into, size_t bytes), path,
	 attribute, into, bytes)
REDIRECT(ssize_t, lgetxattr, AT_FDCWD, (const char *path, const char *attribute, void *into, size_t bytes), path,
	 attribute, into, bytes)
REDIRECT(ssize_t, listxattr, AT_FDCWD, (const char *path, char *into, size_t bytes), path, into, bytes)
REDIRECT(ssize_t, llistxattr, AT_FDCWD, (const char *path, char *into, size_t bytes), path, into, bytes)
REDIRECT(int, chdir, AT_FDCWD, (const char *path), path)
REDIRECT(int, scandir, AT_FDCWD, (const char *path, struct dirent ***list, int (*filter)(const struct dirent *),
			int (*compare)(const struct dirent **, const struct dirent **)), path, list, filter, compare)
REDIRECT(int, scandir64, AT_FDCWD, (const char *path, struct dirent64 ***list, int (*filter)(const struct dirent64 *),
			int (*compare)(const struct dirent64 **, const struct dirent64 **)), path, list, filter, compare)

EXPORT ssize_t __readlink_chk(const char *path, char *into, size_t bytes, size_t room)
{
	if (bytes > room) __chk_fail();
	return readlink(path, into, bytes);
}

EXPORT ssize_t __readlinkat_chk(int directory, const char *path, char *into, size_t bytes, size_t room)
{
	if (bytes > room) __chk_fail();
	return readlinkat(directory, path, into, bytes);
}

EXPORT char *realpath(const char *path, char *resolved)
{
	char buffer[PATH_MAX];
	return unredirected(REAL(realpath)(redirected(AT_FDCWD, path, buffer), resolved));
}

EXPORT char *__realpath_chk(const char *path, char *resolved, size_t room)
{
	(void)room;
	return realpath(path, resolved);
}

EXPORT char *canonicalize_file_name(const char *path)
{
	return realpath(path, NULL);
}

EXPORT char *getcwd(char *into, size_t bytes)
{
	return unredirected(REAL(getcwd)(into, bytes));
}

EXPORT char *__getcwd_chk(char *into, size_t bytes, size_t room)
{
	if (bytes > room) __chk_fail();
	return getcwd(into, bytes);
}
