/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* report_stream.c: --stream: JSON lines on standard output. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "front.h"

/* Straight to the descriptor: a line is whole, at once, and the first failed one says that the reader is gone. */
static bool send_line(JsonBuilder *builder)
{
    g_autoptr(JsonNode) node = json_builder_get_root(builder);
    g_autofree char *text = report_compact(node);
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

static JsonBuilder *event_new(const char *event)
{
    JsonBuilder *builder = json_builder_new();

    json_builder_begin_object(builder);
    json_builder_set_member_name(builder, "event");
    json_builder_add_string_value(builder, event);
    return builder;
}

static void add_string(JsonBuilder *builder, const char *name, const char *value)
{
    g_autofree char *valid = g_utf8_make_valid(value, -1);

    json_builder_set_member_name(builder, name);
    json_builder_add_string_value(builder, valid);
}

static void add_int(JsonBuilder *builder, const char *name, gint64 value)
{
    json_builder_set_member_name(builder, name);
    json_builder_add_int_value(builder, value);
}

bool stream_start(const struct options *opt)
{
    g_autoptr(JsonBuilder) builder = event_new("start");

    add_string(builder, "mode", options_mode_name(opt->mode));
    add_string(builder, "filename", options_shown_name(opt));
    add_int(builder, "pid", getpid());
    json_builder_end_object(builder);
    return send_line(builder);
}

bool stream_progress(const char *phase, const char *pass, unsigned percent)
{
    g_autoptr(JsonBuilder) builder = event_new("progress");

    add_string(builder, "phase", phase);
    if (pass)
        add_string(builder, "pass", pass);
    add_int(builder, "percent", percent);
    json_builder_end_object(builder);
    return send_line(builder);
}

bool stream_report(const struct result *res)
{
    g_autoptr(JsonBuilder) builder = event_new("report");

    json_builder_set_member_name(builder, "report");
    json_builder_add_value(builder, report_build(res));
    json_builder_end_object(builder);
    return send_line(builder);
}
