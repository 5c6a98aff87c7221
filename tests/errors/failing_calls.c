/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * failing_calls.c: a preloaded library that makes file calls on one file fail, as a bad disk would.
 *
 * FAIL_INODE: the file. FAIL_CALL: pread, pwrite, fdatasync or fsync. FAIL_AFTER: how many calls on that file go well
 * first. FAIL_ERRNO: with which error the one after them fails, and with FAIL_FOREVER=1 every later one as well.
 * FAIL_WAIT: they do not fail, but wait that many milliseconds first, as on a slow disk.
 */
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char call_name[16];
static unsigned long inode, after;
static int error, forever, milliseconds;

static const char *setting(const char *name)
{
    const char *value = getenv(name);

    return value ? value : "";
}

/* At once: the VMM forgets its environment. */
__attribute__((constructor)) static void read_settings(void)
{
    strncpy(call_name, setting("FAIL_CALL"), sizeof(call_name) - 1);
    inode = strtoul(setting("FAIL_INODE"), NULL, 10);
    after = strtoul(setting("FAIL_AFTER"), NULL, 10);
    error = atoi(setting("FAIL_ERRNO"));
    forever = *setting("FAIL_FOREVER") != '\0';
    milliseconds = atoi(setting("FAIL_WAIT"));
}

static int should_fail(const char *call, int fd)
{
    static unsigned long calls;
    struct stat st;

    if (strcmp(call_name, call) != 0 || fstat(fd, &st) < 0 || st.st_ino != inode)
        return 0;
    unsigned long n = __atomic_fetch_add(&calls, 1, __ATOMIC_SEQ_CST);
    if (n < after || (n > after && !forever))
        return 0;
    if (milliseconds) {
        poll(NULL, 0, milliseconds);
        return 0;
    }
    errno = error;
    return 1;
}

ssize_t pread64(int fd, void *buf, size_t len, off_t at)
{
    static ssize_t (*real)(int, void *, size_t, off_t);

    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pread64");
    return should_fail("pread", fd) ? -1 : real(fd, buf, len, at);
}

ssize_t pwrite64(int fd, const void *buf, size_t len, off_t at)
{
    static ssize_t (*real)(int, const void *, size_t, off_t);

    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pwrite64");
    return should_fail("pwrite", fd) ? -1 : real(fd, buf, len, at);
}

int fdatasync(int fd)
{
    static int (*real)(int);

    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "fdatasync");
    return should_fail("fdatasync", fd) ? -1 : real(fd);
}

int fsync(int fd)
{
    static int (*real)(int);

    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "fsync");
    return should_fail("fsync", fd) ? -1 : real(fd);
}
