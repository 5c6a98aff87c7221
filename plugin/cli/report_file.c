/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* report_file.c: --report and --report-fd: the report in a file, whatever the outcome. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

#define READER_WAIT_MS 5000
#define READER_STEP_MS 50

static bool failed(GError **error, const char *path)
{
    g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "Could not write the report '%s': %s", path,
                g_strerror(errno));
    return false;
}

static bool write_all(int fd, const char *text)
{
    size_t left = strlen(text);

    while (left) {
        ssize_t n = write(fd, text, left);

        if (n < 0 && errno != EINTR)
            return false;
        if (n > 0) {
            text += n;
            left -= (size_t)n;
        }
    }
    return true;
}

static bool write_fd(int fd, const char *text, GError **error)
{
    struct stat st;

    /* A pipe has nothing to truncate. */
    if (fstat(fd, &st) < 0 ||
        (S_ISREG(st.st_mode) && (ftruncate(fd, 0) < 0 || lseek(fd, 0, SEEK_SET) < 0)) || !write_all(fd, text))
        return failed(error, "(descriptor)");
    return true;
}

static bool write_file(const char *path, const char *text, GError **error)
{
    g_autofree char *temp = g_strdup_printf("%s.XXXXXX", path);
    int fd = g_mkstemp_full(temp, O_WRONLY | O_CLOEXEC, 0666);
    bool ok;

    if (fd < 0)
        return failed(error, path);
    ok = write_all(fd, text) && fsync(fd) == 0;
    ok = close(fd) == 0 && ok;
    if (ok && rename(temp, path) == 0)
        return true;
    failed(error, path);
    unlink(temp);
    return false;
}

/* /dev/null, /dev/stdout, a FIFO: these are written to, never replaced. */
static bool is_stream(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode));
}

/* Nobody has to read a FIFO, and the image is locked meanwhile: a reader may come a little later, and no later than that. */
static int open_stream(const char *path)
{
    int fd = -1;

    for (unsigned i = 0; i < READER_WAIT_MS / READER_STEP_MS; i++) {
        fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        if (fd >= 0 || errno != ENXIO)
            return fd;
        g_usleep(READER_STEP_MS * 1000);
    }
    return fd;
}

/* Its reader may be slow, but not asleep. */
static bool feed(int fd, const char *text)
{
    size_t left = strlen(text);

    while (left) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        ssize_t n = write(fd, text, left);

        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return false;
        if (n < 0 && errno == EAGAIN && poll(&p, 1, READER_WAIT_MS) == 0) {
            errno = ETIMEDOUT;
            return false;
        }
        text += MAX(n, 0);
        left -= (size_t)MAX(n, 0);
    }
    return true;
}

static bool write_stream(const char *path, const char *text, GError **error)
{
    int fd = open_stream(path);
    bool ok = fd >= 0 && feed(fd, text);

    if (!ok)
        failed(error, path);
    if (fd >= 0)
        close(fd);
    return ok;
}

/* Nothing yet, or a file, which is replaced. Not through a symbolic link: its end is somebody else's choice. */
static bool is_replaceable(const char *path)
{
    struct stat st;

    return lstat(path, &st) < 0 || S_ISREG(st.st_mode);
}

bool report_check_target(const struct options *opt, const struct image *img, GError **error)
{
    if (opt->report && image_is_file(img, opt->report)) {
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "The report '%s' is the image itself", opt->report);
        return false;
    }
    if (opt->report && !is_stream(opt->report) && !is_replaceable(opt->report)) {
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "The report '%s' is neither a file nor a pipe or terminal",
                    opt->report);
        return false;
    }
    if (opt->report_fd >= 0 && (fcntl(opt->report_fd, F_GETFL) < 0 || image_is_fd(img, opt->report_fd))) {
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "--report-fd: descriptor %d cannot take a report",
                    opt->report_fd);
        return false;
    }
    return true;
}

bool report_write(const struct result *res, const struct image *img, GError **error)
{
    const struct options *opt = res->opt;
    g_autofree char *text = NULL;

    /* A target that cannot be was the error of the run already. */
    if ((!opt->report && opt->report_fd < 0) || !report_check_target(opt, img, NULL))
        return true;
    text = report_text(res);
    if (!opt->report)
        return write_fd(opt->report_fd, text, error);
    return is_stream(opt->report) ? write_stream(opt->report, text, error) : write_file(opt->report, text, error);
}
