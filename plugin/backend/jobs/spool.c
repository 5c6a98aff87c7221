/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * spool.c: what a client has not taken yet: a little of it in memory, the rest in a file without a name.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "jobs.h"

#define IN_MEMORY (64u * 1024)
#define FILE_MAX (256ll * 1024 * 1024)
/* On a disk: /tmp and /run may be memory. */
#define DIRECTORY "/var/tmp"

void spool_init(struct spool *s)
{
    *s = (struct spool){.head = g_string_new(NULL), .fd = -1};
}

static void forget_file(struct spool *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    s->from = s->to = 0;
}

void spool_clear(struct spool *s)
{
    forget_file(s);
    g_string_free(s->head, TRUE);
    s->head = NULL;
}

guint64 spool_size(const struct spool *s)
{
    return s->head->len + (guint64)(s->to - s->from);
}

static int open_file(void)
{
    char name[] = DIRECTORY "/vol-repair-XXXXXX";
    int fd = open(DIRECTORY, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);

    if (fd >= 0)
        return fd;
    /* Not every file system has files without names. */
    fd = mkostemp(name, O_CLOEXEC);
    if (fd >= 0)
        unlink(name);
    return fd;
}

static bool append_to_file(struct spool *s, const char *data, size_t len)
{
    if (s->fd < 0)
        s->fd = open_file();
    if (s->fd < 0 || len > (guint64)(FILE_MAX - s->to))
        return false;
    while (len > 0) {
        ssize_t n = pwrite(s->fd, data, len, s->to);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        data += n;
        len -= n;
        s->to += n;
    }
    return true;
}

void spool_add(struct spool *s, const char *data, size_t len)
{
    if (s->lost)
        return;
    if (s->from == s->to && s->head->len + len <= IN_MEMORY)
        g_string_append_len(s->head, data, len);
    else if (!append_to_file(s, data, len))
        s->lost = true;
}

/* What comes next is in memory then, if there is anything. */
static void refill(struct spool *s)
{
    size_t want = MIN((guint64)(s->to - s->from), IN_MEMORY);
    ssize_t n;

    if (s->head->len > 0 || want == 0)
        return;
    g_string_set_size(s->head, want);
    do {
        n = pread(s->fd, s->head->str, want, s->from);
    } while (n < 0 && errno == EINTR);
    g_string_set_size(s->head, MAX(n, 0));
    s->lost = s->lost || n <= 0;
    s->from = n <= 0 ? s->to : s->from + n;
    if (s->from == s->to)
        forget_file(s);
}

bool spool_write(struct spool *s, int fd)
{
    ssize_t n;

    refill(s);
    n = s->head->len ? write(fd, s->head->str, s->head->len) : 0;
    if (n < 0)
        return errno == EINTR || errno == EAGAIN;
    g_string_erase(s->head, 0, n);
    s->taken += n;
    return true;
}
