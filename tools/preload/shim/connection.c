/* The process's connection to the server. */

#include "shim.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

/* One process's. A child that finds its parent's makes its own, so that fork needs no notice, however it is made. */
struct connection {
	pid_t pid;
	int fd;
	uint64_t inode;
	uint64_t number;
	pthread_mutex_t lock;
};

static _Atomic(struct connection *) current;
static atomic_uint layout;

static struct sockaddr_un server;
static char folder[sizeof server.sun_path];
static atomic_int state; /* 0 not looked yet, 1 there is a server, 2 there is none */

__attribute__((constructor)) static void find_server(void)
{
	const char *path = getenv("IOMMUKIT_SOCKET");
	if (path == NULL || strlen(path) >= sizeof server.sun_path) {
		atomic_store(&state, 2);
		return;
	}
	server.sun_family = AF_UNIX;
	strcpy(server.sun_path, path);
	strcpy(folder, path);
	char *slash = strrchr(folder, '/');
	if (slash != NULL) *slash = 0;
	atomic_store(&state, 1);
}

const char *server_folder(void)
{
	if (atomic_load(&state) == 0) find_server();
	return atomic_load(&state) == 1 ? folder : NULL;
}

uint64_t inode_of(int fd)
{
	struct stat status;
	return REAL(syscall)(SYS_fstat, fd, &status) == 0 ? status.st_ino : 0;
}

bool is_served(int fd, uint64_t *inode)
{
	struct sockaddr_un peer;
	socklen_t length = sizeof peer;
	int saved = errno;
	bool served = fd >= 0 && server_folder() != NULL && getpeername(fd, (struct sockaddr *)&peer, &length) == 0 &&
		      peer.sun_family == AF_UNIX && length > offsetof(struct sockaddr_un, sun_path) &&
		      strncmp(peer.sun_path, server.sun_path, length - offsetof(struct sockaddr_un, sun_path)) == 0;
	if (served) *inode = inode_of(fd);
	errno = saved;
	return served;
}

void layout_changed(void)
{
	atomic_fetch_add(&layout, 1);
}

int move_away(int fd)
{
	static const int bases[] = { 900, 200, 100 };
	for (size_t i = 0; i < sizeof bases / sizeof *bases; i++) {
		int moved = fcntl(fd, F_DUPFD_CLOEXEC, bases[i]);
		if (moved < 0) continue;
		close(fd);
		return moved;
	}
	return fd;
}

static bool transmit(int fd, const void *bytes, size_t length)
{
	for (size_t done = 0; done < length;) {
		ssize_t count = send(fd, (const char *)bytes + done, length - done, MSG_NOSIGNAL);
		if (count < 0 && errno == EINTR) continue;
		if (count <= 0) return false;
		done += count;
	}
	return true;
}

static bool receive(int fd, void *bytes, size_t length)
{
	for (size_t done = 0; done < length;) {
		ssize_t count = recv(fd, (char *)bytes + done, length - done, MSG_WAITALL);
		if (count < 0 && errno == EINTR) continue;
		if (count <= 0) return false;
		done += count;
	}
	return true;
}

static int dial_raw(bool close_on_exec)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | (close_on_exec ? SOCK_CLOEXEC : 0), 0);
	if (fd < 0) return -errno;
	if (connect(fd, (struct sockaddr *)&server, sizeof server) == 0) return fd;
	close(fd);
	return -EIO;
}

/* Signal handlers may use files of the server's, so none runs while a thread has its turn. */
static void enter(sigset_t *signals, int *cancel)
{
	sigset_t all;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, signals);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, cancel);
}

static void leave(const sigset_t *signals, int cancel)
{
	pthread_setcancelstate(cancel, NULL);
	pthread_sigmask(SIG_SETMASK, signals, NULL);
}

int dial(uint32_t kind, uint64_t argument, bool close_on_exec)
{
	sigset_t signals;
	int cancel;
	enter(&signals, &cancel);
	int fd = dial_raw(close_on_exec);
	if (fd >= 0) {
		struct question question = { .length = sizeof question, .kind = kind, .fd = fd, .inode = inode_of(fd) };
		question.arguments[0] = argument;
		char byte;
		if (!transmit(fd, &question, sizeof question) || !receive(fd, &byte, 1)) {
			close(fd);
			fd = -EIO;
		}
	}
	leave(&signals, cancel);
	return fd;
}

static struct connection *own_connection(void)
{
	pid_t pid = getpid();
	struct connection *found = atomic_load(&current);
	if (found != NULL && found->pid == pid) return found;
	struct connection *made = REAL(mmap)(NULL, sizeof *made, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (made == MAP_FAILED) return NULL;
	made->pid = pid;
	made->fd = -1;
	pthread_mutex_init(&made->lock, NULL);
	if (!atomic_compare_exchange_strong(&current, &found, made)) {
		REAL(munmap)(made, sizeof *made);
		return found->pid == pid ? found : NULL;
	}
	if (found != NULL && found->fd >= 0 && inode_of(found->fd) == found->inode) close(found->fd);
	return made;
}

uint64_t process_number(void)
{
	struct connection *connection = own_connection();
	return connection == NULL ? 0 : connection->number;
}

/* Connects when there is no connection yet, or when the program has closed it with descriptors that it does not know. */
static bool is_connected(struct connection *connection)
{
	if (connection->fd >= 0 && inode_of(connection->fd) == connection->inode) return true;
	int fd = dial_raw(true);
	if (fd < 0) return false;
	fd = move_away(fd);
	uint64_t inode = inode_of(fd);
	struct question question = { .length = sizeof question, .kind = ASK_PROCESS, .inode = inode, .fd = fd };
	question.arguments[0] = connection->pid;
	question.arguments[1] = connection->number;
	struct answer answer;
	if (!transmit(fd, &question, sizeof question) || !receive(fd, &answer, sizeof answer) || answer.result <= 0) {
		close(fd);
		return false;
	}
	connection->fd = fd;
	connection->inode = inode;
	connection->number = answer.result;
	return true;
}

static void exchange(struct question *question, const char *path, struct answer *answer)
{
	size_t bytes = path == NULL ? 0 : strlen(path);
	struct connection *connection = own_connection();
	*answer = (struct answer){ .result = -EIO };
	if (connection == NULL) return;
	question->length = sizeof *question + bytes;
	question->tid = REAL(syscall)(SYS_gettid);
	question->layout = atomic_load(&layout);
	sigset_t signals;
	int cancel;
	enter(&signals, &cancel);
	pthread_mutex_lock(&connection->lock);
	if (is_connected(connection) &&
	    (!transmit(connection->fd, question, sizeof *question) || !transmit(connection->fd, path, bytes) ||
	     !receive(connection->fd, answer, sizeof *answer))) {
		*answer = (struct answer){ .result = -EIO };
		close(connection->fd);
		connection->fd = -1;
	}
	if ((answer->flags & ANSWER_DRAIN) != 0 && inode_of(answer->drain_fd) == answer->drain_inode) {
		char byte;
		recv(answer->drain_fd, &byte, 1, MSG_DONTWAIT);
	}
	pthread_mutex_unlock(&connection->lock);
	await_signals(answer->signals);
	leave(&signals, cancel);
}

long ask(struct question *question, const char *path, struct answer *answer)
{
	int offered = -1;
	long result;
	for (;;) {
		exchange(question, path, answer);
		result = answer->result;
		if ((answer->flags & ANSWER_HOLD_WANTED) != 0) {
			result = hold_event((int)answer->values[0], answer->values[1]);
			if (result < 0) break;
		} else if ((answer->flags & ANSWER_OFFER_WANTED) != 0 && offered < 0) {
			result = offered = dial(ASK_FILE, 0, true);
			if (offered < 0) break;
			question->offered_fd = offered;
			question->offered_inode = inode_of(offered);
		} else {
			break;
		}
	}
	if (offered >= 0 && (answer->flags & ANSWER_OFFER_TAKEN) == 0) close(offered);
	return result;
}
