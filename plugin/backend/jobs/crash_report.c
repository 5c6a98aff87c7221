/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * crash_report.c: the report of a job whose helper died without one.
 */
#include "jobs.h"
#include "vr_abi.h"

char *crash_report(const struct job *job, const char *error, bool image_changed)
{
    bool repair = job->mode == MODE_LEAKS || job->mode == MODE_ALL;
    gint64 elapsed = g_get_real_time() / 1000 - job->started * 1000;
    GString *text = g_string_new("{\n    \"filename\": ");

    json_append_string(text, job->path);
    g_string_append_printf(text,
                           ",\n    \"report-version\": 1,\n    \"mode\": \"%s\",\n    \"verdict\": \"failed\",\n"
                           "    \"exit-code\": 1,\n    \"error\": ",
                           job_mode_name[job->mode]);
    json_append_string(text, error);
    /* Nobody knows what it had found or written; the rest is the least that makes a report. */
    g_string_append_printf(text,
                           ",\n    \"accel\": \"none\",\n    \"image-changed\": %s,\n    \"problems\": [],\n"
                           "    \"guest-ranges-affected\": [],\n    \"guest-bytes-affected\": 0,\n"
                           "    \"image\": { \"file-size\": %" G_GUINT64_FORMAT " },\n",
                           image_changed ? "true" : "false", job->size);
    if (repair)
        g_string_append(text, "    \"repair\": { \"bytes-changed\": 0, \"clusters-freed\": 0 },\n");
    g_string_append_printf(text,
                           "    \"timings\": { \"total\": %" G_GINT64_FORMAT " },\n"
                           "    \"versions\": { \"vol-repair\": \"" VR_VERSION "\", \"abi\": %u }\n}\n",
                           MAX(elapsed, 0), VR_ABI_VERSION);
    return g_string_free(text, FALSE);
}
