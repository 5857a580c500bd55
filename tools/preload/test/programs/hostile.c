/*
 * A program that does anything: requests of every number with arguments of every kind, on descriptors that may be
 * closed, from processes that fork and end. argv: seed.
 */

#include "device.h"

static uint64_t state;

static uint32_t chance(uint32_t below)
{
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(state >> 33) % below;
}

static int some_fd(void)
{
	return chance(12) == 0 ? -1 : 3 + (int)chance(20);
}

/* Small numbers, ids that exist, addresses that exist or nearly, and nonsense. */
static uint64_t some_value(void *memory)
{
	switch (chance(6)) {
	case 0: return chance(4);
	case 1: return chance(64);
	case 2: return (uintptr_t)memory + chance(3) * 4096;
	case 3: return (uint64_t)chance(64) << 12;
	case 4: return ~0ull - chance(3) * 4095;
	default: return (uint64_t)chance(1u << 31) << chance(33);
	}
}

static void one_call(uint64_t *memory)
{
	for (int i = 0; i < 12; i++) {
		memory[i] = some_value(memory);
		if (chance(2)) ((uint32_t *)memory)[2 * i + 1] = chance(8);
	}
	if (chance(8)) *(uint32_t *)memory = 8 + 4 * chance(24);
	void *argument = chance(10) == 0 ? (void *)some_value(memory) : memory;
	switch (chance(24)) {
	case 0: open(chance(2) ? "/dev/iommu" : "/dev/vfio/devices/vfio1", O_RDWR); break;
	case 1: close(3 + chance(20)); break;
	case 2: dup2(3 + chance(20), 3 + chance(20)); break;
	case 3: syscall(SYS_read, some_fd(), some_value(memory), some_value(memory)); break;
	case 4: syscall(SYS_pwrite64, some_fd(), memory, chance(64), some_value(memory)); break;
	case 5: syscall(SYS_pread64, some_fd(), memory + 64, chance(4096), some_value(memory)); break;
	case 6: syscall(SYS_mmap, 0, some_value(memory), chance(8), chance(4), some_fd(), some_value(memory)); break;
	case 7: ioctl(some_fd(), _IO(';', chance(256)), argument); break;
	case 8: case 9: case 10: ioctl(some_fd(), _IO(';', 103 + chance(20)), argument); break;
	default: ioctl(some_fd(), _IO(';', chance(4) == 0 ? 0xa0 : 0x80 + chance(0x16)), argument); break;
	}
}

int main(int argc, char **argv)
{
	state = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
	uint64_t *memory = shared(4 * 4096);
	open("/dev/iommu", O_RDWR);
	open("/dev/vfio/devices/vfio1", O_RDWR);
	puts("started");
	fflush(stdout);
	for (int i = 0; i < 1500; i++) {
		one_call(memory);
		if (chance(150) == 0 && fork() == 0) {
			state += getpid();
			for (int j = 0; j < 50; j++) one_call(memory);
			if (chance(2)) raise(SIGKILL);
			_exit(0);
		}
		while (waitpid(-1, NULL, WNOHANG) > 0) continue;
	}
	while (waitpid(-1, NULL, 0) > 0) continue;
	puts("done");
	return 0;
}
