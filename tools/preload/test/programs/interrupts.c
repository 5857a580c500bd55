/* A device's interrupts by eventfd: set, taken away, in a child, with the descriptor closed. */

#include "device.h"
#include <sys/eventfd.h>

#define MSIX 2
#define DATA_NONE 1
#define DATA_EVENTFD 4
#define ACTION_TRIGGER 0x20

struct irq_set { uint32_t argsz, flags, index, start, count; int32_t fds[4]; };

static int device;

static int set_irqs(uint32_t count, const int *fds)
{
	struct irq_set set = { .argsz = 20 + 4 * count, .flags = DATA_EVENTFD | ACTION_TRIGGER, .index = MSIX };
	set.count = count;
	memcpy(set.fds, fds, 4 * count);
	return ioctl(device, VFIO_DEVICE_SET_IRQS, &set);
}

static void interrupt(uint32_t vector)
{
	put32(device, 0x20, vector);
	put32(device, 0x08, 6);
}

static int arrives(int fd)
{
	struct pollfd waiting = { .fd = fd, .events = POLLIN };
	uint64_t count;
	return poll(&waiting, 1, 2000) == 1 && read(fd, &count, 8) == 8;
}

static int stays_silent(int fd)
{
	struct pollfd waiting = { .fd = fd, .events = POLLIN };
	return poll(&waiting, 1, 100) == 0;
}

int main(void)
{
	int iommufd = open("/dev/iommu", O_RDWR);
	uint32_t ioas = ioas_alloc(iommufd);
	device = bind_device("/dev/vfio/devices/vfio1", iommufd, NULL);
	CHECK(attach(device, ioas) == 0);
	int events[3];
	for (int i = 0; i < 3; i++) events[i] = eventfd(0, EFD_CLOEXEC | (i == 1 ? EFD_NONBLOCK : 0));
	FAILS(EBADF, set_irqs(2, (int[]){ events[0], 99 }));
	FAILS(EINVAL, set_irqs(1, &iommufd));
	CHECK(set_irqs(3, events) == 0);
	for (int i = 2; i >= 0; i--) {
		interrupt(i);
		CHECK(arrives(events[i]));
		CHECK(stays_silent(events[(i + 1) % 3]));
	}

	/* Loopback, by the driver's word alone. */
	struct irq_set loopback = { .argsz = 20, .flags = DATA_NONE | ACTION_TRIGGER, .index = MSIX, .start = 1, .count = 1 };
	uint64_t once;
	CHECK(ioctl(device, VFIO_DEVICE_SET_IRQS, &loopback) == 0);
	/* It is there when the call returns. */
	CHECK(read(events[1], &once, 8) == 8 && once == 1);

	/* The kernel holds what it was given: here, a copy of a descriptor that is closed. */
	int copy = dup(events[0]);
	CHECK(set_irqs(1, &copy) == 0 && close(copy) == 0);
	interrupt(0);
	CHECK(arrives(events[0]));

	CHECK(set_irqs(2, (int[]){ -1, events[1] }) == 0);
	interrupt(0);
	CHECK(stays_silent(events[0]));

	/* An eventfd that a child hands in is the child's to hear. */
	pid_t child = fork();
	if (child == 0) {
		int own = eventfd(0, 0);
		CHECK(set_irqs(1, &own) == 0);
		interrupt(0);
		CHECK(arrives(own));
		/* One that it shares with its parent is signalled once. */
		uint64_t count;
		CHECK(set_irqs(1, &events[2]) == 0);
		interrupt(0);
		struct pollfd waiting = { .fd = events[2], .events = POLLIN };
		CHECK(poll(&waiting, 1, 2000) == 1 && read(events[2], &count, 8) == 8 && count == 1);
		_exit(0);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	interrupt(1);
	CHECK(arrives(events[1]));

	/* Many in a row: none is lost while the counter has room. */
	uint64_t total = 0, count;
	for (int i = 0; i < 100; i++) interrupt(1);
	for (int i = 0; i < 200 && total < 100; i++) {
		if (read(events[1], &count, 8) == 8) total += count;
		usleep(1000);
	}
	CHECK(total == 100);

	/* What lies where a program has closed the library's copies is its own, and stays as it is. */
	int file = memfd_create("file", 0);
	for (int other = 100; other < 1024; other++) {
		if (fcntl(other, F_GETFD) >= 0) CHECK(dup2(file, other) == other);
	}
	interrupt(1);
	CHECK(lseek(file, 0, SEEK_END) == 0);
	/* It can hand in others. */
	int fresh = eventfd(0, 0);
	CHECK(set_irqs(1, &fresh) == 0);
	interrupt(0);
	CHECK(arrives(fresh));
	puts("done");
	return 0;
}
