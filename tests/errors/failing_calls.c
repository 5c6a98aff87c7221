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

static int should_fail(const char *call, int fd)
{
    static unsigned long calls;
    const char *name = getenv("FAIL_CALL"), *inode = getenv("FAIL_INODE"), *after = getenv("FAIL_AFTER");
    struct stat st;

    if (!name || !inode || !after || strcmp(name, call) != 0 || fstat(fd, &st) < 0 ||
        st.st_ino != strtoul(inode, NULL, 10))
        return 0;
    unsigned long n = __atomic_fetch_add(&calls, 1, __ATOMIC_SEQ_CST), limit = strtoul(after, NULL, 10);
    if (n < limit || (n > limit && !getenv("FAIL_FOREVER")))
        return 0;
    if (getenv("FAIL_WAIT")) {
        poll(NULL, 0, atoi(getenv("FAIL_WAIT")));
        return 0;
    }
    errno = atoi(getenv("FAIL_ERRNO"));
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
