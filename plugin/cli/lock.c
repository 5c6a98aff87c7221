/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* lock.c: QEMU's byte locks on an image, so that a running VM and a repair keep each other out. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

/*
 * QEMU's protocol (block/file-posix.c): byte 100+i says "I use permission i", byte 200+i "I do not
 * share permission i". Only shared locks are ever set, and a process asks with GETLK, as if for a
 * write lock, whether somebody else holds the opposite byte. First set, then ask: of two that start at
 * once at least one sees the other.
 */
enum { USED_BASE = 100, UNSHARED_BASE = 200, PERMISSIONS = 4 };

static const char *const permission_names[PERMISSIONS] = {"consistent read", "write", "write unchanged", "resize"};

/* Bit i: permission i. A check shares reading; a repair shares nothing, so that raw readers stay out as well. */
struct lock_set {
    unsigned use, unshare;         /* bytes held */
    unsigned test_use, test_unshared; /* permissions whose 200+i, 100+i must be free */
    bool byte0;                    /* virtlockd's byte: held for writing */
};

static const struct lock_set lock_sets[] = {
    [LOCK_CHECK] = {.use = 0x1, .unshare = 0xe, .test_use = 0x1, .test_unshared = 0xe, .byte0 = false},
    [LOCK_REPAIR] = {.use = 0xb, .unshare = 0xf, .test_use = 0xb, .test_unshared = 0xf, .byte0 = true},
};

static int lock_byte(int fd, int command, short type, off_t byte)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    if (fcntl(fd, command, &lock) < 0)
        return -errno;
    /* GETLK turns the type into F_UNLCK where nothing stands in the way. */
    return command == F_OFD_GETLK && lock.l_type != F_UNLCK ? -EAGAIN : 0;
}

static bool lock_fail(GError **error, const char *shown, const char *what)
{
    g_set_error(error, VR_ERROR, VR_ERROR_IN_USE,
                "Could not open '%s': Failed to get %s lock\nIs another process using the image [%s]?", shown, what,
                shown);
    return false;
}

static bool hold(int fd, unsigned set, off_t base, const char *shown, GError **error)
{
    for (unsigned i = 0; i < PERMISSIONS; i++) {
        int ret = set & 1u << i ? lock_byte(fd, F_OFD_SETLK, F_RDLCK, base + i) : 0;

        if (ret < 0) {
            g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "Could not open '%s': Failed to lock byte %d: %s",
                        shown, (int)(base + i), g_strerror(-ret));
            return false;
        }
    }
    return true;
}

static bool test(int fd, unsigned set, off_t base, const char *shown, GError **error)
{
    for (unsigned i = 0; i < PERMISSIONS; i++) {
        g_autofree char *what = NULL;

        if (!(set & 1u << i) || lock_byte(fd, F_OFD_GETLK, F_WRLCK, base + i) == 0)
            continue;
        what = g_strdup_printf("%s\"%s\"", base == USED_BASE ? "shared " : "", permission_names[i]);
        return lock_fail(error, shown, what);
    }
    return true;
}

bool lock_take(int fd, enum lock_kind kind, const char *shown, GError **error)
{
    const struct lock_set *set = &lock_sets[kind];

    if (!hold(fd, set->use, USED_BASE, shown, error) || !hold(fd, set->unshare, UNSHARED_BASE, shown, error))
        return false;
    if (!test(fd, set->test_use, UNSHARED_BASE, shown, error) || !test(fd, set->test_unshared, USED_BASE, shown, error))
        return false;
    if (set->byte0 && lock_byte(fd, F_OFD_SETLK, F_WRLCK, 0) < 0)
        return lock_fail(error, shown, "libvirt's");
    return true;
}
