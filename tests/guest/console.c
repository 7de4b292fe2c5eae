/* The console: raw, without echo, and lines that are written whole. */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static int tty = -1;
static struct termios cooked;

static int open_terminal(void)
{
	char path[300];
	char name[256];

	snprintf(name, sizeof name, "%s", option("console", "console"));
	/* console=ttyS0,115200n8 */
	name[strcspn(name, ",")] = '\0';
	snprintf(path, sizeof path, "/dev/%s", name);
	/* hvc0 appears only when virtio_console has found its device, on a kernel thread. */
	for (int tries = 0; tries < 100; tries++) {
		int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);

		if (fd >= 0)
			return fd;
		poll(NULL, 0, 20);
	}
	return open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);
}

void console_open(void)
{
	int fd = open_terminal();

	if (fd < 0)
		return;
	if (tty < 0) {
		tty = fd;
		tcgetattr(tty, &cooked);
	} else {
		/* The number stays: others poll it. */
		dup3(fd, tty, O_CLOEXEC);
		close(fd);
	}
	for (int standard = 0; standard < 3; standard++)
		dup2(tty, standard);
	console_raw();
}

int console_fd(void)
{
	return tty;
}

void console_cooked(void)
{
	tcsetattr(tty, TCSADRAIN, &cooked);
}

void console_raw(void)
{
	struct termios raw = cooked;

	cfmakeraw(&raw);
	raw.c_cflag |= CLOCAL | CREAD;
	tcsetattr(tty, TCSADRAIN, &raw);
}

void say(const char *format, ...)
{
	char line[1024];
	size_t length, done = 0;
	va_list words;

	va_start(words, format);
	vsnprintf(line, sizeof line - 2, format, words);
	va_end(words);
	length = strlen(line);
	line[length++] = '\r';
	line[length++] = '\n';
	while (done < length) {
		ssize_t put = write(tty, line + done, length - done);

		if (put > 0)
			done += (size_t)put;
		else if (put < 0 && errno != EINTR && errno != EAGAIN)
			return;
	}
}
