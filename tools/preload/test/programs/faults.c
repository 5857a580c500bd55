/* Page requests of a device: the fault queue shows as readable exactly while there are some. */

#include "device.h"
#include <sys/epoll.h>

#define IOMMU_HWPT_ALLOC IOMMU(0x89)
#define FAULT_ID_VALID 4

struct iommu_hwpt_alloc {
	uint32_t size, flags, dev_id, pt_id, out_hwpt_id, reserved, data_type, data_len;
	uint64_t data_uptr;
	uint32_t fault_id, reserved2;
};
struct pgfault { uint32_t flags, dev_id, pasid, grpid, perm, reserved; uint64_t addr; uint32_t length, cookie; };
struct response { uint32_t cookie, code; };

static int fault_fd;

static int readable(void)
{
	struct pollfd waiting = { .fd = fault_fd, .events = POLLIN };
	CHECK(poll(&waiting, 1, 0) >= 0);
	return (waiting.revents & POLLIN) != 0;
}

int main(void)
{
	int iommufd = open("/dev/iommu", O_RDWR);
	uint32_t id, ioas = ioas_alloc(iommufd);
	int device = bind_device("/dev/vfio/devices/vfio1", iommufd, &id);
	struct iommu_fault_alloc fault = { .size = sizeof fault };
	CHECK(ioctl(iommufd, IOMMU_FAULT_QUEUE_ALLOC, &fault) == 0);
	fault_fd = fault.out_fault_fd;
	struct iommu_hwpt_alloc hwpt = { .size = sizeof hwpt, .flags = FAULT_ID_VALID, .dev_id = id, .pt_id = ioas };
	hwpt.fault_id = fault.out_fault_id;
	CHECK(ioctl(iommufd, IOMMU_HWPT_ALLOC, &hwpt) == 0);
	CHECK(attach(device, hwpt.out_hwpt_id) == 0);

	int epoll = epoll_create1(0);
	struct epoll_event event = { .events = EPOLLIN };
	CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, fault_fd, &event) == 0);
	CHECK(!readable() && epoll_wait(epoll, &event, 1, 0) == 0);

	for (int i = 0; i < 3; i++) {
		uint64_t iova = 0x1234000 + i * 0x1000;
		CHECK(pwrite(device, &iova, 8, 0x10) == 8);
		put32(device, 0x08, 4 | 0x200);
		struct pgfault record;
		CHECK(readable() && epoll_wait(epoll, &event, 1, 1000) == 1);
		CHECK(syscall(SYS_read, fault_fd, 16, sizeof record) == -1 && errno == EFAULT);
		CHECK(readable());
		CHECK(read(fault_fd, &record, sizeof record) == sizeof record);
		CHECK(!readable() && epoll_wait(epoll, &event, 1, 0) == 0);
		CHECK(record.dev_id == id && record.addr == iova && record.cookie != 0);
		struct response response = { record.cookie, 0 }, bad = { 999, 0 };
		FAILS(EINVAL, write(fault_fd, &bad, sizeof bad));
		CHECK(get32(device, 0x44) != 0 || i > 0);
		CHECK(write(fault_fd, &response, sizeof response) == sizeof response);
		CHECK(get32(device, 0x44) == 0);
	}

	/* A request that is answered without being read. */
	put32(device, 0x08, 4);
	CHECK(readable());
	CHECK(detach(device) == 0);
	CHECK(!readable());
	struct pgfault record;
	CHECK(read(fault_fd, &record, sizeof record) == 0);
	/* A buffer that is not there is not missed. */
	char *gone = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(read(fault_fd, gone, sizeof record) == 0);
	FAILS(ESPIPE, read(fault_fd, gone, sizeof record - 1));
	puts("done");
	return 0;
}
