/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* words.c: sentences for records, from the words of the problem table. */
#include <string.h>

#include "words.h"

const struct row_words row_words[VR_P_COUNT] = {
#define VR_PROBLEM(sym, code_, sev, pol, flags_, order_, slug_, spec_, qemu_, msg)                                      \
    [VR_P_##sym] = {.code = (code_),                                                                                   \
                    .severity = VR_SEV_##sev,                                                                          \
                    .policy = VR_POL_##pol,                                                                            \
                    .flags = (flags_),                                                                                 \
                    .order = (order_),                                                                                 \
                    .slug = slug_,                                                                                     \
                    .spec = spec_,                                                                                     \
                    .qemu = qemu_,                                                                                     \
                    .message = msg},
#include "vr_problems.def"
#undef VR_PROBLEM
};

const struct pass_words pass_words[VR_PASS_COUNT + 1] = {
#define VR_PASS(sym, number, name_, begins_, flags_) [number] = {.name = name_, .begins = (begins_), .flags = (flags_)},
#include "vr_passes.def"
#undef VR_PASS
    [VR_PASS_COUNT] = {.begins = 100},
};

int row_found(const uint64_t *found, unsigned flag)
{
    for (int row = 0; row < VR_P_COUNT; row++) {
        if (found[row] && (row_words[row].flags & flag))
            return row;
    }
    return -1;
}

int row_find(uint32_t code)
{
    for (int row = 0; row < VR_P_COUNT; row++) {
        if (row_words[row].code == code)
            return row;
    }
    return -1;
}

const char *severity_name(uint8_t severity)
{
    static const char *const names[] = {
        [VR_SEV_NOTE] = "note",   [VR_SEV_LEAK] = "leak",      [VR_SEV_CORRUPT] = "corruption",
        [VR_SEV_ERROR] = "error", [VR_SEV_REFUSE] = "refusal", [VR_SEV_OPEN] = "refusal",
    };

    return severity < G_N_ELEMENTS(names) ? names[severity] : "note";
}

const char *policy_name(uint8_t policy)
{
    static const char *const names[] = {
        [VR_POL_REPORT] = "report", [VR_POL_LEAKS] = "leaks", [VR_POL_ALL] = "all"};

    return names[policy];
}

const char *kept_name(uint8_t kept)
{
    static const char *const names[] = {
        [VR_KEPT_INCOMPLETE] = "incomplete-walk",
        [VR_KEPT_DOUBTFUL] = "doubtful-claims",
        [VR_KEPT_MODE] = "mode",
        [VR_KEPT_VERSION] = "version",
        [VR_KEPT_NO_ROOM] = "no-room",
    };

    return kept < G_N_ELEMENTS(names) ? names[kept] : NULL;
}

/* ---- templates ------------------------------------------------------------------------------------ */

struct field {
    const char *name;
    size_t offset;
    bool optional; /* may be VR_NONE */
};

static const struct field fields[] = {
    {"host", offsetof(struct vr_record, host), true},
    {"guest", offsetof(struct vr_record, guest), true},
    {"guest_len", offsetof(struct vr_record, guest_len), false},
    {"index", offsetof(struct vr_record, index), true},
    {"got", offsetof(struct vr_record, got), false},
    {"want", offsetof(struct vr_record, want), false},
    {"count", offsetof(struct vr_record, count), false},
};

static uint64_t field_value(const struct field *field, const struct vr_record *rec)
{
    uint64_t value;

    memcpy(&value, (const char *)rec + field->offset, sizeof(value));
    return value;
}

static void append_number(GString *out, uint64_t value, const char *format)
{
    if (g_str_equal(format, "x"))
        g_string_append_printf(out, "%" G_GINT64_MODIFIER "x", value);
    else if (g_str_equal(format, "#x"))
        g_string_append_printf(out, "0x%" G_GINT64_MODIFIER "x", value);
    else
        g_string_append_printf(out, "%" G_GUINT64_FORMAT, value);
}

/* name is what stands between the braces. */
static void append_field(GString *out, char *name, GHashTable *names, const struct vr_record *rec, bool fixed)
{
    char *format = strchr(name, ':');

    if (format)
        *format++ = '\0';
    if (g_str_equal(name, "op")) {
        g_string_append(out, fixed ? "Repairing" : "ERROR");
        return;
    }
    if (g_str_equal(name, "leak")) {
        g_string_append(out, fixed ? "Repairing" : "Leaked");
        return;
    }
    if (g_str_equal(name, "discard")) {
        g_string_append(out, fixed ? "Discarding" : "ERROR");
        return;
    }
    if (g_str_equal(name, "id") || g_str_equal(name, "name")) {
        g_string_append(out, names_get(names, rec->root, name[0] == 'i'));
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(fields); i++) {
        uint64_t value;

        if (!g_str_equal(name, fields[i].name))
            continue;
        value = field_value(&fields[i], rec);
        if (fields[i].optional && value == VR_NONE)
            g_string_append_c(out, '?');
        else
            append_number(out, value, format ? format : "d");
        return;
    }
    g_string_append_printf(out, "{%s}", name);
}

void message_render(GString *out, const char *tmpl, GHashTable *names, const struct vr_record *rec, bool fixed)
{
    while (*tmpl) {
        const char *open = strchr(tmpl, '{');
        const char *close = open ? strchr(open, '}') : NULL;
        g_autofree char *name = NULL;

        if (!close) {
            g_string_append(out, tmpl);
            return;
        }
        g_string_append_len(out, tmpl, open - tmpl);
        name = g_strndup(open + 1, (gsize)(close - open - 1));
        append_field(out, name, names, rec, fixed);
        tmpl = close + 1;
    }
}

char *message_of(GHashTable *names, const struct vr_record *rec)
{
    GString *out = g_string_new(NULL);
    int row = row_find(rec->code);

    if (row >= 0)
        message_render(out, row_words[row].message, names, rec, rec->flags & VR_REC_FIXED);
    return g_string_free(out, FALSE);
}
