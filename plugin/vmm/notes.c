/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* notes.c: --note: what the caller knows of the image beside what is in it, as sentences for the report. */
#include <string.h>

#include "front.h"

#define NAME_BYTES_MAX 1024

/* %s: a name. */
static const struct {
    const char *id, *text;
} known[] = {
    {"managed-save",
     "The domain '%s' was saved (managed save) with this image among its disks or below one of them. A "
     "repair leaves alone what the guest sees, so the domain can be started from there; where damage has "
     "reached the guest's data, discard the saved state (virsh managedsave-remove)."},
    {"overlay", "The volume '%s' lies upon this image. A repair leaves alone what it sees of the image; "
                "what damage has reached here is missing there too."},
};

static int find(const char *text, size_t len)
{
    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        if (strlen(known[i].id) == len && strncmp(known[i].id, text, len) == 0)
            return (int)i;
    }
    return -1;
}

bool notes_take(GPtrArray *notes, const char *value, GError **error)
{
    size_t len = strcspn(value, ":");

    if (value[len] == ':' && value[len + 1] && strlen(value + len) <= NAME_BYTES_MAX && find(value, len) >= 0 &&
        notes->len < NOTES_MAX) {
        g_ptr_array_add(notes, g_strdup(value));
        return true;
    }
    g_set_error(error, VR_ERROR, VR_ERROR_USAGE,
                "--note expects managed-save:NAME or overlay:NAME, and at most %d times, not '%s'", NOTES_MAX, value);
    return false;
}

void json_add_notes(struct json *j, const struct options *opt)
{
    if (!opt->notes || !opt->notes->len)
        return;
    json_begin_array(j, "notes");
    for (unsigned i = 0; i < opt->notes->len; i++) {
        const char *note = g_ptr_array_index(opt->notes, i), *name = strchr(note, ':') + 1;
        int which = find(note, (size_t)(name - note) - 1);
        g_auto(GStrv) parts = g_strsplit(known[which].text, "%s", 2);
        g_autofree char *text = g_strconcat(parts[0], name, parts[1], NULL);

        json_begin(j, '{');
        json_add_string(j, "id", known[which].id);
        json_add_string(j, "name", name);
        json_add_string(j, "text", text);
        json_end(j, '}');
    }
    json_end(j, ']');
}
