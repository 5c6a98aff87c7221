/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fuzz_client.c: what the client library reads of a daemon: answers, streams, reports. Input: one byte (which), the text. */
#include <string.h>

#include "client.h"
#include "fuzz.h"

static void on_progress(const struct vol_repair_progress *progress, void *opaque)
{
    (void)opaque;
    HOLD(progress->phase && progress->percent <= 100, "progress is a percentage of something");
}

static void read_stream(const char *data, size_t len, size_t step)
{
    g_autoptr(GError) error = NULL;
    struct client_lines lines;
    struct vol_repair_report *report;

    client_lines_init(&lines, VOL_REPAIR_ALL, on_progress, NULL);
    for (size_t at = 0; at < len; at += step)
        if (!client_lines_push(&lines, data + at, MIN(step, len - at), &error))
            break;
    HOLD(lines.percent <= 100, "a job is done at 100 percent");
    if (!error) {
        report = client_lines_end(&lines, &error);
        HOLD((report != NULL) == (error == NULL), "a report, or an error");
        if (report)
            vol_repair_report_free(report);
    }
    client_lines_clear(&lines);
}

static void read_answer(const char *text, unsigned which)
{
    g_autoptr(GError) error = NULL;
    gboolean sent;

    if (which == 0) {
        g_autoptr(VolRepairCapabilities) caps = client_parse_capabilities(text, &error);
        HOLD((caps != NULL) == (error == NULL), "capabilities, or an error");
    } else if (which == 1) {
        g_autoptr(GPtrArray) jobs = client_parse_jobs(text, &error);
        HOLD((jobs != NULL) == (error == NULL), "jobs, or an error");
    } else if (which == 2) {
        HOLD((client_parse_token(text, &error) != 0) == (error == NULL), "a token, or an error");
    } else {
        HOLD(client_parse_abort(text, 7, &sent, &error) == (error == NULL), "an answer, or an error");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    g_autofree char *text = g_malloc0(size);

    memcpy(text, data + 1, size - 1);
    if (data[0] % 8 < 4)
        read_answer(text, data[0] % 8);
    else
        read_stream(text, size - 1, data[0] % 8 == 4 ? 1 : data[0]);
    return 0;
}
