/* The first disk: written and read back past every cache of the guest. */
#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/fs.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define TEST_BYTES ((size_t)1024 * 1024)

static const char *const KINDS[] = { "vd", "sd", "nvme", "sr" };
#define CDROM 3

static long number_in(const char *disk, const char *attribute)
{
	char path[300];
	FILE *file;
	long number = 0;

	snprintf(path, sizeof path, "/sys/block/%s/%s", disk, attribute);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fscanf(file, "%ld", &number) != 1)
		number = 0;
	fclose(file);
	return number;
}

/* vda before vdaa, virtio before SCSI: /sys/block itself has no useful order. */
static int in_order(const struct dirent **a, const struct dirent **b)
{
	size_t la = strlen((*a)->d_name), lb = strlen((*b)->d_name);

	return la != lb ? (la < lb ? -1 : 1) : strcmp((*a)->d_name, (*b)->d_name);
}

/* Calls `use` for each disk of the kind until it returns non-zero. */
static int each_disk(const char *kind, int (*use)(const char *name, void *with), void *with)
{
	struct dirent **names;
	int count = scandir("/sys/block", &names, NULL, in_order);
	int stop = 0;

	for (int i = 0; i < count; i++) {
		if (!stop && strncmp(names[i]->d_name, kind, strlen(kind)) == 0)
			stop = use(names[i]->d_name, with);
		free(names[i]);
	}
	if (count >= 0)
		free(names);
	return stop;
}

static int take_first(const char *name, void *with)
{
	if (number_in(name, "size") == 0)
		return 0;
	snprintf(with, 64, "%s", name);
	return 1;
}

static int find_first(char name[64])
{
	for (size_t kind = 0; kind < CDROM; kind++)
		if (each_disk(KINDS[kind], take_first, name))
			return 1;
	return 0;
}

struct list {
	char *text;
	size_t size;
};

static int append(const char *name, void *with)
{
	struct list *list = with;
	size_t used = strlen(list->text);

	snprintf(list->text + used, list->size - used, "%s%s", used ? "," : "", name);
	return 0;
}

void disk_names(char *out, size_t size)
{
	struct list list = { out, size };

	out[0] = '\0';
	for (size_t kind = 0; kind < sizeof KINDS / sizeof *KINDS; kind++)
		each_disk(KINDS[kind], append, &list);
}

static int open_disk(const char *name, int flags)
{
	char path[80];

	snprintf(path, sizeof path, "/dev/%s", name);
	return open(path, flags | O_DIRECT | O_CLOEXEC);
}

static int transfer(int fd, char *bytes, size_t size, int writing)
{
	size_t done = 0;

	while (done < size) {
		ssize_t moved = writing ? pwrite(fd, bytes + done, size - done, (off_t)done)
					: pread(fd, bytes + done, size - done, (off_t)done);

		if (moved < 0 && errno == EINTR)
			continue;
		if (moved <= 0)
			return -1;
		done += (size_t)moved;
	}
	return 0;
}

void disk_test(void)
{
	static char wrote[TEST_BYTES] __attribute__((aligned(BLOCK)));
	static char found[TEST_BYTES] __attribute__((aligned(BLOCK)));
	char name[64];
	struct timespec now;
	uint64_t state;
	size_t size;
	int fd;

	if (!find_first(name)) {
		say("D NODISK");
		return;
	}
	size = (size_t)number_in(name, "size") * 512;
	size = size < TEST_BYTES ? size / BLOCK * BLOCK : TEST_BYTES;
	/* New data each time: what an earlier run left behind must not pass. */
	clock_gettime(CLOCK_MONOTONIC, &now);
	state = ((uint64_t)now.tv_sec << 32 | (uint64_t)now.tv_nsec) | 1;
	for (size_t i = 0; i < size; i += sizeof state) {
		uint64_t word = scramble(&state);

		memcpy(wrote + i, &word, sizeof word);
	}
	memset(found, 0, size);
	fd = open_disk(name, O_RDWR);
	if (fd < 0 || transfer(fd, wrote, size, 1) < 0 || fsync(fd) < 0)
		say("D BAD %s write: %s", name, strerror(errno));
	else if (transfer(fd, found, size, 0) < 0)
		say("D BAD %s read: %s", name, strerror(errno));
	else if (memcmp(wrote, found, size) != 0)
		say("D BAD %s differs", name);
	else
		say("D OK %s", name);
	if (fd >= 0)
		close(fd);
}

void disk_stamp(const char *text)
{
	static char block[BLOCK] __attribute__((aligned(BLOCK)));
	char name[64];
	int fd;

	if (!find_first(name))
		return;
	fd = open_disk(name, O_WRONLY);
	memset(block, 0, sizeof block);
	snprintf(block, sizeof block, "%s\n", text);
	if (fd < 0 || transfer(fd, block, sizeof block, 1) < 0)
		say("STAMP BAD %s: %s", name, strerror(errno));
	if (fd >= 0)
		close(fd);
}
