/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* notes.c: what the caller knows of the image beside what is in it, as sentences for the report. */
#include <string.h>

#include "report.h"

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

int note_find(const char *text, size_t len)
{
    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        if (strlen(known[i].id) == len && strncmp(known[i].id, text, len) == 0)
            return (int)i;
    }
    return -1;
}

void json_add_notes(struct json *j, const struct options *opt)
{
    if (!opt->notes || !opt->notes->len)
        return;
    json_begin_array(j, "notes");
    for (unsigned i = 0; i < opt->notes->len; i++) {
        const char *note = g_ptr_array_index(opt->notes, i), *name = strchr(note, ':') + 1;
        int which = note_find(note, (size_t)(name - note) - 1);
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
