/*
 * A program that does anything: requests of every number with arguments of every kind, on descriptors that may be
 * closed, on memory that may be gone, from processes that fork and end. argv: seed, number of calls.
 */

#include "device.h"

#define PAGES 16
#define CALLS_OF_A_CHILD 50

/* Numbers and sizes of the structures that the kernel knows, where they begin with their size. */
static const struct { uint8_t nr, size; } requests[] = {
	{ 0x80, 8 }, { 0x81, 12 }, { 0x82, 24 }, { 0x83, 40 }, { 0x84, 32 }, { 0x85, 40 }, { 0x86, 24 }, { 0x87, 24 },
	{ 0x88, 12 }, { 0x89, 48 }, { 0x8a, 40 }, { 0x8b, 16 }, { 0x8c, 48 }, { 0x8d, 32 }, { 0x8e, 16 }, { 0x8f, 40 },
	{ 0x90, 40 }, { 0x91, 24 }, { 0x92, 8 }, { 0x93, 32 }, { 0x94, 40 }, { 0xa0, 72 }, { 0xa0, 72 }, { 0x81, 12 },
	{ 0x85, 40 }, { 0x89, 48 }, { 107, 24 }, { 108, 32 }, { 109, 16 }, { 110, 20 }, { 112, 24 }, { 113, 32 },
	{ 114, 24 }, { 118, 24 }, { 119, 16 }, { 120, 12 },
};

static uint64_t state;
static uint8_t *memory;
static unsigned long succeeded;

static uint32_t chance(uint32_t below)
{
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(state >> 33) % below;
}

/* Descriptors that stay open, or there would soon be nothing left to call. */
#define IOMMU_FD 3
#define DEVICE_FD 4
#define FIRST_FD 5

static int some_fd(void)
{
	return chance(12) == 0 ? -1 : 3 + (int)chance(24);
}

/* In the memory, across its ends, in the kernel's half, or nowhere. */
static uint64_t some_address(void)
{
	switch (chance(12)) {
	case 0: return 0;
	case 1: return ~0ull - chance(3) * 4095;
	case 2: return 0xffff800000000000ull + chance(4096);
	case 3: return (uint64_t)chance(1u << 31) << chance(33);
	case 4: return (uintptr_t)memory + PAGES * 4096 - chance(64);
	case 5: return (uintptr_t)memory + chance(PAGES * 4096);
	default: return (uintptr_t)memory + chance(PAGES) * 4096;
	}
}

/* Ids that may exist, flags, lengths, I/O addresses, and nonsense. */
static uint32_t some_word(void)
{
	switch (chance(12)) {
	case 0: case 1: case 2: case 3: case 4: return 0;
	case 5: case 7: return 1 + chance(chance(2) ? 4 : 12);
	case 8: return chance(2) ? 6 : 7;
	case 9: return (1 + chance(32)) << 12;
	case 10: return 3 + chance(8);
	default: return chance(1u << 31) << chance(2);
	}
}

/* A structure of `size` bytes that begins with its size. */
static void fill(uint8_t *at, uint32_t size)
{
	uint32_t words[32];
	for (unsigned i = 0; i < 32; i++) words[i] = some_word();
	for (unsigned i = 2; i < 32; i += 2) {
		uint64_t wide = chance(3) ? (uint64_t)(1 + chance(16)) << 12 : some_address();
		if (chance(2)) memcpy(&words[i], &wide, sizeof wide);
	}
	words[0] = chance(8) ? size : chance(4) ? chance(120) : some_word();
	memcpy(at, words, chance(8) ? size : sizeof words);
}

/* Puts a page of some kind in the place of one. Addresses that were given back could be somebody else's by then. */
static void remap(void)
{
	static const int protections[] = { PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE };
	uint8_t *page = memory + (1 + chance(PAGES - 1)) * 4096;
	int kind = chance(2) ? MAP_SHARED : MAP_PRIVATE;
	mmap(page, 4096, protections[chance(4)], MAP_FIXED | MAP_ANONYMOUS | kind, -1, 0);
}

static int open_something(void)
{
	switch (chance(5)) {
	case 0: return open("/dev/vfio/devices/vfio1", O_RDWR);
	case 1: return open("/dev/vfio/vfio", O_RDWR);
	case 2: {
		int fd = syscall(SYS_memfd_create, "some", 0);
		if (fd >= 0 && chance(4) && ftruncate(fd, chance(8) << 12) != 0) close(fd);
		return fd;
	}
	default: return open("/dev/iommu", O_RDWR);
	}
}

static void one_ioctl(void)
{
	/* The first page stays, or no call would find its argument. */
	uint8_t *argument = memory + chance(16) * 128;
	unsigned long nr = chance(256);
	if (chance(8) != 0) {
		unsigned which = chance(sizeof requests / sizeof *requests);
		nr = requests[which].nr;
		fill(argument, requests[which].size);
		if (nr == 0xa0 && chance(8)) ((uint32_t *)argument)[1] = 1 + chance(24);
	} else for (unsigned i = 0; i < 128; i++) argument[i] = chance(256);
	unsigned long request = chance(40) ? _IO(';', nr) : chance(1u << 31);
	uint64_t where = chance(16) ? (uintptr_t)argument : some_address();
	int usual = nr >= 103 && nr <= 120 && nr != 112 && nr != 113 && nr != 114 ? DEVICE_FD : IOMMU_FD;
	if (ioctl(chance(4) ? usual : some_fd(), request, (void *)where) >= 0) succeeded++;
}

static void one_call(void)
{
	switch (chance(40)) {
	case 0: open_something(); break;
	case 1: if (chance(3) == 0) close(FIRST_FD + chance(24)); break;
	case 2: if (chance(3) == 0) dup2(3 + chance(24), FIRST_FD + chance(24)); break;
	case 3: syscall(SYS_read, some_fd(), some_address(), some_word()); break;
	case 4: syscall(SYS_write, some_fd(), some_address(), some_word()); break;
	case 5: syscall(SYS_pwrite64, some_fd(), memory, chance(64), (uint64_t)chance(10) << 40 | chance(0x9000)); break;
	case 6: syscall(SYS_pread64, some_fd(), memory + 64, chance(4096), some_address()); break;
	case 7: syscall(SYS_mmap, 0, some_word(), chance(8), chance(4), some_fd(), some_address()); break;
	case 8: poll(&(struct pollfd){ .fd = some_fd(), .events = POLLIN | POLLOUT }, 1, 0); break;
	case 9: remap(); break;
	default: one_ioctl(); break;
	}
}

static void close_in_any_order(void)
{
	for (unsigned i = 0; i < 64; i++) close(3 + chance(64));
}

int main(int argc, char **argv)
{
	state = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
	long calls = argc > 2 ? atol(argv[2]) : 1500;
	memory = shared((PAGES + 1) * 4096);
	mprotect(memory + PAGES * 4096, 4096, PROT_NONE);
	alarm(110);
	open("/dev/iommu", O_RDWR);
	open("/dev/vfio/devices/vfio1", O_RDWR);
	puts("started");
	fflush(stdout);
	for (long i = 0; i < calls; i++) {
		one_call();
		if (chance(400) == 0 && fork() == 0) {
			state += getpid();
			for (int j = 0; j < CALLS_OF_A_CHILD; j++) one_call();
			if (chance(2)) raise(SIGKILL);
			if (chance(2)) close_in_any_order();
			_exit(0);
		}
		while (waitpid(-1, NULL, WNOHANG) > 0) continue;
	}
	while (waitpid(-1, NULL, 0) > 0) continue;
	close_in_any_order();
	printf("done, %lu succeeded\n", succeeded);
	return 0;
}
