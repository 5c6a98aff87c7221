/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* args.c: the arguments of vol-repair, by virsh's rules: options anywhere, with = or without, -- ends them. */
#include <stddef.h>
#include <string.h>

#include "command.h"

static const char *const modes[] = {"check", "leaks", "all", "undo", NULL};
static const char *const accels[] = {"auto", "kvm", "process", NULL};

#define FIELD(name) offsetof(struct request, name)

const struct opt args_table[] = {
    {"pool", 0, OPT_STRING, "POOL", NULL, FIELD(pool), "pool name or uuid; not needed with a volume's path or key"},
    {"vol", 0, OPT_STRING, "VOL", NULL, FIELD(vol), "vol name, key or path"},
    {"mode", 0, OPT_STRING, "MODE", modes, FIELD(mode_name),
     "check: only look (the default); leaks: free what nothing uses; all: mend all that can be mended; "
     "undo: take the last repair back"},
    {"verbose", 0, OPT_FLAG, NULL, NULL, FIELD(verbose), "list each finding"},
    {"json", 0, OPT_FLAG, NULL, NULL, FIELD(json), "print the report as JSON"},
    {"format", 0, OPT_STRING, "FMT", NULL, FIELD(format),
     "the image's format, where libvirt's is wrong, or it has none (a block device)"},
    {"accel", 0, OPT_STRING, "ACCEL", accels, FIELD(accel), "what the repairer runs in"},
    {"memory", 0, OPT_STRING, "SIZE", NULL, FIELD(memory_text), "memory of the repairer, e.g. 256M"},
    {"timeout", 0, OPT_NUMBER, "SECONDS", NULL, FIELD(options.timeout),
     "stop a repairer that makes no progress for so long; 0: never"},
    {"max-messages", 0, OPT_NUMBER, "N", NULL, FIELD(options.max_messages),
     "findings of a kind that are spelled out; the others are counted"},
    {"undo", 0, OPT_STRING, "NAME", NULL, FIELD(undo), "name of the undo journal, where it is not the volume's own"},
    {"no-progress", 0, OPT_FLAG, NULL, NULL, FIELD(no_progress), "draw no progress bar"},
    {"connect", 'c', OPT_STRING, "URI", NULL, FIELD(connect), "hypervisor connection URI"},
    {"quiet", 'q', OPT_FLAG, NULL, NULL, FIELD(quiet), "no progress bar, no empty line at the end"},
    {"help", 'h', OPT_FLAG, NULL, NULL, FIELD(help), "this text"},
    {"version", 'V', OPT_FLAG, NULL, NULL, FIELD(version), "print the version"},
    {NULL},
};

/* ---- finding out what a word is ---- */

/* Of "--name" or "--name=value"; in virt-vol-repair also "-x", "-xvalue". *value: what follows in the word, or NULL. */
static const struct opt *find_option(const char *word, bool standalone, const char **value)
{
    size_t len;

    *value = NULL;
    if (word[0] == '-' && word[1] == '-') {
        len = strcspn(word + 2, "=");
        for (const struct opt *opt = args_table; opt->name; opt++) {
            bool known = standalone || !opt->letter || opt->letter == 'h';

            if (known && strlen(opt->name) == len && memcmp(opt->name, word + 2, len) == 0) {
                *value = word[2 + len] ? word + 3 + len : NULL;
                return opt;
            }
        }
        return NULL;
    }
    for (const struct opt *opt = args_table; opt->name; opt++) {
        if (opt->letter && opt->letter == word[1]) {
            *value = word[2] ? word + 2 : NULL;
            return opt;
        }
    }
    return NULL;
}

static bool looks_like_option(const char *word, bool standalone)
{
    if (word[0] != '-')
        return false;
    return standalone ? word[1] != '\0' : word[1] == '-' && g_ascii_isalnum(word[2]);
}

/* ---- taking it ---- */

static bool set_value(struct request *req, const struct opt *opt, const char *value, char **error)
{
    void *field = (char *)req + opt->field;
    gint64 number;

    if (opt->kind == OPT_NUMBER) {
        if (!g_ascii_string_to_signed(value, 10, 0, G_MAXINT, &number, NULL)) {
            *error =
                g_strdup_printf("Numeric value '%s' for <%s> option is malformed or out of range", value, opt->name);
            return false;
        }
        *(int *)field = number;
        return true;
    }
    if (opt->choices && !g_strv_contains(opt->choices, value)) {
        g_autofree char *all = g_strjoinv(", ", (char **)opt->choices);

        *error = g_strdup_printf("Unknown value '%s' for <%s> option; it is one of: %s", value, opt->name, all);
        return false;
    }
    *(char **)field = g_strdup(value);
    return true;
}

/* *i is at the option's word; on return at the last word it took. */
static bool take_option(struct request *req, char *const *words, unsigned *i, bool standalone, char **error)
{
    const char *word = words[*i], *value;
    const struct opt *opt = find_option(word, standalone, &value);
    bool short_form = word[1] != '-';
    unsigned bit;

    if (!opt) {
        *error =
            g_strdup_printf("command '" EXT_COMMAND "' doesn't support option %.*s", (int)strcspn(word, "="), word);
        return false;
    }
    bit = 1u << (opt - args_table);
    if (req->given & bit) {
        *error = g_strdup_printf("option --%s already seen", opt->name);
        return false;
    }
    req->given |= bit;
    if (opt->kind == OPT_FLAG) {
        if (value) {
            *error = short_form ? g_strdup_printf("unexpected data '%s' after option -%c", value, opt->letter)
                                : g_strdup_printf("invalid '=' after option --%s", opt->name);
            return false;
        }
        *(bool *)((char *)req + opt->field) = true;
        return true;
    }
    if (!value)
        value = words[*i + 1] ? words[++*i] : NULL;
    if (!value) {
        *error =
            g_strdup_printf("expected syntax: --%s <%s>", opt->name, opt->kind == OPT_NUMBER ? "number" : "string");
        return false;
    }
    return set_value(req, opt, value, error);
}

/* POOL VOL, or VOL alone. What --pool and --vol gave is not asked for again. */
static bool take_data(struct request *req, char *const *data, unsigned count, char **error)
{
    char **places[2];
    unsigned room = 0, used = 0;

    if (!req->pool && (count > 1 || req->vol))
        places[room++] = &req->pool;
    if (!req->vol)
        places[room++] = &req->vol;
    while (used < count && used < room) {
        *places[used] = g_strdup(data[used]);
        used++;
    }
    if (used < count) {
        *error = g_strdup_printf("unexpected data '%s'", data[used]);
        return false;
    }
    if (!req->vol) {
        *error = g_strdup("command '" EXT_COMMAND "' requires <vol> option");
        return false;
    }
    return true;
}

/* A number and one of b, k, M, G, T; also KiB, MiB and so on. */
static bool parse_memory(const char *text, guint64 *bytes)
{
    static const char units[] = "bkmgt";
    const char *unit, *rest;
    char *end;
    unsigned shift = 0;
    guint64 number;

    if (!g_ascii_isdigit(text[0]))
        return false;
    number = g_ascii_strtoull(text, &end, 10);
    rest = end;
    if (*rest) {
        unit = strchr(units, g_ascii_tolower(*rest++));
        if (!unit || (*rest && (g_ascii_strcasecmp(rest, "ib") != 0 || unit == units)))
            return false;
        shift = 10 * (unit - units);
    }
    if (number == 0 || number > (guint64)G_MAXINT64 >> shift)
        return false;
    *bytes = number << shift;
    return true;
}

static bool complete_request(struct request *req, char **error)
{
    if (req->mode_name)
        vol_repair_mode_from_name(req->mode_name, &req->mode);
    req->options.format = req->format;
    req->options.accel = req->accel;
    req->options.undo = req->undo;
    if (req->memory_text && !parse_memory(req->memory_text, &req->options.memory)) {
        *error = g_strdup_printf("Scaled numeric value '%s' for <memory> option is malformed or out of range",
                                 req->memory_text);
        return false;
    }
    return true;
}

bool args_parse(struct request *req, char *const *words, bool standalone, char **error)
{
    g_autoptr(GPtrArray) data = g_ptr_array_new();
    bool only_data = false;

    *req = (struct request){.options = VOL_REPAIR_OPTIONS_INIT};
    *error = NULL;
    for (unsigned i = 0; words[i]; i++) {
        if (only_data || (strcmp(words[i], "--") != 0 && !looks_like_option(words[i], standalone))) {
            g_ptr_array_add(data, words[i]);
        } else if (strcmp(words[i], "--") == 0) {
            only_data = true;
        } else if (!take_option(req, words, &i, standalone, error)) {
            args_clear(req);
            return false;
        }
    }
    if (req->help || req->version)
        return true;
    if (take_data(req, (char *const *)data->pdata, data->len, error) && complete_request(req, error))
        return true;
    args_clear(req);
    return false;
}

void args_clear(struct request *req)
{
    for (const struct opt *opt = args_table; opt->name; opt++) {
        if (opt->kind == OPT_STRING)
            g_free(*(char **)((char *)req + opt->field));
    }
    memset(req, 0, sizeof(*req));
}
