/* Which paths are the server's: nodes that it opens, and files of a tree that it has made in place of parts of /sys. */

#include "shim.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Where the tree stands in, if it has that part. */
static const char *const roots[] = {
	"/dev/iommu",
	"/dev/vfio",
	"/sys/bus/pci/devices",
	"/sys/bus/pci/drivers/vfio-pci",
	"/sys/devices/pci0000:00",
	"/sys/kernel/iommu_groups",
	"/sys/class/vfio-dev",
	"/sys/kernel/debug",
	"/sys/module/vfio",
	"/sys/module/vfio_pci",
	"/sys/module/vfio_iommu_type1",
	"/sys/module/iommufd",
};

static bool is_below(const char *path, const char *root)
{
	size_t length = strlen(root);
	return strncmp(path, root, length) == 0 && (path[length] == 0 || path[length] == '/');
}

char *unredirected(char *path)
{
	const char *folder = server_folder();
	size_t length = folder == NULL || path == NULL ? 0 : strlen(folder);
	if (length > 0 && strncmp(path, folder, length) == 0 && strncmp(path + length, "/root/", 6) == 0) {
		memmove(path, path + length + 5, strlen(path + length + 5) + 1);
	}
	return path;
}

/* Takes out what names nothing: `//` and `/./`. What `..` leads to depends on links, so it stays. */
static void simplify(char *path)
{
	char *to = path;
	for (const char *from = path; *from != 0;) {
		if (from[0] == '/' && from[1] == '/') from++;
		else if (from[0] == '/' && from[1] == '.' && (from[2] == '/' || from[2] == 0)) from += 2;
		else *to++ = *from++;
	}
	*to = 0;
}

/* `path` as a path from the root. False: it is too long, or its folder has none. */
static bool absolute(int directory, const char *path, char into[PATH_MAX])
{
	size_t length = 0;
	if (*path != '/') {
		char link[32] = "/proc/self/cwd";
		if (directory != AT_FDCWD) snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
		ssize_t read = REAL(syscall)(SYS_readlinkat, AT_FDCWD, link, into, PATH_MAX - 2);
		if (read <= 0 || into[0] != '/') return false;
		into[read] = 0;
		length = strlen(unredirected(into));
		into[length++] = '/';
	}
	size_t bytes = strlen(path) + 1;
	if (length + bytes > PATH_MAX) return false;
	memcpy(into + length, path, bytes);
	simplify(into);
	return true;
}

const char *redirected(int directory, const char *path, char buffer[PATH_MAX])
{
	int saved = errno;
	const char *found = path;
	char place[PATH_MAX];
	if (path == NULL || *path == 0 || server_folder() == NULL || !absolute(directory, path, place)) goto end;
	for (size_t i = 0; i < sizeof roots / sizeof *roots; i++) {
		if (!is_below(place, roots[i])) continue;
		struct stat status;
		snprintf(buffer, PATH_MAX, "%s/root%s", server_folder(), roots[i]);
		if (REAL(syscall)(SYS_newfstatat, AT_FDCWD, buffer, &status, 0) != 0) break;
		if (snprintf(buffer, PATH_MAX, "%s/root%s", server_folder(), place) < PATH_MAX) found = buffer;
		break;
	}
end:
	errno = saved;
	return found;
}

bool served_path(int directory, const char *path, char into[PATH_MAX])
{
	int saved = errno;
	bool served = false;
	if (path == NULL || *path == 0 || server_folder() == NULL || !absolute(directory, path, into)) goto end;
	if (strstr(into, "/..") != NULL) {
		char buffer[PATH_MAX], resolved[PATH_MAX];
		if (REAL(realpath)(redirected(AT_FDCWD, into, buffer), resolved) != NULL) strcpy(into, unredirected(resolved));
	}
	size_t length = strlen(into);
	served = strcmp(into, "/dev/iommu") == 0 || strncmp(into, "/dev/vfio/", 10) == 0 ||
		 (strncmp(into, "/proc/", 6) == 0 && length > 9 && strcmp(into + length - 9, "/fail-nth") == 0);
end:
	errno = saved;
	return served;
}
