/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * run.c: one job from request to report, through the streaming entry point.
 *
 * The stream is used by the calling thread alone. An abort goes another way: a second thread waits for the flag, and
 * asks the daemon over the control entry point to end the job, so that the report of the aborted job still comes. Where
 * that entry point is closed to the caller, the stream is aborted at the next line that arrives.
 */
#include <errno.h>
#include <libvirt/virterror.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "client.h"

#define STREAM_MAGIC 0x7265706169720000ull /* "repair", and 16 bits of operation */
#define STREAM_CHUNK (64 * 1024)

/* ---- the flag ---- */

struct vol_repair_abort {
    int fd; /* an eventfd: readable for ever once it is raised */
};

struct vol_repair_abort *vol_repair_abort_new(GError **error)
{
    struct vol_repair_abort *flag;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (fd < 0) {
        client_error(error, UNSUPPORTED, "no event descriptor can be made: %s", g_strerror(errno));
        return NULL;
    }
    flag = g_new0(struct vol_repair_abort, 1);
    flag->fd = fd;
    return flag;
}

void vol_repair_abort_raise(struct vol_repair_abort *abort_flag)
{
    int saved = errno;
    guint64 one = 1;
    ssize_t n = write(abort_flag->fd, &one, sizeof(one));

    (void)n; /* full is raised too */
    errno = saved;
}

gboolean vol_repair_abort_is_raised(const struct vol_repair_abort *abort_flag)
{
    struct pollfd fd = {.fd = abort_flag->fd, .events = POLLIN};

    return poll(&fd, 1, 0) == 1;
}

void vol_repair_abort_free(struct vol_repair_abort *abort_flag)
{
    if (!abort_flag)
        return;
    close(abort_flag->fd);
    g_free(abort_flag);
}

/* ---- the thread that waits for it ---- */

struct aborter {
    virStorageVolPtr vol;
    enum vol_repair_mode mode;
    int flag_fd;
    int end_fd;         /* eventfd: the run is over */
    int stream_instead; /* atomic: the stream has to be aborted */
    GThread *thread;
};

/* The job's number. 0 where it cannot be told: several clients may check one volume at a time. */
static unsigned find_job(const struct aborter *a, virConnectPtr conn)
{
    virStoragePoolPtr pool = virStoragePoolLookupByVolume(a->vol);
    g_autoptr(GPtrArray) jobs = pool ? vol_repair_list_jobs(conn, NULL) : NULL;
    unsigned id = 0, found = 0;

    for (unsigned i = 0; jobs && i < jobs->len; i++) {
        const struct vol_repair_job *job = g_ptr_array_index(jobs, i);

        if (job->running && job->mode == a->mode && g_strcmp0(job->pool, virStoragePoolGetName(pool)) == 0 &&
            g_str_equal(job->volume, virStorageVolGetName(a->vol))) {
            id = job->id;
            found++;
        }
    }
    if (pool)
        virStoragePoolFree(pool);
    return found == 1 ? id : 0;
}

static void *abort_main(void *opaque)
{
    struct aborter *a = opaque;
    struct pollfd fds[] = {{.fd = a->flag_fd, .events = POLLIN}, {.fd = a->end_fd, .events = POLLIN}};
    virConnectPtr conn = virStorageVolGetConnect(a->vol);
    unsigned id;

    while (poll(fds, 2, -1) < 0 && errno == EINTR)
        ;
    if (fds[1].revents)
        return NULL;
    id = find_job(a, conn);
    if (id == 0 || !vol_repair_abort_job(conn, id, NULL, NULL))
        g_atomic_int_set(&a->stream_instead, 1);
    return NULL;
}

static bool aborter_start(struct aborter *a, GError **error)
{
    a->end_fd = eventfd(0, EFD_CLOEXEC);
    if (a->end_fd >= 0)
        a->thread = g_thread_try_new("vol-repair-abort", abort_main, a, NULL);
    if (a->thread)
        return true;
    if (a->end_fd >= 0)
        close(a->end_fd);
    client_error(error, UNSUPPORTED, "no thread can be started that would abort the job");
    return false;
}

static void aborter_stop(struct aborter *a)
{
    guint64 one = 1;

    while (write(a->end_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
    g_thread_join(a->thread);
    close(a->end_fd);
}

/* ---- the stream ---- */

static bool receive(virStreamPtr st, struct client_lines *lines, const struct aborter *a, GError **error)
{
    g_autofree char *buffer = g_malloc(STREAM_CHUNK);

    for (;;) {
        int n = virStreamRecv(st, buffer, STREAM_CHUNK);

        if (n == 0)
            return true;
        if (n < 0 && lines->report)
            return true; /* nothing is missing */
        if (n < 0) {
            g_autofree char *fate = client_lines_fate(lines);

            client_error(error, LOST, "the connection to the job is lost (%s): %s", virGetLastErrorMessage(), fate);
            return false;
        }
        if (!client_lines_push(lines, buffer, n, error)) {
            virStreamAbort(st);
            return false;
        }
        if (a && g_atomic_int_get(&a->stream_instead) && !lines->report) {
            virStreamAbort(st);
            client_error(error, ABORTED, "aborted; the job ends at a safe point, its report was not waited for");
            return false;
        }
    }
}

/* Without a report that was to be expected: the signal may reach the repair program before it can write one. */
static struct vol_repair_report *end_of_stream(struct client_lines *lines, const struct vol_repair_run *run,
                                               GError **error)
{
    bool silent = !lines->report && !lines->partial->len;

    if (!silent || !run->abort_flag || !vol_repair_abort_is_raised(run->abort_flag))
        return client_lines_end(lines, error);
    client_error(error, ABORTED, lines->started ? "aborted; the job ended without a report" : "aborted");
    return NULL;
}

static struct vol_repair_report *listen(virStreamPtr st, enum vol_repair_mode mode, const struct vol_repair_run *run,
                                        const struct aborter *a, GError **error)
{
    struct vol_repair_report *report = NULL;
    struct client_lines lines;

    client_lines_init(&lines, mode, run->progress, run->opaque);
    if (receive(st, &lines, a, error)) {
        virStreamFinish(st);
        report = end_of_stream(&lines, run, error);
    }
    if (run->job)
        *run->job = lines.job;
    client_lines_clear(&lines);
    return report;
}

/* ---- before the start ---- */

static bool list_has(char **list, const char *name)
{
    return g_strv_contains((const char *const *)list, name);
}

/* NULL where the caller may not see it. */
static char *pool_type_of(virStorageVolPtr vol)
{
    virStoragePoolPtr pool = virStoragePoolLookupByVolume(vol);
    char *xml = pool ? virStoragePoolGetXMLDesc(pool, 0) : NULL;
    char *type = xml ? client_parse_pool_type(xml) : NULL;

    free(xml);
    if (pool)
        virStoragePoolFree(pool);
    return type;
}

static bool serves_pool(virStorageVolPtr vol, const struct vol_repair_capabilities *caps, GError **error)
{
    g_autofree char *type = pool_type_of(vol), *served = NULL;

    if (!type || list_has(caps->pools, type))
        return true;
    served = g_strjoinv(", ", caps->pools);
    client_error(error, UNSUPPORTED,
                 "volume '%s' is in a pool of type '%s'; the vol-repair extension of this host serves the types %s",
                 virStorageVolGetName(vol), type, served);
    return false;
}

/*
 * Asked first, because a stock daemon's own words for the magic offset would mislead. A caller who may not use the
 * control entry point may still repair: libvirt has a right of its own for each of them.
 */
static bool extension_can(virStorageVolPtr vol, enum vol_repair_mode mode, GError **error)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(VolRepairCapabilities) caps = vol_repair_get_capabilities(virStorageVolGetConnect(vol), &why);

    if (!caps) {
        if (g_error_matches(why, VOL_REPAIR_ERROR, VOL_REPAIR_ERROR_LIBVIRT) &&
            virGetLastErrorCode() == VIR_ERR_ACCESS_DENIED)
            return true;
        g_propagate_error(error, g_steal_pointer(&why));
        return false;
    }
    if (!caps->helper_usable)
        client_error(error, UNSUPPORTED, "the storage daemon cannot run its repair program '%s'%s%s", caps->helper,
                     caps->helper_trouble ? ": " : "", caps->helper_trouble ? caps->helper_trouble : "");
    else if (!list_has(caps->modes, vol_repair_mode_name(mode)) || !list_has(caps->doors, "stream"))
        client_error(error, UNSUPPORTED, "the vol-repair extension of this host (version %s) has no mode '%s'",
                     caps->version, vol_repair_mode_name(mode));
    else
        return serves_pool(vol, caps, error);
    return false;
}

static bool is_default(const struct vol_repair_options *opts)
{
    return !opts->format && !opts->accel && !opts->undo && !opts->memory && opts->timeout < 0 && opts->max_messages < 0;
}

static virStreamPtr open_stream(virStorageVolPtr vol, enum vol_repair_mode mode, const struct vol_repair_options *opts,
                                GError **error)
{
    virConnectPtr conn = virStorageVolGetConnect(vol);
    guint64 token = 0;
    virStreamPtr st;

    if (!extension_can(vol, mode, error))
        return NULL;
    if (opts && !is_default(opts)) {
        token = client_send_options(conn, opts, error);
        if (!token)
            return NULL;
    }
    st = virStreamNew(conn, 0);
    if (st && virStorageVolDownload(vol, st, STREAM_MAGIC + mode, token, 0) == 0)
        return st;
    if (virGetLastErrorCode() == VIR_ERR_OPERATION_UNSUPPORTED)
        client_error(error, FORMAT, "%s", virGetLastErrorMessage());
    else
        client_libvirt_error(error, NULL);
    if (st)
        virStreamFree(st);
    return NULL;
}

struct vol_repair_report *vol_repair_run(virStorageVolPtr vol, enum vol_repair_mode mode,
                                         const struct vol_repair_run *run, GError **error)
{
    static const struct vol_repair_run defaults;
    struct vol_repair_report *report = NULL;
    struct aborter a = {.vol = vol, .mode = mode};
    virStreamPtr st;

    g_return_val_if_fail(vol && (unsigned)mode < VOL_REPAIR_MODE_COUNT, NULL);
    run = run ? run : &defaults;
    if (run->job)
        *run->job = 0;
    if (run->abort_flag && vol_repair_abort_is_raised(run->abort_flag)) {
        client_error(error, ABORTED, "aborted before the job was started");
        return NULL;
    }
    st = open_stream(vol, mode, run->options, error);
    if (!st)
        return NULL;
    if (!run->abort_flag) {
        report = listen(st, mode, run, NULL, error);
    } else {
        a.flag_fd = run->abort_flag->fd;
        if (aborter_start(&a, error)) {
            report = listen(st, mode, run, &a, error);
            aborter_stop(&a);
        } else {
            virStreamAbort(st);
        }
    }
    virStreamFree(st);
    return report;
}
