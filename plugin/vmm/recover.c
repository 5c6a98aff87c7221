/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* recover.c: rolls an image back from its undo journal, when asked to, or after a repair that was cut. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "front.h"
#include "undo.h"

bool recover_is_journal(int fd)
{
    struct stat st;

    return vmm_undo_is_journal(fd) || (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == 0);
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
    int fd = undofile_open(journal, true);
    int err;

    if (fd < 0)
        return failed(error, "open the undo journal", journal, errno);
    /* Who wants to stop waits: half of an undo is worse than a whole one. */
    signals_block();
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

/* ---- after a commit or an undo that was cut ------------------------------------------------------------------ */

/* Of two copies of an image, each may fit the other's journal: only the one it was made for makes it useless. */
static bool is_of(const struct vmm_undo *u, const struct image *img)
{
    char name[sizeof(u->image_name)];

    g_strlcpy(name, img->real_path, sizeof(name));
    return strcmp(name, u->image_name) == 0;
}

/* Puts the image right, and the journal away. */
static bool settle(const struct image *img, const char *journal, int fd, const struct vmm_undo *u, GError **error)
{
    bool original = u->state == VMM_UNDO_ORIGINAL && (!u->finished || u->undoing);
    bool roll_back = original || vmm_undo_is_cut(u);
    int err = roll_back ? -vmm_undo_rollback(img->fd, fd, true) : 0;

    if (err)
        return failed(error, "roll back from the undo journal (it still holds everything)", journal, err);
    /* Rolled back, or cut before the first write: of no more use. Others are put aside, not lost. */
    if (!u->whole || (roll_back && is_of(u, img)))
        undofile_remove(journal, fd);
    return true;
}

bool recover_cut(const struct image *img, const char *journal, bool repair, bool *cut, GError **error)
{
    struct vmm_undo u;
    int fd = image_is_file(img, journal) ? -1 : undofile_open(journal, repair);
    bool ok = true;
    int err;

    *cut = false;
    /* What is no journal is refused where one is to be made. */
    if (fd < 0)
        return !repair || errno != EBUSY || failed(error, "use the undo journal", journal, errno);
    if (recover_is_journal(fd)) {
        err = -vmm_undo_probe(img->fd, fd, &u);
        if (err)
            ok = !repair || failed(error, "read the undo journal", journal, err);
        else if (repair)
            ok = settle(img, journal, fd, &u, error);
        *cut = !err && ok && vmm_undo_is_cut(&u);
    }
    close(fd);
    return ok;
}
