/*
 * A disk that fails, for one process: loaded before the C library, this stands in for the calls that
 * move bytes to and from files and for those that make them durable.
 *
 * KXL_BAD_DISK names a file with one line, "CALL HOW FIRST DIR". From the call of that number on
 * (the first is 0, and they are counted anew when the line changes) each CALL (write, sync, read) on
 * DIR or a file in it (with a slash at its end: anywhere below it) fails as HOW says: "eio", or "short",
 * which moves some of the bytes and tells so; "count" lets it be. Without the file the disk is good. It is read at each call, so that a test can
 * change its mind while a monitor lives. Every call that the line is about leaves a byte in the file
 * of the same name with ".hit" behind it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum how { GOOD, EIO_NOW, SHORT };

static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER;

/* Whether this call is the one of that number, or a later one. */
static int is_due(const char *line, long first)
{
	static char last[4096];
	static long calls;
	pthread_mutex_lock(&counting);
	if (strcmp(last, line)) {
		strcpy(last, line);
		calls = 0;
	}
	int due = calls++ >= first;
	pthread_mutex_unlock(&counting);
	return due;
}

static int is_in(const char *path, const char *dir)
{
	size_t length = strlen(dir);
	if (length && dir[length - 1] == '/' && !strncmp(path, dir, length - 1) && !path[length - 1])
		return 1;
	if (!length || strncmp(path, dir, length))
		return 0;
	if (!path[length])
		return 1;
	return dir[length - 1] == '/' || (path[length] == '/' && !strchr(path + length + 1, '/'));
}

static void hit(const char *script)
{
	char name[4096];
	snprintf(name, sizeof name, "%s.hit", script);
	int fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd >= 0) {
		syscall(SYS_write, fd, "x", 1);
		close(fd);
	}
}

/* What is to become of this call on this file. */
static enum how fate(const char *call, int fd)
{
	const char *script = getenv("KXL_BAD_DISK");
	char line[4096], path[4096], link[64], what[16], how[16];
	long first;
	int from = 0;
	int saved = errno;
	enum how is = GOOD;
	if (!script)
		return GOOD;
	int asked = open(script, O_RDONLY | O_CLOEXEC);
	if (asked < 0) {
		errno = saved;
		return GOOD;
	}
	ssize_t got = syscall(SYS_read, asked, line, sizeof line - 1);
	close(asked);
	line[got > 0 ? got : 0] = 0;
	line[strcspn(line, "\n")] = 0;
	if (sscanf(line, "%15s %15s %ld %n", what, how, &first, &from) == 3 && !strcmp(what, call)) {
		const char *dir = line + from;
		snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
		ssize_t length = readlink(link, path, sizeof path - 1);
		path[length > 0 ? length : 0] = 0;
		if (is_in(path, dir)) {
			if (is_due(line, first))
				is = !strcmp(how, "eio") ? EIO_NOW : !strcmp(how, "short") ? SHORT : GOOD;
			hit(script);
		}
	}
	errno = saved;
	return is;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* A page at least, so that everything comes to its end some time. */
static size_t some(size_t count) { return count > 8192 ? count / 2 / 4096 * 4096 : count > 1 ? count / 2 : count; }

#define MOVE(call, fd, count, all, part) \
	switch (fate(call, fd)) { \
	case EIO_NOW: errno = EIO; return -1; \
	case SHORT: if ((count) > 0) return part; /* fall through */ \
	default: return all; \
	}

ssize_t write(int fd, const void *bytes, size_t count)
{
	REAL(write);
	MOVE("write", fd, count, real(fd, bytes, count), real(fd, bytes, some(count)))
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at)
{
	REAL(pwrite64);
	MOVE("write", fd, count, real(fd, bytes, count, at), real(fd, bytes, some(count), at))
}

ssize_t read(int fd, void *bytes, size_t count)
{
	REAL(read);
	MOVE("read", fd, count, real(fd, bytes, count), real(fd, bytes, some(count)))
}

ssize_t pread64(int fd, void *bytes, size_t count, off64_t at)
{
	REAL(pread64);
	MOVE("read", fd, count, real(fd, bytes, count, at), real(fd, bytes, some(count), at))
}

int fsync(int fd)
{
	REAL(fsync);
	MOVE("sync", fd, 0, real(fd), 0)
}

int fdatasync(int fd)
{
	REAL(fdatasync);
	MOVE("sync", fd, 0, real(fd), 0)
}
