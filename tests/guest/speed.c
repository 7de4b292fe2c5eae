/* How fast the first disk is: one request at a time, past every cache of the guest. */
#include "guest.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define SMALL 4096
#define LARGE (128 * 1024)
/* Long enough to average over the host's other work, short enough to be waited for. */
#define SECONDS 4.0

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Requests a second, or -1. Sequential ones begin again at the disk's end. */
static double rate(int fd, char *bytes, size_t size, off_t blocks, int random, int writing)
{
	uint64_t state = 1;
	off_t next = 0;
	double begin = now(), time;
	long done = 0;

	do {
		off_t at = (random ? (off_t)(scramble(&state) % (uint64_t)blocks) : next) * (off_t)size;
		ssize_t moved = writing ? pwrite(fd, bytes, size, at) : pread(fd, bytes, size, at);

		if (moved != (ssize_t)size)
			return -1;
		next = (next + 1) % blocks;
		done++;
		time = now() - begin;
	} while (time < SECONDS);
	return (double)done / time;
}

void disk_speed(const char *disk)
{
	static char bytes[LARGE] __attribute__((aligned(SMALL)));
	int fd = open(disk, O_RDWR | O_DIRECT | O_CLOEXEC);
	off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	double all[4];

	if (size < LARGE) {
		say("B NODISK %s", disk);
		if (fd >= 0)
			close(fd);
		return;
	}
	for (int i = 0; i < 4; i++) {
		int random = i & 1, writing = i >> 1;
		size_t each = random ? SMALL : LARGE;

		all[i] = rate(fd, bytes, each, size / (off_t)each, random, writing);
	}
	close(fd);
	say("B read %.1f MiB/s %.0f/s write %.1f MiB/s %.0f/s", all[0] / 8, all[1], all[2] / 8, all[3]);
}
