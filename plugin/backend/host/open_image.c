/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * open_image.c: opens a volume's image, so that the helper gets the file itself, not a path that could lead elsewhere by
 * then.
 *
 * In a pool of files the last part of a path must not be a symbolic link: who may write there could let it lead
 * anywhere. In a pool of devices it is one as a rule, made by udev (/dev/vg1/lv1 leads to ../dm-0). Such a link is
 * followed where it lies in the pool's own directory, and nobody but root can change what any part of any of the paths
 * means.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host.h"

#define LINKS_MAX 8

/* A chain of directories in which nobody but root can make, move or remove a name. dir is absolute and canonical. */
static bool is_roots(const char *dir)
{
    g_autofree char *at = g_strdup(dir);

    for (;;) {
        struct stat st;

        if (lstat(at, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != 0 || (st.st_mode & (S_IWGRP | S_IWOTH)))
            return false;
        if (!at[1])
            return true;
        char *slash = strrchr(at, '/');
        slash[slash == at] = '\0';
    }
}

static bool lies_in(const char *path, const char *dir)
{
    g_autofree char *canonical = g_canonicalize_filename(dir, "/");
    size_t len = strlen(canonical);

    return len > 1 && strncmp(path, canonical, len) == 0 && path[len] == '/';
}

/* Where the path of a device leads to in the end. Reports and returns NULL. */
static char *follow(const struct volume *vol)
{
    g_autofree char *path = g_canonicalize_filename(vol->path, "/");

    for (int i = 0; i < LINKS_MAX; i++) {
        g_autofree char *dir = g_path_get_dirname(path), *target = NULL;

        if (!is_roots(dir)) {
            vr_error(VIR_ERR_OPERATION_FAILED,
                     "the image '%s' cannot be opened: others than root can change where its path leads ('%s')",
                     vol->path, dir);
            return NULL;
        }
        target = g_file_read_link(path, NULL);
        if (!target)
            return g_steal_pointer(&path);
        g_free(path);
        path = g_canonicalize_filename(target, dir);
    }
    vr_error(VIR_ERR_OPERATION_FAILED, "the image '%s' cannot be opened: %s", vol->path, g_strerror(ELOOP));
    return NULL;
}

static bool device_is_free(const struct volume *vol, bool to_write, dev_t device)
{
    g_autofree char *domain = NULL;
    bool known = domains_user_of(device, !to_write, &domain);

    if (domain)
        vr_error(VIR_ERR_OPERATION_INVALID, "volume '%s' is in use: the running domain '%s' has it", vol->name, domain);
    else if (!known)
        vr_error(VIR_ERR_OPERATION_FAILED, "it cannot be seen whether a running domain has volume '%s'", vol->name);
    return known && !domain;
}

/* Whether it is what a volume of this pool can be. Reports. */
static bool is_image(const struct volume *vol, int fd, struct stat *st)
{
    bool device = pool_type_holds_devices(vol->pool_type);

    if (fstat(fd, st) == 0 && (S_ISBLK(st->st_mode) || (!device && S_ISREG(st->st_mode))))
        return true;
    vr_error(VIR_ERR_OPERATION_FAILED,
             device ? "'%s' is not a block device" : "'%s' is neither a file nor a block device", vol->path);
    return false;
}

int open_image(const struct volume *vol, bool to_write, struct stat *st)
{
    /* O_EXCL: of a block device nobody in the kernel may be the user; to a file it means nothing. */
    int flags = (to_write ? O_RDWR | O_EXCL : O_RDONLY) | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
    bool links = pool_type_holds_devices(vol->pool_type) && lies_in(vol->path, vol->pool_path);
    g_autofree char *path = links ? follow(vol) : g_strdup(vol->path);
    g_autofree char *tried = NULL;
    uid_t owner = 0;
    int fd = path ? owner_open(path, flags, &owner) : -1;

    if (!path)
        return -1;
    if (fd < 0) {
        const char *why = errno == ELOOP ? "it is a symbolic link" : g_strerror(errno);

        tried = owner ? g_strdup_printf(" (nor as its owner, uid %lu)", (unsigned long)owner) : g_strdup("");
        vr_error(VIR_ERR_OPERATION_FAILED, "the image '%s' cannot be opened: %s%s", vol->path, why, tried);
        return -1;
    }
    if (!is_image(vol, fd, st) || (S_ISBLK(st->st_mode) && !device_is_free(vol, to_write, st->st_rdev))) {
        close(fd);
        return -1;
    }
    fcntl(fd, F_SETFL, 0);
    return fd;
}

void open_identity(const struct stat *st, dev_t *dev, ino_t *ino)
{
    bool device = S_ISBLK(st->st_mode);

    /* A device can have any number of nodes. Nothing lies on the device number 0 but what has no inode 0. */
    *dev = device ? st->st_rdev : st->st_dev;
    *ino = device ? 0 : st->st_ino;
}
