/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* dir.c: the directory of undo journals: which of them are an image's, and which have to go. */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "undo.h"

#define FILES_MAX 16384u /* looked at in a directory */

char *undodir_path(void)
{
    const char *state = g_getenv("XDG_STATE_HOME");

    if (geteuid() == 0)
        return g_strdup(VR_LOCALSTATEDIR "/lib/vol-repair/undo");
    if (state && g_path_is_absolute(state))
        return g_build_filename(state, "vol-repair", "undo", NULL);
    return g_build_filename(g_get_home_dir(), ".local", "state", "vol-repair", "undo", NULL);
}

bool undodir_is_safe(const struct stat *st)
{
    return (st->st_uid == geteuid() || st->st_uid == 0) && !(st->st_mode & (S_IWGRP | S_IWOTH));
}

/* Below a directory that is the host's, or the user's: those that we make. */
static unsigned components(void)
{
    return geteuid() == 0 ? 3 : 2; /* lib/vol-repair/undo, or vol-repair/undo */
}

bool undodir_is_trusted(const char *dir)
{
    g_autofree char *ours = undodir_path(), *at = g_strdup(dir);
    unsigned levels = g_str_equal(dir, ours) ? components() : 1;
    struct stat st;

    /* Who can write to one of them can put another in the place of those below. */
    for (unsigned i = 0; i < levels; i++) {
        char *parent = g_path_get_dirname(at);
        bool safe = lstat(at, &st) < 0 ? errno == ENOENT : S_ISDIR(st.st_mode) && undodir_is_safe(&st);

        g_free(at);
        at = parent;
        if (!safe)
            return false;
    }
    return true;
}

/* ---- what is there ---------------------------------------------------------------------------------------------- */

static void journal_free(gpointer p)
{
    struct journal *j = p;

    g_free(j->path);
    g_free(j);
}

/* Without its lock: what another run writes there is looked at, and left to it. */
static struct journal *look_at(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW);
    struct vmm_journal_info info;
    struct stat st;
    struct journal *j = NULL;

    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && undodir_is_safe(&st) && vmm_undo_peek(fd, &info) == 0 &&
        (info.headed || undofile_is_journal(fd))) {
        j = g_new(struct journal, 1);
        *j = (struct journal){.path = g_steal_pointer(&path), .info = info};
    }
    close(fd);
    return j;
}

static gint newest_first(gconstpointer a, gconstpointer b)
{
    const struct journal *x = *(struct journal *const *)a, *y = *(struct journal *const *)b;

    return (x->info.changed_ns < y->info.changed_ns) - (x->info.changed_ns > y->info.changed_ns);
}

GPtrArray *undodir_list(const char *dir, const char *begin)
{
    GPtrArray *journals = g_ptr_array_new_with_free_func(journal_free);
    GDir *entries = undodir_is_trusted(dir) ? g_dir_open(dir, 0, NULL) : NULL;
    const char *name;

    for (unsigned i = 0; entries && i < FILES_MAX && (name = g_dir_read_name(entries)); i++) {
        struct journal *j = g_str_has_prefix(name, begin) ? look_at(dir, name) : NULL;

        if (j)
            g_ptr_array_add(journals, j);
    }
    if (entries)
        g_dir_close(entries);
    g_ptr_array_sort(journals, newest_first);
    return journals;
}

enum kin undodir_kin(const char *identity, const char *image_name, const struct undo_image *img)
{
    char name[sizeof(((struct vmm_journal_info *)0)->image_name)];

    if (identity[0] && strcmp(identity, img->identity) == 0)
        return KIN_IDENTITY;
    g_strlcpy(name, img->path, sizeof(name));
    /* The name of a device may be another device's by now; a file's is a file's that has taken its place. */
    return strcmp(name, image_name) == 0 && (!identity[0] || !img->is_device) ? KIN_PATH : KIN_NONE;
}

static enum kin kin_of(const struct journal *j, const struct undo_image *img)
{
    return j->info.headed ? undodir_kin(j->info.identity, j->info.image_name, img) : KIN_NONE;
}

bool undodir_is_of(const struct journal *j, const struct undo_image *img)
{
    return kin_of(j, img) != KIN_NONE;
}

/* The newest of this image, by its identity before its name, and with something to undo before without. */
static const struct journal *newest_of(const GPtrArray *journals, const struct undo_image *img)
{
    const struct journal *best = NULL;
    int best_rank = 0;

    for (unsigned i = 0; i < journals->len; i++) {
        const struct journal *j = journals->pdata[i];
        enum kin kin = kin_of(j, img);
        int rank = kin == KIN_NONE ? 0 : (j->info.stage != VMM_JOURNAL_VOID) * 2 + (kin == KIN_IDENTITY) + 1;

        if (rank > best_rank) {
            best = j;
            best_rank = rank;
        }
    }
    return best;
}

char *undodir_find(const struct undo_image *img, GError **error)
{
    g_autofree char *dir = undodir_path();
    g_autofree char *path = undofile_default_path(img, false, error);
    g_autoptr(GPtrArray) journals = undodir_list(dir, "");
    const struct journal *j = newest_of(journals, img);

    return j ? g_strdup(j->path) : g_steal_pointer(&path);
}

bool undodir_may_be_cut(const struct journal *j, const struct undo_image *img)
{
    const struct vmm_journal_info *info = &j->info;

    return (info->stage == VMM_JOURNAL_OPEN || info->stage == VMM_JOURNAL_UNDOING) &&
           (kin_of(j, img) != KIN_NONE || img->size == info->size_before || img->size == info->size_after);
}
