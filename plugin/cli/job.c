/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* job.c: one job from the open image to the verdict: recover, journal, run, keep or discard the journal. */
#include <stdio.h>

#include "cli.h"

static bool check_format(const struct options *opt, enum format_kind *kind, GError **error)
{
    *kind = opt->format ? format_lookup(opt->format) : FORMAT_QCOW2;
    if (*kind != FORMAT_UNKNOWN)
        return true;
    g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "Could not open '%s': Unknown driver '%s'",
                options_shown_name(opt), opt->format);
    return false;
}

/* An earlier repair that was cut in its commit: rolled back by a repair, told by a check. */
static bool handle_cut(struct result *res, struct image *img, GError **error)
{
    const struct options *opt = res->opt;
    struct interrupted *in = &res->interrupted;

    in->repair = options_is_repair(opt);
    if (!recover_interrupted(img, opt->undo, in, error))
        return false;
    res->image_changed = in->rolled_back;
    if (in->rolled_back) {
        fprintf(stderr, "%s: an earlier repair or undo of '%s' was interrupted; it was rolled back first\n",
                g_get_prgname(), options_shown_name(opt));
        return image_measure(img, opt, error);
    }
    if (in->of)
        fprintf(stderr,
                "%s: the repair of '%s' was interrupted while it wrote, and what it has written is in '%s': --mode=undo "
                "--undo='%s' rolls it back\n",
                g_get_prgname(), in->of, options_shown_name(opt), in->journal);
    else if (in->journal)
        fprintf(stderr,
                "%s: an earlier repair or undo of '%s' was interrupted while it wrote; the next repair, or --mode=undo, "
                "rolls it back\n",
                g_get_prgname(), options_shown_name(opt));
    return true;
}

/* Whether the child ended in good order and said what became of its commit. */
static bool is_settled(const struct result *res, bool ok)
{
    return ok && res->commit_begun == res->commit_ended && !(res->commit_ended && res->commit.state == 3);
}

/*
 * The child is gone, and its last words may be lost: how far it had come, its journal says. What was cut is undone at once,
 * and all of it written again: a sync that failed leaves the page cache in no relation to the disk.
 */
static void mend_cut(struct result *res, const struct image *img, const struct undofile *uf)
{
    struct vmm_undo u;
    int err = -vmm_undo_probe(img->fd, uf->fd, &u);

    if (!err && !u.whole && !res->commit_begun)
        return;
    res->commit_begun = true;
    if (!err && u.whole && u.finished) {
        res->commit_ended = true;
        res->commit.state = 1;
        res->commit.bytes_journal = u.end;
        return;
    }
    err = err ? err : -vmm_undo_rollback(img->fd, uf->fd, true);
    res->rolled_back = !err;
    if (err)
        fprintf(stderr, "%s: Could not roll back from the undo journal '%s' (it still holds everything): %s\n",
                g_get_prgname(), uf->path, g_strerror(err));
}

static struct undo_limits limits_of(const struct options *opt)
{
    return (struct undo_limits){.count = opt->undo_max_count, .total = opt->undo_max_total, .bytes = opt->undo_max_bytes,
                                .days = opt->undo_max_age};
}

static void settle_journal(struct result *res, const struct image *img, struct undofile *uf)
{
    struct undo_limits limits = limits_of(res->opt);
    struct undo_image of = image_for_undo(img);

    if (result_repair_changed(res)) {
        res->undo_path = g_strdup(uf->path);
        res->undo_bytes = res->commit.bytes_journal;
        if (result_committed(res) && res->commit.error)
            fprintf(stderr,
                    "%s: the end of the undo journal '%s' could not be written (%s): an undo will not see what the guest "
                    "has changed since\n",
                    g_get_prgname(), uf->path, g_strerror(res->commit.error));
        undofile_keep(uf);
        undolimits_apply(&limits, &of, res->undo_path);
    } else {
        undofile_discard(uf);
    }
}

static bool run_repair(struct result *res, const struct image *img, struct progress *pr, GError **error)
{
    const char *named = res->opt->undo;
    struct undo_limits limits = limits_of(res->opt);
    struct undo_image of = image_for_undo(img);
    g_autofree char *journal = named ? g_strdup(named) : undofile_default_path(&of, true, error);
    g_autoptr(GError) local = NULL;
    struct undofile uf;
    uint64_t room = 0;
    bool ok;

    if (!journal || !undolimits_room(&limits, &of, journal, &room, error) || !undofile_create(&uf, journal, &of, error))
        return false;
    uf.room = room;
    ok = supervise_run(res, img, &uf, pr, &local);
    if (!is_settled(res, ok))
        mend_cut(res, img, &uf);
    result_conclude_image(res);
    if (ok)
        result_conclude(res);
    else
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "%s%s", local->message, result_image_state(res));
    settle_journal(res, img, &uf);
    return ok;
}

static bool run_opened(struct result *res, struct image *img, struct progress *pr, GError **error)
{
    if (res->opt->mode == FRONT_UNDO) {
        progress_update(pr, "undo", NULL, 0);
        return recover_undo(res, img, res->opt->undo, error);
    }
    if (!handle_cut(res, img, error))
        return false;
    if (options_is_repair(res->opt))
        return run_repair(res, img, pr, error);
    if (!supervise_run(res, img, NULL, pr, error))
        return false;
    result_conclude(res);
    return true;
}

bool job_run(struct result *res, struct image *img, struct progress *pr, GError **error)
{
    const struct options *opt = res->opt;
    enum format_kind kind;

    image_identify(img, opt);
    if (!report_check_target(opt, img, error) || !check_format(opt, &kind, error) || !image_open(img, opt, error))
        return false;
    res->file_size = img->size;
    if (kind == FORMAT_NO_CHECKS) {
        g_set_error(error, VR_ERROR, VR_ERROR_NO_CHECKS, "This image format does not support checks");
        return false;
    }
    return run_opened(res, img, pr, error);
}
