/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* main.c: vol-repair: checks and repairs a disk image, in place of `qemu-img check` and for the libvirt extension. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli.h"
#include "test_hooks.h"

/* A descriptor 0, 1 or 2 that is closed must not become the image. */
static void open_standard_descriptors(void)
{
    int fd;

    do {
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

static int usage_error(const GError *error)
{
    fprintf(stderr, "%s: %s\n", g_get_prgname(), error->message);
    if (error->code == VR_ERROR_USAGE)
        fprintf(stderr, "Try '%s --help' for more information\n", g_get_prgname());
    return EXIT_FAILURE;
}

static void print_error(const struct result *res)
{
    const char *line = res->cli_error ? res->cli_error : res->error;

    if (line)
        fprintf(stderr, "%s: %s\n", g_get_prgname(), line);
}

static void print_json(const struct result *res)
{
    g_autofree char *text = report_text(res);

    fputs(text, stdout);
}

/* Standard output: a document or a summary only where qemu-img has one, and undo's own. */
static void print_result(const struct result *res)
{
    const struct options *opt = res->opt;
    bool undone = res->verdict == VERDICT_UNDONE;

    if (opt->stream || opt->quiet || (!res->qemu_document && !undone))
        return;
    if (opt->json) {
        print_json(res);
        return;
    }
    if (!undone)
        text_print_summary(res);
    if (opt->own_mode)
        text_print_ours(res);
}

static void report_all(struct result *res, const struct image *img)
{
    g_autoptr(GError) error = NULL;

    text_print_findings(res);
    text_print_raw_warning(res);
    print_result(res);
    fflush(stdout);
    print_error(res);
    if (!report_write(res, img, &error)) {
        fprintf(stderr, "%s: %s\n", g_get_prgname(), error->message);
        res->exit_code = EXIT_FAILURE;
    }
    if (res->opt->stream)
        stream_report(res);
}

static int run(const struct options *opt)
{
    g_autoptr(GError) error = NULL;
    struct image img = {.fd = -1};
    struct progress progress;
    struct result res;
    gint64 started = g_get_monotonic_time();
    int exit_code;

    result_init(&res, opt);
    progress_init(&progress, opt);
    if (opt->stream)
        progress.broken = !stream_start(opt);
    if (!job_run(&res, &img, &progress, &error))
        result_fail(&res, error);
    res.us_total = (uint64_t)(g_get_monotonic_time() - started);
    progress_done(&progress);
    report_all(&res, &img);
    exit_code = res.exit_code;
    image_close(&img);
    result_clear(&res);
    return exit_code;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *name = g_path_get_basename(argc ? argv[0] : "vol-repair");
    struct options opt;
    int exit_code = EXIT_SUCCESS;

    g_set_prgname(name);
    open_standard_descriptors();
    hook_options(&argc, argv);
    if (!options_parse(&opt, argc, argv, &error)) {
        exit_code = usage_error(error);
    } else if (opt.show_help) {
        options_print_help();
    } else if (opt.show_version) {
        printf("vol-repair %s\n", VR_VERSION);
    } else {
        exit_code = run(&opt);
    }
    options_clear(&opt);
    /* Output that could not be written is not a success. */
    if (fflush(stdout) || ferror(stdout))
        exit_code = exit_code ? exit_code : EXIT_FAILURE;
    return exit_code;
}
