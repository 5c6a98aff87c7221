/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* requests.c: questions to the daemon's extension: what it can do, its jobs, an abort, options for a job. */
#include <libvirt/virterror.h>

#include "client.h"

void client_libvirt_error(GError **error, const char *what)
{
    const char *message = virGetLastErrorMessage();

    if (what)
        client_error(error, LIBVIRT, "%s: %s", what, message);
    else
        client_error(error, LIBVIRT, "%s", message);
}

char *client_control(virConnectPtr conn, const char *request, GError **error)
{
    char *answer = virConnectFindStoragePoolSources(conn, "dir", request, 0), *copy;

    if (!answer && virGetLastErrorCode() == VIR_ERR_NO_SUPPORT) {
        client_error(error, NO_EXTENSION, "the storage daemon of this host has no vol-repair extension");
        return NULL;
    }
    if (!answer) {
        client_libvirt_error(error, NULL);
        return NULL;
    }
    copy = g_strdup(answer);
    free(answer);
    return copy;
}

struct vol_repair_capabilities *vol_repair_get_capabilities(virConnectPtr conn, GError **error)
{
    g_autofree char *answer = client_control(conn, "<vol-repair request='capabilities'/>", error);

    return answer ? client_parse_capabilities(answer, error) : NULL;
}

GPtrArray *vol_repair_list_jobs(virConnectPtr conn, GError **error)
{
    g_autofree char *answer = client_control(conn, "<vol-repair request='jobs'/>", error);

    return answer ? client_parse_jobs(answer, error) : NULL;
}

gboolean vol_repair_abort_job(virConnectPtr conn, unsigned id, gboolean *sent, GError **error)
{
    g_autofree char *request = g_strdup_printf("<vol-repair request='abort' job='%u'/>", id);
    g_autofree char *answer = client_control(conn, request, error);

    return answer && client_parse_abort(answer, id, sent, error);
}

guint64 client_send_options(virConnectPtr conn, const struct vol_repair_options *opts, GError **error)
{
    g_autofree char *request = client_options_xml(opts);
    g_autofree char *answer = client_control(conn, request, error);

    return answer ? client_parse_token(answer, error) : 0;
}
