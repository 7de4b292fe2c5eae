/* Init of the test guest: one process, one loop, idle between ticks.
 *
 * Kernel command line: tick=MS (100; 0 for no counter), touch=MIB (0), seed=N (1),
 * button=off|reboot|ignore (off), stamp=1 (each counter line also goes into block 0 of the
 * first disk). The console is the last console= there.
 *
 * Bytes understood on the console: c check the memory, w rewrite it, d test the first disk,
 * b measure /dev/vda (what is on it is lost), i describe the machine, p power off, r reboot,
 * k panic, s a shell (until it exits).
 * CR, LF and NUL are passed over; any other byte b is answered with `? b` in hex. */
#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/reboot.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static int stamping;

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * SECOND + time.tv_nsec;
}

static void leave(int how)
{
	sync();
	/* What was said last has to be out of the UART before the machine goes. */
	tcdrain(console_fd());
	reboot(how);
	for (;;)
		pause();
}

static void panic(void)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "c", 1) != 1)
		say("PANIC REFUSED %s", strerror(errno));
}

static void shell(void)
{
	pid_t child;

	console_cooked();
	child = fork();
	if (child == 0) {
		setsid();
		ioctl(0, TIOCSCTTY, 1);
		setenv("PATH", "/bin", 1);
		setenv("PS1", "guest# ", 1);
		execl("/bin/busybox", "sh", NULL);
		say("SHELL REFUSED %s", strerror(errno));
		_exit(127);
	}
	while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	/* The end of a session hangs its terminal up, for everybody who had it open. */
	console_open();
	say("SHELL ENDED");
}

static void list_macs(char *out, size_t size)
{
	struct dirent **names;
	int count = scandir("/sys/class/net", &names, NULL, alphasort);

	out[0] = '\0';
	for (int i = 0; i < count; i++) {
		char path[300], mac[32];
		size_t used = strlen(out);
		FILE *file;

		snprintf(path, sizeof path, "/sys/class/net/%s/address", names[i]->d_name);
		file = names[i]->d_name[0] == '.' || strcmp(names[i]->d_name, "lo") == 0 ? NULL : fopen(path, "re");
		if (file && fscanf(file, "%31s", mac) == 1)
			snprintf(out + used, size - used, "%s%s", used ? "," : "", mac);
		if (file)
			fclose(file);
		free(names[i]);
	}
	if (count >= 0)
		free(names);
}

static void describe(void)
{
	char disks[128], macs[256];
	struct sysinfo info;

	disk_names(disks, sizeof disks);
	list_macs(macs, sizeof macs);
	sysinfo(&info);
	say("I cpus=%ld mem=%llu disks=%s macs=%s", sysconf(_SC_NPROCESSORS_ONLN),
	    (unsigned long long)info.totalram * info.mem_unit >> 20, disks, macs);
}

static void obey(unsigned char byte)
{
	switch (byte) {
	case 'c': memory_start(WORK_CHECK); break;
	case 'w': memory_start(WORK_FILL); break;
	case 'd': disk_test(); break;
	case 'b': disk_speed("/dev/vda"); break;
	case 'i': describe(); break;
	case 'k': panic(); break;
	case 's': shell(); break;
	case 'p': leave(RB_POWER_OFF); break;
	case 'r': leave(RB_AUTOBOOT); break;
	case '\r': case '\n': case '\0': break;
	default: say("? %02x", byte);
	}
}

static void button(const char *wish)
{
	if (strcmp(wish, "ignore") == 0) {
		say("BUTTON IGNORED");
		return;
	}
	say("BUTTON");
	leave(strcmp(wish, "reboot") == 0 ? RB_AUTOBOOT : RB_POWER_OFF);
}

static void count(void)
{
	static unsigned long ticks;
	char line[64];
	long long ms = now() / 1000000;

	snprintf(line, sizeof line, "C %lu %lld.%03lld", ++ticks, ms / 1000, ms % 1000);
	say("%s", line);
	if (stamping)
		disk_stamp(line);
}

/* The next deadline on the grid of ticks; missed ones are dropped, never caught up in a burst. */
static long long following(long long deadline, long long tick)
{
	long long time = now();

	deadline += tick;
	return deadline > time ? deadline : time + tick;
}

static void finish_fill(void)
{
	while (memory_busy())
		memory_slice();
}

static void serve(struct pollfd *polled, int buttons, long long tick)
{
	char wish[16];
	long long deadline = now() + tick;

	snprintf(wish, sizeof wish, "%s", option("button", "off"));
	for (;;) {
		long long left = tick ? deadline - now() : SECOND;
		struct timespec wait = { left > 0 ? left / SECOND : 0, left > 0 ? left % SECOND : 0 };
		struct timespec none = { 0, 0 };

		ppoll(polled, (nfds_t)buttons + 1, memory_busy() ? &none : tick ? &wait : NULL, NULL);
		if (tick && now() >= deadline) {
			count();
			deadline = following(deadline, tick);
		}
		/* One command at a time: bytes wait in the tty while memory is worked on. */
		polled[0].events = POLLIN;
		if (memory_busy()) {
			enum work finished = memory_slice();

			if (finished == WORK_CHECK)
				memory_report();
			else if (finished == WORK_FILL)
				say("W OK");
			if (memory_busy())
				polled[0].events = 0;
		} else if (polled[0].revents & POLLIN) {
			unsigned char byte;

			if (read(polled[0].fd, &byte, 1) == 1)
				obey(byte);
		} else if (polled[0].revents) {
			/* hvc hangs up while its host side is closed: look again at the next tick. */
			poll(NULL, 0, 50);
		}
		for (int i = 1; i <= buttons; i++)
			if (polled[i].revents && button_pressed(polled[i].fd))
				button(wish);
	}
}

int main(void)
{
	struct pollfd polled[BUTTONS_MAX + 1] = { 0 };
	int fds[BUTTONS_MAX], buttons;
	long tick;

	mount_all();
	reboot(RB_DISABLE_CAD);
	load_modules();
	/* Kernel messages would cut counter lines in two; a panic is still printed. */
	klogctl(8, NULL, 1);
	console_open();
	tick = option_number("tick", 100);
	stamping = option_number("stamp", 0) != 0;
	if (memory_reserve(option_number("touch", 0)) < 0)
		leave(RB_POWER_OFF);
	memory_start(WORK_FILL);
	finish_fill();
	buttons = button_open(fds);
	polled[0].fd = console_fd();
	polled[0].events = POLLIN;
	for (int i = 0; i < buttons; i++) {
		polled[i + 1].fd = fds[i];
		polled[i + 1].events = POLLIN;
	}
	say("READY");
	serve(polled, buttons, tick * 1000000LL);
}
