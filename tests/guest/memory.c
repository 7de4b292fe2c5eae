/* Memory full of seeded random data, and the checksum that tells whether it survived. */
#include "guest.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Small enough that a slice under TCG stays well below the shortest tick. */
#define SLICE_WORDS ((size_t)32 * 1024)

static uint64_t *words;
static size_t count;
static uint64_t seed;
static uint64_t expected;

static enum work work;
static size_t position;
static uint64_t random_state;
static uint64_t running_sum;

static uint64_t mix(uint64_t sum, uint64_t word)
{
	/* Order matters: two pages that changed places must not go unnoticed. */
	return (sum ^ word) * 0x100000001B3ULL + 1;
}

static long available_mib(void)
{
	FILE *info = fopen("/proc/meminfo", "re");
	char line[128];
	long kib = 0;

	while (info && fgets(line, sizeof line, info))
		if (sscanf(line, "MemAvailable: %ld kB", &kib) == 1)
			break;
	if (info)
		fclose(info);
	return kib / 1024;
}

/*
 * Waits until so much is available, for a while: what the balloon's driver just tells the host to be
 * free, 128 MiB at once, is out of the count until a host that is busy has answered.
 */
static long awaited_mib(long mib)
{
	long available = available_mib();

	for (int tries = 0; available < mib && tries < 300; tries++) {
		usleep(100 * 1000);
		available = available_mib();
	}
	return available;
}

int memory_reserve(long mib)
{
	long available;

	seed = (uint64_t)option_number("seed", 1);
	if (mib == 0)
		return 0;
	/* Beyond this the kernel would kill init, which reads like a crash of the machine. */
	available = awaited_mib(mib + 8);
	if (mib > available - 8) {
		say("TOUCH REFUSED %ld of %ld MiB", mib, available);
		return -1;
	}
	count = (size_t)mib * 1024 * 1024 / sizeof *words;
	words = mmap(NULL, count * sizeof *words, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (words == MAP_FAILED) {
		say("TOUCH REFUSED %ld of %ld MiB", mib, available);
		return -1;
	}
	return 0;
}

void memory_start(enum work what)
{
	work = what;
	position = 0;
	running_sum = seed;
	if (what == WORK_FILL) {
		/* Never zero, and far apart for neighbouring seeds. */
		random_state = (++seed) * 0x9E3779B97F4A7C15ULL | 1;
		running_sum = seed;
	}
}

enum work memory_slice(void)
{
	size_t end = count - position < SLICE_WORDS ? count : position + SLICE_WORDS;
	enum work finished;

	for (; position < end; position++) {
		if (work == WORK_FILL)
			words[position] = scramble(&random_state);
		running_sum = mix(running_sum, words[position]);
	}
	if (position < count)
		return WORK_NONE;
	finished = work;
	work = WORK_NONE;
	if (finished == WORK_FILL)
		expected = running_sum;
	return finished;
}

int memory_busy(void)
{
	return work != WORK_NONE;
}

void memory_report(void)
{
	say("CK %s %016llx", running_sum == expected ? "OK" : "BAD", (unsigned long long)running_sum);
}
