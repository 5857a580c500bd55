/*
 * A program that uses /dev/iommu, to be run on the models: how long its calls take, the way to the server and back
 * included. Prints one line for each measurement: name, nanoseconds of wall time per operation, checksum.
 */
#include "types.h"
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define CLOCK CLOCK_MONOTONIC
#include "measure.h"

/* From linux/iommufd.h and linux/vfio.h. */
#define IOMMU_IOAS_ALLOC _IO(';', 0x81)
#define IOMMU_IOAS_IOVA_RANGES _IO(';', 0x84)
#define IOMMU_IOAS_MAP _IO(';', 0x85)
#define IOMMU_IOAS_UNMAP _IO(';', 0x86)
#define IOMMU_IOAS_MAP_ALL 7
#define VFIO_DEVICE_BIND_IOMMUFD _IO(';', 118)
#define VFIO_DEVICE_ATTACH_IOMMUFD_PT _IO(';', 119)

struct iova_range {
	u64 start, last;
};
struct ioas_alloc {
	u32 size, flags, ioas;
};
struct ioas_iova_ranges {
	u32 size, ioas, count, reserved;
	u64 ranges, alignment;
};
struct ioas_map {
	u32 size, flags, ioas, reserved;
	u64 address, length, iova;
};
struct ioas_unmap {
	u32 size, ioas;
	u64 iova, length;
};
struct bind {
	u32 size, flags;
	int iommufd;
	u32 device;
};
struct attach {
	u32 size, flags, table;
};

#define CALLS 500u
#define IOVA 0x40000000ull

int main(void)
{
	int iommufd = open("/dev/iommu", O_RDWR), device = open("/dev/vfio/devices/vfio0", O_RDWR);
	char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct bind bind = { sizeof bind, 0, iommufd, 0 };
	struct ioas_alloc ioas = { .size = sizeof ioas };
	struct attach attach = { .size = sizeof attach };
	struct iova_range ranges[8];

	if (ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind) || ioctl(iommufd, IOMMU_IOAS_ALLOC, &ioas))
		return 1;
	attach.table = ioas.ioas;
	if (ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach))
		return 1;
	MEASURE("preload-query", CALLS, for (u32 i = 0; i < CALLS; i++) {
		struct ioas_iova_ranges query = { sizeof query, ioas.ioas, 8, 0, (uintptr_t)ranges, 0 };

		sum += ioctl(iommufd, IOMMU_IOAS_IOVA_RANGES, &query) == 0;
	});
	MEASURE("preload-map", CALLS, for (u32 i = 0; i < CALLS; i++) {
		struct ioas_map map = { sizeof map, IOMMU_IOAS_MAP_ALL, ioas.ioas, 0, (uintptr_t)memory, 4096, IOVA };
		struct ioas_unmap unmap = { sizeof unmap, ioas.ioas, IOVA, 4096 };

		sum += ioctl(iommufd, IOMMU_IOAS_MAP, &map) == 0 && ioctl(iommufd, IOMMU_IOAS_UNMAP, &unmap) == 0;
	});
	return 0;
}
