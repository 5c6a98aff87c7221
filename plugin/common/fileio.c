/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fileio.c: whole positional reads and writes, and syncs. */
#include "common.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SYNCS_MAX 64u

int pread_zeros(int fd, void *buf, size_t len, uint64_t offset)
{
    uint8_t *p = buf;

    while (len > 0) {
        ssize_t n = pread(fd, p, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0) {
            memset(p, 0, len);
            return 0;
        }
        p += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int sync_whole(int fd, bool data_only)
{
    int err = EINTR;

    /* The watchdog wakes who is to stop ten times a second: it must get through in the end. */
    for (unsigned i = 0; i < SYNCS_MAX && err == EINTR; i++)
        err = (data_only ? fdatasync(fd) : fsync(fd)) < 0 ? errno : 0;
    return -err;
}

int file_stat(int fd, struct stat *st)
{
    return syscall(SYS_fstat, fd, st) < 0 ? -errno : 0;
}

int pwrite_all(int fd, const void *buf, size_t len, uint64_t offset)
{
    const uint8_t *p = buf;

    while (len > 0) {
        ssize_t n = pwrite(fd, p, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        p += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}
