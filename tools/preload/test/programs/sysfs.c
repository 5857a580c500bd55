/* The device in /sys and /dev, as programs look for it. */

#include "check.h"
#include <dirent.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#define DEVICE "/sys/bus/pci/devices/0000:00:02.0"

static const char *contents(const char *path)
{
	static char text[4096];
	FILE *file = fopen(path, "r");
	CHECK(file != NULL);
	size_t length = fread(text, 1, sizeof text - 1, file);
	text[length] = 0;
	fclose(file);
	return text;
}

static int entries(const char *path, const char *wanted)
{
	DIR *directory = opendir(path);
	int count = 0, found = 0;
	CHECK(directory != NULL);
	for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
		if (entry->d_name[0] == '.') continue;
		count++;
		found += strcmp(entry->d_name, wanted) == 0;
	}
	closedir(directory);
	CHECK(found == 1);
	return count;
}

int main(void)
{
	struct stat status;
	char link[PATH_MAX], path[PATH_MAX + 64];
	CHECK(stat("/dev/iommu", &status) == 0 && S_ISCHR(status.st_mode));
	CHECK(access("/dev/vfio/vfio", R_OK | W_OK) == 0);
	CHECK(entries("/dev/vfio/devices", "vfio1") == 2);
	CHECK(entries("/sys/bus/pci/devices", "0000:00:02.0") >= 2);
	CHECK(strcmp(contents(DEVICE "/vendor"), "0x696f\n") == 0);
	CHECK(strcmp(contents(DEVICE "/device"), "0x0001\n") == 0);
	CHECK(strcmp(contents(DEVICE "/class"), "0xff0000\n") == 0);
	CHECK(strncmp(contents(DEVICE "/resource"), "0x00000080", 10) == 0);
	CHECK(entries(DEVICE "/vfio-dev", "vfio1") == 1);
	CHECK(strchr(contents(DEVICE "/vfio-dev/vfio1/dev"), ':') != NULL);

	/* ls(1) looks whether there are more rights than the mode has. */
	errno = 0;
	CHECK(getxattr("/dev/vfio/vfio", "system.posix_acl_access", NULL, 0) < 0 && errno != ENOENT);
	CHECK(llistxattr("/dev/vfio/vfio", NULL, 0) >= 0);

	ssize_t length = readlink(DEVICE "/iommu_group", link, sizeof link - 1);
	CHECK(length > 0);
	link[length] = 0;
	const char *group = strrchr(link, '/') + 1;
	snprintf(path, sizeof path, "/dev/vfio/%s", group);
	CHECK(stat(path, &status) == 0);
	int fd = open(path, O_RDWR);
	CHECK(fd >= 0);
	uint32_t group_status[2] = { sizeof group_status };
	CHECK(ioctl(fd, _IO(';', 103), group_status) == 0 && group_status[1] == 1);
	snprintf(path, sizeof path, "/sys/kernel/iommu_groups/%s/devices", group);
	CHECK(entries(path, "0000:00:02.0") == 1);
	snprintf(path, sizeof path, "/sys/kernel/iommu_groups/%s/reserved_regions", group);
	CHECK(strstr(contents(path), "0x00000000fee00000 0x00000000feefffff msi") != NULL);
	CHECK(realpath(DEVICE "/driver", link) != NULL && strcmp(link, "/sys/bus/pci/drivers/vfio-pci") == 0);
	CHECK(realpath(DEVICE, link) != NULL && strcmp(link, "/sys/devices/pci0000:00/0000:00:02.0") == 0);
	strcat(link, "/vendor");
	CHECK(strcmp(contents(link), "0x696f\n") == 0);
	int config = open(DEVICE "/config", O_RDONLY);
	uint16_t vendor;
	CHECK(pread(config, &vendor, 2, 0) == 2 && vendor == 0x696f);
	CHECK(access("/sys/bus/pci/devices/0000:00:1f.7", F_OK) == -1);
	CHECK(stat("/proc/self/exe", &status) == 0 && S_ISREG(status.st_mode));
	puts("done");
	return 0;
}
