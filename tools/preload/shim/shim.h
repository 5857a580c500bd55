#ifndef IOMMUKIT_SHIM_H
#define IOMMUKIT_SHIM_H

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "protocol.h"

#define EXPORT __attribute__((visibility("default")))

/* The next library's function of this name, which is libc's. */
#define REAL(name)                                                 \
	({                                                             \
		static void *symbol;                                       \
		if (symbol == NULL) symbol = dlsym(RTLD_NEXT, #name);      \
		(__typeof__(&name))symbol;                                 \
	})

/* What _FORTIFY_SOURCE calls where it knows the size of the buffer. */
extern void __chk_fail(void) __attribute__((noreturn));

/* connection.c */

/* The folder of the server's socket and files; NULL when the program does not run under iommukit-run. */
const char *server_folder(void);
/* A connection to the server whose first message is `kind`, at the lowest free number. Negative errno on failure. */
int dial(uint32_t kind, uint64_t argument, bool close_on_exec);
/* Asks, in turn with other threads, and carries out what the answer wants. Gives the result. */
long ask(struct question *question, const char *path, struct answer *answer);
/* Whether `fd` is a file of the server's; its inode then. Leaves errno alone. */
bool is_served(int fd, uint64_t *inode);
uint64_t inode_of(int fd);
/* Number that the server gave this process, 0 before the first question. */
uint64_t process_number(void);
/* A number far from those that programs look at, for `fd`, which is closed. */
int move_away(int fd);
/* To be called after a change of the process's mappings. */
void layout_changed(void);

/* events.c */

/* Keeps a copy of the eventfd `fd` that the server can have signalled as `key`. Negative errno on failure. */
int hold_event(int fd, uint64_t key);
/* Waits until the first `count` signals have reached their eventfds. */
void await_signals(uint64_t count);

/* files.c */

/* What the system call does with `fd`, a file of the server's: the result or a negative errno. */
long served_open(const char *path, int flags);
long served_ioctl(int fd, uint64_t inode, unsigned long request, unsigned long argument);
long served_transfer(uint32_t kind, int fd, uint64_t inode, uintptr_t buffer, size_t bytes, int64_t offset);
/* tree.c */

/* `path`, or where the server has put what programs should find there; the answer may lie in `buffer`. Leaves errno alone. */
const char *redirected(int directory, const char *path, char buffer[PATH_MAX]);
/* Whether the server may have what is at `path`; its path from the root then. Leaves errno alone. */
bool served_path(int directory, const char *path, char into[PATH_MAX]);
/* Takes the tree's own place off a path, where it is. */
char *unredirected(char *path);

/* paths.c */

/* A descriptor of /proc/PID/status with the server's pins added, or -1 when `path` is not that or nothing is known. */
int status_file(const char *path, int flags);

/* A system call's result as the C library gives it. `saved` is errno before. */
static inline long finish(long result, int saved)
{
	errno = result < 0 ? (int)-result : saved;
	return result < 0 ? -1 : result;
}

#endif
