/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* recover.c: rolls an image back from its undo journal, when asked to, or after a repair that was cut. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

static bool failed(GError **error, const char *what, const char *path, int err)
{
    g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "Could not %s '%s': %s", what, path, undofile_strerror(err));
    return false;
}

static enum kin kin_of(const struct vmm_undo *u, const struct image *img)
{
    struct undo_image of = image_for_undo(img);

    return undodir_kin(u->identity, u->image_name, &of);
}

/* ---- --mode=undo -------------------------------------------------------------------------------------- */

static char *refusal(int fd, const struct vmm_undo *u, const char *journal, const struct image *img)
{
    g_autofree char *name = g_strescape(u->image_name, NULL);

    switch (u->state) {
    case VMM_UNDO_EMPTY:
        return g_strdup_printf(vmm_undo_is_journal(fd) ? "The repair of the undo journal '%s' changed nothing"
                                                       : "'%s' is not an undo journal",
                               journal);
    case VMM_UNDO_FOREIGN:
        if (kin_of(u, img) != KIN_NONE)
            return g_strdup_printf("The undo journal '%s' belongs to an earlier image of this name ('%s'): nothing in this "
                                   "one is what it knows", journal, name);
        return g_strdup_printf("The undo journal '%s' belongs to another image ('%s')", journal, name);
    case VMM_UNDO_CHANGED:
        return g_strdup_printf("The image is not what the repair of '%s' left behind (undo journal '%s'): it was "
                               "changed since, or is another image",
                               name, journal);
    case VMM_UNDO_SPENT:
        return g_strdup_printf("The repair of '%s' was undone already (undo journal '%s'), and the image has changed since",
                               name, journal);
    default:
        return NULL;
    }
}

static bool undo_from(struct result *res, const struct image *img, const char *journal, int fd, GError **error)
{
    struct vmm_undo u;
    g_autofree char *text = NULL;
    int err = -vmm_undo_probe(img->fd, fd, &u);

    err = err ? err : -vmm_undo_apply(img->fd, fd, kin_of(&u, img) != KIN_NONE, &u);
    if (err)
        return failed(error, "roll back from the undo journal (it still holds everything)", journal, err);
    text = refusal(fd, &u, journal, img);
    if (text) {
        result_refuse(res, g_steal_pointer(&text));
        return true;
    }
    res->verdict = VERDICT_UNDONE;
    res->exit_code = EXIT_SUCCESS;
    res->image_changed = u.state == VMM_UNDO_READY;
    res->undo_path = g_strdup(journal);
    res->undo_bytes = u.bytes;
    return true;
}

#define PROBES_MAX 64u

/* A journal of some other image that is what this one holds: it was moved, or its device has another name by now. */
static char *find_fitting(const struct image *img)
{
    g_autofree char *dir = undodir_path();
    g_autoptr(GPtrArray) journals = undodir_list(dir, "");
    char *found = NULL;
    unsigned probes = 0;

    for (unsigned i = 0; i < journals->len && !found && probes < PROBES_MAX; i++) {
        const struct journal *j = journals->pdata[i];
        struct vmm_undo u;
        int fd = j->info.headed && j->info.size_after == img->size ? undofile_open(j->path, false) : -1;

        if (fd < 0)
            continue;
        probes++;
        if (vmm_undo_probe(img->fd, fd, &u) == 0 && u.state == VMM_UNDO_READY)
            found = g_strdup(j->path);
        close(fd);
    }
    return found;
}

bool recover_undo(struct result *res, const struct image *img, const char *named, GError **error)
{
    struct undo_image of = image_for_undo(img);
    g_autofree char *journal = named ? g_strdup(named) : undodir_find(&of, error);
    g_autofree char *fitting = NULL;
    int fd = journal ? undofile_open(journal, true) : -1;
    bool ok;

    if (!journal)
        return false;
    if (fd < 0 && errno == ENOENT && !named && (fitting = find_fitting(img))) {
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED,
                    "No undo journal was made for this image under this name; '%s' fits what it holds: --undo=FILE takes it",
                    fitting);
        return false;
    }
    if (fd < 0)
        return failed(error, "open the undo journal", journal, errno);
    /* Who wants to stop waits: half of an undo is worse than a whole one. */
    signals_block();
    ok = undo_from(res, img, journal, fd, error);
    close(fd);
    return ok;
}

/* ---- after a commit or an undo that was cut ------------------------------------------------------------------ */

/* Puts the image right, and the journal away. */
static bool settle(const struct image *img, const char *journal, int fd, const struct vmm_undo *u, GError **error)
{
    bool original = u->state == VMM_UNDO_ORIGINAL && !u->spent && (!u->finished || u->undoing);
    bool roll_back = original || vmm_undo_is_cut(u);
    int err = roll_back ? -vmm_undo_rollback(img->fd, fd, true) : 0;

    if (err)
        return failed(error, "roll back from the undo journal (it still holds everything)", journal, err);
    /* Rolled back, or cut before the first write: of no more use. */
    if (!u->whole || roll_back)
        undofile_remove(journal, fd);
    return true;
}

/*
 * Whether what was cut is in this image, by more than its sectors: images of one template have most of them alike, one of
 * them sound where the other was damaged. The mark in the header stands there only while a commit goes on. A commit without
 * one leaves an image that can be repaired on top; half of an undo does not, so there the sectors are enough.
 */
static bool is_in(const struct vmm_undo *u, bool ours)
{
    return ours || u->marked || u->undoing;
}

/* Whether it was made for this image: of a path alone, another image may have taken the place. */
static bool is_ours(const struct vmm_undo *u, enum kin kin)
{
    return kin == KIN_IDENTITY || (kin == KIN_PATH && (u->marked || !u->identity[0]));
}

/* Of two copies of an image, each fits the other's journal: nothing is written unasked, and no second repair on top. */
static bool refuse_foreign(const struct vmm_undo *u, const char *journal, GError **error)
{
    g_autofree char *name = g_strescape(u->image_name, NULL);

    g_set_error(error, VR_ERROR, VR_ERROR_FAILED,
                "The repair of '%s' was interrupted, and what it has written is in this image: --mode=undo --undo='%s' rolls "
                "it back", name, journal);
    return false;
}

static bool recover_open(const struct image *img, const char *journal, int fd, struct interrupted *in, GError **error)
{
    struct vmm_undo u;
    int err = -vmm_undo_probe(img->fd, fd, &u);
    enum kin kin = err ? KIN_NONE : kin_of(&u, img);
    bool cut = !err && vmm_undo_is_cut(&u), ours = cut ? is_ours(&u, kin) : kin != KIN_NONE;

    if (err)
        return !in->repair || failed(error, "read the undo journal", journal, err);
    if (in->repair && ours && !settle(img, journal, fd, &u, error))
        return false;
    if (!cut || !is_in(&u, ours))
        return true;
    if (in->repair && !ours)
        return refuse_foreign(&u, journal, error);
    g_free(in->journal);
    in->journal = g_strdup(journal);
    g_free(in->of);
    in->of = ours ? NULL : g_strescape(u.image_name, NULL);
    in->bytes = u.bytes;
    in->rolled_back = in->repair;
    return true;
}

/* mine: of this image, or named for it. Another's is only read, and one that a run has open was not cut. */
static bool recover_one(const struct image *img, const char *journal, bool mine, struct interrupted *in, GError **error)
{
    int fd = image_is_file(img, journal) ? -1 : undofile_open(journal, in->repair && mine);
    bool ok = true;

    /* What is no journal is refused where one is to be made. */
    if (fd < 0)
        return !in->repair || !mine || errno != EBUSY || failed(error, "use the undo journal", journal, errno);
    if (undofile_is_journal(fd))
        ok = recover_open(img, journal, fd, in, error);
    close(fd);
    return ok;
}

bool recover_interrupted(const struct image *img, const char *named, struct interrupted *in, GError **error)
{
    g_autofree char *dir = undodir_path();
    g_autoptr(GPtrArray) journals = undodir_list(dir, "");
    struct undo_image of = image_for_undo(img);
    unsigned probes = 0;

    if (named && !recover_one(img, named, true, in, error))
        return false;
    for (unsigned i = 0; i < journals->len && probes < PROBES_MAX; i++) {
        const struct journal *j = journals->pdata[i];

        if (!undodir_may_be_cut(j, &of))
            continue;
        probes++;
        if (!recover_one(img, j->path, undodir_is_of(j, &of), in, error))
            return false;
    }
    return true;
}
