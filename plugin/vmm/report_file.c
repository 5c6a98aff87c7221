/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* report_file.c: --report and --report-fd: the report in a file, whatever the outcome. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "front.h"

static bool failed(GError **error, const char *path)
{
    g_set_error(error, FRONT_ERROR, FRONT_ERROR_FAILED, "Could not write the report '%s': %s", path,
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

bool report_check_target(const struct options *opt, const struct image *img, GError **error)
{
    if (opt->report && image_is_file(img, opt->report)) {
        g_set_error(error, FRONT_ERROR, FRONT_ERROR_FAILED, "The report '%s' is the image itself", opt->report);
        return false;
    }
    if (opt->report_fd >= 0 && (fcntl(opt->report_fd, F_GETFL) < 0 || image_is_fd(img, opt->report_fd))) {
        g_set_error(error, FRONT_ERROR, FRONT_ERROR_FAILED, "--report-fd: descriptor %d cannot take a report",
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
    return opt->report ? write_file(opt->report, text, error) : write_fd(opt->report_fd, text, error);
}
