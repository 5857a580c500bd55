/*
 * Maps memory for a device and has the device write there: build with `cc -o dma dma.c`, then
 * `iommukit-run --machine machines/test-device.json -- ./dma /dev/vfio/devices/vfio0`.
 *
 * All of it is the kernel's interface, but for the device's registers (packages/hw/src/devices/test-function.ts).
 */

#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* From linux/iommufd.h and linux/vfio.h. */
#define IOMMU_IOAS_ALLOC _IO(';', 0x81)
#define IOMMU_IOAS_MAP _IO(';', 0x85)
#define VFIO_DEVICE_BIND_IOMMUFD _IO(';', 118)
#define VFIO_DEVICE_ATTACH_IOMMUFD_PT _IO(';', 119)

struct iommu_ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct iommu_ioas_map { uint32_t size, flags, ioas_id, reserved; uint64_t user_va, length, iova; };
struct vfio_device_bind_iommufd { uint32_t argsz, flags; int32_t iommufd; uint32_t out_devid; };
struct vfio_device_attach_iommufd_pt { uint32_t argsz, flags, pt_id; };

#define IOVA 0x10000000ull
#define CONFIG_SPACE (7ull << 40)

static void call(int fd, unsigned long request, void *argument, const char *name)
{
	if (ioctl(fd, request, argument) != 0) err(1, "%s", name);
}

static void store(int device, uint64_t at, uint64_t value, size_t bytes)
{
	if (pwrite(device, &value, bytes, at) != (ssize_t)bytes) err(1, "register %#llx", (unsigned long long)at);
}

int main(int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : "/dev/vfio/devices/vfio0";
	int iommufd = open("/dev/iommu", O_RDWR);
	if (iommufd < 0) err(1, "/dev/iommu");
	int device = open(path, O_RDWR);
	if (device < 0) err(1, "%s", path);

	struct vfio_device_bind_iommufd bind = { sizeof bind, 0, iommufd, 0 };
	call(device, VFIO_DEVICE_BIND_IOMMUFD, &bind, "bind");
	struct iommu_ioas_alloc ioas = { sizeof ioas, 0, 0 };
	call(iommufd, IOMMU_IOAS_ALLOC, &ioas, "allocate an I/O address space");
	struct vfio_device_attach_iommufd_pt attach = { sizeof attach, 0, ioas.out_ioas_id };
	call(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach, "attach");

	char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct iommu_ioas_map map = { sizeof map, 7, ioas.out_ioas_id, 0, (uintptr_t)memory, 4096, IOVA };
	call(iommufd, IOMMU_IOAS_MAP, &map, "map");

	store(device, CONFIG_SPACE + 4, 6, 2); /* memory decode and bus mastering on */
	if (pwrite(device, "written by the device", 22, 0x8000) != 22) err(1, "buffer");
	store(device, 0x10, IOVA, 8); /* where to, how much, and go */
	store(device, 0x18, 22, 4);
	store(device, 0x08, 2, 4);
	printf("%s at device %u\n", memory, bind.out_devid);
	return 0;
}
