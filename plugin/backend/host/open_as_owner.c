/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * open_as_owner.c: opens a file that root may not open, as on NFS with root_squash, as the user whose file it is. That is no
 * right more than root has anywhere else, and libvirt starts domains from such files in the same way.
 *
 * It is done by a thread that has nothing else to do and ends at once. The raw system calls change the identity of that
 * thread alone, where those of the C library would change the whole daemon's.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host.h"

struct attempt {
    const char *path;
    int flags;
    struct stat st; /* as its name has it */
    int fd, error;
};

/* What the kernel tells is the identity before the call, so it is asked once more, with one that cannot be. */
static bool become(const struct stat *st)
{
    gid_t group = st->st_gid;

    if (syscall(SYS_setgroups, 1, &group) < 0)
        return false;
    syscall(SYS_setfsgid, st->st_gid);
    syscall(SYS_setfsuid, st->st_uid);
    return (gid_t)syscall(SYS_setfsgid, (gid_t)-1) == st->st_gid &&
           (uid_t)syscall(SYS_setfsuid, (uid_t)-1) == st->st_uid;
}

static bool is_same(int fd, const struct stat *st)
{
    struct stat now;

    return fstat(fd, &now) == 0 && now.st_dev == st->st_dev && now.st_ino == st->st_ino && now.st_uid == st->st_uid &&
           S_ISREG(now.st_mode);
}

static void *open_main(void *opaque)
{
    struct attempt *a = opaque;
    int dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);

    a->error = EACCES;
    if (become(&a->st)) {
        a->fd = open(a->path, a->flags);
        a->error = errno;
    }
    /* The kernel takes a process with a new identity for one that must not dump core; it belongs to all threads. */
    if (dumpable == 1)
        prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    if (a->fd >= 0 && !is_same(a->fd, &a->st)) {
        close(a->fd);
        a->fd = -1;
        a->error = EACCES;
    }
    return NULL;
}

int owner_open(const char *path, int flags, uid_t *owner)
{
    struct attempt a = {.path = path, .flags = flags, .fd = open(path, flags)};
    GThread *thread;

    *owner = 0;
    if (a.fd >= 0 || errno != EACCES || geteuid() != 0)
        return a.fd;
    if (lstat(path, &a.st) < 0 || !S_ISREG(a.st.st_mode) || a.st.st_uid == 0) {
        errno = EACCES;
        return -1;
    }
    *owner = a.st.st_uid;
    thread = g_thread_try_new("vol-repair-own", open_main, &a, NULL);
    if (!thread) {
        errno = EAGAIN;
        return -1;
    }
    g_thread_join(thread);
    errno = a.error;
    return a.fd;
}
