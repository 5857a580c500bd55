/* What the kernel counts about a process, and what it may do. */

#include "device.h"
#include <sys/prctl.h>
#include <sys/resource.h>

struct capability_header { uint32_t version; int pid; };
struct capability_data { uint32_t effective, permitted, inheritable; };

static unsigned long figure(const char *path, const char *name, int with_open)
{
	char text[8192];
	size_t length;
	if (with_open) {
		int fd = open(path, O_RDONLY);
		CHECK(fd >= 0 && (length = read(fd, text, sizeof text - 1)) > 0);
		close(fd);
	} else {
		FILE *file = fopen(path, "r");
		CHECK(file != NULL);
		length = fread(text, 1, sizeof text - 1, file);
		fclose(file);
	}
	text[length] = 0;
	char *at = strstr(text, name);
	CHECK(at != NULL && strstr(text, "Threads:") != NULL);
	return strtoul(at + strlen(name), NULL, 10);
}

static void drop(int capability)
{
	struct capability_header header = { 0x20080522, 0 };
	struct capability_data data[2];
	CHECK(syscall(SYS_capget, &header, data) == 0);
	data[0].effective &= ~(1u << capability);
	CHECK(syscall(SYS_capset, &header, data) == 0);
}

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
	if (charged == 0) drop(14);
	struct rlimit limit = { charged + (64 << 10), charged + (64 << 10) };
	CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	FAILS(ENOMEM, map(iommufd, ioas, memory, 128 << 10, 0x1000000));
	CHECK(map(iommufd, ioas, memory, 64 << 10, 0x1000000) == 0);
	FAILS(ENOMEM, map(iommufd, ioas, memory, 4096, 0x2000000));
	CHECK(figure("/proc/self/status", "VmPin:", 0) == 1024 + 64);

	puts("done");
	return 0;
}
