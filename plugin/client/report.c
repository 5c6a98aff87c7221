/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* report.c: reads a report, and believes nothing of it before it is checked. */
#include <string.h>

#include "client.h"

static const char *const severities[] = {"note", "leak", "corruption", "error", "refusal", NULL};

/* ---- JSON of any origin ---- */

/* Of the text outside its strings. */
struct outline {
    unsigned depth, values;
};

/* False: what follows must not be parsed. */
static bool take_outside(struct outline *o, char c)
{
    switch (c) {
    case '{':
    case '[':
        o->values++;
        return ++o->depth <= CLIENT_DEPTH_MAX;
    case ',':
        return ++o->values <= CLIENT_VALUES_MAX;
    case '}':
    case ']':
        return o->depth-- > 0;
    default:
        return o->depth > 0 && c && strchr(" \t:0123456789+-.eEtrufalsn", c);
    }
}

/*
 * The parser recurses, what it makes of a text is large, and it takes more than JSON: comments and single quotes, which
 * could hide brackets from us, and several values in a row. So it gets to see only what can be one modest object.
 */
static bool is_modest(const char *text, size_t len)
{
    struct outline o = {0};
    bool in_string = false;

    if (len == 0 || text[0] != '{')
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];

        if (in_string && c == '\\')
            i++;
        else if (c == '"' && o.depth > 0)
            in_string = !in_string;
        else if (!in_string && !take_outside(&o, c))
            return false;
        if (o.depth == 0 && i != len - 1)
            return false;
    }
    return true;
}

JsonNode *client_parse_json(const char *text, size_t len, GError **error)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    JsonNode *root = NULL;

    /* A NUL byte is not valid UTF-8 to this function either. */
    if (g_utf8_validate(text, len, NULL) && is_modest(text, len) && json_parser_load_from_data(parser, text, len, NULL))
        root = json_parser_steal_root(parser);
    if (!root || !JSON_NODE_HOLDS_OBJECT(root)) {
        if (root)
            json_node_unref(root);
        client_error(error, PROTOCOL, "the daemon sent a line that is not a JSON object");
        return NULL;
    }
    return root;
}

bool client_get_string(JsonObject *object, const char *name, const char **value)
{
    JsonNode *node = json_object_get_member(object, name);

    if (!node)
        return true;
    if (json_node_get_value_type(node) != G_TYPE_STRING)
        return false;
    *value = json_node_get_string(node);
    return true;
}

bool client_get_count(JsonObject *object, const char *name, gint64 *value)
{
    JsonNode *node = json_object_get_member(object, name);

    if (!node)
        return true;
    if (json_node_get_value_type(node) != G_TYPE_INT64 || json_node_get_int(node) < 0)
        return false;
    *value = json_node_get_int(node);
    return true;
}

static bool get_bool(JsonObject *object, const char *name, gboolean *value)
{
    JsonNode *node = json_object_get_member(object, name);

    if (!node)
        return true;
    if (json_node_get_value_type(node) != G_TYPE_BOOLEAN)
        return false;
    *value = json_node_get_boolean(node);
    return true;
}

static bool copy_string(JsonObject *object, const char *name, char **copy)
{
    const char *value = NULL;

    if (!client_get_string(object, name, &value))
        return false;
    *copy = g_strdup(value);
    return true;
}

/* *child is NULL where the object has no such member. */
static bool get_object(JsonObject *object, const char *name, JsonObject **child)
{
    JsonNode *node = json_object_get_member(object, name);

    *child = node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
    return !node || *child;
}

/* Calls take for each object of an array; FALSE where something in it is not an object, or take says so. */
static bool for_each(JsonObject *object, const char *name, bool (*take)(JsonObject *item, GArray *items), GArray *items)
{
    JsonNode *node = json_object_get_member(object, name);
    JsonArray *array;

    if (!node)
        return true;
    if (!JSON_NODE_HOLDS_ARRAY(node))
        return false;
    array = json_node_get_array(node);
    for (unsigned i = 0; i < json_array_get_length(array); i++) {
        JsonNode *item = json_array_get_element(array, i);

        if (!JSON_NODE_HOLDS_OBJECT(item) || !take(json_node_get_object(item), items))
            return false;
    }
    return true;
}

/* ---- the parts of a report ---- */

static void clear_example(void *item)
{
    g_free(((struct vol_repair_example *)item)->message);
}

static void clear_problem(void *item)
{
    struct vol_repair_problem *problem = item;

    g_free(problem->id);
    g_free(problem->code);
    g_free(problem->severity);
    g_free(problem->policy);
    g_free(problem->kept);
    g_array_unref(problem->examples);
}

static GArray *array_of(size_t size, GDestroyNotify clear)
{
    GArray *array = g_array_new(FALSE, TRUE, size);

    g_array_set_clear_func(array, clear);
    return array;
}

static bool take_example(JsonObject *object, GArray *examples)
{
    struct vol_repair_example *ex;

    g_array_set_size(examples, examples->len + 1);
    ex = &g_array_index(examples, struct vol_repair_example, examples->len - 1);
    ex->host_offset = ex->guest_offset = -1;
    return copy_string(object, "message", &ex->message) && ex->message &&
           client_get_count(object, "host-offset", &ex->host_offset) &&
           client_get_count(object, "guest-offset", &ex->guest_offset) &&
           client_get_count(object, "guest-length", &ex->guest_length) && get_bool(object, "fixed", &ex->fixed);
}

static bool take_problem(JsonObject *object, GArray *problems)
{
    struct vol_repair_problem *p;

    g_array_set_size(problems, problems->len + 1);
    p = &g_array_index(problems, struct vol_repair_problem, problems->len - 1);
    p->examples = array_of(sizeof(struct vol_repair_example), clear_example);
    return copy_string(object, "id", &p->id) && p->id && copy_string(object, "code", &p->code) &&
           copy_string(object, "severity", &p->severity) && p->severity &&
           client_find_name(severities, p->severity) >= 0 && copy_string(object, "policy", &p->policy) &&
           copy_string(object, "refused-because", &p->kept) &&
           client_get_count(object, "count", &p->count) && client_get_count(object, "fixed", &p->fixed) &&
           client_get_count(object, "remaining", &p->remaining) &&
           for_each(object, "examples", take_example, p->examples);
}

static bool take_range(JsonObject *object, GArray *ranges)
{
    struct vol_repair_range range = {-1, -1};

    if (!client_get_count(object, "offset", &range.offset) || !client_get_count(object, "length", &range.length) ||
        range.offset < 0 || range.length < 0)
        return false;
    g_array_append_val(ranges, range);
    return true;
}

static void clear_snapshot(void *item)
{
    g_free(((struct vol_repair_snapshot *)item)->id);
    g_free(((struct vol_repair_snapshot *)item)->name);
}

static bool take_snapshot(JsonObject *object, GArray *snapshots)
{
    struct vol_repair_snapshot *s;

    g_array_set_size(snapshots, snapshots->len + 1);
    s = &g_array_index(snapshots, struct vol_repair_snapshot, snapshots->len - 1);
    return copy_string(object, "id", &s->id) && s->id && copy_string(object, "name", &s->name) && s->name &&
           client_get_count(object, "problems", &s->problems) &&
           client_get_count(object, "guest-bytes-affected", &s->guest_bytes_affected);
}

/* Pointers to the texts, which stay the report's. */
static bool take_note(JsonObject *object, GArray *texts)
{
    const char *text = NULL;

    if (!client_get_string(object, "text", &text) || !text)
        return false;
    g_array_append_val(texts, text);
    return true;
}

static bool take_notes(JsonObject *object, struct vol_repair_report *r)
{
    g_autoptr(GArray) texts = g_array_new(TRUE, TRUE, sizeof(char *));

    if (!for_each(object, "notes", take_note, texts))
        return false;
    r->notes = g_strdupv((char **)texts->data);
    return true;
}

/* Adds up the counts of an array of {id, count}. */
static bool take_mended(JsonObject *object, GArray *sums)
{
    gint64 count = -1;

    if (!client_get_count(object, "count", &count) || count < 0)
        return false;
    g_array_append_val(sums, count);
    return true;
}

static bool take_would(JsonObject *all, const char *mode, struct vol_repair_would *w)
{
    g_autoptr(GArray) mends = array_of(sizeof(gint64), NULL), lost = array_of(sizeof(gint64), NULL);
    JsonObject *object;

    if (!get_object(all, mode, &object) || !object || !copy_string(object, "refused", &w->refused) ||
        !for_each(object, "mends", take_mended, mends) || !for_each(object, "gives-up", take_mended, lost))
        return false;
    for (unsigned i = 0; i < mends->len; i++) {
        gint64 count = g_array_index(mends, gint64, i);

        w->mends = count > G_MAXINT64 - w->mends ? G_MAXINT64 : w->mends + count;
    }
    w->gives_up = lost->len != 0;
    return client_get_count(object, "clusters-freed", &w->clusters_freed) &&
           client_get_count(object, "bytes-written", &w->bytes_written);
}

static bool take_both(JsonObject *object, struct vol_repair_report *r)
{
    JsonObject *would;

    if (!get_object(object, "would-do", &would))
        return false;
    r->has_would = would != NULL;
    return !would || (take_would(would, "leaks", &r->would_leaks) && take_would(would, "all", &r->would_all));
}

/* An exit code that says something else than the verdict would mislead whoever looks at one of them only. */
static bool code_fits(enum vol_repair_verdict verdict, gint64 code)
{
    switch (verdict) {
    case VOL_REPAIR_CLEAN:
    case VOL_REPAIR_REPAIRED:
    case VOL_REPAIR_UNDONE:
    case VOL_REPAIR_BLOCKED:
        return code == 0;
    case VOL_REPAIR_LEAKS_REMAIN:
        return code == 3;
    case VOL_REPAIR_CORRUPTIONS_REMAIN:
        return code == 2;
    default:
        return code == 1 || code == 63;
    }
}

static bool take_outcome(JsonObject *object, struct vol_repair_report *r)
{
    const char *mode = NULL, *verdict = NULL;
    gint64 code = -1;
    int index;

    if (!client_get_string(object, "mode", &mode) || !mode || !g_str_equal(mode, vol_repair_mode_name(r->mode)))
        return false;
    if (!client_get_string(object, "verdict", &verdict) || !verdict)
        return false;
    index = client_find_name(client_verdict_names, verdict);
    if (index < 0 || !client_get_count(object, "exit-code", &code) || !code_fits(index, code))
        return false;
    r->verdict = index;
    r->exit_code = code;
    return copy_string(object, "error", &r->error) && copy_string(object, "filename", &r->filename) &&
           copy_string(object, "accel", &r->accel) && copy_string(object, "accel-reason", &r->accel_reason) &&
           get_bool(object, "image-changed", &r->image_changed);
}

static bool take_state(JsonObject *object, struct vol_repair_report *r)
{
    JsonObject *interrupted, *image;
    const char *state = NULL;

    if (!get_object(object, "interrupted-repair", &interrupted) || !get_object(object, "image", &image) ||
        (image && !get_bool(image, "corrupt", &r->corrupt)))
        return false;
    if (!interrupted)
        return true;
    if (!client_get_string(interrupted, "state", &state) || !state ||
        !copy_string(interrupted, "journal", &r->interrupted_journal) || !r->interrupted_journal)
        return false;
    r->interrupted_undone = g_str_equal(state, "rolled-back");
    return r->interrupted_undone || g_str_equal(state, "pending");
}

static bool take_counters(JsonObject *object, struct vol_repair_report *r)
{
    JsonObject *undo, *repair, *timings;

    return client_get_count(object, "corruptions", &r->corruptions) &&
           client_get_count(object, "corruptions-fixed", &r->corruptions_fixed) &&
           client_get_count(object, "leaks", &r->leaks) && client_get_count(object, "leaks-fixed", &r->leaks_fixed) &&
           client_get_count(object, "check-errors", &r->check_errors) &&
           client_get_count(object, "guest-bytes-affected", &r->guest_bytes_affected) &&
           get_bool(object, "data-may-be-lost", &r->data_may_be_lost) &&
           client_get_count(object, "needed-bytes", &r->needed_bytes) &&
           get_object(object, "undo", &undo) && (!undo || copy_string(undo, "journal", &r->undo_journal)) &&
           get_object(object, "repair", &repair) &&
           (!repair || (client_get_count(repair, "bytes-changed", &r->bytes_changed) &&
                        client_get_count(repair, "clusters-freed", &r->clusters_freed))) &&
           get_object(object, "timings", &timings) &&
           (!timings || client_get_count(timings, "total", &r->milliseconds));
}

struct vol_repair_report *client_parse_report(JsonNode *node, enum vol_repair_mode mode, GError **error)
{
    g_autoptr(VolRepairReport) r = g_new0(struct vol_repair_report, 1);
    g_autoptr(JsonGenerator) generator = json_generator_new();
    JsonObject *object;

    r->mode = mode;
    r->problems = array_of(sizeof(struct vol_repair_problem), clear_problem);
    r->ranges = array_of(sizeof(struct vol_repair_range), NULL);
    r->snapshots = array_of(sizeof(struct vol_repair_snapshot), clear_snapshot);
    object = JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
    if (!object || !take_outcome(object, r) || !take_counters(object, r) || !take_state(object, r) ||
        !for_each(object, "problems", take_problem, r->problems) ||
        !for_each(object, "guest-ranges-affected", take_range, r->ranges) ||
        !for_each(object, "snapshots-affected", take_snapshot, r->snapshots) || !take_both(object, r) ||
        !take_notes(object, r)) {
        client_error(error, PROTOCOL, "the daemon sent a report that makes no sense");
        return NULL;
    }
    json_generator_set_root(generator, node);
    json_generator_set_pretty(generator, TRUE);
    json_generator_set_indent(generator, 4);
    r->json = json_generator_to_data(generator, NULL);
    return g_steal_pointer(&r);
}

void vol_repair_report_free(struct vol_repair_report *report)
{
    if (!report)
        return;
    g_free(report->json);
    g_free(report->filename);
    g_free(report->error);
    g_free(report->accel);
    g_free(report->accel_reason);
    g_free(report->interrupted_journal);
    g_strfreev(report->notes);
    g_free(report->undo_journal);
    g_array_unref(report->problems);
    g_array_unref(report->ranges);
    g_array_unref(report->snapshots);
    g_free(report->would_leaks.refused);
    g_free(report->would_all.refused);
    g_free(report);
}
