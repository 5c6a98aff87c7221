/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * job_table.c: the one table of jobs that all entry points share, and what must hold before a job starts.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "jobs.h"

/* At a time; OWNER: of one caller's, so that he leaves some to others. */
#define HELD_MAX 64 /* jobs that run, each a virtual machine, or whose report waits for its client, each a thread and a file */
#define HELD_OWNER 32
#define CREATE_FROM_MAX 4 /* of those: each holds one of the daemon's worker threads */
#define CREATE_FROM_OWNER 2
#define DONE_KEPT 64 /* finished jobs that the list still shows */

const char *const job_mode_name[MODE_COUNT] = {"check", "leaks", "all", "undo"};

/* Newest first; guarded by lock, as are the changing fields of each job. */
static GMutex lock;
static GList *jobs;
static unsigned last_id;

void job_free(struct job *job)
{
    g_free(job->pool);
    g_free(job->pool_path);
    g_free(job->volume);
    g_free(job->path);
    g_free(job->owner);
    g_free(job->event_path);
    g_free(job->report_path);
    g_free(job);
}

/* ---- before the start ---- */

/* libvirt never looks into a device, and neither do we: what is in it is the guest's. Reports and returns false. */
static bool is_qcow2(const struct job_request *req, const char *format)
{
    const struct volume *vol = req->vol;

    if (g_str_equal(format, "qcow2"))
        return true;
    if (pool_type_holds_devices(vol->pool_type))
        vr_error(VIR_ERR_OPERATION_UNSUPPORTED,
                 "libvirt knows no format of volume '%s', because its pool is of type '%s'; the request has to name it: "
                 "--format=qcow2, or a report named '%s.repair-%s.qcow2.json'",
                 vol->name, vol->pool_type, vol->name, job_mode_name[req->mode]);
    else
        vr_error(VIR_ERR_OPERATION_UNSUPPORTED,
                 "volume '%s' has the format '%s', and vol-repair handles qcow2 only; where damage makes libvirt see another "
                 "one, the request can name it: --format=qcow2, or a report named '%s.repair-%s.qcow2.json'",
                 vol->name, format, vol->name, job_mode_name[req->mode]);
    return false;
}

/* Every test that needs no open image. That nobody else uses it is for claim(), and for the helper's locks. */
static bool may_start(const struct job_request *req, const struct config *cfg, const char *format)
{
    if (!cfg->enabled) {
        vr_error(VIR_ERR_OPERATION_UNSUPPORTED, "%s", "vol-repair is switched off on this host (enabled = 0)");
        return false;
    }
    if (req->mode != MODE_UNDO && !is_qcow2(req, format))
        return false;
    if (req->opts && !job_options_are_allowed(req->opts, cfg))
        return false;
    return access_allows(req->vol, req->mode != MODE_CHECK);
}

static struct job *job_new(const struct job_request *req, const struct config *cfg, const struct stat *st)
{
    struct job *job = g_new0(struct job, 1);

    job->mode = req->mode;
    job->create_from = req->create_from;
    /* A device stays as large as it was, and to look for devices anew is slow. */
    job->refresh_source_pool = cfg->refresh_source_pool && !pool_type_holds_devices(req->vol->pool_type);
    job->pool = g_strdup(req->vol->pool);
    job->pool_path = g_strdup(req->vol->pool_path);
    job->volume = g_strdup(req->vol->name);
    job->path = g_strdup(req->vol->path);
    job->owner = identity_caller();
    job->report_path = g_strdup(req->report_path);
    open_identity(st, &job->dev, &job->ino);
    job->size = st->st_size;
    job->patience = cfg->timeout;
    job->started = g_get_real_time() / G_USEC_PER_SEC;
    g_strlcpy(job->phase, job->mode == MODE_UNDO ? "undo" : "check", sizeof(job->phase));
    return job;
}

static bool conflict(const struct job *a, const struct job *b)
{
    return a->dev == b->dev && a->ino == b->ino && (a->mode != MODE_CHECK || b->mode != MODE_CHECK);
}

/* What all callers hold, and one of them. */
struct held {
    unsigned all, owner, create_from, create_from_owner;
};

static struct held count_held(const char *owner)
{
    struct held held = {0};

    for (GList *l = jobs; l; l = l->next) {
        const struct job *other = l->data;
        bool same = g_str_equal(other->owner, owner);

        if (other->retired)
            continue;
        held.all++;
        held.owner += same;
        held.create_from += other->create_from;
        held.create_from_owner += same && other->create_from;
    }
    return held;
}

/* Reports and returns false. */
static bool has_room(const struct job *job)
{
    struct held held = count_held(job->owner);
    bool shares = !identity_is_trusted(job->owner);

    if (held.all >= HELD_MAX || (shares && held.owner >= HELD_OWNER))
        vr_error(VIR_ERR_OPERATION_FAILED,
                 "%u repair jobs are running or have a report that nobody has read, %u of them yours: no more are started at a "
                 "time", held.all, held.owner);
    else if (job->create_from && (held.create_from >= CREATE_FROM_MAX || (shares && held.create_from_owner >= CREATE_FROM_OWNER)))
        vr_error(VIR_ERR_OPERATION_FAILED,
                 "%u repair jobs with a report volume are running, %u of them yours: no more are started at a time",
                 held.create_from, held.create_from_owner);
    else
        return true;
    return false;
}

/* Reads the directory of reports once: not with the table locked. */
static unsigned first_id(void)
{
    bool known;

    g_mutex_lock(&lock);
    known = last_id != 0;
    g_mutex_unlock(&lock);
    return known ? 0 : events_last_id();
}

/*
 * Enters the job in the table, if nothing that runs already stands against it. reports: the directory, or NULL; first: the last
 * number of an earlier daemon, whose report files keep their names. Reports.
 */
static bool claim(struct job *job, const char *reports, unsigned first)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&lock);

    for (GList *l = jobs; l; l = l->next) {
        const struct job *other = l->data;

        if (other->done || !conflict(job, other))
            continue;
        vr_error(VIR_ERR_OPERATION_INVALID, "volume '%s' is in use: job %u (%s) is working on it", job->volume, other->id,
                 job_mode_name[other->mode]);
        return false;
    }
    if (!has_room(job))
        return false;
    last_id = MAX(last_id, first);
    job->id = ++last_id;
    job->event_path = reports ? events_path(reports, job) : NULL;
    jobs = g_list_prepend(jobs, job);
    return true;
}

static void forget(struct job *job)
{
    g_mutex_lock(&lock);
    jobs = g_list_remove(jobs, job);
    g_mutex_unlock(&lock);
    job_free(job);
}

/* What is asked of a job whose helper is not there yet is sent when it is. */
static void abort_locked(struct job *job)
{
    job->abort_asked = true;
    if (job->pid <= 0 || job->abort_sent)
        return;
    job->abort_sent = true;
    kill(job->pid, SIGTERM);
}

struct job *job_start(const struct job_request *req, struct helper *helper)
{
    g_autofree char *error = NULL, *reports = NULL;
    g_autoptr(Config) cfg = config_load(&error);
    const char *format = req->opts && req->opts->format ? req->opts->format : req->vol->format;
    struct spawn sp = {.cfg = cfg, .opts = req->opts, .report_fd = req->report_fd};
    g_autoptr(GPtrArray) notes = NULL;
    struct job *job;
    struct stat st;
    bool started;

    if (!cfg) {
        vr_error(VIR_ERR_CONF_SYNTAX, "%s", error);
        return NULL;
    }
    if (!may_start(req, cfg, format))
        return NULL;
    sp.format = req->mode == MODE_UNDO ? "qcow2" : format;
    sp.image_fd = open_image(req->vol, req->mode != MODE_CHECK, &st);
    if (sp.image_fd < 0)
        return NULL;
    job = job_new(req, cfg, &st);
    reports = events_dir();
    if (!claim(job, reports, first_id())) {
        close(sp.image_fd);
        job_free(job);
        return NULL;
    }
    events_job_named(job, reports);
    sp.job = job;
    notes = notes_collect(req->vol, &st);
    sp.notes = notes;
    started = spawn_helper(&sp, helper);
    close(sp.image_fd);
    if (!started) {
        events_job_withdrawn(job);
        forget(job);
        return NULL;
    }
    g_mutex_lock(&lock);
    job->pid = helper->pid;
    job->spawned = true;
    if (job->abort_asked)
        abort_locked(job);
    g_mutex_unlock(&lock);
    syslog_job_started(job, helper->pid);
    history_save();
    events_job_started(job);
    return job;
}

static bool have_jobs(void)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&lock);

    return jobs != NULL;
}

bool job_stands_against(const struct volume *vol, bool only_reads)
{
    struct stat st;
    dev_t dev;
    ino_t ino;

    /* Not with the table locked: of a file on NFS it may take for ever. */
    if (!have_jobs() || stat(vol->path, &st) < 0)
        return false;
    open_identity(&st, &dev, &ino);

    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&lock);

    for (GList *l = jobs; l; l = l->next) {
        const struct job *job = l->data;

        if (job->done || job->dev != dev || job->ino != ino || (only_reads && job->mode == MODE_CHECK))
            continue;
        vr_error(VIR_ERR_OPERATION_INVALID, "volume '%s' is in use: job %u (%s) is working on it", vol->name, job->id,
                 job_mode_name[job->mode]);
        return true;
    }
    return false;
}

/* ---- while it runs ---- */

bool job_is_running(unsigned long id)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&lock);

    for (GList *l = jobs; l; l = l->next) {
        const struct job *job = l->data;

        if (job->id == id)
            return !job->done;
    }
    return false;
}

void job_progress(struct job *job, const char *phase, int percent)
{
    bool other;

    g_mutex_lock(&lock);
    other = phase[0] && strcmp(phase, job->phase) != 0;
    if (other)
        g_strlcpy(job->phase, phase, sizeof(job->phase));
    job->percent = CLAMP(percent, job->percent, 100);
    g_mutex_unlock(&lock);
    if (other)
        history_save();
}

void job_abort(struct job *job)
{
    g_mutex_lock(&lock);
    abort_locked(job);
    g_mutex_unlock(&lock);
}

int job_reap(struct job *job)
{
    siginfo_t info;
    int status = 0;

    /* Wait first, reap under the lock: so no signal can go to a process number that has a new owner. */
    while (waitid(P_PID, job->pid, &info, WEXITED | WNOWAIT) < 0 && errno == EINTR)
        ;
    g_mutex_lock(&lock);
    if (waitpid(job->pid, &status, 0) < 0)
        status = 1 << 8;
    job->pid = 0;
    g_mutex_unlock(&lock);
    return status;
}

static void drop_oldest_locked(void)
{
    unsigned kept = 0;

    for (GList *l = jobs, *next; l; l = next) {
        struct job *job = l->data;

        next = l->next;
        if (job->retired && ++kept > DONE_KEPT) {
            jobs = g_list_delete_link(jobs, l);
            job_free(job);
        }
    }
}

/* The report that a helper did not live to write. */
static void report_death(const struct job *job, const struct helper_result *result)
{
    g_autofree char *text = crash_report(job, result->error, result->may_have_written);

    vr_log("job %u (%s of '%s') died: %s", job->id, job_mode_name[job->mode], job->path, result->error);
    events_write_report(job, text, strlen(text));
}

void job_finish(struct job *job, const struct helper_result *result)
{
    bool sane = g_str_equal(result->verdict, "clean") || g_str_equal(result->verdict, "repaired");

    if (!result->reported)
        report_death(job, result);
    g_mutex_lock(&lock);
    job->done = job->spawned = true;
    job->percent = 100;
    job->ended = g_get_real_time() / G_USEC_PER_SEC;
    job->exit_code = WIFEXITED(result->status) ? WEXITSTATUS(result->status) : 1;
    g_strlcpy(job->verdict, result->verdict, sizeof(job->verdict));
    g_mutex_unlock(&lock);

    history_save();
    syslog_job_ended(job, result);
    events_job_ended(job, sane && (job->mode == MODE_LEAKS || job->mode == MODE_ALL));
}

void job_release(struct job *job)
{
    g_mutex_lock(&lock);
    job->retired = true;
    drop_oldest_locked();
    g_mutex_unlock(&lock);
}

/* ---- over a restart of the daemon ---- */

void job_restore(struct job *job)
{
    unsigned first = first_id();

    g_mutex_lock(&lock);
    job->retired = job->spawned = job->done;
    jobs = g_list_prepend(jobs, job);
    last_id = MAX(last_id, MAX(job->id, first));
    drop_oldest_locked();
    g_mutex_unlock(&lock);
}

void job_each(void (*visit)(const struct job *job, void *opaque), void *opaque)
{
    g_mutex_lock(&lock);
    for (GList *l = jobs; l; l = l->next)
        visit(l->data, opaque);
    g_mutex_unlock(&lock);
}

/* ---- for the control entry point ---- */

bool job_abort_by_id(unsigned id, const char *caller, bool *sent)
{
    bool found = false;

    g_mutex_lock(&lock);
    for (GList *l = jobs; l && !found; l = l->next) {
        struct job *job = l->data;

        if (job->id != id || !identity_may_see(caller, job->owner))
            continue;
        found = true;
        *sent = job->pid > 0 || !job->spawned;
        abort_locked(job);
    }
    g_mutex_unlock(&lock);
    return found;
}
