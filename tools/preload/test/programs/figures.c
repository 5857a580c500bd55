/* What the kernel counts about a process, and what it may do. */

#include "capabilities.h"
#include "device.h"
#include <sys/resource.h>

int main(void)
{
	int iommufd = open("/dev/iommu", O_RDWR);
	uint32_t ioas = ioas_alloc(iommufd);
	int device = bind_device("/dev/vfio/devices/vfio1", iommufd, NULL);
	CHECK(attach(device, ioas) == 0);
	char *memory = shared(1 << 20);
	char own[64];
	snprintf(own, sizeof own, "/proc/%d/status", getpid());

	CHECK(figure("/proc/self/status", "VmPin:", 0) == 0);
	CHECK(map(iommufd, ioas, memory, 1 << 20, 0x100000) == 0);
	CHECK(figure("/proc/self/status", "VmPin:", 0) == 1024);
	CHECK(figure(own, "VmPin:", 1) == 1024);
	pid_t child = fork();
	if (child == 0) {
		CHECK(figure("/proc/self/status", "VmPin:", 0) == 0);
		CHECK(figure(own, "VmPin:", 0) == 1024);
		_exit(0);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);

	/* The limit is the process's own, and counts without the capability to lock. */
	size_t charged = geteuid() == 0 ? 0 : 1 << 20;
	if (charged == 0) drop(CAP_IPC_LOCK);
	struct rlimit limit = { charged + (64 << 10), charged + (64 << 10) };
	CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	FAILS(ENOMEM, map(iommufd, ioas, memory, 128 << 10, 0x1000000));
	CHECK(map(iommufd, ioas, memory, 64 << 10, 0x1000000) == 0);
	FAILS(ENOMEM, map(iommufd, ioas, memory, 4096, 0x2000000));
	CHECK(figure("/proc/self/status", "VmPin:", 0) == 1024 + 64);

	puts("done");
	return 0;
}
