/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* stream_parser.c: takes a job's stream apart into its lines: a start, progress, and at last the report. */
#include <string.h>

#include "client.h"

/* Only a line that begins like this may be long. */
static const char report_start[] = "{\"event\":\"report\",";

static const char *const phases[] = {"check", "verify", "commit", "final", "undo", NULL};

void client_lines_init(struct client_lines *lines, enum vol_repair_mode mode, vol_repair_progress_fn progress,
                       void *opaque)
{
    *lines = (struct client_lines){.mode = mode, .progress = progress, .opaque = opaque, .partial = g_string_new(NULL)};
}

void client_lines_clear(struct client_lines *lines)
{
    g_string_free(lines->partial, TRUE);
    vol_repair_report_free(lines->report);
    g_free(lines->report_name);
    memset(lines, 0, sizeof(*lines));
}

static bool take_start(struct client_lines *lines, JsonObject *object, GError **error)
{
    const char *mode = NULL, *report = NULL;
    gint64 job = 0;

    if (lines->started) {
        client_error(error, PROTOCOL, "the daemon says twice that the job has started");
        return false;
    }
    if (!client_get_string(object, "mode", &mode) || !mode || !g_str_equal(mode, vol_repair_mode_name(lines->mode))) {
        client_error(error, PROTOCOL, "the daemon has started a job of another mode than '%s'",
                     vol_repair_mode_name(lines->mode));
        return false;
    }
    if (!client_get_count(object, "job", &job) || job > G_MAXUINT || !client_get_string(object, "report", &report)) {
        client_error(error, PROTOCOL, "the daemon sent a start line that makes no sense");
        return false;
    }
    lines->started = true;
    lines->job = job;
    lines->report_name = g_strdup(report);
    return true;
}

static bool take_progress(struct client_lines *lines, JsonObject *object, GError **error)
{
    struct vol_repair_progress progress = {NULL};
    gint64 percent = -1;

    if (!client_get_string(object, "phase", &progress.phase) || !client_get_string(object, "pass", &progress.pass) ||
        !client_get_count(object, "percent", &percent) || percent < (gint64)lines->percent || percent > 100 ||
        !progress.phase || client_find_name(phases, progress.phase) < 0) {
        client_error(error, PROTOCOL, "the daemon sent a progress line that makes no sense");
        return false;
    }
    lines->percent = progress.percent = percent;
    lines->writes = lines->writes || g_str_equal(progress.phase, "commit") || g_str_equal(progress.phase, "undo");
    if (lines->progress)
        lines->progress(&progress, lines->opaque);
    return true;
}

static bool take_report(struct client_lines *lines, JsonObject *object, GError **error)
{
    JsonNode *node = json_object_get_member(object, "report");

    if (!node) {
        client_error(error, PROTOCOL, "the daemon sent a report line without a report");
        return false;
    }
    lines->report = client_parse_report(node, lines->mode, error);
    return lines->report != NULL;
}

/* Events that are not known are those of a later version; they may be left out, but come in their place. */
static bool take_line(struct client_lines *lines, const char *line, size_t len, GError **error)
{
    g_autoptr(JsonNode) node = client_parse_json(line, len, error);
    const char *event = NULL;
    JsonObject *object;

    if (!node)
        return false;
    object = json_node_get_object(node);
    if (!client_get_string(object, "event", &event) || !event) {
        client_error(error, PROTOCOL, "the daemon sent a line that is no event");
        return false;
    }
    if (lines->report) {
        client_error(error, PROTOCOL, "the daemon sent more after the report");
        return false;
    }
    if (g_str_equal(event, "start"))
        return take_start(lines, object, error);
    if (!lines->started) {
        client_error(error, PROTOCOL, "the daemon sent something else before the start of the job");
        return false;
    }
    if (g_str_equal(event, "progress"))
        return take_progress(lines, object, error);
    if (g_str_equal(event, "report"))
        return take_report(lines, object, error);
    return true;
}

static bool too_long(const GString *line, size_t len)
{
    return len > CLIENT_LINE_MAX && (len > CLIENT_REPORT_MAX || !g_str_has_prefix(line->str, report_start));
}

bool client_lines_push(struct client_lines *lines, const char *data, size_t len, GError **error)
{
    const char *end = data + len;

    while (data < end) {
        const char *newline = memchr(data, '\n', end - data);
        size_t part = (newline ? newline : end) - data;

        g_string_append_len(lines->partial, data, part);
        if (too_long(lines->partial, lines->partial->len)) {
            client_error(error, PROTOCOL, "the daemon sent a line that is too long");
            return false;
        }
        if (!newline)
            return true;
        if (!take_line(lines, lines->partial->str, lines->partial->len, error))
            return false;
        g_string_truncate(lines->partial, 0);
        data = newline + 1;
    }
    return true;
}

char *client_lines_fate(const struct client_lines *lines)
{
    GString *text = g_string_new(NULL);

    if (lines->mode == VOL_REPAIR_CHECK)
        g_string_append(text, "a check writes nothing");
    else if (lines->writes)
        g_string_append(text, "the job had begun to write, and finishes that");
    else
        g_string_append(
            text,
            "when last heard of, the job had written nothing, and it ends without writing unless it has begun since");
    if (lines->report_name)
        g_string_append_printf(text, "; the volume '%s' of the pool 'vol-repair' tells", lines->report_name);
    else if (lines->job)
        g_string_append_printf(text, "; it was job %" G_GUINT64_FORMAT, lines->job);
    return g_string_free(text, FALSE);
}

struct vol_repair_report *client_lines_end(struct client_lines *lines, GError **error)
{
    if (lines->partial->len) {
        client_error(error, PROTOCOL, "the daemon's last line is not complete");
        return NULL;
    }
    if (!lines->report) {
        client_error(error, NO_REPORT,
                     lines->started ? "the job ended without a report: the repair program or the storage daemon died"
                                    : "the job did not start: the storage daemon sent nothing (its log may say why)");
        return NULL;
    }
    return g_steal_pointer(&lines->report);
}
