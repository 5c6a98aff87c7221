/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* names.c: the words of modes and verdicts, and the error domain. */
#include "client.h"

const char *const client_mode_names[] = {
    [VOL_REPAIR_CHECK] = "check", [VOL_REPAIR_LEAKS] = "leaks",   [VOL_REPAIR_ALL] = "all",
    [VOL_REPAIR_UNDO] = "undo",   [VOL_REPAIR_MODE_COUNT] = NULL,
};

const char *const client_verdict_names[] = {
    [VOL_REPAIR_CLEAN] = "clean",
    [VOL_REPAIR_REPAIRED] = "repaired",
    [VOL_REPAIR_LEAKS_REMAIN] = "leaks-remain",
    [VOL_REPAIR_CORRUPTIONS_REMAIN] = "corruptions-remain",
    [VOL_REPAIR_REFUSED] = "refused",
    [VOL_REPAIR_FAILED] = "failed",
    [VOL_REPAIR_UNDONE] = "undone",
    [VOL_REPAIR_BLOCKED] = "blocked",
    [VOL_REPAIR_VERDICT_COUNT] = NULL,
};

GQuark vol_repair_error_quark(void)
{
    return g_quark_from_static_string("vol-repair-error-quark");
}

int client_find_name(const char *const *names, const char *name)
{
    for (int i = 0; names[i]; i++) {
        if (g_str_equal(names[i], name))
            return i;
    }
    return -1;
}

const char *vol_repair_mode_name(enum vol_repair_mode mode)
{
    g_return_val_if_fail((unsigned)mode < VOL_REPAIR_MODE_COUNT, NULL);
    return client_mode_names[mode];
}

const char *vol_repair_verdict_name(enum vol_repair_verdict verdict)
{
    g_return_val_if_fail((unsigned)verdict < VOL_REPAIR_VERDICT_COUNT, NULL);
    return client_verdict_names[verdict];
}

gboolean vol_repair_mode_from_name(const char *name, enum vol_repair_mode *mode)
{
    int i = client_find_name(client_mode_names, name);

    if (i < 0)
        return FALSE;
    *mode = i;
    return TRUE;
}
