/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * control.c: the control entry point. A search for pool sources of type "dir" carries a small XML request.
 */
#include <libxml/parser.h>
#include <libxml/tree.h>
#include <string.h>
#include <sys/random.h>

#include "entry.h"
#include "vr_abi.h"

G_STATIC_ASSERT(MESSAGES_MAX <= VR_EXAMPLES_MAX);

#define REQUEST_MAX (64 * 1024)
#define TOKENS_MAX 64
#define TOKENS_OWNER 16 /* of one caller */
#define TOKEN_LIFE (60 * G_USEC_PER_SEC)
#define TOKEN_MASK ((1ull << 53) - 1) /* clients may hold numbers as doubles */

struct token {
    unsigned long long number;
    gint64 expires; /* monotonic */
    char *owner;
    struct job_options *opts;
};
static GMutex lock;
static GQueue tokens = G_QUEUE_INIT;

/* ---- option tokens ---- */

static void token_free(struct token *token)
{
    job_options_free(token->opts);
    g_free(token->owner);
    g_free(token);
}

static void expire_locked(void)
{
    struct token *oldest;

    while ((oldest = g_queue_peek_head(&tokens)) && oldest->expires <= g_get_monotonic_time())
        token_free(g_queue_pop_head(&tokens));
}

static bool has_room_locked(const char *owner)
{
    unsigned all = g_queue_get_length(&tokens), own = 0;

    for (GList *l = tokens.head; l; l = l->next)
        own += g_str_equal(((const struct token *)l->data)->owner, owner);
    if (all < TOKENS_MAX && (own < TOKENS_OWNER || identity_is_trusted(owner)))
        return true;
    vr_error(VIR_ERR_OPERATION_FAILED, "%u option sets are waiting for their requests already, %u of them yours", all, own);
    return false;
}

static unsigned long long new_number(void)
{
    unsigned long long number = 0;

    while (number == 0) {
        if (getrandom(&number, sizeof(number), 0) != sizeof(number))
            number = g_get_monotonic_time();
        number &= TOKEN_MASK;
    }
    return number;
}

static char *keep_options(struct job_options *opts)
{
    g_autofree char *owner = identity_caller();
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&lock);
    struct token *token;

    expire_locked();
    if (!has_room_locked(owner)) {
        job_options_free(opts);
        return NULL;
    }
    token = g_new0(struct token, 1);
    *token = (struct token){new_number(), g_get_monotonic_time() + TOKEN_LIFE, g_steal_pointer(&owner), opts};
    g_queue_push_tail(&tokens, token);
    return g_strdup_printf("<vol-repair-options token='%llu'/>\n", token->number);
}

struct job_options *control_take_options(unsigned long long number)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&lock);

    expire_locked();
    for (GList *l = tokens.head; l; l = l->next) {
        struct token *token = l->data;

        if (token->number == number) {
            struct job_options *opts = g_steal_pointer(&token->opts);

            g_queue_delete_link(&tokens, l);
            token_free(token);
            return opts;
        }
    }
    vr_error(VIR_ERR_INVALID_ARG, "there is no option set with the token %llu, or not any more", number);
    return NULL;
}

/* ---- options request ---- */

static bool parse_count(const char *text, gint64 max, int *value)
{
    gint64 number;

    if (!g_ascii_string_to_signed(text, 10, 0, max, &number, NULL))
        return false;
    *value = number;
    return true;
}

static bool is_base_name(const char *text)
{
    return text[0] && text[0] != '.' && !strchr(text, '/') && strlen(text) < 256;
}

/* The helper's own suffixes, from libvirt's unit names. */
static bool parse_memory(const char *text, const char *unit, char **memory)
{
    static const char *const units[][2] = {{"bytes", ""}, {"b", ""}, {"KiB", "K"}, {"MiB", "M"}, {"GiB", "G"}};

    for (size_t i = 0; i < G_N_ELEMENTS(units); i++) {
        if (!g_str_equal(unit, units[i][0]))
            continue;
        *memory = g_strconcat(text, units[i][1], NULL);
        return g_ascii_isdigit(text[0]) && config_memory_is_valid(*memory);
    }
    return false;
}

static bool set_option(struct job_options *opts, const char *name, const char *text, const char *unit)
{
    char **string = NULL;
    bool ok = false;

    if (unit && !g_str_equal(name, "memory"))
        return false;
    if (g_str_equal(name, "format") && !opts->format) {
        ok = g_str_equal(text, "qcow2");
        string = &opts->format;
    } else if (g_str_equal(name, "accel") && !opts->accel) {
        ok = config_accel_is_valid(text);
        string = &opts->accel;
    } else if (g_str_equal(name, "undo") && !opts->undo) {
        ok = is_base_name(text);
        string = &opts->undo;
    } else if (g_str_equal(name, "memory") && !opts->memory) {
        ok = parse_memory(text, unit ? unit : "bytes", &opts->memory);
    } else if (g_str_equal(name, "timeout") && opts->timeout < 0) {
        ok = parse_count(text, 86400, &opts->timeout);
    } else if (g_str_equal(name, "max-messages") && opts->max_messages < 0) {
        ok = parse_count(text, MESSAGES_MAX, &opts->max_messages);
    }
    if (string)
        *string = g_strdup(text);
    return ok;
}

static bool parse_option(xmlNodePtr node, struct job_options *opts)
{
    xmlChar *content = xmlNodeGetContent(node), *unit = xmlGetNoNsProp(node, BAD_CAST "unit");
    g_autofree char *text = g_strstrip(g_strdup(content ? (char *)content : ""));
    bool plain = !node->properties || (unit && !node->properties->next);
    bool ok = plain && !xmlFirstElementChild(node) && set_option(opts, (char *)node->name, text, (char *)unit);

    if (!ok)
        vr_error(VIR_ERR_XML_ERROR, "vol-repair cannot take the option <%s> with the value '%s'", node->name, text);
    xmlFree(content);
    xmlFree(unit);
    return ok;
}

static char *answer_options(xmlNodePtr root)
{
    struct job_options *opts = g_new0(struct job_options, 1);

    opts->timeout = opts->max_messages = -1;
    for (xmlNodePtr node = xmlFirstElementChild(root); node; node = xmlNextElementSibling(node)) {
        if (!parse_option(node, opts)) {
            job_options_free(opts);
            return NULL;
        }
    }
    return keep_options(opts);
}

/* ---- the other requests ---- */

static char *answer_capabilities(const struct config *cfg)
{
    g_autofree char *helper = g_markup_escape_text(cfg->helper, -1);
    g_autofree char *trouble = program_trouble(cfg->helper);
    g_autofree char *reason = trouble ? g_markup_printf_escaped(" reason='%s'", trouble) : g_strdup("");
    GString *xml = g_string_new("<vol-repair version='" VR_VERSION "'>\n  <modes>");

    for (int mode = 0; mode < MODE_COUNT; mode++)
        g_string_append_printf(xml, "<mode name='%s'/>", job_mode_name[mode]);
    g_string_append(xml, "</modes>\n  <pools>");
    stock_append_types(xml);
    g_string_append(xml, "</pools>\n"
                         "  <formats><format name='qcow2'/></formats>\n"
                         "  <doors><door name='stream'/><door name='create'/><door name='control'/>"
                         "<door name='events'/></doors>\n");
    g_string_append_printf(xml, "  <helper path='%s' usable='%s'%s/>\n</vol-repair>\n", helper,
                           trouble ? "no" : "yes", reason);
    return g_string_free(xml, FALSE);
}

static char *answer_abort(const char *id)
{
    g_autofree char *caller = identity_caller();
    guint64 number;
    bool sent = false;

    if (!id || !g_ascii_string_to_unsigned(id, 10, 1, G_MAXUINT, &number, NULL)) {
        vr_error(VIR_ERR_XML_ERROR, "%s", "a vol-repair abort request names the job by its number: job='ID'");
        return NULL;
    }
    if (!job_abort_by_id(number, caller, &sent)) {
        vr_error(VIR_ERR_INVALID_ARG, "there is no repair job %s of yours", id);
        return NULL;
    }
    return g_strdup_printf("<vol-repair-abort job='%s' result='%s'/>\n", id, sent ? "sent" : "done");
}

static char *answer_jobs(void)
{
    g_autofree char *caller = identity_caller();

    return job_list_xml(caller);
}

static char *unknown(const char *what)
{
    vr_error(VIR_ERR_XML_ERROR, "vol-repair does not know the request %s", what);
    return NULL;
}

/* Only `request`, and `job` where that belongs. */
static bool attributes_are_known(xmlNodePtr root, bool with_job)
{
    for (xmlAttrPtr attr = root->properties; attr; attr = attr->next) {
        bool job = xmlStrEqual(attr->name, BAD_CAST "job");

        if (!(job ? with_job : xmlStrEqual(attr->name, BAD_CAST "request")))
            return false;
    }
    return true;
}

/* A copy, which is GLib's to free; NULL where there is none. */
static char *attribute(xmlNodePtr node, const char *name)
{
    xmlChar *value = xmlGetNoNsProp(node, BAD_CAST name);
    char *copy = g_strdup((char *)value);

    xmlFree(value);
    return copy;
}

static char *answer(xmlNodePtr root, const struct config *cfg)
{
    g_autofree char *request = attribute(root, "request");
    g_autofree char *job = attribute(root, "job");
    bool abort_job = request && g_str_equal(request, "abort");
    bool options = request && g_str_equal(request, "options");

    if (!request || !attributes_are_known(root, abort_job) || (!options && xmlFirstElementChild(root)))
        return unknown(request ? request : "without a name");
    if (options)
        return answer_options(root);
    if (abort_job)
        return answer_abort(job);
    if (g_str_equal(request, "capabilities"))
        return answer_capabilities(cfg);
    if (g_str_equal(request, "jobs"))
        return answer_jobs();
    return unknown(request);
}

/* What libvirt says of directories, which have no sources to find. */
static char *not_supported(void)
{
    vr_error(VIR_ERR_NO_SUPPORT, "%s", "pool type 'dir' does not support source discovery");
    return NULL;
}

char *control_find_pool_sources(const char *spec, unsigned int flags G_GNUC_UNUSED)
{
    g_autofree char *error = NULL, *reply = NULL;
    g_autoptr(Config) cfg = NULL;
    xmlDocPtr doc = NULL;
    xmlNodePtr root;

    events_daemon_serves();
    if (!spec || !strstr(spec, "<vol-repair"))
        return not_supported();
    cfg = config_load(&error);
    if (!cfg) {
        vr_error(VIR_ERR_CONF_SYNTAX, "%s", error);
        return NULL;
    }
    if (!cfg->enabled)
        return not_supported();
    /* A document type could define entities; a request has no use for one. */
    if (strlen(spec) <= REQUEST_MAX && !strstr(spec, "<!DOCTYPE"))
        doc = xmlReadMemory(spec, strlen(spec), NULL, "UTF-8",
                            XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_NOCDATA);
    root = doc ? xmlDocGetRootElement(doc) : NULL;
    if (root && xmlStrEqual(root->name, BAD_CAST "vol-repair"))
        reply = answer(root, cfg);
    else
        vr_error(VIR_ERR_XML_ERROR, "%s", "the vol-repair request is not well-formed");
    xmlFreeDoc(doc);
    return g_steal_pointer(&reply);
}
