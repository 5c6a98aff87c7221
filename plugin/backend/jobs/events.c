/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * events.c: the pool `vol-repair` with a file for each job, and the refreshes that tell listeners of it.
 *
 * Refreshes run on a thread of their own: they go through libvirt's public API, as any client's would, and
 * must wait where a pool is busy. Nothing here can fail a job.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "jobs.h"

#define POOL_NAME "vol-repair"
#define FILES_KEPT 64
#define BYTES_KEPT (64u * 1024 * 1024) /* the directory may lie in memory */
#define FILE_NAME_MAX 200
#define TRIES 8 /* of a busy pool: at once, then 0.25 s, 0.5 s, ... 16 s after the one before */

struct refresh {
    char *pool;
    char *dir;  /* a source pool's directory; NULL for the reports pool */
    gint64 due; /* monotonic */
    unsigned tried;
};
static GAsyncQueue *queue;
static gint serving; /* the daemon has let a client in */

/* ---- files ---- */

char *events_dir(void)
{
    g_autofree char *dir = config_reports_dir();
    struct stat st;

    if (g_mkdir_with_parents(dir, 0700) < 0 || lstat(dir, &st) < 0) {
        vr_log("no events: the directory '%s' cannot be made: %s", dir, g_strerror(errno));
        return NULL;
    }
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077)) {
        vr_log("no events: '%s' is not a directory that only this daemon can use", dir);
        return NULL;
    }
    return g_steal_pointer(&dir);
}

/* A volume's name as part of a file's: valid, printable, not too long. */
static char *file_name(const struct job *job)
{
    g_autofree char *valid = g_utf8_make_valid(job->volume, -1);
    GString *name = g_string_new(NULL);

    g_string_printf(name, "job-%u-", job->id);
    for (const char *at = valid; *at && name->len < FILE_NAME_MAX; at = g_utf8_next_char(at)) {
        gunichar c = g_utf8_get_char(at);

        g_string_append_unichar(name, c == '/' || c == 0xFFFD || !g_unichar_isprint(c) ? '_' : c);
    }
    g_string_append(name, ".json");
    return g_string_free(name, FALSE);
}

static int is_report(const struct dirent *entry)
{
    return g_str_has_prefix(entry->d_name, "job-") && g_str_has_suffix(entry->d_name, ".json");
}

static unsigned long id_of(const struct dirent *entry)
{
    return strtoul(entry->d_name + strlen("job-"), NULL, 10);
}

static int by_id(const struct dirent **a, const struct dirent **b)
{
    unsigned long x = id_of(*a), y = id_of(*b);

    return (x > y) - (x < y);
}

static void free_entries(struct dirent **entries, int count)
{
    for (int i = 0; i < count; i++)
        free(entries[i]);
    free(entries);
}

unsigned events_last_id(void)
{
    g_autofree char *dir = config_reports_dir();
    struct dirent **entries = NULL;
    int count = scandir(dir, &entries, is_report, by_id);
    unsigned long last = count > 0 ? id_of(entries[count - 1]) : 0;

    free_entries(entries, MAX(count, 0));
    return last < G_MAXINT ? last : 0;
}

/* Of files and bytes, the newest are kept; so is the newest of all, and what a running job will replace. */
static void drop_oldest(const char *dir)
{
    struct dirent **entries = NULL;
    int count = scandir(dir, &entries, is_report, by_id), files = 0;
    guint64 bytes = 0;

    for (int i = count - 1; i >= 0; i--) {
        g_autofree char *path = g_build_filename(dir, entries[i]->d_name, NULL);
        struct stat st;

        if (lstat(path, &st) < 0)
            continue;
        bytes += st.st_size;
        files++;
        if ((files > FILES_KEPT || bytes > BYTES_KEPT) && i < count - 1 && !job_is_running(id_of(entries[i])))
            unlink(path);
    }
    free_entries(entries, MAX(count, 0));
}

void events_write_report(const struct job *job, const char *text, size_t len)
{
    g_autoptr(GError) error = NULL;

    if (!job->event_path)
        return;
    if (!g_file_set_contents_full(job->event_path, text, len, G_FILE_SET_CONTENTS_CONSISTENT, 0600, &error))
        vr_log("job %u has no report for listeners: %s", job->id, error->message);
}

char *events_path(const char *dir, const struct job *job)
{
    g_autofree char *name = file_name(job);

    return g_build_filename(dir, name, NULL);
}

void events_job_named(const struct job *job, const char *dir)
{
    g_autoptr(GString) line = NULL;

    if (!job->event_path)
        return;
    line = g_string_new("{\"event\":\"start\",\"job\":");
    g_string_append_printf(line, "%u,\"mode\":\"%s\",", job->id, job_mode_name[job->mode]);
    if (job->pool) {
        g_string_append(line, "\"pool\":");
        json_append_string(line, job->pool);
        g_string_append_c(line, ',');
    }
    g_string_append(line, "\"volume\":");
    json_append_string(line, job->volume);
    g_string_append(line, ",\"filename\":");
    json_append_string(line, job->path);
    g_string_append(line, "}\n");
    events_write_report(job, line->str, line->len);
    drop_oldest(dir);
}

/* ---- refreshing ---- */

static void refresh_free(struct refresh *r)
{
    g_free(r->pool);
    g_free(r->dir);
    g_free(r);
}

/* Transient, and of a directory, as we make it: who may define pools must not have us start one for him. */
static bool is_ours(virStoragePoolPtr pool, const char *desc, const char *target)
{
    return desc && g_str_has_prefix(desc, "<pool type='dir'") && strstr(desc, target) && virStoragePoolIsPersistent(pool) == 0;
}

/* Ours: looked up, or made, and never started. NULL where a stranger has taken the name. */
static virStoragePoolPtr open_reports_pool(virConnectPtr conn)
{
    g_autofree char *dir = config_reports_dir(), *escaped = g_markup_escape_text(dir, -1);
    g_autofree char *target = g_strdup_printf("<path>%s</path>", escaped);
    g_autofree char *xml =
        g_strdup_printf("<pool type='dir'><name>" POOL_NAME "</name><target>%s</target></pool>", target);
    virStoragePoolPtr pool = virStoragePoolLookupByName(conn, POOL_NAME);
    char *desc;

    if (!pool)
        return virStoragePoolCreateXML(conn, xml, 0);
    desc = virStoragePoolGetXMLDesc(pool, 0);
    if (!is_ours(pool, desc, target)) {
        vr_log("no events: a storage pool named '" POOL_NAME "' exists that is not the transient one of the directory '%s'", dir);
        virStoragePoolFree(pool);
        pool = NULL;
    }
    free(desc);
    return pool;
}

/*
 * libvirt stops a pool in which it meets the stub of a qcow2 v3 header, and loses sight of a file that it may not open (but may
 * have made, with root_squash); neither must be our doing.
 */
static bool is_poison(const char *path)
{
    static const unsigned char magic[] = {'Q', 'F', 'I', 0xFB, 0, 0, 0};
    unsigned char head[8] = {0};
    struct stat st;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    bool poison = false;

    if (fd < 0)
        return errno == EACCES;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        ssize_t n = pread(fd, head, sizeof(head), 0);

        bool v3 = n == sizeof(head) && memcmp(head, magic, sizeof(magic)) == 0 && head[7] >= 3;

        poison = n < 0 || (v3 && st.st_size < 112);
    }
    close(fd);
    return poison;
}

static bool is_safe_to_refresh(const char *dir)
{
    GDir *entries = g_dir_open(dir, 0, NULL);
    const char *name;
    bool safe = entries != NULL;

    while (safe && (name = g_dir_read_name(entries))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);

        safe = !is_poison(path);
    }
    if (entries)
        g_dir_close(entries);
    return safe;
}

/* True when there is nothing more to do. */
static bool try_refresh(const struct refresh *r)
{
    virConnectPtr conn = virConnectOpen(geteuid() == 0 ? "storage:///system" : "storage:///session");
    virStoragePoolPtr pool = NULL;
    bool done = true;

    /* A daemon that has just started does not serve itself yet. */
    if (!conn)
        return false;
    if (!r->dir)
        pool = open_reports_pool(conn);
    else if (is_safe_to_refresh(r->dir))
        pool = virStoragePoolLookupByName(conn, r->pool);
    if (pool) {
        done = virStoragePoolIsActive(pool) != 1 || virStoragePoolRefresh(pool, 0) == 0;
        virStoragePoolFree(pool);
    }
    virConnectClose(conn);
    virResetLastError();
    return done;
}

static struct refresh *find_pending(GList *pending, const char *pool)
{
    for (GList *l = pending; l; l = l->next) {
        struct refresh *r = l->data;

        if (g_str_equal(r->pool, pool))
            return r;
    }
    return NULL;
}

/*
 * A job of the daemon before this one may end while this one still starts: its storage driver can be connected to before it
 * can be used. There are no listeners then either.
 */
void events_daemon_serves(void)
{
    g_atomic_int_set(&serving, 1);
}

/* Tries at once what has just arrived; a busy pool is tried again later, once for all that wait for it. */
static GList *handle(GList *pending, struct refresh *r)
{
    if (r->due <= g_get_monotonic_time() && g_atomic_int_get(&serving)) {
        if (try_refresh(r) || ++r->tried >= TRIES) {
            refresh_free(r);
            return pending;
        }
        r->due = g_get_monotonic_time() + (G_USEC_PER_SEC / 8 << r->tried);
    }
    if (find_pending(pending, r->pool)) {
        refresh_free(r);
        return pending;
    }
    return g_list_append(pending, r);
}

static void *refresher_main(void *opaque G_GNUC_UNUSED)
{
    GList *pending = NULL;

    identity_become_system();
    for (;;) {
        struct refresh *r = g_async_queue_timeout_pop(queue, pending ? G_USEC_PER_SEC / 10 : G_USEC_PER_SEC * 3600ull);
        GList *due = pending;

        pending = NULL;
        for (GList *l = due; l; l = l->next)
            pending = handle(pending, l->data);
        g_list_free(due);
        if (r)
            pending = handle(pending, r);
    }
    return NULL;
}

static void start_refresher(void)
{
    static gsize once;
    sigset_t all, before;
    GThread *thread;

    if (!g_once_init_enter(&once))
        return;
    queue = g_async_queue_new();
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread = g_thread_try_new("vol-repair-ev", refresher_main, NULL, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (thread)
        g_thread_unref(thread);
    else
        vr_log("no events: the thread for them cannot be started");
    g_once_init_leave(&once, 1);
}

static void want_refresh(const char *pool, const char *dir, gint64 delay)
{
    struct refresh *r = g_new0(struct refresh, 1);

    start_refresher();
    r->pool = g_strdup(pool);
    r->dir = g_strdup(dir);
    r->due = g_get_monotonic_time() + delay;
    g_async_queue_push(queue, r);
}

void events_job_started(const struct job *job)
{
    if (job->event_path)
        want_refresh(POOL_NAME, NULL, 0);
}

void events_job_withdrawn(const struct job *job)
{
    if (job->event_path)
        unlink(job->event_path);
}

void events_job_ended(const struct job *job, bool source_sane)
{
    g_autofree char *dir = job->event_path ? g_path_get_dirname(job->event_path) : NULL;

    if (dir) {
        drop_oldest(dir);
        want_refresh(POOL_NAME, NULL, 0);
    }
    /* A create-from job holds its pool until it has returned. */
    if (source_sane && job->refresh_source_pool && job->pool)
        want_refresh(job->pool, job->pool_path, G_USEC_PER_SEC / 5);
}
