/* The accelerator of the default machine: set up by its registers, a descriptor by its portal, its end by interrupt. */

#include "device.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

#define PORTALS (2ull << 40)
#define MEMORY 0x10000000ull

/* linux/idxd.h */
#define OP_MEMMOVE 3
#define COMPLETION_VALID (1 << 2 | 1 << 3)
#define COMPLETION_INTERRUPT (1 << 4)

struct descriptor { uint32_t pasid, operation; uint64_t completion, source, destination; uint32_t size, interrupt; uint64_t rest[3]; };
struct irq_set { uint32_t argsz, flags, index, start, count; int32_t fds[2]; };

static void put64(int device, uint64_t at, uint64_t value)
{
	CHECK(pwrite(device, &value, 8, at) == 8);
}

static void command(int device, uint32_t number)
{
	put32(device, 0xa0, number << 20);
	CHECK(get32(device, 0xa8) == 0);
}

int main(void)
{
	int iommufd = open("/dev/iommu", O_RDWR);
	uint32_t ioas = ioas_alloc(iommufd);
	int device = bind_device("/dev/vfio/devices/vfio0", iommufd, NULL);
	CHECK(attach(device, ioas) == 0);
	char *memory = shared(0x10000);
	CHECK(map(iommufd, ioas, memory, 0x10000, MEMORY) == 0);

	/* Queue 0, dedicated, and engine 0 in group 0, which may use every read buffer. */
	uint64_t offsets, capabilities;
	CHECK(pread(device, &offsets, 8, 0x60) == 8 && pread(device, &capabilities, 8, 0x30) == 8);
	uint64_t group = (offsets & 0xffff) * 0x100, queue = (offsets >> 16 & 0xffff) * 0x100;
	put64(device, group, 1);
	put64(device, group + 32, 1);
	put64(device, group + 40, (capabilities >> 8 & 0xff) << 20);
	/* Unprivileged descriptors may ask for interrupts. */
	put32(device, 0x80, 1 << 12);
	put32(device, queue, 16);
	put32(device, queue + 8, 1 | 1 << 4);
	put32(device, queue + 12, 20 | 4 << 5);
	int events[2] = { eventfd(0, 0), eventfd(0, 0) };
	struct irq_set set = { sizeof set, 4 | 0x20, 2, 0, 2, { events[0], events[1] } };
	CHECK(ioctl(device, VFIO_DEVICE_SET_IRQS, &set) == 0);
	command(device, 1);
	command(device, 6);

	strcpy(memory, "moved by the accelerator");
	struct descriptor move = { .operation = OP_MEMMOVE << 24 | COMPLETION_VALID | COMPLETION_INTERRUPT };
	move.completion = MEMORY + 0x8000;
	move.source = MEMORY;
	move.destination = MEMORY + 0x4000;
	move.size = 64;
	move.interrupt = 1;
	CHECK(pwrite(device, &move, 32, PORTALS) == 32);
	CHECK(memory[0x8000] == 0);
	CHECK(pwrite(device, &move, 64, PORTALS) == 64);
	CHECK(memory[0x8000] == 1 && strcmp(memory + 0x4000, memory) == 0);
	int waiting = epoll_create1(0);
	struct epoll_event event = { .events = EPOLLIN, .data.fd = events[1] };
	CHECK(epoll_ctl(waiting, EPOLL_CTL_ADD, events[1], &event) == 0);
	CHECK(epoll_wait(waiting, &event, 1, 2000) == 1 && event.data.fd == events[1]);

	/* Where nothing is mapped it stops, and says where. */
	memory[0x8000] = 0;
	move.destination = MEMORY + 0x10000;
	CHECK(pwrite(device, &move, 64, PORTALS) == 64);
	uint64_t address;
	memcpy(&address, memory + 0x8008, 8);
	CHECK((memory[0x8000] & 0x3f) == 3 && address == move.destination);
	puts("done");
	return 0;
}
