/* Opens /dev/iommu in every way there is, and makes the calls that need nothing else. */

#include "check.h"

int main(void)
{
	int fd = open("/dev/iommu", O_RDWR);
	CHECK(fd == 3);
	uint32_t ioas = ioas_alloc(fd);
	CHECK(ioas == 1);
	FAILS(ENOENT, destroy(fd, 7));

	/* What the dispatcher refuses. */
	struct { struct iommu_ioas_alloc alloc; char more[12]; } large = { .alloc.size = sizeof large };
	FAILS(EFAULT, ioctl(fd, IOMMU_IOAS_ALLOC, NULL));
	FAILS(EFAULT, ioctl(fd, IOMMU_IOAS_ALLOC, (void *)~0ul));
	FAILS(ENOTTY, ioctl(fd, IOMMU(0x9f), &large));
	large.alloc.size = 8;
	FAILS(EINVAL, ioctl(fd, IOMMU_IOAS_ALLOC, &large));
	large.alloc.size = sizeof large;
	large.more[11] = 1;
	FAILS(E2BIG, ioctl(fd, IOMMU_IOAS_ALLOC, &large));
	large.more[11] = 0;
	CHECK(ioctl(fd, IOMMU_IOAS_ALLOC, &large) == 0 && large.alloc.out_ioas_id == 2);

	/* An answer that cannot be stored takes back what was made. */
	struct iommu_ioas_alloc *fixed = shared(4096);
	fixed->size = sizeof *fixed;
	CHECK(mprotect(fixed, 4096, PROT_READ) == 0);
	FAILS(EFAULT, ioctl(fd, IOMMU_IOAS_ALLOC, fixed));
	CHECK(mprotect(fixed, 4096, PROT_READ | PROT_WRITE) == 0);
	CHECK(ioctl(fd, IOMMU_IOAS_ALLOC, fixed) == 0 && fixed->out_ioas_id == 3);

	/* A call that succeeds leaves errno alone. */
	errno = 77;
	CHECK(({ errno = 77; ioctl(fd, IOMMU_IOAS_ALLOC, fixed) == 0 && errno == 77; }));

	/* Descriptors are the program's: the lowest is free again, and a copy is the same file. */
	int copy = dup(fd);
	CHECK(copy == 4 && close(fd) == 0);
	CHECK(destroy(copy, ioas) == 0);
	CHECK(open("/dev/iommu", O_RDWR | O_CLOEXEC) == 3);
	CHECK((fcntl(3, F_GETFD) & FD_CLOEXEC) != 0 && (fcntl(copy, F_GETFD) & FD_CLOEXEC) == 0);
	CHECK(ioas_alloc(3) == 1);

	struct iommu_fault_alloc fault = { .size = sizeof fault };
	CHECK(ioctl(3, IOMMU_FAULT_QUEUE_ALLOC, &fault) == 0 && fault.out_fault_fd == 5);
	CHECK((fcntl(5, F_GETFD) & FD_CLOEXEC) != 0);
	FAILS(EBUSY, destroy(3, fault.out_fault_id));
	struct pollfd poll_fault = { .fd = 5, .events = POLLIN | POLLOUT };
	CHECK(poll(&poll_fault, 1, 0) == 1 && poll_fault.revents == POLLOUT);
	char record[40];
	CHECK(read(5, record, sizeof record) == 0);
	FAILS(ESPIPE, read(5, record, 39));
	CHECK(close(5) == 0 && destroy(3, fault.out_fault_id) == 0);

	FAILS(EINVAL, read(3, record, sizeof record));
	FAILS(ENOENT, open("/dev/vfio/devices/vfio77", O_RDWR));
	CHECK(syscall(SYS_openat, AT_FDCWD, "/dev/iommu", O_RDWR, 0) == 5);
	CHECK(syscall(SYS_ioctl, 5, IOMMU_IOAS_ALLOC, fixed) == 0 && fixed->out_ioas_id == 1);
	CHECK(openat(AT_FDCWD, "/dev/iommu", O_RDWR) == 6);

	/* Descriptors that are nobody's business stay with the C library. */
	int null = open("/dev/null", O_WRONLY);
	CHECK(null == 7 && write(null, "x", 1) == 1);
	FAILS(ENOTTY, ioctl(null, IOMMU_IOAS_ALLOC, fixed));
	FAILS(EBADF, ioctl(99, IOMMU_IOAS_ALLOC, fixed));
	puts("done");
	return 0;
}
