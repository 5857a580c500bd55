/* A thread that signals the process's eventfds when the server says so: a device's interrupts. */

#include "shim.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct held {
	struct held *next;
	uint64_t key;
	int fd;
};

static struct held *held;
static pid_t owner; /* the process whose thread runs; 0 when it has ended */
static uint64_t delivered;
static _Atomic pid_t lock_owner; /* the process whose threads share the lock; negative while one of them makes it */
static pthread_mutex_t lock;
static pthread_cond_t progress;

/* A child may find its parent's lock taken by a thread that it does not have. */
static void take_lock(void)
{
	pid_t pid = getpid();
	for (pid_t found; (found = atomic_load(&lock_owner)) != pid;) {
		if (found == -pid) {
			sched_yield();
		} else if (atomic_compare_exchange_strong(&lock_owner, &found, -pid)) {
			pthread_mutex_init(&lock, NULL);
			pthread_cond_init(&progress, NULL);
			atomic_store(&lock_owner, pid);
		}
	}
	pthread_mutex_lock(&lock);
}

/* Whether `fd` is still the eventfd: a program may have closed what it does not know, and have another file there. */
static bool is_event(int fd, uint64_t key)
{
	char text[512];
	snprintf(text, sizeof text, "/proc/self/fdinfo/%d", fd);
	int file = REAL(open)(text, O_RDONLY | O_CLOEXEC);
	if (file < 0) return errno != ENOENT;
	ssize_t length = REAL(read)(file, text, sizeof text - 1);
	close(file);
	text[length < 0 ? 0 : length] = 0;
	const char *id = strstr(text, "eventfd-id:");
	return id != NULL && strtoull(id + strlen("eventfd-id:"), NULL, 10) == key;
}

static void signal_event(uint64_t key)
{
	static const uint64_t one = 1;
	take_lock();
	for (struct held *event = held; event != NULL; event = event->next) {
		struct pollfd room = { .fd = event->fd, .events = POLLOUT };
		/* A full counter stays as it is. */
		if (event->key != key || !is_event(event->fd, key)) continue;
		if (poll(&room, 1, 0) == 1) (void)!REAL(write)(event->fd, &one, sizeof one);
	}
	delivered++;
	pthread_cond_broadcast(&progress);
	pthread_mutex_unlock(&lock);
}

static void *run(void *argument)
{
	int fd = (int)(intptr_t)argument;
	uint64_t key, inode = inode_of(fd);
	while (recv(fd, &key, sizeof key, MSG_WAITALL) == sizeof key) signal_event(key);
	if (inode_of(fd) == inode) close(fd);
	take_lock();
	owner = 0;
	delivered = UINT64_MAX;
	pthread_cond_broadcast(&progress);
	pthread_mutex_unlock(&lock);
	return NULL;
}

/* Starts the thread, once in each process. Negative errno on failure. */
static int start(void)
{
	pid_t pid = getpid();
	if (owner == pid) return 0;
	int fd = dial(ASK_EVENTS, process_number(), true);
	if (fd < 0) return fd;
	fd = move_away(fd);
	delivered = 0;
	sigset_t all, saved;
	pthread_t thread;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	int failure = pthread_create(&thread, NULL, run, (void *)(intptr_t)fd);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	if (failure != 0) {
		close(fd);
		return -failure;
	}
	pthread_detach(thread);
	owner = pid;
	return 0;
}

/* An event that is held already, perhaps since before a fork. */
static bool is_held(uint64_t key)
{
	for (struct held *event = held; event != NULL; event = event->next) {
		if (event->key == key) return true;
	}
	return false;
}

int hold_event(int fd, uint64_t key)
{
	take_lock();
	bool known = is_held(key);
	int started = known ? start() : 0;
	pthread_mutex_unlock(&lock);
	if (known) return started;
	struct held *event = malloc(sizeof *event);
	if (event == NULL) return -ENOMEM;
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (copy < 0) {
		int failure = errno;
		free(event);
		return -failure;
	}
	*event = (struct held){ .key = key, .fd = move_away(copy) };
	take_lock();
	int result = start();
	if (result == 0) {
		event->next = held;
		held = event;
	}
	pthread_mutex_unlock(&lock);
	if (result < 0) {
		close(event->fd);
		free(event);
	}
	return result;
}

void await_signals(uint64_t count)
{
	if (count == 0 || owner != getpid()) return;
	take_lock();
	while (delivered < count) pthread_cond_wait(&progress, &lock);
	pthread_mutex_unlock(&lock);
}
