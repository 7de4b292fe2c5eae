/* The parts of the test guest's init; each file owns one noun. */
#ifndef KXL_GUEST_H
#define KXL_GUEST_H

#include <stddef.h>
#include <stdint.h>

/* boot.c: what happens once, before READY. */
void mount_all(void);
/* Inserts /modules/ in the order of the names; the build numbered them after their dependencies. */
void load_modules(void);
/* Value of `name=` on the kernel command line (the last one wins), or `fallback`. */
const char *option(const char *name, const char *fallback);
long option_number(const char *name, long fallback);

/* console.c: the terminal named by the last console= of the command line. */
/* Opens it, or opens it again after it was hung up; the descriptor's number stays. */
void console_open(void);
int console_fd(void);
/* Leaves the terminal as a shell expects it. */
void console_cooked(void);
void console_raw(void);
/* One line, written whole, ended by CR LF. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* memory.c: seeded random data and its checksum, worked on in slices so that the counter goes on. */
enum work { WORK_NONE, WORK_FILL, WORK_CHECK };
/* Reserves `mib` MiB; says why and returns -1 if the machine has not got them. */
int memory_reserve(long mib);
void memory_start(enum work what);
/* Does one slice; returns the work that this slice completed, or WORK_NONE. */
enum work memory_slice(void);
int memory_busy(void);
/* Reports a completed check on the console. */
void memory_report(void);

/* disk.c: the first disk. Loading a module waits for its probing, so disks are there at once. */
void disk_test(void);
/* Writes `text` into the first block of the first disk, past the page cache. */
void disk_stamp(const char *text);
/* Appends the names of all disks and cd-roms to `out`, comma separated. */
void disk_names(char *out, size_t size);

/* speed.c: reads and writes of one disk for some seconds each, 128 KiB in a row and 4 KiB anywhere.
 * What was on it is lost. */
void disk_speed(const char *disk);

/* button.c: ACPI power button, or the pl061 line that plays it on aarch64 "virt". */
#define BUTTONS_MAX 8
/* Fills `fds`, returns how many. */
int button_open(int *fds);
/* Reads one descriptor's events; 1 if the button went down. */
int button_pressed(int fd);

/* Pseudo-random numbers: xorshift64*, never zero. */
static inline uint64_t scramble(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*state = x;
	return x * 0x2545F4914F6CDD1DULL;
}

#endif
