/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * json.c: writes JSON as qemu-img lays it out and escapes it.
 *
 * json-glib prints neither so, and with all that it draws in, it took a third of the time of a check of a small image.
 */
#include "common.h"

#include <glib.h>

struct json {
    GString *out;
    bool pretty;
    bool first;      /* nothing stands in the container at hand yet */
    bool named;      /* a member's name was written, its value comes next */
    unsigned depth;
};

struct json *json_new(bool pretty)
{
    struct json *j = g_new0(struct json, 1);

    j->out = g_string_new(NULL);
    j->pretty = pretty;
    j->first = true;
    return j;
}

char *json_free(struct json *j)
{
    GString *out = j->out;

    if (j->pretty)
        g_string_append_c(out, '\n');
    g_free(j);
    return g_string_free(out, FALSE);
}

static void new_line(struct json *j)
{
    if (j->pretty)
        g_string_append_printf(j->out, "\n%*s", (int)j->depth * 4, "");
}

/* Before a value or a member's name. */
static void next(struct json *j)
{
    if (j->named) {
        j->named = false;
        return;
    }
    if (!j->first)
        g_string_append_c(j->out, ',');
    j->first = false;
    if (j->depth)
        new_line(j);
}

static void append_unit(GString *out, gunichar unit)
{
    g_string_append_printf(out, "\\u%04X", unit);
}

static void append_char(GString *out, gunichar c)
{
    static const char escapes[128] = {['"'] = '"',  ['\\'] = '\\', ['\b'] = 'b', ['\f'] = 'f',
                                      ['\n'] = 'n', ['\r'] = 'r',  ['\t'] = 't'};

    if (c < 128 && escapes[c])
        g_string_append_printf(out, "\\%c", escapes[c]);
    else if (c >= 0x20 && c < 0x7f)
        g_string_append_c(out, (char)c);
    else if (c < 0x10000)
        append_unit(out, c);
    else {
        append_unit(out, 0xd800 + ((c - 0x10000) >> 10));
        append_unit(out, 0xdc00 + ((c - 0x10000) & 0x3ff));
    }
}

static void append_string(GString *out, const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    g_string_append_c(out, '"');
    for (const char *p = valid; *p; p = g_utf8_next_char(p))
        append_char(out, g_utf8_get_char(p));
    g_string_append_c(out, '"');
}

void json_member(struct json *j, const char *name)
{
    next(j);
    append_string(j->out, name);
    g_string_append(j->out, j->pretty ? ": " : ":");
    j->named = true;
}

void json_begin(struct json *j, char bracket)
{
    next(j);
    g_string_append_c(j->out, bracket);
    j->depth++;
    j->first = true;
}

void json_end(struct json *j, char bracket)
{
    j->depth--;
    if (!j->first)
        new_line(j);
    g_string_append_c(j->out, bracket);
    j->first = false;
}

void json_add_string(struct json *j, const char *name, const char *value)
{
    json_member(j, name);
    next(j);
    append_string(j->out, value);
}

void json_add_uint(struct json *j, const char *name, uint64_t value)
{
    json_member(j, name);
    next(j);
    g_string_append_printf(j->out, "%" G_GUINT64_FORMAT, MIN(value, (uint64_t)G_MAXINT64));
}

void json_add_bool(struct json *j, const char *name, bool value)
{
    json_member(j, name);
    next(j);
    g_string_append(j->out, value ? "true" : "false");
}

void json_begin_object(struct json *j, const char *name)
{
    json_member(j, name);
    json_begin(j, '{');
}

void json_begin_array(struct json *j, const char *name)
{
    json_member(j, name);
    json_begin(j, '[');
}
