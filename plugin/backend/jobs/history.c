/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * history.c: the job table in a file, so that a daemon which starts again knows the jobs of the one before. libvirt's
 * daemons end by themselves when nobody has asked them anything for two minutes.
 *
 * The file lies beside the directory of reports, not in it: that is a storage pool, and who may write to volumes could
 * make somebody else's job his own. One JSON object a line, newest first.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "jobs.h"

#define INDEX_MAX (4u * 1024 * 1024)
#define LINES_MAX 256
#define REPORT_MAX (64u * 1024 * 1024)
#define STRING_MAX 16384

/* ---- processes ---- */

/* When the process began, in the kernel's own ticks; 0 = there is none of that number. */
static guint64 process_start(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", pid), *text = NULL;
    const char *at;

    if (pid <= 0 || !g_file_get_contents(path, &text, NULL, NULL))
        return 0;
    /* The name, in brackets, may hold anything; the start is the 20th field behind it. */
    at = strrchr(text, ')');
    for (int i = 0; at && i < 20; i++)
        at = strchr(at + 1, ' ');
    return at ? g_ascii_strtoull(at + 1, NULL, 10) : 0;
}

/* Waits for the end of a process that is no child of ours. */
static void wait_for_process(pid_t pid, guint64 start)
{
    int fd = start ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    struct pollfd end = {.fd = fd, .events = POLLIN};

    if (fd < 0)
        return;
    /* Looked at with the descriptor in hand, which cannot come to mean another process. */
    if (process_start(pid) == start) {
        while (poll(&end, 1, -1) < 0 && errno == EINTR)
            ;
    }
    close(fd);
}

/* ---- writing ---- */

/* NULL where others could replace it. */
static char *index_path(void)
{
    g_autofree char *reports = config_reports_dir(), *dir = g_path_get_dirname(reports);
    struct stat st;

    if (lstat(dir, &st) < 0 || !S_ISDIR(st.st_mode) || (st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 022))
        return NULL;
    return g_strconcat(reports, ".jobs", NULL);
}

static void add_text(GString *line, const char *key, const char *text)
{
    if (!text)
        return;
    g_string_append_printf(line, ",\"%s\":", key);
    json_append_string(line, text);
}

/* As text: JSON's numbers are good for 53 bits. */
static void add_number(GString *line, const char *key, guint64 number)
{
    g_string_append_printf(line, ",\"%s\":\"%" G_GUINT64_FORMAT "\"", key, number);
}

static void add_job(const struct job *job, void *opaque)
{
    GString *line = opaque;
    g_autofree char *report = job->event_path ? g_path_get_basename(job->event_path) : NULL;

    g_string_append_printf(line, "{\"job\":\"%u\",\"mode\":\"%s\"", job->id, job_mode_name[job->mode]);
    add_text(line, "owner", job->owner);
    add_text(line, "pool", job->pool);
    add_text(line, "pool-path", job->pool_path);
    add_text(line, "volume", job->volume);
    add_text(line, "path", job->path);
    add_text(line, "report", report);
    add_text(line, "report-path", job->report_path);
    add_text(line, "phase", job->phase);
    add_number(line, "refresh", job->refresh_source_pool);
    add_number(line, "device", job->dev);
    add_number(line, "inode", job->ino);
    add_number(line, "size", job->size);
    add_number(line, "started", job->started);
    add_number(line, "percent", job->percent);
    if (job->done) {
        add_text(line, "verdict", job->verdict);
        add_number(line, "exit-code", job->exit_code);
        add_number(line, "ended", job->ended);
    } else {
        add_number(line, "pid", job->pid);
        add_number(line, "pid-start", process_start(job->pid));
    }
    g_string_append(line, "}\n");
}

/* As a whole or not at all, and not waiting for a disk: a power cut may cost the list, never a job its time. */
static bool replace(const char *path, const GString *text)
{
    g_autofree char *temp = g_strconcat(path, ".new", NULL);
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    bool ok;

    if (fd < 0)
        return false;
    ok = write(fd, text->str, text->len) == (ssize_t)text->len;
    ok = close(fd) == 0 && ok;
    return ok && rename(temp, path) == 0;
}

void history_save(void)
{
    static GMutex writing;
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&writing);
    g_autoptr(GString) text = g_string_new(NULL);
    g_autofree char *path = index_path();

    job_each(add_job, text);
    if (path && !replace(path, text))
        vr_log("the list of jobs cannot be kept in '%s': %s", path, g_strerror(errno));
}

/* ---- reading ---- */

/* An ended job's file, or the index: of ours, and of a size that was bounded when it was written. */
static char *read_file(const char *path, size_t max, size_t *len)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    g_autofree char *text = NULL;
    struct stat st;

    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 022) &&
        (guint64)st.st_size <= max) {
        text = g_malloc0(st.st_size + 1);
        if (read(fd, text, st.st_size) != st.st_size)
            g_clear_pointer(&text, g_free);
        *len = st.st_size;
    }
    close(fd);
    return g_steal_pointer(&text);
}

static char *get_text(const char *line, const char *key)
{
    g_autofree char *text = g_malloc(STRING_MAX);

    return json_find_string(line, strlen(line), key, text, STRING_MAX) ? g_strdup(text) : NULL;
}

static bool get_number(const char *line, const char *key, guint64 max, guint64 *number)
{
    g_autofree char *text = get_text(line, key);

    return text && g_ascii_string_to_unsigned(text, 10, 0, max, number, NULL);
}

static int find_word(const char *const *words, int count, const char *word)
{
    for (int i = 0; word && i < count; i++) {
        if (g_str_equal(words[i], word))
            return i;
    }
    return -1;
}

/* The program may be newer than we are, and know another verdict. */
static bool is_word(const char *text)
{
    return text[0] && strspn(text, "abcdefghijklmnopqrstuvwxyz-") == strlen(text);
}

static bool read_end(const char *line, struct job *job)
{
    g_autofree char *verdict = get_text(line, "verdict");
    guint64 code = 0, ended = 0;

    job->done = verdict != NULL;
    if (!job->done)
        return true;
    if (!is_word(verdict) || !get_number(line, "exit-code", 255, &code) ||
        !get_number(line, "ended", G_MAXINT64, &ended))
        return false;
    g_strlcpy(job->verdict, verdict, sizeof(job->verdict));
    job->exit_code = code;
    job->ended = ended;
    return true;
}

static bool read_start(const char *line, struct job *job, const char *reports)
{
    g_autofree char *mode = get_text(line, "mode"), *report = get_text(line, "report"),
                    *phase = get_text(line, "phase");
    guint64 id = 0, started = 0, percent = 0, device = 0, inode = 0, refresh = 0;
    int which = find_word(job_mode_name, MODE_COUNT, mode);

    if (which < 0 || !phase || !get_number(line, "job", G_MAXINT, &id) || id == 0 ||
        !get_number(line, "started", G_MAXINT64, &started) || !get_number(line, "percent", 100, &percent) ||
        !get_number(line, "device", G_MAXUINT64, &device) || !get_number(line, "inode", G_MAXUINT64, &inode) ||
        !get_number(line, "size", G_MAXUINT64, &job->size) || !get_number(line, "refresh", 1, &refresh))
        return false;
    job->id = id;
    job->mode = which;
    job->started = started;
    job->percent = percent;
    job->dev = device;
    job->ino = inode;
    job->refresh_source_pool = refresh;
    g_strlcpy(job->phase, phase, sizeof(job->phase));
    if (report && g_str_has_prefix(report, "job-") && !strchr(report, '/'))
        job->event_path = g_build_filename(reports, report, NULL);
    job->owner = get_text(line, "owner");
    job->pool = get_text(line, "pool");
    job->pool_path = get_text(line, "pool-path");
    job->volume = get_text(line, "volume");
    job->path = get_text(line, "path");
    job->report_path = get_text(line, "report-path");
    job->create_from = job->report_path != NULL;
    return job->owner && job->volume && job->path;
}

/* ---- jobs that have outlived their daemon ---- */

struct orphan {
    struct job *job;
    pid_t pid;
    guint64 start;
};

/* What its own report says; where there is none, it was killed as well. */
static void learn_end(const struct job *job, struct helper_result *result)
{
    const char *path = job->report_path ? job->report_path : job->event_path;
    size_t len = 0;
    g_autofree char *text = path ? read_file(path, REPORT_MAX, &len) : NULL;
    int code = 1;

    if (text && text[0] == '{' && json_find_int(text, len, "exit-code", &code))
        helper_take_report(result, text, len);
    result->status = (code & 255) << 8;
    if (result->reported)
        return;
    result->may_have_written = result->image_changed =
        job->mode != MODE_CHECK && !g_str_equal(job->phase, "check") && !g_str_equal(job->phase, "verify");
    g_strlcpy(result->verdict, "failed", sizeof(result->verdict));
    g_strlcpy(result->error, "the repair program was killed, and so was the storage daemon", sizeof(result->error));
}

static void *orphan_main(void *opaque)
{
    struct orphan *orphan = opaque;
    struct helper_result result = {0};

    wait_for_process(orphan->pid, orphan->start);
    learn_end(orphan->job, &result);
    job_finish(orphan->job, &result);
    g_free(orphan);
    return NULL;
}

/* It ends soon: nobody reads what it says, so it stops at a safe point. */
static void adopt(struct job *job, const char *line)
{
    struct orphan *orphan = g_new0(struct orphan, 1);
    guint64 pid = 0;
    GThread *thread;

    get_number(line, "pid", G_MAXINT, &pid);
    get_number(line, "pid-start", G_MAXUINT64, &orphan->start);
    orphan->job = job;
    orphan->pid = pid;
    thread = g_thread_try_new("vol-repair-orph", orphan_main, orphan, NULL);
    if (thread)
        g_thread_unref(thread);
    else
        orphan_main(orphan);
}

void history_load(void)
{
    g_autofree char *path = index_path(), *reports = config_reports_dir();
    size_t len = 0;
    g_autofree char *text = path ? read_file(path, INDEX_MAX, &len) : NULL;
    g_auto(GStrv) lines = text ? g_strsplit(text, "\n", LINES_MAX) : NULL;

    for (unsigned i = lines ? g_strv_length(lines) : 0; i > 0; i--) {
        struct job *job = g_new0(struct job, 1);
        bool done;

        if (!read_start(lines[i - 1], job, reports) || !read_end(lines[i - 1], job)) {
            job_free(job);
            continue;
        }
        done = job->done;
        job_restore(job);
        if (!done)
            adopt(job, lines[i - 1]);
    }
}
