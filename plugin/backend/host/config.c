/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * config.c: reads vol-repair.conf, and knows the directories of a system daemon and of a session.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host.h"

#define CONFIG_MAX (64 * 1024)

void config_free(struct config *cfg)
{
    if (!cfg)
        return;
    g_free(cfg->helper);
    g_free(cfg->accel);
    g_free(cfg->memory);
    g_free(cfg->user);
    g_free(cfg->reports_dir);
    for (unsigned i = 0; i < UNDO_LIMITS; i++)
        g_free(cfg->undo_limits[i]);
    g_free(cfg);
}

static bool parse_number(const char *text, guint64 max, guint64 *value)
{
    return g_ascii_string_to_unsigned(text, 10, 0, max, value, NULL);
}

static bool parse_flag(const char *text, bool *flag)
{
    guint64 value;

    if (!parse_number(text, 1, &value))
        return false;
    *flag = value;
    return true;
}

bool config_memory_is_valid(const char *text)
{
    size_t digits = strspn(text, "0123456789");
    const char *suffix = text + digits;

    return digits > 0 && digits < 19 && (!suffix[0] || (strchr("KMGT", suffix[0]) && !suffix[1]));
}

guint64 config_memory_bytes(const char *text)
{
    guint64 bytes = g_ascii_strtoull(text, NULL, 10);
    const char *suffix = text + strspn(text, "0123456789");

    for (const char *p = "KMGT"; suffix[0] && *p; p++) {
        bytes = bytes > G_MAXUINT64 / 1024 ? G_MAXUINT64 : bytes * 1024;
        if (*p == suffix[0])
            break;
    }
    return bytes;
}

bool config_accel_is_valid(const char *text)
{
    return g_str_equal(text, "auto") || g_str_equal(text, "kvm") || g_str_equal(text, "process");
}

static void set_text(char **where, const char *value)
{
    g_free(*where);
    *where = g_strdup(value);
}

const char *const undo_limit_names[UNDO_LIMITS] = {"undo-max-count", "undo-max-total", "undo-max-bytes", "undo-max-age"};

/* The numbers that the program takes. */
static bool set_undo_limit(struct config *cfg, const char *key, const char *value)
{
    static const guint64 least[UNDO_LIMITS] = {1, 1, 1, 0}, most[UNDO_LIMITS] = {10000, 10000, 0, 36500};
    g_autofree char *option = strchr(key, '-') ? NULL : g_strdelimit(g_strdup(key), "_", '-');
    unsigned i = 0;
    guint64 number;

    while (i < UNDO_LIMITS && g_strcmp0(undo_limit_names[i], option) != 0)
        i++;
    if (i == UNDO_LIMITS)
        return false;
    set_text(&cfg->undo_limits[i], value);
    if (!most[i])
        return config_memory_is_valid(value) && config_memory_bytes(value) >= least[i];
    return parse_number(value, most[i], &number) && number >= least[i];
}

static bool set_key(struct config *cfg, const char *key, const char *value)
{
    guint64 number;
    bool ok = false;

    if (g_str_equal(key, "enabled")) {
        ok = parse_flag(value, &cfg->enabled);
    } else if (g_str_equal(key, "refresh_source_pool")) {
        ok = parse_flag(value, &cfg->refresh_source_pool);
    } else if (g_str_equal(key, "newest_libvirt")) {
        ok = parse_number(value, G_MAXUINT32, &number);
        cfg->newest_libvirt = ok ? number : 0;
    } else if (g_str_equal(key, "timeout")) {
        ok = parse_number(value, 86400, &number);
        cfg->timeout = ok ? number : 0;
    } else if (g_str_equal(key, "helper")) {
        ok = value[0] == '/';
        set_text(&cfg->helper, value);
    } else if (g_str_equal(key, "accel")) {
        ok = config_accel_is_valid(value);
        set_text(&cfg->accel, value);
    } else if (g_str_equal(key, "memory")) {
        ok = config_memory_is_valid(value);
        set_text(&cfg->memory, value);
    } else if (g_str_equal(key, "user")) {
        ok = value[0] != '\0';
        set_text(&cfg->user, value);
    } else if (g_str_equal(key, "reports_dir")) {
        ok = value[0] == '/' && value[1] && !g_str_has_suffix(value, "/");
        set_text(&cfg->reports_dir, value);
    } else {
        ok = set_undo_limit(cfg, key, value);
    }
    return ok;
}

/* key = value, the value with or without quotes; '#' starts a comment at the start of a line. */
static bool parse_line(struct config *cfg, char *line)
{
    char *equals, *key, *value;
    size_t len;

    g_strstrip(line);
    if (line[0] == '\0' || line[0] == '#')
        return true;
    equals = strchr(line, '=');
    if (!equals)
        return false;
    *equals = '\0';
    key = g_strchomp(line);
    value = g_strchug(equals + 1);
    len = strlen(value);
    if (len >= 2 && value[0] == '"' && value[len - 1] == '"') {
        value[len - 1] = '\0';
        value++;
    }
    return set_key(cfg, key, value);
}

struct config *config_load(char **error)
{
    g_autoptr(Config) cfg = g_new0(struct config, 1);
    const char *path = secure_getenv("VOL_REPAIR_CONF");
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    g_autoptr(GError) err = NULL;
    gsize len = 0;

    cfg->enabled = cfg->refresh_source_pool = true;
    cfg->helper = g_strdup(VR_HELPER);
    cfg->accel = g_strdup("auto");
    cfg->memory = g_strdup("256M");
    cfg->timeout = 30;
    cfg->newest_libvirt = NEWEST_LIBVIRT;

    if (!path)
        path = VR_CONFIG_FILE;
    if (!g_file_get_contents(path, &text, &len, &err)) {
        if (g_error_matches(err, G_FILE_ERROR, G_FILE_ERROR_NOENT))
            return g_steal_pointer(&cfg);
        *error = g_strdup_printf("the configuration cannot be read: %s", err->message);
        return NULL;
    }
    if (len > CONFIG_MAX) {
        *error = g_strdup_printf("the configuration '%s' is longer than %d bytes", path, CONFIG_MAX);
        return NULL;
    }
    lines = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; lines[i]; i++) {
        if (!parse_line(cfg, lines[i])) {
            *error =
                g_strdup_printf("line %u of '%s' is not 'key = value' with a known key and a valid value", i + 1, path);
            return NULL;
        }
    }
    return g_steal_pointer(&cfg);
}

char *config_undo_dir(void)
{
    const char *state = g_getenv("XDG_STATE_HOME");

    if (geteuid() == 0)
        return g_strdup(VR_UNDO_DIR);
    if (state && state[0] == '/')
        return g_build_filename(state, "vol-repair", "undo", NULL);
    return g_build_filename(g_get_home_dir(), ".local", "state", "vol-repair", "undo", NULL);
}

char *config_reports_dir(void)
{
    g_autofree char *error = NULL;
    g_autoptr(Config) cfg = config_load(&error);

    /* Jobs say what is wrong with a configuration; where reports lie has to be known all the same. */
    if (cfg && cfg->reports_dir)
        return g_steal_pointer(&cfg->reports_dir);
    if (geteuid() == 0)
        return g_strdup(VR_RUN_DIR "/reports");
    return g_build_filename(g_get_user_runtime_dir(), "vol-repair", "reports", NULL);
}
