/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* lost.c: a job that ended without its client: asks for its report, of a daemon that may have to start again first. */
#include <libvirt/virterror.h>

#include "command.h"

#define PATIENCE (10 * G_USEC_PER_SEC) /* with a daemon that is not there */
#define PAUSE (G_USEC_PER_SEC / 4)

/* A new connection: the old one is of no use any more. *running: the daemon is there, and so is the job. */
static struct vol_repair_report *ask_again(const struct globals *g, unsigned job, bool *running)
{
    g_autoptr(GError) error = NULL;
    virConnectPtr conn = virConnectOpenAuth(g->uri, virConnectAuthPtrDefault, 0);
    struct vol_repair_report *report = conn ? vol_repair_get_report(conn, job, &error) : NULL;

    *running = g_error_matches(error, VOL_REPAIR_ERROR, VOL_REPAIR_ERROR_RUNNING);
    if (conn)
        virConnectClose(conn);
    return report;
}

static struct vol_repair_report *wait_for_daemon(const struct globals *g, unsigned job)
{
    gint64 deadline = g_get_monotonic_time() + PATIENCE;

    if (!g->quiet)
        fprintf(stderr, "The connection to job %u is lost; waiting for the storage daemon to come back.\n", job);
    while (g_get_monotonic_time() < deadline) {
        bool running;
        struct vol_repair_report *report = ask_again(g, job, &running);

        if (report)
            return report;
        /* A program that writes finishes that, however long it takes. */
        if (running)
            deadline = g_get_monotonic_time() + PATIENCE;
        g_usleep(PAUSE);
    }
    return NULL;
}

struct vol_repair_report *lost_report(virConnectPtr conn, const struct globals *g, unsigned job, const GError *error)
{
    if (job == 0)
        return NULL;
    if (g_error_matches(error, VOL_REPAIR_ERROR, VOL_REPAIR_ERROR_NO_REPORT))
        return vol_repair_get_report(conn, job, NULL);
    if (g_error_matches(error, VOL_REPAIR_ERROR, VOL_REPAIR_ERROR_LOST))
        return wait_for_daemon(g, job);
    return NULL;
}
