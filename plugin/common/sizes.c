/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sizes.c: parsers of sizes and numbers, and the setter of an allocated string. */
#include "common.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

void string_set(char **field, const char *value)
{
    g_free(*field);
    *field = g_strdup(value);
}

bool number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *value)
{
    return g_ascii_string_to_unsigned(text, 10, min, max, value, NULL);
}

bool size_parse(const char *text, uint64_t *bytes)
{
    static const char units[] = "bkmgt";
    char *end = NULL;
    const char *unit;
    guint64 number;

    if (!g_ascii_isdigit(text[0]))
        return false;
    errno = 0;
    number = g_ascii_strtoull(text, &end, 10);
    if (errno)
        return false;
    if (*end) {
        unit = strchr(units, g_ascii_tolower(*end));
        if (!unit || end[1])
            return false;
        for (; unit > units; unit--) {
            if (!g_uint64_checked_mul(&number, number, 1024))
                return false;
        }
    }
    if (number > UINT64_C(1) << 50)
        return false;
    *bytes = number;
    return true;
}
