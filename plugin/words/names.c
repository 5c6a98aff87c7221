/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* names.c: ids and names of snapshots, as the guest sent them: bytes of a damaged image, made fit to be shown. */
#include <string.h>

#include "words.h"

#define NAMES_MAX 65536u

struct shown_name {
    char *id, *name;
};

static void shown_name_free(gpointer p)
{
    struct shown_name *shown = p;

    g_free(shown->id);
    g_free(shown->name);
    g_free(shown);
}

/* Valid UTF-8 without control and format characters; qemu-img stops at the first NUL as well. */
static char *fit_to_show(const char *bytes, size_t len)
{
    g_autofree char *text = g_strndup(bytes, len);
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    GString *out = g_string_new(NULL);

    for (const char *p = valid; *p; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);

        g_string_append_unichar(out, g_unichar_iscntrl(c) || g_unichar_type(c) == G_UNICODE_FORMAT ? '?' : c);
    }
    return g_string_free(out, FALSE);
}

GHashTable *names_new(void)
{
    return g_hash_table_new_full(NULL, NULL, NULL, shown_name_free);
}

bool names_take(GHashTable *names, const struct vr_record *rec)
{
    struct vr_name raw;
    struct shown_name *shown;

    memcpy(&raw, (const char *)rec + offsetof(struct vr_record, host), sizeof(raw));
    if (rec->root == VR_ROOT_ACTIVE || rec->root == VR_ROOT_NONE || raw.id_len > sizeof(raw.id) ||
        raw.name_len > sizeof(raw.name))
        return false;
    if (g_hash_table_size(names) >= NAMES_MAX)
        return true;
    shown = g_new(struct shown_name, 1);
    shown->id = fit_to_show(raw.id, raw.id_len);
    shown->name = fit_to_show(raw.name, raw.name_len);
    g_hash_table_insert(names, GUINT_TO_POINTER(rec->root), shown);
    return true;
}

const char *names_get(GHashTable *names, uint32_t root, bool id)
{
    const struct shown_name *shown = names ? g_hash_table_lookup(names, GUINT_TO_POINTER(root)) : NULL;

    if (!shown)
        return "?";
    return id ? shown->id : shown->name;
}
