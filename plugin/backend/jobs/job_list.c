/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * job_list.c: the list of jobs as the control entry point gives it.
 */
#include "jobs.h"

static void append_attribute(GString *xml, const char *name, const char *value)
{
    g_autofree char *valid = value ? g_utf8_make_valid(value, -1) : NULL;
    g_autofree char *escaped = valid ? g_markup_escape_text(valid, -1) : NULL;

    if (escaped)
        g_string_append_printf(xml, " %s='%s'", name, escaped);
}

static void append_job(GString *xml, const struct job *job)
{
    g_autofree char *report = job->event_path ? g_path_get_basename(job->event_path) : NULL;

    g_string_append_printf(xml, "  <job id='%u' mode='%s'", job->id, job_mode_name[job->mode]);
    append_attribute(xml, "pool", job->pool);
    append_attribute(xml, "volume", job->volume);
    g_string_append_printf(xml, " state='%s' percent='%d'", job->done ? "done" : "running", job->percent);
    append_attribute(xml, "owner", job->owner);
    append_attribute(xml, "report", report);
    if (job->done) {
        append_attribute(xml, "verdict", job->verdict);
        g_string_append_printf(xml, " exit-code='%d' ended='%" G_GINT64_FORMAT "'", job->exit_code, job->ended);
    } else {
        append_attribute(xml, "phase", job->phase);
    }
    g_string_append_printf(xml, " started='%" G_GINT64_FORMAT "'/>\n", job->started);
}

struct list {
    GString *xml;
    const char *caller;
};

static void visit(const struct job *job, void *opaque)
{
    struct list *list = opaque;

    if (identity_may_see(list->caller, job->owner))
        append_job(list->xml, job);
}

char *job_list_xml(const char *caller)
{
    struct list list = {g_string_new("<vol-repair-jobs>\n"), caller};

    job_each(visit, &list);
    g_string_append(list.xml, "</vol-repair-jobs>\n");
    return g_string_free(list.xml, FALSE);
}
