/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * report.c: takes from a helper's report what the daemon has to know of it.
 */
#include "helper.h"

void helper_take_report(struct helper_result *r, const char *line, size_t len)
{
    const char *undo;
    char accel[16] = "";
    bool changed = true;

    json_find_string(line, len, "verdict", r->verdict, sizeof(r->verdict));
    json_find_string(line, len, "error", r->error, sizeof(r->error));
    json_find_string(line, len, "accel", accel, sizeof(accel));
    json_find_bool(line, len, "image-changed", &changed);
    undo = json_find_object(line, len, "undo");
    if (undo)
        json_find_string(undo, line + len - undo, "journal", r->undo, sizeof(r->undo));
    r->image_changed = changed;
    r->reported = r->verdict[0] != '\0';
    r->never_began = !changed && g_str_equal(accel, "none") &&
                     (g_str_equal(r->verdict, "refused") || g_str_equal(r->verdict, "failed"));
}
