/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* run.c: the command: finds the volume, runs the job, shows what came of it. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "command.h"

static struct vol_repair_abort *abort_flag;
static volatile sig_atomic_t interrupted;

static void on_signal(int number G_GNUC_UNUSED)
{
    static const char text[] = "\nAborting at a safe point; waiting for the report. (Once more: leave without it.)\n";
    ssize_t n = write(STDERR_FILENO, text, sizeof(text) - 1);

    (void)n;
    interrupted = 1;
    vol_repair_abort_raise(abort_flag);
}

bool run_was_interrupted(void)
{
    return interrupted;
}

static const int end_signals[] = {SIGINT, SIGTERM, SIGHUP};

/* The first signal asks the job to end, the second ends us: the daemon then aborts the job by itself, as safely. */
static void watch_signals(struct sigaction *before)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | (int)SA_RESETHAND};

    for (unsigned i = 0; i < G_N_ELEMENTS(end_signals); i++) {
        sigaction(end_signals[i], NULL, &before[i]);
        if (before[i].sa_handler != SIG_IGN)
            sigaction(end_signals[i], &action, NULL);
    }
}

static void unwatch_signals(const struct sigaction *before)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(end_signals); i++)
        sigaction(end_signals[i], &before[i], NULL);
}

static struct vol_repair_report *run_job(virStorageVolPtr vol, const struct request *req, const struct globals *g,
                                         GError **error)
{
    struct sigaction before[G_N_ELEMENTS(end_signals)];
    struct bar bar = {.on = !req->no_progress && !g->quiet && isatty(STDERR_FILENO)};
    unsigned job = 0;
    struct vol_repair_run run = {.options = &req->options, .progress = bar_progress, .opaque = &bar, .job = &job};
    struct vol_repair_report *report;

    abort_flag = run.abort_flag = vol_repair_abort_new(error);
    if (!abort_flag)
        return NULL;
    watch_signals(before);
    report = vol_repair_run(vol, req->mode, &run, error);
    unwatch_signals(before);
    bar_clear(&bar);
    vol_repair_abort_free(abort_flag);
    if (!report && (report = lost_report(virStorageVolGetConnect(vol), g, job, *error)))
        g_clear_error(error);
    return report;
}

static const char *verb(enum vol_repair_mode mode)
{
    switch (mode) {
    case VOL_REPAIR_CHECK:
        return "check";
    case VOL_REPAIR_UNDO:
        return "undo the repair of";
    default:
        return "repair";
    }
}

/* Where the pool was not named, it belongs in the command that takes a repair back. The connection may be broken. */
static char *pool_of(virStorageVolPtr vol, const struct request *req)
{
    virStoragePoolPtr pool = virStoragePoolLookupByVolume(vol);
    char *name = g_strdup(pool ? virStoragePoolGetName(pool) : req->pool);

    if (pool)
        virStoragePoolFree(pool);
    return name;
}

/* Once, to a person: that the host had no KVM for this job. Who asked for a process knows. */
static void tell_accel(const struct vol_repair_report *report, const struct request *req)
{
    g_autofree char *reason = NULL;

    if (!report->accel_reason || req->accel || !isatty(STDERR_FILENO))
        return;
    reason = g_strescape(report->accel_reason, NULL);
    fprintf(stderr, "no KVM on the daemon's host, a sandboxed process read the image instead: %s\n", reason);
}

static int show_outcome(virStorageVolPtr vol, const struct request *req, const struct vol_repair_report *report,
                        const char *program)
{
    const char *name = virStorageVolGetName(vol);
    g_autofree char *pool = pool_of(vol, req);
    struct shown shown = {.req = req, .again = program, .volume = name, .pool = pool};

    tell_accel(report, req);
    if (report->verdict == VOL_REPAIR_REFUSED || report->verdict == VOL_REPAIR_FAILED) {
        show_error("Failed to %s vol %s", verb(req->mode), name);
        show_error("%s", report->error ? report->error : "the report does not say why");
    }
    if (req->json)
        show_json(report->json);
    else
        show_report(report, &shown);
    return show_arrived() ? report->exit_code : 1;
}

int run_command(const struct request *req, const struct globals *g, const char *program)
{
    g_autoptr(VolRepairReport) report = NULL;
    g_autoptr(GError) error = NULL;
    virConnectPtr conn;
    virStorageVolPtr vol;
    int status = 1;

    if (g->readonly) {
        show_error("command '" EXT_COMMAND "' is not available on a read-only connection (-r)");
        return 1;
    }
    conn = connect_open(g);
    if (!conn)
        return 1;
    vol = connect_find_volume(conn, req);
    if (vol) {
        report = run_job(vol, req, g, &error);
        if (report) {
            status = show_outcome(vol, req, report, program);
        } else {
            show_error("Failed to %s vol %s", verb(req->mode), virStorageVolGetName(vol));
            show_error("%s", error->message);
            status = g_error_matches(error, VOL_REPAIR_ERROR, VOL_REPAIR_ERROR_FORMAT) ? 63 : 1;
        }
        virStorageVolFree(vol);
    }
    virConnectClose(conn);
    return status;
}
