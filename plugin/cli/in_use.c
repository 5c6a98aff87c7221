/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * in_use.c: users of an image who take none of QEMU's locks: a loop device, a copy, a VM with locking off, a mounted disk.
 *
 * A file: a write lease is granted only where nobody else has it open. That is asked of local file systems; others
 * grant none, or know of this host alone. A block device: root looks through the descriptors of all processes, because a
 * device can have any number of nodes. The kernel's own users (mounts, device mapper) are kept out by O_EXCL, with which
 * it was opened.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "cli.h"

#define TRIES   10 /* libvirt, udev and indexers open what they see for a moment */
#define WAIT_US 100000

/* f_type of statfs(2), from linux/magic.h and xfs: file systems of this host alone. */
static const uint32_t local_types[] = {0xef53 /* ext2 to ext4 */, 0x58465342 /* xfs */, 0x9123683e /* btrfs */,
                                       0x01021994 /* tmpfs */, 0xf2f52010 /* f2fs */};

static bool is_local(int fd)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) < 0)
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(local_types); i++)
        if ((uint32_t)fs.f_type == local_types[i])
            return true;
    return false;
}

/* Without the right to a lease, which is the owner's, there is no answer: that is no reason to refuse. */
static bool file_is_free(int fd)
{
    bool ours;

    signal(SIGIO, SIG_IGN); /* what who opens the file meanwhile would send */
    ours = fcntl(fd, F_SETLEASE, F_WRLCK) == 0;
    if (!ours)
        return errno != EAGAIN;
    fcntl(fd, F_SETLEASE, F_UNLCK);
    return true;
}

static long parent_of(long process)
{
    g_autofree char *path = g_strdup_printf("/proc/%ld/status", process), *text = NULL;
    const char *line = g_file_get_contents(path, &text, NULL, NULL) ? strstr(text, "\nPPid:") : NULL;

    return line ? strtol(line + strlen("\nPPid:"), NULL, 10) : 0;
}

/* Who started us, our VMM, and its guest: all that have the descriptor of us, or we of them. */
static bool is_kin(long process)
{
    return process == getppid() || parent_of(process) == getpid() || parent_of(parent_of(process)) == getpid();
}

/* Whether it is our own open of the device: a daemon that passed the descriptor on still has it. */
static bool is_ours(long process, const char *theirs, int fd)
{
    long order = syscall(SYS_kcmp, getpid(), process, KCMP_FILE, fd, strtol(theirs, NULL, 10));

    /* Not every kernel can tell. */
    return order == 0 || (order < 0 && is_kin(process));
}

/* Of a descriptor in /proc: the link's own rights are those of the open. */
static bool can_write(int dir, const char *name)
{
    struct stat st;

    return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && (st.st_mode & S_IWUSR);
}

static bool has_device(long process, int fd, dev_t device, bool writers)
{
    g_autofree char *path = g_strdup_printf("/proc/%ld/fd", process);
    DIR *dir = opendir(path);
    bool found = false;

    for (struct dirent *e; dir && !found && (e = readdir(dir));) {
        struct stat st;

        found = fstatat(dirfd(dir), e->d_name, &st, 0) == 0 && S_ISBLK(st.st_mode) && st.st_rdev == device &&
                (!writers || can_write(dirfd(dir), e->d_name)) && !is_ours(process, e->d_name, fd);
    }
    if (dir)
        closedir(dir);
    return found;
}

/* Processes of others only root can look into. */
static bool device_is_free(int fd, bool writers)
{
    struct stat st;
    bool found = fstat(fd, &st) < 0;
    DIR *dir = opendir("/proc");

    for (struct dirent *e; dir && !found && (e = readdir(dir));) {
        long process = strtol(e->d_name, NULL, 10);

        found = process > 0 && process != getpid() && has_device(process, fd, st.st_rdev, writers);
    }
    if (dir)
        closedir(dir);
    return !found;
}

bool in_use_test(const struct image *img, bool writers, const char *shown, GError **error)
{
    if (!img->is_device && (writers || !is_local(img->fd)))
        return true;
    for (int i = 0; i < TRIES; i++) {
        if (img->is_device ? device_is_free(img->fd, writers) : file_is_free(img->fd))
            return true;
        g_usleep(WAIT_US);
    }
    g_set_error(error, VR_ERROR, VR_ERROR_IN_USE,
                "Could not open '%s': It is open elsewhere, without QEMU's locks\nIs another process using the image [%s]?",
                shown, shown);
    return false;
}
