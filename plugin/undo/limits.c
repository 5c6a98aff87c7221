/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * limits.c: a bound for undo journals, in number and bytes, for an image and in all, and in age.
 *
 * What must stay: journals of a commit or an undo that goes on or was interrupted, and of every image the newest that can be
 * undone, until it is too old. What may go: journals that are spent, that were cut before their image was touched, and older ones.
 */
#include <errno.h>
#include <glib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "undo.h"

#define DAY_NS (INT64_C(86400) * 1000000000)

static int64_t age_ns(const struct journal *j)
{
    return g_get_real_time() * 1000 - j->info.changed_ns;
}

static bool is_too_old(const struct journal *j, const struct undo_limits *limits)
{
    return limits->days && age_ns(j) / DAY_NS >= (int64_t)limits->days;
}

/* Adds the image of this journal; false where it was there already. */
static bool is_first(GHashTable *images, const struct journal *j)
{
    return g_hash_table_add(images, g_strdup(j->info.identity[0] ? j->info.identity : j->info.image_name));
}

/* Called in the order of their age, newest first. */
static bool must_stay(const struct journal *j, const struct undo_limits *limits, GHashTable *images)
{
    switch (j->info.stage) {
    case VMM_JOURNAL_OPEN:
    case VMM_JOURNAL_UNDOING:
        return true;
    case VMM_JOURNAL_DONE:
        return is_first(images, j) && !is_too_old(j, limits);
    case VMM_JOURNAL_VOID:
        return age_ns(j) < DAY_NS; /* another run may be writing it */
    default:
        return false;
    }
}

/* Whether a journal of this path lies in the directory that the limits are for. */
static bool is_in_default(const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path), *ours = undodir_path();
    struct stat a, b;

    return stat(dir, &a) == 0 && stat(ours, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

bool undolimits_room(const struct undo_limits *limits, const struct undo_image *img, const char *path, uint64_t *room, GError **error)
{
    g_autoptr(GHashTable) images = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GPtrArray) journals = NULL;
    g_autofree char *dir = undodir_path();
    uint64_t count = 0, bytes = 0;

    *room = 0;
    if (!is_in_default(path))
        return true;
    journals = undodir_list(dir, "");
    for (unsigned i = 0; i < journals->len; i++) {
        const struct journal *j = journals->pdata[i];
        bool older = undodir_is_of(j, img) && j->info.stage == VMM_JOURNAL_DONE; /* once there is a newer one */

        if (!must_stay(j, limits, images) || older)
            continue;
        count++;
        bytes += j->info.bytes;
    }
    if (count < limits->total && bytes < limits->bytes) {
        *room = limits->bytes - bytes;
        return true;
    }
    g_set_error(error, VR_ERROR, VR_ERROR_FAILED,
                "There is no room for another undo journal in '%s': the newest of each image and the interrupted ones are "
                "%" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT " (--undo-max-total), with %" G_GUINT64_FORMAT
                " of %" G_GUINT64_FORMAT " bytes (--undo-max-bytes); remove what nobody will undo, or raise the limits",
                dir, count, limits->total, bytes, limits->bytes);
    return false;
}

/* ---- afterwards -------------------------------------------------------------------------------------------------- */

struct sweep {
    const struct undo_limits *limits;
    const struct undo_image *img;
    GPtrArray *journals; /* newest first */
    GHashTable *done;    /* struct journal * that stay, or are gone already */
    uint64_t count, own, bytes;
};

static void drop(struct sweep *s, struct journal *j)
{
    g_hash_table_add(s->done, j);
    if (!undofile_evict(j->path))
        return;
    s->count--;
    s->own -= undodir_is_of(j, s->img);
    s->bytes -= j->info.bytes;
}

static bool is_too_much(const struct sweep *s, const struct journal *j)
{
    if (s->count > s->limits->total || s->bytes > s->limits->bytes)
        return true;
    return s->own > s->limits->count && undodir_is_of(j, s->img);
}

/* From the oldest on, as far as needed; spent: only such. */
static void sweep(struct sweep *s, bool spent)
{
    for (unsigned i = s->journals->len; i-- > 0;) {
        struct journal *j = s->journals->pdata[i];

        if (g_hash_table_contains(s->done, j) || (spent && j->info.stage != VMM_JOURNAL_SPENT))
            continue;
        if (is_too_old(j, s->limits) || is_too_much(s, j))
            drop(s, j);
    }
}

/* Whether it is `base`, or that with something behind a dot. */
static bool is_named(const struct journal *j, const char *base)
{
    g_autofree char *name = g_path_get_basename(j->path);
    size_t len = strlen(base);

    return g_str_has_prefix(name, base) && (!name[len] || name[len] == '.');
}

/* base: all others are none of our business; NULL: none is. */
static void count_all(struct sweep *s, const char *base)
{
    g_autoptr(GHashTable) images = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (unsigned i = 0; i < s->journals->len; i++) {
        struct journal *j = s->journals->pdata[i];

        if (base && !is_named(j, base)) {
            g_hash_table_add(s->done, j);
            continue;
        }
        s->count++;
        s->own += undodir_is_of(j, s->img);
        s->bytes += j->info.bytes;
        if (must_stay(j, s->limits, images))
            g_hash_table_add(s->done, j);
    }
}

void undolimits_apply(const struct undo_limits *limits, const struct undo_image *img, const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path), *base = g_path_get_basename(path);
    bool all = is_in_default(path);
    struct undo_limits here = all ? *limits : (struct undo_limits){limits->count, UINT64_MAX, UINT64_MAX, 0};
    g_autoptr(GPtrArray) journals = undodir_list(dir, all ? "" : base);
    g_autoptr(GHashTable) done = g_hash_table_new(NULL, NULL);
    struct sweep s = {.limits = &here, .img = img, .journals = journals, .done = done};

    count_all(&s, all ? NULL : base);
    sweep(&s, true);
    sweep(&s, false);
}
