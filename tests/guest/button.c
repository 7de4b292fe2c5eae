/* The power button: an input device where there is ACPI, a GPIO line on aarch64 "virt". */
#include "guest.h"

#include <fcntl.h>
#include <linux/gpio.h>
#include <linux/input.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* QEMU's "virt" machine wires its button to this line of its pl061; the kernel's own driver for
 * such keys is not built into Debian's cloud kernel, so the line is read directly. */
#define PL061_BUTTON_LINE 3

static int gpio_fd = -1;

static int has_power_key(int fd)
{
	unsigned char keys[KEY_MAX / 8 + 1] = { 0 };

	return ioctl(fd, EVIOCGBIT(EV_KEY, sizeof keys), keys) >= 0 && keys[KEY_POWER / 8] & 1 << KEY_POWER % 8;
}

static int open_gpio(void)
{
	struct gpiochip_info chip = { 0 };
	struct gpio_v2_line_request request = { 0 };
	int fd = open("/dev/gpiochip0", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	if (ioctl(fd, GPIO_GET_CHIPINFO_IOCTL, &chip) < 0 || !strstr(chip.label, "pl061")) {
		close(fd);
		return -1;
	}
	request.offsets[0] = PL061_BUTTON_LINE;
	request.num_lines = 1;
	request.config.flags = GPIO_V2_LINE_FLAG_INPUT | GPIO_V2_LINE_FLAG_EDGE_RISING;
	snprintf(request.consumer, sizeof request.consumer, "power button");
	if (ioctl(fd, GPIO_V2_GET_LINE_IOCTL, &request) < 0)
		request.fd = -1;
	close(fd);
	return request.fd;
}

int button_open(int *fds)
{
	int count = 0;

	for (int i = 0; i < 16 && count < BUTTONS_MAX - 1; i++) {
		char path[32];
		int fd;

		snprintf(path, sizeof path, "/dev/input/event%d", i);
		fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (has_power_key(fd))
			fds[count++] = fd;
		else
			close(fd);
	}
	gpio_fd = open_gpio();
	if (gpio_fd >= 0)
		fds[count++] = gpio_fd;
	return count;
}

int button_pressed(int fd)
{
	struct input_event event;
	struct gpio_v2_line_event edge;
	int pressed = 0;

	if (fd == gpio_fd)
		return read(fd, &edge, sizeof edge) == (ssize_t)sizeof edge;
	while (read(fd, &event, sizeof event) == (ssize_t)sizeof event)
		pressed |= event.type == EV_KEY && event.code == KEY_POWER && event.value == 1;
	return pressed;
}
