/* The memory of a process that is gone, of one that is another program now, and of one that lives. */

#include "device.h"

static int iommufd;

int main(void)
{
	iommufd = open("/dev/iommu", O_RDWR);
	int device = bind_device("/dev/vfio/devices/vfio1", iommufd, NULL);
	for (int way = 0; way < 3; way++) {
		int pipes[2][2];
		CHECK(pipe(pipes[0]) == 0 && pipe(pipes[1]) == 0);
		uint32_t ioas = ioas_alloc(iommufd);
		pid_t child = fork();
		char byte = 0;
		if (child == 0) {
			char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			/* Nothing is attached, so nothing is pinned yet. */
			CHECK(map(iommufd, ioas, memory, 4096, 0x10000) == 0);
			CHECK(write(pipes[0][1], &byte, 1) == 1);
			if (way == 1) execl("/bin/cat", "cat", NULL);
			if (way == 2) CHECK(read(pipes[1][0], &byte, 1) == 1 && strcmp(memory, "from the device") == 0);
			_exit(0);
		}
		CHECK(read(pipes[0][0], &byte, 1) == 1);
		if (way == 0) {
			CHECK(waitpid(child, NULL, 0) == child);
			FAILS(EFAULT, attach(device, ioas));
		} else if (way == 1) {
			usleep(200000);
			FAILS(EFAULT, attach(device, ioas));
			kill(child, SIGKILL);
			CHECK(waitpid(child, NULL, 0) == child);
		} else {
			int status;
			CHECK(attach(device, ioas) == 0);
			CHECK(dma_write(device, 0x10000, "from the device") == 0);
			CHECK(write(pipes[1][1], &byte, 1) == 1);
			CHECK(waitpid(child, &status, 0) == child && status == 0);
			/* The page is still pinned, though nothing is behind it any more. */
			CHECK(dma_read(device, 0x10000)[0] == 0);
		}
		detach(device);
		CHECK(destroy(iommufd, ioas) == 0);
	}
	puts("done");
	return 0;
}
