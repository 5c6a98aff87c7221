/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * create_from.c: the create-from entry point. A volume named "<damaged>.repair-<mode>.json", or
 * "<damaged>.repair-<mode>.<format>.json", cloned from the damaged one, is the job's report; the call lasts as long as
 * the job.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "entry.h"

#define PERCENT_BLOCK 4096 /* the report is sparse at first and grows by one block a percent */

/*
 * The mode that the new volume's name asks for; -1 = an ordinary clone. *format: what it names, or NULL. The name is
 * all of a request that libvirt passes on.
 */
static int mode_from_name(const char *report, const char *source, const char **format)
{
    size_t len = strlen(source);

    *format = NULL;
    if (strncmp(report, source, len) != 0)
        return -1;
    for (int mode = 0; mode < MODE_COUNT; mode++) {
        g_autofree char *plain = g_strdup_printf(".repair-%s.json", job_mode_name[mode]);
        g_autofree char *named = g_strdup_printf(".repair-%s.qcow2.json", job_mode_name[mode]);

        if (g_str_equal(report + len, named))
            *format = "qcow2";
        if (*format || g_str_equal(report + len, plain))
            return mode;
    }
    return -1;
}

/* Reports and returns -1. */
static int create_report(const struct volume *report)
{
    int fd = open(report->path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    bool give = geteuid() == 0 && (report->owner >= 0 || report->group >= 0);

    if (fd < 0) {
        vr_error(VIR_ERR_OPERATION_FAILED, "the report '%s' cannot be created: %s", report->path, g_strerror(errno));
        return -1;
    }
    if ((give && fchown(fd, report->owner, report->group) < 0) ||
        (report->mode >= 0 && fchmod(fd, report->mode & 0777) < 0) || ftruncate(fd, 100 * PERCENT_BLOCK) < 0) {
        vr_error(VIR_ERR_OPERATION_FAILED, "the report '%s' cannot be set up: %s", report->path, g_strerror(errno));
        unlink(report->path);
        close(fd);
        return -1;
    }
    return fd;
}

/* Any client sees this in the report's allocation. A file system that cannot do it shows no progress. */
static void show_progress(void *opaque, int percent)
{
    const int *fd = opaque;

    if (percent > 0)
        fallocate(*fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)percent * PERCENT_BLOCK);
}

static void write_report(int fd, const char *text)
{
    size_t len = strlen(text);

    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, len, 0) != (ssize_t)len || fsync(fd) < 0)
        vr_log("a report volume cannot be written: %s", g_strerror(errno));
}

/* The listeners' copy of the report. */
static void copy_report(const struct job *job, int fd)
{
    struct stat st;
    void *text;

    if (fstat(fd, &st) < 0 || st.st_size <= 0 || st.st_size > 64 * 1024 * 1024)
        return;
    text = g_malloc(st.st_size);
    if (pread(fd, text, st.st_size, 0) == st.st_size)
        events_write_report(job, text, st.st_size);
    g_free(text);
}

/* Makes sure that the file is a report, and nothing but that. */
static void settle_report(int fd, const struct job *job, const struct helper_result *result)
{
    struct stat st;
    char first = '\0';

    if (!result->reported || pread(fd, &first, 1, 0) != 1 || first != '{') {
        const char *error = result->reported ? "the report could not be written" : result->error;
        g_autofree char *text = crash_report(job, error, result->may_have_written);

        write_report(fd, text);
    }
    /* Blocks that stood for progress. */
    if (fstat(fd, &st) == 0 && ftruncate(fd, st.st_size) < 0)
        vr_log("a report volume cannot be trimmed: %s", g_strerror(errno));
    if (result->reported)
        copy_report(job, fd);
}

static int run_job(const struct job_request *req)
{
    int fd = req->report_fd;
    struct relay relay = {.client_fd = -1, .on_progress = show_progress, .opaque = &fd};
    struct helper_result result;
    struct spool rest;

    relay.job = job_start(req, &relay.helper);
    if (!relay.job)
        return -1;
    spool_init(&rest);
    relay_run(&relay, &result, &rest);
    spool_clear(&rest);
    settle_report(fd, relay.job, &result);
    job_finish(relay.job, &result);
    job_release(relay.job);
    if (result.never_began) {
        vr_error(result.reported ? VIR_ERR_OPERATION_INVALID : VIR_ERR_OPERATION_FAILED,
                 "volume '%s' was left as it is: %s", req->vol->name, g_strdelimit(result.error, "\n", ' '));
        return -1;
    }
    virResetLastError();
    return 0;
}

/* Whether the new volume can be a report. Reports. */
static bool may_hold_report(const struct volume *report, unsigned int flags)
{
    if (pool_type_holds_devices(report->pool_type)) {
        vr_error(VIR_ERR_INVALID_ARG, "the report '%s' must be in a pool of files, not in one of type '%s'",
                 report->name, report->pool_type);
        return false;
    }
    if (flags != 0) {
        vr_error(VIR_ERR_INVALID_ARG, "a repair report is created without flags, not 0x%x", flags);
        return false;
    }
    if (!g_str_equal(report->format, "raw")) {
        vr_error(VIR_ERR_INVALID_ARG, "the report '%s' must have the format 'raw', not '%s'", report->name,
                 report->format);
        return false;
    }
    return true;
}

/* The slot gets the pool of the new volume, whose directory the damaged one need not be in. */
static void find_pool(struct volume *source)
{
    g_autofree char *dir = g_path_get_dirname(source->path);

    if (!g_str_equal(dir, source->pool_path))
        access_learn_pool(source);
}

int create_from_build_vol(void *pool, void *vol, void *src, unsigned int flags)
{
    g_autoptr(Volume) report = volume_from_defs(pool, vol, false);
    g_autoptr(Volume) source = report ? volume_from_defs(pool, src, false) : NULL;
    struct job_options opts = {.timeout = -1, .max_messages = -1};
    struct job_request req = {.create_from = true, .vol = source, .opts = &opts};
    const struct stock_slots *stock;
    const char *format;
    int mode, ret;

    events_daemon_serves();
    if (!source)
        return -1;
    mode = mode_from_name(report->name, source->name, &format);
    if (mode < 0) {
        stock = guard_reading(pool, src);
        return stock ? stock->build_vol_from(pool, vol, src, flags) : -1;
    }
    if (!may_hold_report(report, flags))
        return -1;
    find_pool(source);
    opts.format = (char *)format;
    req.mode = mode;
    req.report_path = report->path;
    req.report_fd = create_report(report);
    if (req.report_fd < 0)
        return -1;
    ret = run_job(&req);
    close(req.report_fd);
    return ret;
}
