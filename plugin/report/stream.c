/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* stream.c: --stream: JSON lines on standard output. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "report.h"

/* Straight to the descriptor: a line is whole, at once, and the first failed one says that the reader is gone. */
static bool send_line(struct json *event)
{
    json_end(event, '}');

    g_autofree char *text = json_free(event);
    g_autofree char *line = g_strconcat(text, "\n", NULL);
    size_t left = strlen(line);

    for (const char *p = line; left;) {
        ssize_t n = write(STDOUT_FILENO, p, left);

        if (n < 0 && errno != EINTR)
            return false;
        if (n > 0) {
            p += n;
            left -= (size_t)n;
        }
    }
    return true;
}

static struct json *event_new(const char *event)
{
    struct json *j = json_new(false);

    json_begin(j, '{');
    json_add_string(j, "event", event);
    return j;
}

bool stream_start(const struct options *opt)
{
    struct json *j = event_new("start");

    json_add_string(j, "mode", options_mode_name(opt->mode));
    json_add_string(j, "filename", options_shown_name(opt));
    json_add_uint(j, "pid", (uint64_t)getpid());
    return send_line(j);
}

bool stream_progress(const char *phase, const char *pass, unsigned percent)
{
    struct json *j = event_new("progress");

    json_add_string(j, "phase", phase);
    if (pass)
        json_add_string(j, "pass", pass);
    json_add_uint(j, "percent", percent);
    return send_line(j);
}

bool stream_report(const struct result *res)
{
    struct json *j = event_new("report");

    json_member(j, "report");
    report_add(j, res);
    return send_line(j);
}
