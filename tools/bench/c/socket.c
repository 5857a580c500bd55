/*
 * What a question and its answer cost that are as long as those of the preload server, when nobody thinks about them:
 * to another process and back over a Unix socket. Prints one line for each measurement: name, nanoseconds of wall time
 * per operation, checksum.
 */
#include "types.h"
#include <sys/socket.h>
#include <unistd.h>

#define CLOCK CLOCK_MONOTONIC
#include "measure.h"

#define QUESTION 72
#define ANSWER 48
#define CALLS 500u

static char bytes[QUESTION];

static int ask(int socket)
{
	return send(socket, bytes, QUESTION, 0) == QUESTION && recv(socket, bytes, ANSWER, MSG_WAITALL) == ANSWER;
}

int main(void)
{
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
		return 1;
	if (fork() == 0) {
		close(ends[0]);
		while (recv(ends[1], bytes, QUESTION, MSG_WAITALL) == QUESTION)
			if (send(ends[1], bytes, ANSWER, 0) != ANSWER)
				break;
		return 0;
	}
	close(ends[1]);
	MEASURE("preload-query", CALLS, for (u32 i = 0; i < CALLS; i++) sum += ask(ends[0]));
	MEASURE("preload-map", CALLS, for (u32 i = 0; i < CALLS; i++) sum += ask(ends[0]) && ask(ends[0]));
	return 0;
}
