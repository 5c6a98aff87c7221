/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* recover.c: rolls an image back from its undo journal, when asked to, or after a repair that was cut. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "front.h"
#include "undo.h"

/* -1 and errno. O_NONBLOCK: a FIFO of this name must not hang us. */
static int open_journal(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct stat st;

    if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))) {
        close(fd);
        errno = EINVAL;
        return -1;
    }
    return fd;
}

bool recover_is_journal(const char *path)
{
    int fd = open_journal(path);
    struct stat st;
    bool is;

    if (fd < 0)
        return false;
    is = vmm_undo_is_journal(fd) || (fstat(fd, &st) == 0 && st.st_size == 0);
    close(fd);
    return is;
}

static bool failed(GError **error, const char *what, const char *path, int err)
{
    g_set_error(error, FRONT_ERROR, FRONT_ERROR_FAILED, "Could not %s '%s': %s", what, path, g_strerror(err));
    return false;
}

/* ---- --mode=undo -------------------------------------------------------------------------------------- */

static char *refusal(int fd, const struct vmm_undo *u, const char *journal)
{
    g_autofree char *name = NULL;

    switch (u->state) {
    case VMM_UNDO_EMPTY:
        return g_strdup_printf(vmm_undo_is_journal(fd) ? "The repair of the undo journal '%s' changed nothing"
                                                       : "'%s' is not an undo journal",
                               journal);
    case VMM_UNDO_FOREIGN:
        name = g_strescape(u->image_name, NULL);
        return g_strdup_printf("The undo journal '%s' belongs to another image ('%s')", journal, name);
    case VMM_UNDO_CHANGED:
        name = g_strescape(u->image_name, NULL);
        return g_strdup_printf("The image is not what the repair of '%s' left behind (undo journal '%s'): it was "
                               "changed since, or is another image",
                               name, journal);
    default:
        return NULL;
    }
}

bool recover_undo(struct result *res, const struct image *img, const char *journal, GError **error)
{
    struct vmm_undo u;
    char *text;
    int fd = open_journal(journal);
    int err;

    if (fd < 0)
        return failed(error, "open the undo journal", journal, errno);
    err = -vmm_undo_apply(img->fd, fd, &u);
    text = err ? NULL : refusal(fd, &u, journal);
    close(fd);
    if (err)
        return failed(error, "roll back from the undo journal (it still holds everything)", journal, err);
    if (text) {
        result_refuse(res, text);
        return true;
    }
    res->verdict = VERDICT_UNDONE;
    res->exit_code = EXIT_SUCCESS;
    res->image_changed = u.state == VMM_UNDO_READY;
    res->undo_path = g_strdup(journal);
    res->undo_bytes = u.bytes;
    return true;
}

/* ---- after a repair that was cut ------------------------------------------------------------------------ */

/* Puts the image right after a repair that was never finished, and the journal away. */
static bool settle_unfinished(const struct image *img, const char *journal, int fd, const struct vmm_undo *u,
                              GError **error)
{
    int err = u->state == VMM_UNDO_READY ? -vmm_undo_rollback(img->fd, fd) : 0;

    if (err)
        return failed(error, "roll back from the undo journal (it still holds everything)", journal, err);
    /* Rolled back now or before, or cut before the first write: of no more use. Others are put aside, not lost. */
    if (u->state == VMM_UNDO_READY || u->state == VMM_UNDO_ORIGINAL || u->state == VMM_UNDO_EMPTY)
        undofile_remove(journal);
    return true;
}

bool recover_cut(const struct image *img, const char *journal, bool repair, bool *cut, GError **error)
{
    struct vmm_undo u;
    int fd = recover_is_journal(journal) && !image_is_file(img, journal) ? open_journal(journal) : -1;
    bool ok = true;
    int err;

    *cut = false;
    if (fd < 0)
        return true;
    err = -vmm_undo_probe(img->fd, fd, &u);
    if (err)
        ok = !repair || failed(error, "read the undo journal", journal, err);
    else if (!u.finished && repair)
        ok = settle_unfinished(img, journal, fd, &u, error);
    *cut = !err && ok && !u.finished && u.state == VMM_UNDO_READY;
    close(fd);
    return ok;
}
