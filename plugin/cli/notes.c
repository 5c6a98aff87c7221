/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* notes.c: --note: what the caller knows of the image beside what is in it. */
#include <string.h>

#include "cli.h"

#define NAME_BYTES_MAX 1024
#define NOTES_MAX 16

bool notes_take(GPtrArray *notes, const char *value, GError **error)
{
    size_t len = strcspn(value, ":");

    if (value[len] == ':' && value[len + 1] && strlen(value + len) <= NAME_BYTES_MAX && note_find(value, len) >= 0 &&
        notes->len < NOTES_MAX) {
        g_ptr_array_add(notes, g_strdup(value));
        return true;
    }
    g_set_error(error, VR_ERROR, VR_ERROR_USAGE,
                "--note expects managed-save:NAME or overlay:NAME, and at most %d times, not '%s'", NOTES_MAX, value);
    return false;
}
