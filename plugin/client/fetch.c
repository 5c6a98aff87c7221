/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fetch.c: the report of a job that somebody has lost sight of, out of the daemon's pool of reports. */
#include <libvirt/virterror.h>
#include <string.h>

#include "client.h"

#define POOL_NAME "vol-repair"
#define CHUNK (64 * 1024)

static const struct vol_repair_job *find_job(GPtrArray *jobs, unsigned id, GError **error)
{
    for (unsigned i = 0; i < jobs->len; i++) {
        const struct vol_repair_job *job = g_ptr_array_index(jobs, i);

        if (job->id != id)
            continue;
        if (job->running)
            client_error(error, RUNNING, "job %u has not ended yet", id);
        else if (!job->report)
            client_error(error, NO_REPORT, "the report of job %u was not kept", id);
        else
            return job;
        return NULL;
    }
    client_error(error, NO_REPORT, "the daemon knows no job %u of yours", id);
    return NULL;
}

/* libvirt may not have looked into the directory since the file came. */
static virStorageVolPtr find_volume(virConnectPtr conn, const char *name)
{
    virStoragePoolPtr pool = virStoragePoolLookupByName(conn, POOL_NAME);
    virStorageVolPtr vol = NULL;

    if (pool) {
        virStoragePoolRefresh(pool, 0);
        vol = virStorageVolLookupByName(pool, name);
        virStoragePoolFree(pool);
    }
    return vol;
}

static bool read_all(virStreamPtr st, GString *text)
{
    g_autofree char *buffer = g_malloc(CHUNK);
    int n;

    while ((n = virStreamRecv(st, buffer, CHUNK)) > 0) {
        if (text->len + (unsigned)n > CLIENT_REPORT_MAX) {
            virStreamAbort(st);
            return false;
        }
        g_string_append_len(text, buffer, n);
    }
    return n == 0 && virStreamFinish(st) == 0;
}

static bool download(virConnectPtr conn, const char *name, GString *text)
{
    virStorageVolPtr vol = find_volume(conn, name);
    virStreamPtr st = vol ? virStreamNew(conn, 0) : NULL;
    bool ok = st && virStorageVolDownload(vol, st, 0, 0, 0) == 0 && read_all(st, text);

    if (st)
        virStreamFree(st);
    if (vol)
        virStorageVolFree(vol);
    return ok;
}

struct vol_repair_report *vol_repair_get_report(virConnectPtr conn, unsigned id, GError **error)
{
    g_autoptr(GPtrArray) jobs = vol_repair_list_jobs(conn, error);
    const struct vol_repair_job *job = jobs ? find_job(jobs, id, error) : NULL;
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(JsonNode) node = NULL;

    if (!job)
        return NULL;
    if (!download(conn, job->report, text)) {
        client_error(error, NO_REPORT, "the report of job %u cannot be read: %s", id, virGetLastErrorMessage());
        return NULL;
    }
    /* The file is a text, the parser wants the one object that is in it. */
    while (text->len && g_ascii_isspace(text->str[text->len - 1]))
        g_string_truncate(text, text->len - 1);
    g_strdelimit(text->str, "\n", ' ');
    node = client_parse_json(text->str, text->len, error);
    return node ? client_parse_report(node, job->mode, error) : NULL;
}
