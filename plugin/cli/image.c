/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* image.c: opens the image, or takes its descriptor, and makes sure that it is one that may be used. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

#define LEASE_TRIES   20
#define LEASE_WAIT_US 100000

static bool open_failed(GError **error, const struct options *opt, const char *text)
{
    g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "Could not open '%s': %s", options_shown_name(opt), text);
    return false;
}

/* A descriptor that came from outside: its access mode must be that of the job. */
static bool check_access(int fd, const struct options *opt, GError **error)
{
    int flags = fcntl(fd, F_GETFL);
    int want = opt->mode == FRONT_CHECK ? O_RDONLY : O_RDWR;

    if (flags < 0)
        return open_failed(error, opt, g_strerror(errno));
    if (flags & (O_PATH | O_APPEND) || (flags & O_ACCMODE) != want)
        return open_failed(error, opt,
                           want == O_RDONLY ? "the descriptor of --image-fd is not open read-only"
                                            : "the descriptor of --image-fd is not open for reading and writing");
    return true;
}

void image_identify(struct image *img, const struct options *opt)
{
    struct stat st;

    *img = (struct image){.fd = -1};
    if ((opt->image_fd >= 0 ? fstat(opt->image_fd, &st) : stat(opt->path, &st)) < 0)
        return;
    img->dev = st.st_dev;
    img->ino = st.st_ino;
    img->is_device = S_ISBLK(st.st_mode);
}

/* Who has a lease on the file, as an NFS server for its clients, is asked for it by the kernel, and takes a moment. */
static int open_waiting(const char *path, int flags)
{
    int fd = open(path, flags);

    for (int i = 0; fd < 0 && errno == EWOULDBLOCK && i < LEASE_TRIES; i++) {
        g_usleep(LEASE_WAIT_US);
        fd = open(path, flags);
    }
    return fd;
}

static bool open_fd(struct image *img, const struct options *opt, GError **error)
{
    /* O_EXCL, on a device: not while the kernel uses it (a mount, LVM). */
    int flags = opt->mode == FRONT_CHECK ? O_RDONLY : O_RDWR | (img->is_device ? O_EXCL : 0);
    g_autofree char *text = NULL;

    if (opt->image_fd >= 0) {
        img->fd = fcntl(opt->image_fd, F_DUPFD_CLOEXEC, 3);
        return img->fd >= 0 ? check_access(img->fd, opt, error) : open_failed(error, opt, g_strerror(errno));
    }
    /* O_NONBLOCK: a FIFO must not hang the open; it has no effect on files and block devices. */
    img->fd = open_waiting(opt->path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (img->fd >= 0)
        return true;
    /* qemu-img says it twice. */
    if (opt->own_mode)
        return open_failed(error, opt, g_strerror(errno));
    text = g_strdup_printf("Could not open '%s': %s", opt->path, g_strerror(errno));
    return open_failed(error, opt, text);
}

bool image_measure(struct image *img, const struct options *opt, GError **error)
{
    g_autofree char *text = NULL;
    struct stat st;

    if (fstat(img->fd, &st) < 0)
        return open_failed(error, opt, g_strerror(errno));
    img->dev = st.st_dev;
    img->ino = st.st_ino;
    if (S_ISREG(st.st_mode)) {
        img->size = (uint64_t)st.st_size;
        img->is_device = false;
    } else if (S_ISBLK(st.st_mode)) {
        img->is_device = true;
        if (ioctl(img->fd, BLKGETSIZE64, &img->size) < 0)
            return open_failed(error, opt, g_strerror(errno));
    } else {
        text = g_strdup_printf("'file' driver requires '%s' to be a regular file", options_shown_name(opt));
        return open_failed(error, opt, text);
    }
    if (img->size > VR_OFFSET_MAX)
        return open_failed(error, opt, "File too large");
    return true;
}

static bool lock(const struct image *img, const struct options *opt, GError **error)
{
    bool check = opt->mode == FRONT_CHECK;
    const char *shown = options_shown_name(opt);

    if (opt->force_share)
        return true;
    return lock_take(img->fd, check ? LOCK_CHECK : LOCK_REPAIR, shown, error) && in_use_test(img, check, shown, error);
}

static char *real_path(int fd, const char *given)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);
    char *path = g_file_read_link(link, NULL);

    return path ? path : g_canonicalize_filename(given, NULL);
}

bool image_open(struct image *img, const struct options *opt, GError **error)
{
    if (opt->force_share && opt->mode != FRONT_CHECK)
        return open_failed(error, opt, "force-share=on can only be used with read-only images");
    /* The size counts from when the lock is had: until then somebody may have been writing. */
    if (!open_fd(img, opt, error) || !image_measure(img, opt, error) || !lock(img, opt, error) ||
        !image_measure(img, opt, error)) {
        image_close(img);
        return false;
    }
    img->real_path = real_path(img->fd, opt->path);
    img->identity = undo_identity(img->fd, img->real_path);
    return true;
}

void image_close(struct image *img)
{
    if (img->fd >= 0)
        close(img->fd);
    g_free(img->real_path);
    g_free(img->identity);
    img->fd = -1;
    img->real_path = img->identity = NULL;
}

bool image_is_file(const struct image *img, const char *path)
{
    struct stat st;

    return img->ino && stat(path, &st) == 0 && st.st_dev == img->dev && st.st_ino == img->ino;
}

bool image_is_fd(const struct image *img, int fd)
{
    struct stat st;

    return img->ino && fstat(fd, &st) == 0 && st.st_dev == img->dev && st.st_ino == img->ino;
}
