/* Every failure point of a short sequence of calls, by the counter of its thread. */

#include "check.h"
#include <dirent.h>

static int counter;

static int sequence(unsigned nth)
{
	char text[16];
	int fd = open("/dev/iommu", O_RDWR), length = snprintf(text, sizeof text, "%u", nth), result = -1;
	CHECK(fd >= 0 && pwrite(counter, text, length, 0) == length);
	struct iommu_ioas_alloc alloc = { .size = sizeof alloc };
	struct iommu_fault_alloc fault = { .size = sizeof fault };
	if (ioctl(fd, IOMMU_IOAS_ALLOC, &alloc) == 0 && ioctl(fd, IOMMU_FAULT_QUEUE_ALLOC, &fault) == 0) {
		close(fault.out_fault_fd);
		result = map(fd, alloc.out_ioas_id, shared(4096), 4096, 0x10000);
	}
	close(fd);
	return result;
}

int main(void)
{
	DIR *debug = opendir("/sys/kernel/debug/");
	CHECK(debug != NULL);
	int found = 0, knob;
	for (struct dirent *entry; (entry = readdir(debug)) != NULL;) found += strncmp(entry->d_name, "fail", 4) == 0;
	CHECK(found == 3);
	CHECK((knob = openat(dirfd(debug), "failslab/ignore-gfp-wait", O_WRONLY)) >= 0 && write(knob, "N", 1) == 1);

	char path[64], text[16];
	snprintf(path, sizeof path, "/proc/self/task/%u/fail-nth", getpid());
	counter = open(path, O_RDWR);
	CHECK(counter >= 0);
	FAILS(ENOENT, open("/proc/self/task/1/fail-nth", O_RDWR));
	FAILS(EINVAL, pwrite(counter, "x", 1, 0));
	unsigned nth = 1;
	for (;; nth++) {
		CHECK(nth < 100);
		int result = sequence(nth);
		int error = errno;
		CHECK(pread(counter, text, sizeof text, 0) > 1);
		if (strncmp(text, "0\n", 2) != 0) {
			CHECK(result == 0 && pwrite(counter, "0", 1, 0) == 1);
			break;
		}
		CHECK((errno = error, result == -1 && error == ENOMEM));
	}
	CHECK(nth > 3);
	CHECK(pread(counter, text, sizeof text, 0) == 2 && strncmp(text, "0\n", 2) == 0);
	puts("done");
	return 0;
}
