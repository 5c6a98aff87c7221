/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* file.c: where undo journals lie, and how an older one makes room for a newer. */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "undo.h"

/*
 * `<path>.old` exists only while a run is on: the older journal is neither lost when nothing is committed, nor in
 * the way. Afterwards it is either `<path>` again or `<path>.N`, where N counts up.
 */
static char *older_path(const char *path)
{
    return g_strconcat(path, ".old", NULL);
}

static bool failed(GError **error, const char *what, const char *path)
{
    g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "Could not %s '%s': %s", what, path, undofile_strerror(errno));
    return false;
}

/* Makes names in the journal's directory durable; where a file system cannot, there is nothing to be done. */
static void sync_directory(const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return;
    (void)fsync(fd);
    close(fd);
}

char *undofile_default_path(const struct undo_image *img, bool create, GError **error)
{
    g_autofree char *dir = undodir_path();
    g_autofree char *name = undo_name(img->identity, img->path);
    g_autofree char *file = g_strconcat(name, ".undo", NULL);

    if (create && g_mkdir_with_parents(dir, 0700) < 0) {
        failed(error, "make the directory of undo journals", dir);
        return NULL;
    }
    if (!undodir_is_trusted(dir)) {
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED,
                    "The directory of undo journals '%s', or one above it, is another user's, or others can write to it", dir);
        return NULL;
    }
    return g_build_filename(dir, file, NULL);
}

/*
 * Another run must not roll back from, move or remove what this one writes or reads: it may be told of the same journal
 * for another image. The lock lasts as long as anybody has this descriptor, the VMM included.
 */
static bool lock(int fd, bool write)
{
    struct flock whole = {.l_type = write ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};

    /* A file system without locks is no reason to refuse. */
    return fcntl(fd, F_OFD_SETLK, &whole) == 0 || (errno != EAGAIN && errno != EACCES);
}

int undofile_open(const char *path, bool write)
{
    /* O_NONBLOCK: a FIFO of this name must not hang us. */
    int fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW);
    struct stat st;

    if (fd < 0)
        return -1;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        errno = EINVAL;
    else if (!undodir_is_safe(&st))
        errno = EPERM;
    else if (lock(fd, write))
        return fd;
    else
        errno = EBUSY;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

const char *undofile_strerror(int err)
{
    return err == EPERM ? "it is another user's, or others can write to it" : g_strerror(err);
}

/* ---- older journals --------------------------------------------------------------------------------------------- */

/* The number behind `<path>.`, or 0. */
static unsigned number_of(const char *name, const char *base)
{
    size_t len = strlen(base);
    guint64 number = 0;

    if (strncmp(name, base, len) != 0 || name[len] != '.' || name[len + 1] == '0' ||
        !g_ascii_string_to_unsigned(name + len + 1, 10, 1, G_MAXINT, &number, NULL))
        return 0;
    return (unsigned)number;
}

static unsigned last_number(const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path), *base = g_path_get_basename(path);
    GDir *entries = g_dir_open(dir, 0, NULL);
    const char *name;
    unsigned last = 0;

    while (entries && (name = g_dir_read_name(entries)))
        last = MAX(last, number_of(name, base));
    if (entries)
        g_dir_close(entries);
    return last;
}

/* Never over another: file systems that cannot promise it are asked whether there is one. */
static bool rename_new(const char *from, const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return true;
    return errno == EINVAL && access(to, F_OK) < 0 && rename(from, to) == 0;
}

static enum vmm_journal_stage stage_of(const char *path)
{
    struct vmm_journal_info info = {.stage = VMM_JOURNAL_VOID};
    int fd = undofile_open(path, false);

    if (fd < 0)
        return VMM_JOURNAL_OPEN; /* not ours to judge */
    if (vmm_undo_peek(fd, &info) < 0)
        info.stage = VMM_JOURNAL_OPEN;
    close(fd);
    return info.stage;
}

/* A journal that was put aside, also by a run that was killed: it is `<path>` again, or gets a number. */
static void settle_older(const char *path)
{
    g_autofree char *older = older_path(path);
    g_autofree char *kept = NULL;

    if (access(older, F_OK) < 0 || rename_new(older, path))
        return;
    /* An undo of it is whole: of no more use beside a newer one. */
    if (stage_of(older) == VMM_JOURNAL_SPENT) {
        (void)unlink(older);
        return;
    }
    kept = g_strdup_printf("%s.%u", path, last_number(path) + 1);
    (void)rename_new(older, kept);
}

bool undofile_is_journal(int fd)
{
    struct stat st;

    return vmm_undo_is_journal(fd) || (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == 0);
}

static bool is_image(const struct undo_image *img, const char *path)
{
    struct stat st;

    return img->ino && stat(path, &st) == 0 && st.st_dev == img->dev && st.st_ino == img->ino;
}

/* Whether a journal may make room for one of this image: that of another one may not. */
static bool may_be_put_aside(const char *path, int fd, const struct undo_image *img, GError **error)
{
    g_autofree char *name = NULL;
    struct vmm_journal_info info;

    if (is_image(img, path) || fd < 0 || !undofile_is_journal(fd) || vmm_undo_peek(fd, &info) < 0) {
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "'%s' exists and is not an undo journal", path);
        return false;
    }
    if (!info.headed || undodir_kin(info.identity, info.image_name, img) != KIN_NONE)
        return true;
    name = g_strescape(info.image_name, NULL);
    g_set_error(error, VR_ERROR, VR_ERROR_FAILED,
                "'%s' is the undo journal of another image ('%s'); --undo=FILE names another file for this one", path, name);
    return false;
}

static bool put_aside(struct undofile *uf, const struct undo_image *img, GError **error)
{
    g_autofree char *older = older_path(uf->path);
    struct stat st;
    int fd = undofile_open(uf->path, true);
    bool ok = true;

    if (fd < 0 && (errno == EBUSY || errno == EPERM))
        return failed(error, "use the undo journal", uf->path);
    settle_older(uf->path);
    if (fd < 0)
        fd = undofile_open(uf->path, true); /* that may have brought one back */
    if (lstat(uf->path, &st) < 0)
        ok = errno == ENOENT || failed(error, "look at the undo journal", uf->path);
    else if (!may_be_put_aside(uf->path, fd, img, error))
        ok = false;
    else if (!rename_new(uf->path, older))
        ok = failed(error, "put aside the undo journal", uf->path);
    if (fd >= 0)
        close(fd);
    return ok;
}

bool undofile_create(struct undofile *uf, const char *path, const struct undo_image *img, GError **error)
{
    *uf = (struct undofile){.path = g_strdup(path), .fd = -1};
    if (put_aside(uf, img, error)) {
        uf->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (uf->fd >= 0 && lock(uf->fd, true)) {
            sync_directory(path);
            return true;
        }
        failed(error, "create the undo journal", path);
        settle_older(path);
    }
    undofile_close(uf);
    return false;
}

void undofile_close(struct undofile *uf)
{
    if (uf->fd >= 0)
        close(uf->fd);
    g_free(uf->path);
    *uf = (struct undofile){.fd = -1};
}

void undofile_keep(struct undofile *uf)
{
    settle_older(uf->path);
    sync_directory(uf->path);
    undofile_close(uf);
}

/* Whether the journal still has its name: who ignores the locks may have given it to another. */
static bool is_named(const char *path, int fd)
{
    struct stat a, b;

    return lstat(path, &a) == 0 && fstat(fd, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

void undofile_remove(const char *path, int fd)
{
    if (is_named(path, fd))
        (void)unlink(path);
    settle_older(path);
    sync_directory(path);
}

bool undofile_evict(const char *path)
{
    struct vmm_journal_info info;
    int fd = undofile_open(path, true);
    bool gone;

    if (fd < 0)
        return false;
    gone = vmm_undo_peek(fd, &info) == 0 && info.stage != VMM_JOURNAL_OPEN && info.stage != VMM_JOURNAL_UNDOING &&
           is_named(path, fd) && unlink(path) == 0;
    close(fd);
    return gone;
}

void undofile_discard(struct undofile *uf)
{
    undofile_remove(uf->path, uf->fd);
    undofile_close(uf);
}

int overlay_open(const char *journal_path)
{
    g_autofree char *path = g_strconcat(journal_path, ".overlay.XXXXXX", NULL);
    int fd = g_mkstemp_full(path, O_RDWR | O_CLOEXEC, 0600);

    /* Not every file system has files without names; memory would not be bounded by --memory. */
    if (fd >= 0)
        unlink(path);
    return fd;
}
