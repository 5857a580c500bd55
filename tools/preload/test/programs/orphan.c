/* A program whose server goes away. */

#include "check.h"

int main(void)
{
	int fd = open("/dev/iommu", O_RDWR);
	ioas_alloc(fd);
	struct iommu_fault_alloc fault = { .size = sizeof fault };
	CHECK(ioctl(fd, IOMMU_FAULT_QUEUE_ALLOC, &fault) == 0);
	puts("ready");
	fflush(stdout);
	getchar();
	struct iommu_ioas_alloc alloc = { .size = sizeof alloc };
	char record[40];
	FAILS(EIO, ioctl(fd, IOMMU_IOAS_ALLOC, &alloc));
	FAILS(EIO, read(fault.out_fault_fd, record, sizeof record));
	FAILS(EIO, open("/dev/iommu", O_RDWR));
	struct pollfd hung = { .fd = fault.out_fault_fd, .events = POLLIN };
	CHECK(poll(&hung, 1, 0) == 1 && (hung.revents & POLLHUP) != 0);
	CHECK(close(fd) == 0);
	puts("done");
	return 0;
}
