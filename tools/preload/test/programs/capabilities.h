/* Capabilities by number, as capset(2) takes them. */

#ifndef CAPABILITIES_H
#define CAPABILITIES_H

#include "check.h"

#define CAP_IPC_LOCK 14
#define CAP_SYS_RESOURCE 24

static inline void drop(int capability)
{
	struct { uint32_t version; int pid; } header = { 0x20080522, 0 };
	struct { uint32_t effective, permitted, inheritable; } data[2];
	CHECK(syscall(SYS_capget, &header, data) == 0);
	data[0].effective &= ~(1u << capability);
	CHECK(syscall(SYS_capset, &header, data) == 0);
}

/* The number behind `name` in a file of /proc. */
static inline unsigned long figure(const char *path, const char *name, int with_open)
{
	char text[8192];
	size_t length;
	if (with_open) {
		int fd = open(path, O_RDONLY);
		CHECK(fd >= 0 && (length = read(fd, text, sizeof text - 1)) > 0);
		close(fd);
	} else {
		FILE *file = fopen(path, "r");
		CHECK(file != NULL);
		length = fread(text, 1, sizeof text - 1, file);
		fclose(file);
	}
	text[length] = 0;
	char *at = strstr(text, name);
	CHECK(at != NULL && strstr(text, "Threads:") != NULL);
	return strtoul(at + strlen(name), NULL, 10);
}

#endif
