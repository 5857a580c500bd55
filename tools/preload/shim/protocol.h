/*
 * What the library and the server say to each other, over Unix stream sockets. Numbers are in the machine's byte order,
 * which the server takes to be little-endian. A process asks over one connection of its own, a question at a time. An
 * open file is a connection too: the program's end of it is the descriptor that the program sees, and the inode of that
 * end is the file's name in questions.
 */

#ifndef IOMMUKIT_PROTOCOL_H
#define IOMMUKIT_PROTOCOL_H

#include <stdint.h>

enum {
	/* The first question of a process. arguments: pid, number of the process from an earlier answer or 0. Result: its number. */
	ASK_PROCESS = 1,
	/* The first message on a connection that will be an open file. Answered by one byte. */
	ASK_FILE = 2,
	/* The first message on the connection over which the process's eventfds are signalled. arguments: number of the process. Answered by one byte. */
	ASK_EVENTS = 3,
	/* The path follows. The offered file becomes what it opens. */
	ASK_OPEN = 4,
	/* arguments: request, argument. */
	ASK_IOCTL = 5,
	/* arguments: address, bytes, file offset or a negative number for none. */
	ASK_READ = 6,
	ASK_WRITE = 7,
	/* arguments: length, PROT_ bits, MAP_ bits, offset. values: number of the file to map instead, from its start. */
	ASK_MMAP = 8,
	/* The process's mappings have changed, and something of the server's was among them. */
	ASK_MAPPINGS = 9,
	/* arguments: pid. values: KiB pinned, KiB locked. */
	ASK_STATUS = 10,
	/* The device node that the file is of, or that is at the path that follows. values: its major and minor number. -ENODEV: it is of none. */
	ASK_NODE = 11,
};

enum {
	/* The offered file is a descriptor now. */
	ANSWER_OFFER_TAKEN = 1,
	/* The question makes a descriptor: ask again and offer a file. */
	ANSWER_OFFER_WANTED = 2,
	/* The question names an eventfd, values[0]: hold it under the key values[1], then ask again. */
	ANSWER_HOLD_WANTED = 4,
	/* Take one byte out of the file drain_fd. */
	ANSWER_DRAIN = 8,
};

struct question {
	uint32_t length; /* bytes, with what follows */
	uint32_t kind;
	uint64_t inode; /* the file that the question is about */
	int32_t fd; /* its number in this process */
	uint32_t tid;
	uint64_t arguments[4];
	uint64_t offered_inode; /* a fresh file for a new descriptor, or 0 */
	int32_t offered_fd;
	uint32_t layout; /* changes when the process's mappings have */
};

struct answer {
	int64_t result; /* >= 0, or a negative errno */
	uint32_t flags;
	int32_t drain_fd;
	uint64_t drain_inode;
	uint64_t values[2];
	uint64_t signals; /* events signalled to the process until now; they come before the answer does */
};

#endif
