/* A test function in the hands of a program, by /dev/vfio/devices/vfioN; registers of packages/hw/src/devices/test-function.ts. */

#ifndef DEVICE_H
#define DEVICE_H

#include "check.h"

#define VFIO(nr) _IO(';', 100 + (nr))
#define VFIO_DEVICE_GET_INFO VFIO(7)
#define VFIO_DEVICE_GET_REGION_INFO VFIO(8)
#define VFIO_DEVICE_GET_IRQ_INFO VFIO(9)
#define VFIO_DEVICE_SET_IRQS VFIO(10)
#define VFIO_DEVICE_BIND_IOMMUFD VFIO(18)
#define VFIO_DEVICE_ATTACH_IOMMUFD_PT VFIO(19)
#define VFIO_DEVICE_DETACH_IOMMUFD_PT VFIO(20)

#define CONFIG_REGION (7ull << 40)

struct vfio_bind { uint32_t argsz, flags; int32_t iommufd; uint32_t out_devid; };
struct vfio_attach { uint32_t argsz, flags, pt_id; };
struct vfio_detach { uint32_t argsz, flags; };
struct vfio_region_info { uint32_t argsz, flags, index, cap_offset; uint64_t size, offset; };

static inline void put32(int device, uint64_t at, uint32_t value)
{
	CHECK(pwrite(device, &value, 4, at) == 4);
}

static inline uint32_t get32(int device, uint64_t at)
{
	uint32_t value;
	CHECK(pread(device, &value, 4, at) == 4);
	return value;
}

/* Opens and binds; the device may move memory afterwards. Gives its id there. */
static inline int bind_device(const char *path, int iommufd, uint32_t *id)
{
	int device = open(path, O_RDWR);
	CHECK(device >= 0);
	struct vfio_bind bind = { .argsz = sizeof bind, .iommufd = iommufd };
	CHECK(ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind) == 0);
	uint16_t command = 6;
	CHECK(pwrite(device, &command, 2, CONFIG_REGION + 4) == 2);
	if (id != NULL) *id = bind.out_devid;
	return device;
}

static inline int attach(int device, uint32_t pt)
{
	struct vfio_attach cmd = { .argsz = sizeof cmd, .pt_id = pt };
	return ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &cmd);
}

static inline int detach(int device)
{
	struct vfio_detach cmd = { .argsz = sizeof cmd };
	return ioctl(device, VFIO_DEVICE_DETACH_IOMMUFD_PT, &cmd);
}

/* Has the device move `length` bytes between memory and its buffer. Gives its result, 0 for success. */
static inline uint32_t transfer(int device, uint32_t operation, uint64_t iova, uint32_t length)
{
	CHECK(pwrite(device, &iova, 8, 0x10) == 8);
	put32(device, 0x18, length);
	put32(device, 0x1c, 0);
	put32(device, 0x08, operation);
	CHECK((get32(device, 0x04) & 1) == 0);
	return get32(device, 0x30);
}

/* The device writes `text` to memory. */
static inline uint32_t dma_write(int device, uint64_t iova, const char *text)
{
	char bytes[64] = "";
	strncpy(bytes, text, sizeof bytes - 1);
	CHECK(pwrite(device, bytes, sizeof bytes, 0x8000) == sizeof bytes);
	return transfer(device, 2, iova, sizeof bytes);
}

/* What the device reads from memory. */
static inline const char *dma_read(int device, uint64_t iova)
{
	static char bytes[64];
	CHECK(transfer(device, 1, iova, sizeof bytes) == 0);
	CHECK(pread(device, bytes, sizeof bytes, 0x8000) == sizeof bytes);
	return bytes;
}

#endif
