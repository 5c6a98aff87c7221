/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stream.c: the streaming entry point. A download of the damaged volume at a magic offset starts a job; what the
 * client downloads is the job's progress and report.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "entry.h"

#define MAGIC 0x7265706169720000ull /* "repair", and 16 bits of operation */
#define MAGIC_MASK 0xffffull

static void *session_main(void *opaque)
{
    struct relay *relay = opaque;
    struct helper_result result;
    struct spool rest;

    spool_init(&rest);
    relay_run(relay, &result, &rest);
    job_finish(relay->job, &result);
    relay_drain(relay, &rest);
    spool_clear(&rest);
    job_release(relay->job);
    g_free(relay);
    return NULL;
}

/* Signals stay with the daemon's own threads; a client that went away must show as EPIPE. */
static GThread *start_thread(struct relay *relay)
{
    sigset_t all, before;
    GThread *thread;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread = g_thread_try_new("vol-repair", session_main, relay, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return thread;
}

/* Without a thread nobody would read the helper. It has only just begun, and ends before it writes anything. */
static void give_up(struct relay *relay)
{
    struct helper_result result = {.verdict = "failed", .error = "no thread could be started", .never_began = true};

    job_abort(relay->job);
    close(relay->helper.out);
    close(relay->helper.err);
    close(relay->client_fd);
    result.status = job_reap(relay->job);
    job_finish(relay->job, &result);
    job_release(relay->job);
    g_free(relay);
    vr_error(VIR_ERR_OPERATION_FAILED, "%s", "vol-repair cannot start a thread for the job");
}

static int run_job(virStreamPtr st, const struct job_request *req)
{
    struct relay *relay;
    struct helper helper;
    struct job *job;
    GThread *thread;
    int client[2];

    if (pipe2(client, O_CLOEXEC) < 0) {
        vr_error(VIR_ERR_OPERATION_FAILED, "vol-repair cannot make a pipe: %s", g_strerror(errno));
        return -1;
    }
    job = job_start(req, &helper);
    if (!job) {
        close(client[0]);
        close(client[1]);
        return -1;
    }
    relay = g_new0(struct relay, 1);
    *relay = (struct relay){.job = job, .helper = helper, .client_fd = client[1]};
    thread = start_thread(relay);
    if (!thread) {
        close(client[0]);
        give_up(relay);
        return -1;
    }
    g_thread_unref(thread);
    /* If this fails libvirt has reported it, and the relay finds its client gone. */
    if (lv.fd_stream_open(st, client[0]) < 0) {
        close(client[0]);
        return -1;
    }
    return 0;
}

int stream_download_vol(void *pool, void *vol, virStreamPtr st, unsigned long long offset, unsigned long long length,
                        unsigned int flags)
{
    g_autoptr(JobOptions) opts = NULL;
    g_autoptr(Volume) facts = NULL;
    struct job_request req = {.report_fd = -1};
    const struct stock_slots *stock;
    unsigned op = offset & MAGIC_MASK;

    events_daemon_serves();
    if (access_was_asked())
        return -1;
    if ((offset & ~MAGIC_MASK) != MAGIC) {
        stock = guard_reading(pool, vol);
        return stock ? stock->download_vol(pool, vol, st, offset, length, flags) : -1;
    }
    if (op >= MODE_COUNT) {
        vr_error(VIR_ERR_INVALID_ARG, "vol-repair has no operation %u", op);
        return -1;
    }
    if (flags != 0) {
        vr_error(VIR_ERR_INVALID_ARG, "vol-repair takes no flags, not 0x%x", flags);
        return -1;
    }
    if (length != 0) {
        opts = control_take_options(length);
        if (!opts)
            return -1;
    }
    facts = volume_from_defs(pool, vol, false);
    if (!facts)
        return -1;
    req.mode = op;
    req.vol = facts;
    req.opts = opts;
    return run_job(st, &req);
}
