/* Pins that are charged to the process: a privilege to ask for, and VmLck. */

#include "capabilities.h"
#include "device.h"

#define IOMMU_OPTION IOMMU(0x87)

struct iommu_option { uint32_t size, option_id; uint16_t op, reserved; uint32_t object_id; uint64_t val64; };

int main(void)
{
	drop(CAP_IPC_LOCK);
	drop(CAP_SYS_RESOURCE);
	int iommufd = open("/dev/iommu", O_RDWR);
	struct iommu_option by_process = { .size = sizeof by_process, .val64 = 1 };
	if (getenv("GRANTED") == NULL) {
		FAILS(EPERM, ioctl(iommufd, IOMMU_OPTION, &by_process));
		puts("done");
		return 0;
	}
	CHECK(ioctl(iommufd, IOMMU_OPTION, &by_process) == 0);
	uint32_t ioas = ioas_alloc(iommufd);
	int device = bind_device("/dev/vfio/devices/vfio1", iommufd, NULL);
	CHECK(attach(device, ioas) == 0);
	CHECK(map(iommufd, ioas, shared(64 << 10), 64 << 10, 0x100000) == 0);
	CHECK(figure("/proc/self/status", "VmLck:", 0) == 64);
	CHECK(figure("/proc/self/status", "VmPin:", 1) == 64);
	CHECK(close(device) == 0 && close(iommufd) == 0);
	CHECK(figure("/proc/self/status", "VmLck:", 0) == 0);
	puts("done");
	return 0;
}
