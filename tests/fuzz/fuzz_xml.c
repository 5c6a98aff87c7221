/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fuzz_xml.c: the extension's readers of what clients and libvirt hand it: requests of the control entry point, definitions of
 * pools and volumes, and lines of the helper. Input: one byte (which), then the text; with '\1' two texts.
 */
#include <stdarg.h>
#include <string.h>

#include "entry/entry.h"
#include "fuzz.h"

static unsigned errors;
static char *pool_text, *volume_text;

/* ---- libvirt, as far as it is asked ----------------------------------------------------------------------------- */

static void G_GNUC_PRINTF(6, 7)
report_error(int domain, int code, const char *file, const char *function, size_t line, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    (void)domain;
    (void)code;
    (void)file;
    (void)function;
    (void)line;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    errors++;
}

static void *pool_get_def(void *pool)
{
    return pool;
}

static char *pool_def_format(void *def)
{
    (void)def;
    return g_strdup(pool_text);
}

static char *vol_def_format(void *pool, void *vol)
{
    (void)pool;
    (void)vol;
    return g_strdup(volume_text);
}

/* ---- the three readers ---------------------------------------------------------------------------------------------- */

static void read_request(const char *text)
{
    errors = 0;
    g_autofree char *reply = control_find_pool_sources(text, 0);
    unsigned long long token = 0;

    HOLD((reply != NULL) == (errors == 0), "an answer, or an error");
    if (reply && sscanf(reply, "<vol-repair-options token='%llu'", &token) == 1)
        job_options_free(control_take_options(token));
}

static void read_definitions(char *text)
{
    char *second = strchr(text, '\1');

    pool_text = text;
    volume_text = second ? second + 1 : text;
    if (second)
        *second = '\0';
    errors = 0;
    g_autoptr(Volume) vol = volume_from_defs(text, text, false);
    HOLD((vol != NULL) == (errors == 0), "a volume, or an error");
    if (vol)
        HOLD(vol->path[0] == '/' && vol->name[0], "a volume has a name and an absolute path");
}

static void read_line(const char *text, size_t len)
{
    char out[64];
    int number;
    bool truth;

    if (json_find_string(text, len, "verdict", out, sizeof(out)))
        HOLD(memchr(out, 0, sizeof(out)), "a string ends");
    json_find_int(text, len, "percent", &number);
    json_find_bool(text, len, "done", &truth);
    GString *quoted = g_string_new(NULL);
    json_append_string(quoted, text);
    HOLD(g_utf8_validate(quoted->str, (gssize)quoted->len, NULL), "what is quoted is UTF-8");
    g_string_free(quoted, TRUE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    g_autofree char *text = g_malloc0(size);

    memcpy(text, data + 1, size - 1);
    lv.report_error = (void *)report_error;
    *(void **)&lv.pool_get_def = (void *)pool_get_def;
    *(void **)&lv.pool_def_format = (void *)pool_def_format;
    *(void **)&lv.vol_def_format = (void *)vol_def_format;
    if (data[0] % 3 == 0)
        read_request(text);
    else if (data[0] % 3 == 1)
        read_definitions(text);
    else
        read_line(text, size - 1);
    return 0;
}
