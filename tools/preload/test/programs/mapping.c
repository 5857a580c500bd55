/* Memory of the kernel in a program: both sides see what the other stores, and the kernel knows while it is mapped. */

#include "check.h"

#define LOAD _IO('t', 0)
#define STORE _IO('t', 1)
#define MAPPINGS _IO('t', 2)

int main(void)
{
	int fd = open("/dev/vfio/kernel-memory", O_RDWR);
	CHECK(fd >= 0);
	FAILS(EINVAL, (long)mmap(NULL, 0, PROT_READ, MAP_SHARED, fd, 0));
	FAILS(ENXIO, (long)mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 4096));
	FAILS(ENODEV, (long)mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 8192));
	CHECK(ioctl(fd, MAPPINGS) == 0);
	volatile uint8_t *memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(memory != MAP_FAILED && ioctl(fd, MAPPINGS) == 1);
	CHECK(memory[0] == 42 && memory[8191] == 0);
	memory[5000] = 7;
	CHECK(ioctl(fd, LOAD, 5000) == 7);
	CHECK(ioctl(fd, STORE, 5001) == 0 && memory[5001] == 99 && memory[5000] == 7);

	/* A part that is unmapped leaves the rest mapped. */
	CHECK(munmap((void *)memory, 4096) == 0 && ioctl(fd, MAPPINGS) == 1);
	memory[4096] = 8;
	CHECK(ioctl(fd, LOAD, 4096) == 8);
	CHECK(munmap((void *)memory + 4096, 4096) == 0 && ioctl(fd, MAPPINGS) == 0);

	void *covered = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(ioctl(fd, MAPPINGS) == 1);
	CHECK(mmap(covered, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == covered);
	CHECK(ioctl(fd, MAPPINGS) == 0);
	CHECK(mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED);
	puts("done");
	return 0;
}
