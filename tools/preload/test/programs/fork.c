/* Processes that share files: a file lives until the last of them closes it, and each has its own memory. */

#include "check.h"
#include <linux/sched.h>
#include <pthread.h>
#include <sys/socket.h>

static int fd;
static uint32_t ioas;

/* A child that the C library knows nothing of. */
static pid_t raw_clone(void)
{
	struct clone_args args = { .exit_signal = SIGCHLD };
	return syscall(SYS_clone3, &args, sizeof args);
}

static void wait_for(pid_t child)
{
	int status;
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void in_child(pid_t child, void (*body)(void))
{
	CHECK(child >= 0);
	if (child == 0) {
		body();
		_exit(0);
	}
	wait_for(child);
}

static void use(void)
{
	uint32_t more = ioas_alloc(fd);
	CHECK(more > ioas);
	CHECK(destroy(fd, more) == 0);
	/* The child's own file, with ids of its own. */
	int own = open("/dev/iommu", O_RDWR);
	CHECK(ioas_alloc(own) == 1);
}

static void nested(void)
{
	use();
	in_child(fork(), use);
	use();
}

static void *in_thread(void *argument)
{
	for (int i = 0; i < 200; i++) use();
	return argument;
}

static void close_and_end(void)
{
	close(fd);
}

/* The file arrives in a process that has not opened it. */
static void pass(void)
{
	int pair[2];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	pid_t child = fork();
	char space[CMSG_SPACE(sizeof(int))], byte = 0;
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };
	if (child == 0) {
		struct iommu_ioas_alloc alloc = { .size = sizeof alloc };
		close(fd);
		CHECK(recvmsg(pair[1], &message, 0) == 1);
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
		CHECK(ioctl(fd, IOMMU_IOAS_ALLOC, &alloc) == 0);
		_exit(0);
	}
	int other = open("/dev/iommu", O_RDWR);
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &other, sizeof other);
	CHECK(sendmsg(pair[0], &message, 0) == 1);
	close(other);
	wait_for(child);
	close(pair[0]);
	close(pair[1]);
}

int main(int argc, char **argv)
{
	if (argc == 2) {
		/* After exec, with a descriptor from before. */
		fd = atoi(argv[1]);
		CHECK(ioas_alloc(fd) == 2);
		return 0;
	}
	fd = open("/dev/iommu", O_RDWR);
	ioas = ioas_alloc(fd);

	in_child(fork(), nested);
	in_child(raw_clone(), nested);
	in_child(fork(), close_and_end);
	use();

	pthread_t threads[4];
	for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, in_thread, NULL) == 0);
	in_child(fork(), use);
	for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);

	pass();

	pid_t child = fork();
	if (child == 0) {
		char number[16];
		snprintf(number, sizeof number, "%d", fd);
		execl("/proc/self/exe", "again", number, NULL);
		_exit(1);
	}
	wait_for(child);
	child = vfork();
	if (child == 0) {
		ioas_alloc(fd);
		_exit(0);
	}
	wait_for(child);
	CHECK(ioas_alloc(fd) > ioas);

	/* A program may close what it does not know. */
	for (int other = 3; other < 1024; other++) if (other != fd) close(other);
	CHECK(ioas_alloc(fd) > ioas);
	puts("done");
	return 0;
}
