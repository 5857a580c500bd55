/*
 * The calls of stat(2)'s family. A node of the server's is a plain file in its tree and a socket where it is open, and
 * shows as the character device that it stands for; what is no node, such as a fault queue, as an anonymous inode. All of
 * them are made by number, as older C libraries have other names for them.
 */

#include "shim.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct node {
	mode_t type; /* 0 for an anonymous inode */
	unsigned major, minor;
};

/* Whether the call is about something of the server's that has no right status of its own. */
static bool find_node(int directory, const char *path, int flags, struct node *node)
{
	char served[PATH_MAX];
	struct question question = { .kind = ASK_NODE };
	struct answer answer;
	int saved = errno;
	bool empty = (flags & AT_EMPTY_PATH) != 0 && (path == NULL || *path == 0);
	if (empty ? !is_served(directory, &question.inode) : !served_path(directory, path, served)) return false;
	question.fd = empty ? directory : -1;
	long result = ask(&question, empty ? NULL : served, &answer);
	*node = (struct node){ result == 0 ? S_IFCHR : 0, (unsigned)answer.values[0], (unsigned)answer.values[1] };
	errno = saved;
	return result == 0 || (empty && result == -ENODEV);
}

static int status_at(int directory, const char *path, struct stat *status, int flags)
{
	char buffer[PATH_MAX];
	struct node node;
	int result = (int)REAL(syscall)(SYS_newfstatat, directory, redirected(directory, path, buffer), status, flags);
	if (result == 0 && find_node(directory, path, flags, &node)) {
		status->st_mode = node.type | 0600;
		status->st_rdev = makedev(node.major, node.minor);
	}
	return result;
}

EXPORT int statx(int directory, const char *restrict path, int flags, unsigned mask, struct statx *restrict status)
{
	char buffer[PATH_MAX];
	struct node node;
	int result = (int)REAL(syscall)(SYS_statx, directory, redirected(directory, path, buffer), flags, mask, status);
	if (result == 0 && find_node(directory, path, flags, &node)) {
		status->stx_mode = node.type | 0600;
		status->stx_rdev_major = node.major;
		status->stx_rdev_minor = node.minor;
	}
	return result;
}

/* struct stat and struct stat64 are one on 64-bit machines. Programs built for older C libraries call the second four. */
#define STATUS_CALLS(bits)                                                                                      \
	EXPORT int stat##bits(const char *path, struct stat##bits *status)                                          \
	{                                                                                                           \
		return status_at(AT_FDCWD, path, (struct stat *)status, 0);                                             \
	}                                                                                                           \
	EXPORT int lstat##bits(const char *path, struct stat##bits *status)                                         \
	{                                                                                                           \
		return status_at(AT_FDCWD, path, (struct stat *)status, AT_SYMLINK_NOFOLLOW);                           \
	}                                                                                                           \
	EXPORT int fstat##bits(int fd, struct stat##bits *status)                                                   \
	{                                                                                                           \
		return status_at(fd, "", (struct stat *)status, AT_EMPTY_PATH);                                         \
	}                                                                                                           \
	EXPORT int fstatat##bits(int directory, const char *path, struct stat##bits *status, int flags)             \
	{                                                                                                           \
		return status_at(directory, path, (struct stat *)status, flags);                                        \
	}                                                                                                           \
	EXPORT int __xstat##bits(int version, const char *path, struct stat##bits *status)                          \
	{                                                                                                           \
		(void)version;                                                                                          \
		return stat##bits(path, status);                                                                        \
	}                                                                                                           \
	EXPORT int __lxstat##bits(int version, const char *path, struct stat##bits *status)                         \
	{                                                                                                           \
		(void)version;                                                                                          \
		return lstat##bits(path, status);                                                                       \
	}                                                                                                           \
	EXPORT int __fxstat##bits(int version, int fd, struct stat##bits *status)                                   \
	{                                                                                                           \
		(void)version;                                                                                          \
		return fstat##bits(fd, status);                                                                         \
	}                                                                                                           \
	EXPORT int __fxstatat##bits(int version, int directory, const char *path, struct stat##bits *status, int flags) \
	{                                                                                                           \
		(void)version;                                                                                          \
		return fstatat##bits(directory, path, status, flags);                                                   \
	}

STATUS_CALLS()
STATUS_CALLS(64)
