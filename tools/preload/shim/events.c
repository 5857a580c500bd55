/* A thread that signals the process's eventfds when the server says so: a device's interrupts. */

#include "shim.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct held {
	struct held *next;
	uint64_t key;
	int fd;
};

static struct held *held;
static pid_t owner; /* the process whose thread runs */
static uint64_t delivered;
static pid_t lock_owner; /* the process whose threads share the lock */
static pthread_mutex_t lock;
static pthread_cond_t progress;

/* A child may find its parent's lock taken by a thread that it does not have. */
static void take_lock(void)
{
	pid_t pid = getpid();
	if (lock_owner != pid) {
		pthread_mutex_init(&lock, NULL);
		pthread_cond_init(&progress, NULL);
		lock_owner = pid;
	}
	pthread_mutex_lock(&lock);
}

static void signal_event(uint64_t key)
{
	static const uint64_t one = 1;
	take_lock();
	for (struct held *event = held; event != NULL; event = event->next) {
		struct pollfd room = { .fd = event->fd, .events = POLLOUT };
		/* A full counter stays as it is. */
		if (event->key == key && poll(&room, 1, 0) == 1) (void)!REAL(write)(event->fd, &one, sizeof one);
	}
	delivered++;
	pthread_cond_broadcast(&progress);
	pthread_mutex_unlock(&lock);
}

static void *run(void *argument)
{
	int fd = (int)(intptr_t)argument;
	uint64_t key;
	while (recv(fd, &key, sizeof key, MSG_WAITALL) == sizeof key) signal_event(key);
	close(fd);
	take_lock();
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
