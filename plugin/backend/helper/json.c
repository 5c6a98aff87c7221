/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * json.c: the little JSON the extension reads and writes, without a parser that could be driven deep.
 *
 * Reading is a search for `"key":`. That cannot be fooled by a value: inside a JSON string each quote has a
 * backslash before it. Our program's lines have each of the keys we ask for once, or first where we want it.
 */
#include <string.h>

#include "helper.h"

static const char *find_value(const char *line, size_t len, const char *key)
{
    g_autofree char *quoted = g_strdup_printf("\"%s\"", key);
    size_t key_len = strlen(quoted);
    const char *end = line + len, *at = line;

    while ((at = memmem(at, end - at, quoted, key_len))) {
        bool escaped = at > line && at[-1] == '\\';

        at += key_len;
        while (at < end && *at == ' ')
            at++;
        if (!escaped && at < end && *at == ':') {
            for (at++; at < end && *at == ' ';)
                at++;
            return at;
        }
    }
    return NULL;
}

/* The character behind "\u"; lone halves of surrogate pairs become U+FFFD. */
static gunichar unicode_escape(const char **at, const char *end)
{
    gunichar code = 0;

    if (end - *at < 4)
        return 0xFFFD;
    for (int i = 0; i < 4; i++) {
        int digit = g_ascii_xdigit_value((*at)[i]);

        if (digit < 0)
            return 0xFFFD;
        code = code * 16 + digit;
    }
    *at += 4;
    return code == 0 || (code >= 0xD800 && code < 0xE000) ? 0xFFFD : code;
}

bool json_find_string(const char *line, size_t len, const char *key, char *out, size_t size)
{
    const char *at = find_value(line, len, key), *end = line + len;
    size_t used = 0;

    if (!at || at == end || *at != '"')
        return false;
    for (at++; at < end && *at != '"';) {
        char utf8[6] = {*at++};
        size_t n = 1;

        if (utf8[0] == '\\' && at < end) {
            char c = *at++;
            const char *known = strchr("n\nt\tr\rb\bf\f", c);

            if (c == 'u')
                n = g_unichar_to_utf8(unicode_escape(&at, end), utf8);
            else
                utf8[0] = known && c ? known[1] : c;
        }
        if (used + n >= size)
            break;
        memcpy(out + used, utf8, n);
        used += n;
    }
    out[used] = '\0';
    return true;
}

const char *json_find_object(const char *line, size_t len, const char *key)
{
    const char *at = find_value(line, len, key);

    return at && at < line + len && *at == '{' ? at : NULL;
}

bool json_find_int(const char *line, size_t len, const char *key, int *out)
{
    const char *at = find_value(line, len, key), *end = line + len;
    int value = 0;

    if (!at || at == end || !g_ascii_isdigit(*at))
        return false;
    for (; at < end && g_ascii_isdigit(*at); at++) {
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *at - '0', &value))
            return false;
    }
    *out = value;
    return true;
}

bool json_find_bool(const char *line, size_t len, const char *key, bool *out)
{
    const char *at = find_value(line, len, key), *end = line + len;

    if (!at || at == end || (*at != 't' && *at != 'f'))
        return false;
    *out = *at == 't';
    return true;
}

void json_append_string(GString *to, const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    g_string_append_c(to, '"');
    for (const char *at = valid; *at; at++) {
        if (*at == '"' || *at == '\\')
            g_string_append_printf(to, "\\%c", *at);
        else if ((unsigned char)*at < 0x20 || *at == 0x7F)
            g_string_append_printf(to, "\\u%04x", *at);
        else
            g_string_append_c(to, *at);
    }
    g_string_append_c(to, '"');
}
