/* Two contexts, one with a page pinned for a device and one empty, until a line comes. */

#include "device.h"

int main(void)
{
	int iommufd = open("/dev/iommu", O_RDWR);
	CHECK(open("/dev/iommu", O_RDWR) >= 0);
	uint32_t ioas = ioas_alloc(iommufd);
	int device = bind_device("/dev/vfio/devices/vfio0", iommufd, NULL);
	CHECK(attach(device, ioas) == 0);
	CHECK(map(iommufd, ioas, shared(4096), 4096, 0x10000) == 0);
	puts("ready");
	fflush(stdout);
	getchar();
	return 5;
}
