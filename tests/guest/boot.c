/* What init does once: file systems, modules, the command line. */
#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

void mount_all(void)
{
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/dev", 0755);
	mkdir("/tmp", 01777);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	/* The initramfs carries no device nodes: it is built without root. */
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	mount("tmpfs", "/tmp", "tmpfs", 0, NULL);
}

static int not_hidden(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

void load_modules(void)
{
	struct dirent **names;
	int count = scandir("/modules", &names, not_hidden, alphasort);

	for (int i = 0; i < count; i++) {
		char path[512];
		int fd;

		snprintf(path, sizeof path, "/modules/%s", names[i]->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		/* ENODEV: the module found no hardware of its kind, which is no fault. */
		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != ENODEV && errno != EEXIST))
			fprintf(stderr, "init: module %s: %s\n", names[i]->d_name, strerror(errno));
		if (fd >= 0)
			close(fd);
		/* Gone from the page cache and from every saved image. */
		unlink(path);
		free(names[i]);
	}
	if (count >= 0)
		free(names);
}

const char *option(const char *name, const char *fallback)
{
	static char line[4096];
	static char value[256];
	char copy[sizeof line];
	size_t length = strlen(name);
	const char *found = NULL;
	char *rest;

	if (line[0] == '\0') {
		int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
		ssize_t got = fd < 0 ? -1 : read(fd, line, sizeof line - 1);

		line[got < 0 ? 0 : got] = '\0';
		if (fd >= 0)
			close(fd);
	}
	strcpy(copy, line);
	for (char *word = strtok_r(copy, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest))
		if (strncmp(word, name, length) == 0 && word[length] == '=')
			found = word + length + 1;
	if (!found)
		return fallback;
	snprintf(value, sizeof value, "%s", found);
	return value;
}

long option_number(const char *name, long fallback)
{
	const char *text = option(name, NULL);
	char *end;
	long number;

	if (!text || !*text)
		return fallback;
	number = strtol(text, &end, 10);
	return *end || number < 0 ? fallback : number;
}
