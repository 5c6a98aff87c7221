/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* image_opts.c: parsers of option values: --image-opts strings, objects, format names. */
#include <string.h>

#include "cli.h"

/* The formats qemu-img 7.2 knows. Only qcow2 is checked here. */
static const char *const formats_no_checks[] = {
    "raw",   "bochs", "cloop", "dmg", "luks", "parallels", "qcow",  "qed",      "vdi",         "vhdx",       "vmdk",
    "vpc",   "vvfat", "file",  "nbd", "ssh",  "http",      "https", "null-aio", "host_device", "copy-on-read",
};

enum format_kind format_lookup(const char *name)
{
    if (g_str_equal(name, "qcow2"))
        return FORMAT_QCOW2;
    for (size_t i = 0; i < G_N_ELEMENTS(formats_no_checks); i++) {
        if (g_str_equal(name, formats_no_checks[i]))
            return FORMAT_NO_CHECKS;
    }
    return FORMAT_UNKNOWN;
}

/* ---- --image-opts -------------------------------------------------------------------------------- */

/* The next `key=value`, with `,,` in the value read as a comma. NULL at the end. */
static char *next_item(const char **cursor)
{
    GString *item;
    const char *p = *cursor;

    if (!*p)
        return NULL;
    item = g_string_new(NULL);
    while (*p) {
        if (*p == ',') {
            if (p[1] != ',') {
                p++;
                break;
            }
            p++;
        }
        g_string_append_c(item, *p++);
    }
    *cursor = p;
    return g_string_free(item, FALSE);
}

/* Options that change how QEMU does its I/O and nothing about what it finds. */
static const char *const no_effect[] = {
    "cache.direct",   "cache.no-flush", "cache-size",        "l2-cache-size",       "l2-cache-entry-size",
    "detect-zeroes",  "discard",        "lazy-refcounts",    "refcount-cache-size", "cache-clean-interval",
    "file.aio",       "node-name",      "file.node-name",    "file.discard",        "file.cache.direct",
    "file.cache.no-flush", "file.locking", "file.pr-manager", "overlap-check",   "file.x-check-cache-dropped",
};

/* Beginnings of options of the same kind: of files that are never opened here, keys that are never needed. */
static const char *const no_effect_groups[] = {"data-file.", "backing.", "encrypt.", "overlap-check.", "pass-discard-"};

static bool has_no_effect(const char *key)
{
    for (size_t i = 0; i < G_N_ELEMENTS(no_effect); i++) {
        if (g_str_equal(key, no_effect[i]))
            return true;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(no_effect_groups); i++) {
        if (g_str_has_prefix(key, no_effect_groups[i]))
            return true;
    }
    return false;
}

static bool parse_switch(const char *value, bool *on)
{
    if (g_str_equal(value, "on") || g_str_equal(value, "yes") || g_str_equal(value, "true")) {
        *on = true;
        return true;
    }
    *on = false;
    return g_str_equal(value, "off") || g_str_equal(value, "no") || g_str_equal(value, "false");
}

static bool is_protocol(const char *format)
{
    return format && (g_str_equal(format, "file") || g_str_equal(format, "host_device"));
}

static bool take_switch(const char *key, const char *value, bool *on, GError **error)
{
    bool set;

    if (!parse_switch(value, &set)) {
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "Parameter '%s' expects 'on' or 'off'", key);
        return false;
    }
    *on |= set;
    return true;
}

static bool take_item(struct options *opt, const char *key, const char *value, GError **error)
{
    if (g_str_equal(key, "driver")) {
        string_set(&opt->format, value);
    } else if (g_str_equal(key, "file.filename") || (g_str_equal(key, "filename") && is_protocol(opt->format))) {
        string_set(&opt->path, value);
    } else if (g_str_equal(key, "file.driver")) {
        if (!g_str_equal(value, "file") && !g_str_equal(value, "host_device")) {
            g_set_error(error, VR_ERROR, VR_ERROR_FAILED,
                        "Only files and block devices of this host are supported, not driver '%s'", value);
            return false;
        }
    } else if (g_str_equal(key, "force-share")) {
        return take_switch(key, value, &opt->force_share, error);
    } else if (g_str_equal(key, "read-only")) {
        return take_switch(key, value, &opt->read_only, error);
    } else if (g_str_equal(key, "data-file") || g_str_equal(key, "data-file.filename")) {
        opt->data_file = true;
    } else if (!g_str_equal(key, "filename") && !has_no_effect(key)) {
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "Block format '%s' does not support the option '%s'",
                    opt->format ? opt->format : "qcow2", key);
        return false;
    }
    return true;
}

bool object_parse(const char *text, GError **error)
{
    static const char *const types[] = {"secret",         "secret_keyring",  "tls-creds-anon", "tls-creds-psk",
                                        "tls-creds-x509", "throttle-group", "iothread",       NULL};
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);
    bool id = false;

    if (!parts[0] || !g_strv_contains(types, parts[0])) {
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "Parameter 'qom-type' does not accept value '%s'",
                    parts[0] ? parts[0] : "");
        return false;
    }
    for (char **part = parts + 1; *part; part++)
        id |= g_str_has_prefix(*part, "id=");
    if (!id)
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "Parameter 'id' is missing");
    return id;
}

bool image_opts_parse(const char *text, struct options *opt, GError **error)
{
    const char *cursor = text;
    bool first = true;

    for (;; first = false) {
        g_autofree char *item = next_item(&cursor);
        char *equals;

        if (!item)
            break;
        equals = strchr(item, '=');
        if (!equals && first) {
            g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "Cannot find device='%s' nor node-name='%s'", item,
                        item);
            return false;
        }
        if (equals)
            *equals = '\0';
        if (!take_item(opt, item, equals ? equals + 1 : "on", error))
            return false;
    }
    if (!opt->path) {
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED,
                    opt->format ? "A block device must be specified for \"file\""
                                : "Must specify either driver or file");
        return false;
    }
    if (opt->read_only && options_is_repair(opt)) {
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "Block node is read-only");
        return false;
    }
    return true;
}
