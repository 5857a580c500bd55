/* What the test programs share: structures of include/uapi/linux/iommufd.h, and checks that say where they fail. */

#ifndef CHECK_H
#define CHECK_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <linux/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                                             \
	do {                                                                                             \
		errno = 0;                                                                                   \
		if (!(condition)) {                                                                          \
			fprintf(stderr, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno);        \
			exit(1);                                                                                 \
		}                                                                                            \
	} while (0)

/* The call fails with that errno. */
#define FAILS(error, call) CHECK((call) == -1 && errno == (error))

#define IOMMU(nr) _IO(';', nr)
#define IOMMU_DESTROY IOMMU(0x80)
#define IOMMU_IOAS_ALLOC IOMMU(0x81)
#define IOMMU_IOAS_IOVA_RANGES IOMMU(0x84)
#define IOMMU_IOAS_MAP IOMMU(0x85)
#define IOMMU_IOAS_UNMAP IOMMU(0x86)
#define IOMMU_FAULT_QUEUE_ALLOC IOMMU(0x8e)
#define MAP_FIXED_IOVA 1
#define MAP_WRITEABLE 2
#define MAP_READABLE 4

struct iommu_destroy { uint32_t size, id; };
struct iommu_ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct iommu_ioas_map { uint32_t size, flags, ioas_id, reserved; uint64_t user_va, length, iova; };
struct iommu_ioas_unmap { uint32_t size, ioas_id; uint64_t iova, length; };
struct iommu_fault_alloc { uint32_t size, flags, out_fault_id, out_fault_fd; };

static inline uint32_t ioas_alloc(int fd)
{
	struct iommu_ioas_alloc alloc = { .size = sizeof alloc };
	CHECK(ioctl(fd, IOMMU_IOAS_ALLOC, &alloc) == 0);
	return alloc.out_ioas_id;
}

static inline int destroy(int fd, uint32_t id)
{
	struct iommu_destroy cmd = { .size = sizeof cmd, .id = id };
	return ioctl(fd, IOMMU_DESTROY, &cmd);
}

static inline int map(int fd, uint32_t ioas, void *va, size_t length, uint64_t iova)
{
	struct iommu_ioas_map cmd = { .size = sizeof cmd, .ioas_id = ioas, .user_va = (uintptr_t)va, .length = length };
	cmd.flags = MAP_FIXED_IOVA | MAP_WRITEABLE | MAP_READABLE;
	cmd.iova = iova;
	return ioctl(fd, IOMMU_IOAS_MAP, &cmd);
}

static inline void *shared(size_t length)
{
	void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	return memory;
}

#endif
