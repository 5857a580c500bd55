/* Every way to name a node or a file of /sys, and what the calls of stat(2)'s family say of them. */

#include "device.h"
#include <dirent.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#define DEVICE "/sys/bus/pci/devices/0000:00:02.0"
#define NODE "/dev/vfio/devices/vfio1"

/* Whether `fd` is the device: what is not bound refuses with EINVAL, a plain file with ENOTTY. */
static int is_device(int fd)
{
	uint32_t info[8] = { sizeof info };
	return fd >= 0 && ioctl(fd, VFIO_DEVICE_GET_INFO, info) == -1 && errno == EINVAL && close(fd) == 0;
}

static void numbers(void)
{
	unsigned major, minor;
	FILE *file = fopen(DEVICE "/vfio-dev/vfio1/dev", "r");
	CHECK(file != NULL && fscanf(file, "%u:%u", &major, &minor) == 2 && fclose(file) == 0);
	dev_t number = makedev(major, minor);

	int fd = open(NODE, O_RDWR);
	struct stat status;
	struct stat64 status64;
	struct statx large;
	CHECK(fstat(fd, &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev == number);
	CHECK(fstat64(fd, &status64) == 0 && S_ISCHR(status64.st_mode) && status64.st_rdev == number);
	CHECK(stat(NODE, &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev == number);
	CHECK(lstat64(NODE, &status64) == 0 && S_ISCHR(status64.st_mode) && status64.st_rdev == number);
	CHECK(fstatat(fd, "", &status, AT_EMPTY_PATH) == 0 && status.st_rdev == number);
	CHECK(statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &large) == 0 && S_ISCHR(large.stx_mode));
	CHECK(large.stx_rdev_major == major && large.stx_rdev_minor == minor);
	CHECK(syscall(SYS_statx, AT_FDCWD, NODE, 0, STATX_BASIC_STATS, &large) == 0 && large.stx_rdev_minor == minor);
	CHECK(syscall(SYS_newfstatat, AT_FDCWD, NODE, &status, 0) == 0 && status.st_rdev == number);
	CHECK(syscall(SYS_fstat, fd, &status) == 0 && status.st_rdev == number);
	CHECK(stat("/dev/vfio/devices", &status) == 0 && S_ISDIR(status.st_mode));
	close(fd);

	fd = open("/dev/iommu", O_RDWR);
	CHECK(fstat(fd, &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev != number);
	struct iommu_fault_alloc fault = { .size = sizeof fault };
	CHECK(ioctl(fd, IOMMU_FAULT_QUEUE_ALLOC, &fault) == 0);
	CHECK(fstat(fault.out_fault_fd, &status) == 0 && (status.st_mode & S_IFMT) == 0);
	close(fault.out_fault_fd);
	close(fd);
	int pair[2];
	CHECK(pipe(pair) == 0 && fstat(pair[0], &status) == 0 && S_ISFIFO(status.st_mode));
	FAILS(EBADF, fstat(99, &status));
	FAILS(ENOENT, stat("/dev/vfio/devices/vfio7", &status));
}

static void names(void)
{
	char path[PATH_MAX];
	CHECK(is_device(open("/dev//vfio/./devices/vfio1", O_RDWR)));
	CHECK(is_device(open("/dev/vfio/devices/../devices/vfio1", O_RDWR)));
	FAILS(ENOTDIR, open(NODE, O_RDONLY | O_DIRECTORY));
	int directory = open("/dev/vfio/devices", O_RDONLY | O_DIRECTORY);
	CHECK(is_device(openat(directory, "vfio1", O_RDWR)));
	close(directory);
	directory = open("/dev", O_RDONLY | O_DIRECTORY);
	CHECK(is_device(openat64(directory, "vfio/devices/vfio1", O_RDWR)));
	CHECK(chdir("/dev/vfio") == 0 && strcmp(getcwd(path, sizeof path), "/dev/vfio") == 0);
	CHECK(is_device(open("devices/vfio1", O_RDWR)));
	CHECK(access("../iommu", R_OK | W_OK) == 0 && access("/dev/null", W_OK) == 0);

	directory = open(DEVICE, O_RDONLY | O_DIRECTORY);
	struct stat status;
	CHECK(faccessat(directory, "config", R_OK, 0) == 0);
	CHECK(fstatat(directory, "iommu_group", &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(status.st_mode));
	CHECK(readlinkat(directory, "iommu_group", path, sizeof path) > 0);
	CHECK(syscall(SYS_readlinkat, AT_FDCWD, DEVICE "/iommu_group", path, sizeof path) > 0);
	CHECK(syscall(SYS_faccessat, AT_FDCWD, DEVICE "/config", R_OK) == 0);
	CHECK(openat(directory, "../0000:00:01.0/vendor", O_RDONLY) >= 0);
	char *group = canonicalize_file_name(DEVICE "/iommu_group");
	CHECK(group != NULL && strncmp(group, "/sys/kernel/iommu_groups/", 25) == 0);
	CHECK(realpath(DEVICE "/subsystem", path) != NULL && strcmp(path, "/sys/bus/pci") == 0);
	CHECK(realpath("/sys/class/vfio-dev/vfio1/device", path) != NULL);
	CHECK(strcmp(path, "/sys/devices/pci0000:00/0000:00:02.0") == 0);
	struct dirent64 **list;
	CHECK(scandir64(DEVICE "/vfio-dev", &list, NULL, alphasort64) == 3);
	CHECK(access("/sys/module/vfio_pci", F_OK) == 0 && euidaccess("/dev/iommu", R_OK) == 0);
}

static void vectors(void)
{
	int iommufd = open("/dev/iommu", O_RDWR), device = bind_device(NODE, iommufd, NULL);
	char first[4], second[8] = "";
	struct iovec out[2] = { { "abcd", 4 }, { "efghijk", 8 } }, in[2] = { { first, 4 }, { second, 8 } };
	CHECK(pwritev(device, out, 2, 0x8000) == 12);
	CHECK(preadv64(device, in, 2, 0x8000) == 12);
	CHECK(memcmp(first, "abcd", 4) == 0 && strcmp(second, "efghijk") == 0);
	memset(second, 0, sizeof second);
	CHECK(preadv2(device, in, 2, 0x8000, 0) == 12 && strcmp(second, "efghijk") == 0);
	CHECK(syscall(SYS_preadv, device, in, 1, 0x8004l, 0l) == 4 && memcmp(first, "efgh", 4) == 0);
	FAILS(EINVAL, preadv(device, in, 2, -1));
}

int main(void)
{
	numbers();
	names();
	vectors();
	puts("done");
	return 0;
}
