/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* complete.c: what the last word of a command line may become, a candidate a line. */
#include <libvirt/virterror.h>
#include <string.h>

#include "command.h"

static void candidate(const char *text, const char *prefix, const char *partial)
{
    g_autofree char *whole = g_strconcat(prefix, text, NULL);

    /* A line is a candidate: a name that holds a newline cannot be one. */
    if (g_str_has_prefix(whole, partial) && !strchr(whole, '\n'))
        printf("%s\n", whole);
}

/* ---- names of the host ---- */

static void pools(virConnectPtr conn, const char *prefix, const char *partial)
{
    virStoragePoolPtr *list = NULL;
    int n = virConnectListAllStoragePools(conn, &list, VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE);

    for (int i = 0; i < n; i++) {
        candidate(virStoragePoolGetName(list[i]), prefix, partial);
        virStoragePoolFree(list[i]);
    }
    free(list);
}

static void volumes(virConnectPtr conn, const char *pool_name, const char *prefix, const char *partial)
{
    virStoragePoolPtr pool = virStoragePoolLookupByName(conn, pool_name);
    virStorageVolPtr *list = NULL;
    int n = pool ? virStoragePoolListAllVolumes(pool, &list, 0) : 0;

    for (int i = 0; i < n; i++) {
        candidate(virStorageVolGetName(list[i]), prefix, partial);
        virStorageVolFree(list[i]);
    }
    free(list);
    if (pool)
        virStoragePoolFree(pool);
}

/* pool: NULL lists the pools, else the volumes in it. */
static void names(const struct globals *g, const char *pool, const char *prefix, const char *partial)
{
    struct globals readonly = *g;
    virConnectPtr conn;

    readonly.readonly = true;
    conn = connect_open(&readonly);
    if (!conn)
        return;
    if (pool)
        volumes(conn, pool, prefix, partial);
    else
        pools(conn, prefix, partial);
    virConnectClose(conn);
}

/* ---- the command line so far ---- */

static const struct opt *option_named(const char *name, size_t len)
{
    for (const struct opt *opt = args_table; opt->name; opt++) {
        if (!opt->letter && strlen(opt->name) == len && memcmp(opt->name, name, len) == 0)
            return opt;
    }
    return NULL;
}

/* What is known of the words before the last one. */
struct line {
    const char *pool;          /* by --pool, or as the first positional word */
    unsigned data;             /* positional words */
    bool only_data;            /* after -- */
    const struct opt *waiting; /* option whose value comes next */
};

static void take_word(struct line *line, const char *word)
{
    const char *equals = strchr(word, '=');
    const struct opt *opt;

    if (line->waiting) {
        if (g_str_equal(line->waiting->name, "pool"))
            line->pool = word;
        line->waiting = NULL;
    } else if (!line->only_data && g_str_equal(word, "--")) {
        line->only_data = true;
    } else if (!line->only_data && g_str_has_prefix(word, "--")) {
        opt = option_named(word + 2, equals ? (size_t)(equals - word - 2) : strlen(word + 2));
        if (opt && opt->kind != OPT_FLAG && !equals)
            line->waiting = opt;
        else if (opt && equals && g_str_equal(opt->name, "pool"))
            line->pool = equals + 1;
    } else if (line->data++ == 0 && !line->pool) {
        line->pool = word;
    }
}

static void value(const struct globals *g, const struct line *line, const struct opt *opt, const char *prefix,
                  const char *partial)
{
    for (unsigned i = 0; opt->choices && opt->choices[i]; i++)
        candidate(opt->choices[i], prefix, partial);
    if (g_str_equal(opt->name, "format"))
        candidate("qcow2", prefix, partial);
    if (g_str_equal(opt->name, "pool"))
        names(g, NULL, prefix, partial);
    if (g_str_equal(opt->name, "vol") && line->pool)
        names(g, line->pool, prefix, partial);
}

static bool was_typed(char *const *words, const char *name)
{
    for (; words[0] && words[1]; words++) {
        if (g_str_has_prefix(words[0], "--") && g_str_has_prefix(words[0] + 2, name) &&
            strchr("=", words[0][2 + strlen(name)]))
            return true;
    }
    return false;
}

static void options(char *const *words, const char *partial)
{
    for (const struct opt *opt = args_table; opt->name && !opt->letter; opt++) {
        if (!was_typed(words, opt->name))
            candidate(opt->name, "--", partial);
    }
}

void complete_command(const struct globals *g, char *const *words)
{
    struct line line = {NULL};
    const struct opt *opt;
    const char *partial, *equals;
    unsigned i;

    /* Whoever presses the tab key must not be asked for a password. */
    if (!freopen("/dev/null", "r", stdin))
        return;
    for (i = 1; words[i] && words[i + 1]; i++)
        take_word(&line, words[i]);
    partial = words[i] ? words[i] : "";
    equals = strchr(partial, '=');
    if (line.waiting) {
        value(g, &line, line.waiting, "", partial);
    } else if (!line.only_data && g_str_has_prefix(partial, "--") && equals) {
        g_autofree char *prefix = g_strndup(partial, equals + 1 - partial);

        opt = option_named(partial + 2, equals - partial - 2);
        if (opt && opt->kind != OPT_FLAG)
            value(g, &line, opt, prefix, partial);
    } else if (!line.only_data && partial[0] == '-') {
        options(words + 1, partial);
    } else if (line.data == 0 && !line.pool) {
        names(g, NULL, "", partial);
    } else if (line.data <= 1) {
        names(g, line.pool, "", partial);
    }
}
