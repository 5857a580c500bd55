/* Memory of every kind under a device: what it moves arrives, and stays reachable for as long as it is pinned. */

#include "device.h"

#define MAP_FILE_CMD IOMMU(0x8f)

struct iommu_ioas_map_file { uint32_t size, flags, ioas_id; int32_t fd; uint64_t start, length, iova; };

static int iommufd, device;
static uint32_t ioas;

static int map_file(int fd, uint64_t start, uint64_t length, uint64_t iova)
{
	struct iommu_ioas_map_file cmd = { .size = sizeof cmd, .ioas_id = ioas, .fd = fd, .start = start };
	cmd.flags = MAP_FIXED_IOVA | MAP_WRITEABLE | MAP_READABLE;
	cmd.length = length;
	cmd.iova = iova;
	return ioctl(iommufd, MAP_FILE_CMD, &cmd);
}

static int unmap(uint64_t iova, uint64_t length)
{
	struct iommu_ioas_unmap cmd = { .size = sizeof cmd, .ioas_id = ioas, .iova = iova, .length = length };
	return ioctl(iommufd, IOMMU_IOAS_UNMAP, &cmd);
}

/* The device reads what the program wrote and the other way round, at both ends of the memory. */
static void both_ways(char *memory, size_t length, uint64_t iova)
{
	size_t ends[] = { 0, length - 64 };
	for (int i = 0; i < 2; i++) {
		strcpy(memory + ends[i], "from the program");
		CHECK(strcmp(dma_read(device, iova + ends[i]), "from the program") == 0);
		CHECK(dma_write(device, iova + ends[i], "from the device") == 0);
		CHECK(strcmp(memory + ends[i], "from the device") == 0);
	}
}

int main(void)
{
	iommufd = open("/dev/iommu", O_RDWR);
	ioas = ioas_alloc(iommufd);
	device = bind_device("/dev/vfio/devices/vfio1", iommufd, NULL);
	CHECK(attach(device, ioas) == 0);

	char *anonymous = shared(16 * 4096);
	CHECK(map(iommufd, ioas, anonymous, 16 * 4096, 0x1000000) == 0);
	both_ways(anonymous, 16 * 4096, 0x1000000);

	/* Pinned pages outlive their addresses, where the server may open what is behind them. */
	CHECK(munmap(anonymous, 16 * 4096) == 0);
	if (getenv("PRIVILEGED") != NULL) {
		CHECK(strcmp(dma_read(device, 0x1000000), "from the device") == 0);
		CHECK(dma_write(device, 0x1000000, "to nobody") == 0);
		CHECK(strcmp(dma_read(device, 0x1000000), "to nobody") == 0);
	}
	CHECK(unmap(0x1000000, 16 * 4096) == 0);
	CHECK(dma_write(device, 0x1000000, "refused") != 0);

	char *private = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(map(iommufd, ioas, private, 4 << 20, 0x2000000) == 0);
	both_ways(private, 4 << 20, 0x2000000);
	char *heap = malloc(100000);
	uintptr_t page = ((uintptr_t)heap + 4095) & ~4095ul;
	CHECK(map(iommufd, ioas, (void *)page, 8192, 0x3000000) == 0);
	both_ways((char *)page, 8192, 0x3000000);

	/* Two views of one file are the same pages, with and without a mapping. */
	int memfd = memfd_create("memory", 0);
	CHECK(ftruncate(memfd, 8 * 4096) == 0);
	char *view = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	CHECK(map_file(memfd, 4096, 4 * 4096, 0x4000000) == 0);
	both_ways(view + 4096, 4 * 4096, 0x4000000);
	FAILS(EINVAL, map_file(memfd, 4096, 8 * 4096, 0x5000000));
	CHECK(close(memfd) == 0);
	CHECK(dma_write(device, 0x4000000, "after close") == 0 && strcmp(view + 4096, "after close") == 0);
	int null = open("/dev/null", O_RDWR);
	FAILS(EINVAL, map_file(null, 0, 4096, 0x5000000));
	FAILS(EBADF, map_file(99, 0, 4096, 0x5000000));
	FAILS(EBADF, map_file(open("/dev/shm", O_PATH), 0, 4096, 0x5000000));

	/* What is not there, or not to be written, is not pinned, and a refused call pins nothing of it. */
	char *holed = shared(4 * 4096);
	CHECK(munmap(holed + 2 * 4096, 4096) == 0);
	FAILS(EFAULT, map(iommufd, ioas, holed, 4 * 4096, 0x6000000));
	char *constant = shared(4096);
	CHECK(mprotect(constant, 4096, PROT_READ) == 0);
	FAILS(EFAULT, map(iommufd, ioas, constant, 4096, 0x6000000));
	FAILS(EFAULT, map(iommufd, ioas, (void *)0, 4096, 0x6000000));
	FAILS(EFAULT, map(iommufd, ioas, (void *)0xfffffffffff00000, 4096, 0x6000000));

	/* A private page of a file becomes the program's own when it is pinned. */
	char *image = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, open("/proc/self/exe", O_RDONLY), 0);
	CHECK(map(iommufd, ioas, image, 4096, 0x7000000) == 0);
	CHECK(memcmp(dma_read(device, 0x7000000), image, 16) == 0);
	both_ways(image, 4096, 0x7000000);

	if (getenv("WAIT") != NULL) {
		puts("ready");
		fflush(stdout);
		getchar();
	}
	puts("done");
	return 0;
}
