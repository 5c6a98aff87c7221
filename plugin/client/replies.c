/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* replies.c: the XML of the control entry point: one request that has contents, and the replies. */
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <string.h>

#include "client.h"

/* ---- reading ---- */

G_DEFINE_AUTOPTR_CLEANUP_FUNC(xmlDoc, xmlFreeDoc)

/* A document type could define entities; an answer has no use for one. */
static xmlDoc *parse(const char *xml, const char *root_name, GError **error)
{
    size_t len = strlen(xml);
    xmlDoc *doc = NULL;
    xmlNode *root;

    if (len <= CLIENT_ANSWER_MAX && !strstr(xml, "<!DOCTYPE"))
        doc = xmlReadMemory(xml, len, NULL, "UTF-8",
                            XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_NOCDATA);
    root = doc ? xmlDocGetRootElement(doc) : NULL;
    if (!root || !xmlStrEqual(root->name, BAD_CAST root_name)) {
        client_error(error, PROTOCOL, "the daemon's answer is not a <%s> document", root_name);
        xmlFreeDoc(doc);
        return NULL;
    }
    return doc;
}

/* A copy that g_free() frees; NULL where there is no such attribute. */
static char *attribute(xmlNode *node, const char *name)
{
    xmlChar *value = xmlGetNoNsProp(node, BAD_CAST name);
    char *copy = g_strdup((const char *)value);

    xmlFree(value);
    return copy;
}

static bool get_number(xmlNode *node, const char *name, guint64 max, guint64 *number)
{
    g_autofree char *text = attribute(node, name);

    return text && g_ascii_string_to_unsigned(text, 10, 0, max, number, NULL);
}

static xmlNode *child_named(xmlNode *parent, const char *name)
{
    for (xmlNode *node = xmlFirstElementChild(parent); node; node = xmlNextElementSibling(node)) {
        if (xmlStrEqual(node->name, BAD_CAST name))
            return node;
    }
    return NULL;
}

/* The name attributes of all <item name='...'/> in <list>. */
static char **names_in(xmlNode *root, const char *list, const char *item)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    xmlNode *parent = child_named(root, list);

    for (xmlNode *node = parent ? xmlFirstElementChild(parent) : NULL; node; node = xmlNextElementSibling(node)) {
        char *name = xmlStrEqual(node->name, BAD_CAST item) ? attribute(node, "name") : NULL;

        if (name)
            g_ptr_array_add(names, name);
    }
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&names), FALSE);
}

/* ---- capabilities ---- */

struct vol_repair_capabilities *client_parse_capabilities(const char *xml, GError **error)
{
    g_autoptr(xmlDoc) doc = parse(xml, "vol-repair", error);
    g_autofree char *usable = NULL;
    struct vol_repair_capabilities *caps;
    xmlNode *root, *helper;

    if (!doc)
        return NULL;
    root = xmlDocGetRootElement(doc);
    caps = g_new0(struct vol_repair_capabilities, 1);
    caps->version = attribute(root, "version");
    caps->modes = names_in(root, "modes", "mode");
    caps->pools = names_in(root, "pools", "type");
    caps->formats = names_in(root, "formats", "format");
    caps->doors = names_in(root, "doors", "door");
    helper = child_named(root, "helper");
    if (helper) {
        caps->helper = attribute(helper, "path");
        usable = attribute(helper, "usable");
        caps->helper_usable = g_strcmp0(usable, "yes") == 0;
        caps->helper_trouble = attribute(helper, "reason");
    }
    if (!caps->version || !caps->helper || !caps->modes[0]) {
        client_error(error, PROTOCOL, "the daemon's list of capabilities is not complete");
        vol_repair_capabilities_free(caps);
        return NULL;
    }
    return caps;
}

void vol_repair_capabilities_free(struct vol_repair_capabilities *caps)
{
    if (!caps)
        return;
    g_free(caps->version);
    g_strfreev(caps->modes);
    g_strfreev(caps->pools);
    g_strfreev(caps->formats);
    g_strfreev(caps->doors);
    g_free(caps->helper);
    g_free(caps->helper_trouble);
    g_free(caps);
}

char *client_parse_pool_type(const char *xml)
{
    g_autoptr(xmlDoc) doc = parse(xml, "pool", NULL);

    return doc ? attribute(xmlDocGetRootElement(doc), "type") : NULL;
}

/* ---- jobs ---- */

static void job_free(void *opaque)
{
    struct vol_repair_job *job = opaque;

    g_free(job->pool);
    g_free(job->volume);
    g_free(job->phase);
    g_free(job->verdict);
    g_free(job->report);
    g_free(job);
}

/* What only a job that has ended, or only one that runs, has. */
static bool take_state(xmlNode *node, struct vol_repair_job *job)
{
    g_autofree char *state = attribute(node, "state");
    guint64 code = 0;

    job->running = g_strcmp0(state, "running") == 0;
    job->exit_code = -1;
    if (job->running) {
        job->phase = attribute(node, "phase");
        return true;
    }
    job->verdict = attribute(node, "verdict");
    if (g_strcmp0(state, "done") != 0 || !get_number(node, "exit-code", 255, &code))
        return false;
    job->exit_code = code;
    return job->verdict && client_find_name(client_verdict_names, job->verdict) >= 0;
}

static bool take_job(xmlNode *node, struct vol_repair_job *job)
{
    g_autofree char *mode = attribute(node, "mode");
    guint64 id = 0, percent = 0, started = 0;

    job->pool = attribute(node, "pool");
    job->volume = attribute(node, "volume");
    job->report = attribute(node, "report");
    if (!job->volume || !mode || !vol_repair_mode_from_name(mode, &job->mode) ||
        !get_number(node, "id", G_MAXUINT, &id) || !get_number(node, "percent", 100, &percent) ||
        !get_number(node, "started", G_MAXINT64, &started))
        return false;
    job->id = id;
    job->percent = percent;
    job->started = started;
    return take_state(node, job);
}

GPtrArray *client_parse_jobs(const char *xml, GError **error)
{
    g_autoptr(xmlDoc) doc = parse(xml, "vol-repair-jobs", error);
    g_autoptr(GPtrArray) jobs = g_ptr_array_new_with_free_func(job_free);

    if (!doc)
        return NULL;
    for (xmlNode *node = xmlFirstElementChild(xmlDocGetRootElement(doc)); node; node = xmlNextElementSibling(node)) {
        struct vol_repair_job *job = g_new0(struct vol_repair_job, 1);

        g_ptr_array_add(jobs, job);
        if (!xmlStrEqual(node->name, BAD_CAST "job") || !take_job(node, job)) {
            client_error(error, PROTOCOL, "the daemon's list of jobs makes no sense");
            return NULL;
        }
    }
    return g_steal_pointer(&jobs);
}

bool client_parse_abort(const char *xml, unsigned id, gboolean *sent, GError **error)
{
    g_autoptr(xmlDoc) doc = parse(xml, "vol-repair-abort", error);
    g_autofree char *result = NULL;
    guint64 job = 0;

    if (!doc)
        return false;
    result = attribute(xmlDocGetRootElement(doc), "result");
    if (!result || !get_number(xmlDocGetRootElement(doc), "job", G_MAXUINT, &job) || job != id) {
        client_error(error, PROTOCOL, "the daemon's answer to an abort makes no sense");
        return false;
    }
    if (sent)
        *sent = g_str_equal(result, "sent");
    return true;
}

/* ---- options ---- */

guint64 client_parse_token(const char *xml, GError **error)
{
    g_autoptr(xmlDoc) doc = parse(xml, "vol-repair-options", error);
    guint64 token = 0;

    if (doc && (!get_number(xmlDocGetRootElement(doc), "token", G_MAXUINT64, &token) || token == 0))
        client_error(error, PROTOCOL, "the daemon's answer holds no token for the options");
    return token;
}

static void add_text(GString *xml, const char *name, const char *text)
{
    g_autofree char *escaped = text ? g_markup_escape_text(text, -1) : NULL;

    if (escaped)
        g_string_append_printf(xml, "<%s>%s</%s>", name, escaped, name);
}

static void add_number(GString *xml, const char *name, int number)
{
    if (number >= 0)
        g_string_append_printf(xml, "<%s>%d</%s>", name, number, name);
}

char *client_options_xml(const struct vol_repair_options *opts)
{
    GString *xml = g_string_new("<vol-repair request='options'>");

    add_text(xml, "format", opts->format);
    add_text(xml, "accel", opts->accel);
    if (opts->memory)
        g_string_append_printf(xml, "<memory unit='bytes'>%" G_GUINT64_FORMAT "</memory>", opts->memory);
    add_number(xml, "timeout", opts->timeout);
    add_number(xml, "max-messages", opts->max_messages);
    add_text(xml, "undo", opts->undo);
    g_string_append(xml, "</vol-repair>");
    return g_string_free(xml, FALSE);
}
