/* Huge pages where the system has none: the memory is there all the same, and lies where huge pages would. */

#include "device.h"

#define SIZE (4ul << 20)

int main(void)
{
	int iommufd = open("/dev/iommu", O_RDWR);
	uint32_t ioas = ioas_alloc(iommufd);
	int device = bind_device("/dev/vfio/devices/vfio1", iommufd, NULL);
	CHECK(attach(device, ioas) == 0);
	int flags = MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE;
	char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, flags, -1, 0);
	CHECK(memory != MAP_FAILED && ((uintptr_t)memory & ((2ul << 20) - 1)) == 0);
	CHECK(map(iommufd, ioas, memory, SIZE, 0x1000000) == 0);
	CHECK(dma_write(device, 0x1000000 + SIZE - 64, "at the end") == 0);
	CHECK(strcmp(memory + SIZE - 64, "at the end") == 0);
	strcpy(memory, "at the start");
	CHECK(strcmp(dma_read(device, 0x1000000), "at the start") == 0);
	memory = mmap(memory, SIZE, PROT_READ | PROT_WRITE, flags | MAP_FIXED, -1, 0);
	CHECK(memory != MAP_FAILED && memory[0] == 0);
	memory = mmap(NULL, 1ul << 30, PROT_READ, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | (30 << MAP_HUGE_SHIFT), -1, 0);
	CHECK(memory != MAP_FAILED && ((uintptr_t)memory & ((1ul << 30) - 1)) == 0);
	puts("done");
	return 0;
}
