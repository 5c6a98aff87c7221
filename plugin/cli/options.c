/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* options.c: the command line: that of `qemu-img check`, and our own options. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

/* Long options without a letter. */
enum {
    OPT_OUTPUT = 256,
    OPT_IMAGE_OPTS,
    OPT_OBJECT,
    OPT_MODE,
    OPT_UNDO,
    OPT_UNDO_MAX_COUNT,
    OPT_UNDO_MAX_TOTAL,
    OPT_UNDO_MAX_BYTES,
    OPT_UNDO_MAX_AGE,
    OPT_ACCEL,
    OPT_MEMORY,
    OPT_TIMEOUT,
    OPT_REPORT,
    OPT_REPORT_FD,
    OPT_MAX_MESSAGES,
    OPT_STREAM,
    OPT_IMAGE_FD,
    OPT_NAME,
    OPT_USER,
    OPT_NOTE,
    OPT_FORCE_LEAKS,
};

static const struct option long_options[] = {
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {"format", required_argument, NULL, 'f'},
    {"repair", required_argument, NULL, 'r'},
    {"cache", required_argument, NULL, 'T'},
    {"quiet", no_argument, NULL, 'q'},
    {"force-share", no_argument, NULL, 'U'},
    {"progress", no_argument, NULL, 'p'},
    {"output", required_argument, NULL, OPT_OUTPUT},
    {"image-opts", no_argument, NULL, OPT_IMAGE_OPTS},
    {"object", required_argument, NULL, OPT_OBJECT},
    {"mode", required_argument, NULL, OPT_MODE},
    {"undo", required_argument, NULL, OPT_UNDO},
    {"undo-max-count", required_argument, NULL, OPT_UNDO_MAX_COUNT},
    {"undo-max-total", required_argument, NULL, OPT_UNDO_MAX_TOTAL},
    {"undo-max-bytes", required_argument, NULL, OPT_UNDO_MAX_BYTES},
    {"undo-max-age", required_argument, NULL, OPT_UNDO_MAX_AGE},
    {"accel", required_argument, NULL, OPT_ACCEL},
    {"memory", required_argument, NULL, OPT_MEMORY},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"report", required_argument, NULL, OPT_REPORT},
    {"report-fd", required_argument, NULL, OPT_REPORT_FD},
    {"max-messages", required_argument, NULL, OPT_MAX_MESSAGES},
    {"stream", no_argument, NULL, OPT_STREAM},
    {"image-fd", required_argument, NULL, OPT_IMAGE_FD},
    {"name", required_argument, NULL, OPT_NAME},
    {"user", required_argument, NULL, OPT_USER},
    {"note", required_argument, NULL, OPT_NOTE},
    {"force-leaks", no_argument, NULL, OPT_FORCE_LEAKS},
    {NULL, 0, NULL, 0},
};

void options_print_help(void)
{
    printf("Usage: %s [check] [OPTION]... FILE\n"
           "Check and repair a qcow2 disk image that no virtual machine uses.\n"
           "\n"
           "As qemu-img check:\n"
           "  -f, --format FMT       format of FILE (qcow2); it is probed without\n"
           "  -r, --repair WHAT      repair: 'leaks' or 'all'\n"
           "      --output FMT       'human' or 'json'\n"
           "      --image-opts       FILE is an option string: driver=qcow2,file.filename=...\n"
           "  -T, --cache MODE       accepted, without effect\n"
           "  -U, --force-share      check an image that is in use (takes no lock)\n"
           "  -q, --quiet            print findings and errors only\n"
           "\n"
           "Our own:\n"
           "      --mode MODE        check, leaks, all, or undo the last repair; says more than -r\n"
           "      --force-leaks      free what looks leaked even where part of the map cannot be read\n"
           "      --undo FILE        undo journal: where a repair keeps it, which one undo rolls back\n"
           "      --undo-max-count N     undo journals kept of an image (8)\n"
           "      --undo-max-total N     and in all (1000)\n"
           "      --undo-max-bytes SIZE  and their bytes (4G)\n"
           "      --undo-max-age DAYS    and their age (90; 0 = for ever)\n"
           "      --accel ACCEL      kvm, process (no KVM: a sandboxed process), auto (kvm where it can be had)\n"
           "      --memory SIZE      memory of guest and VMM together (256M)\n"
           "      --timeout SECONDS  stop when nothing progresses for so long (30; 0 = never)\n"
           "      --max-messages N   examples for each problem (100)\n"
           "      --report FILE      write the report, in JSON, into FILE\n"
           "      --report-fd N      the same, to an open descriptor\n"
           "      --note ID:NAME     a remark for the report: managed-save or overlay, and whose\n"
           "      --stream           JSON lines on standard output: progress, then the report\n"
           "      --image-fd N       the image is open already on this descriptor\n"
           "      --name TEXT        what messages and the report call the image\n"
           "      --user USER[:GROUP] whom the repairer runs as where root starts it (nobody)\n"
           "  -p, --progress         show progress even if standard error is no terminal\n"
           "  -h, --help\n"
           "  -V, --version\n"
           "\n"
           "Exit status: 0 clean, 1 failed or refused, 2 corruptions remain, 3 leaks remain,\n"
           "63 not an image that can be checked.\n",
           g_get_prgname());
}

void options_clear(struct options *opt)
{
    g_free(opt->format);
    g_free(opt->filename);
    g_free(opt->path);
    g_free(opt->name);
    g_free(opt->undo);
    g_free(opt->report);
    g_free(opt->user);
    g_clear_pointer(&opt->notes, g_ptr_array_unref);
    memset(opt, 0, sizeof(*opt));
}

static void options_default(struct options *opt)
{
    memset(opt, 0, sizeof(*opt));
    opt->mode = FRONT_CHECK;
    opt->accel = VMM_ACCEL_AUTO;
    opt->memory = UINT64_C(256) << 20;
    opt->timeout = 30;
    opt->examples = 100;
    opt->undo_max_count = 8;
    opt->undo_max_total = 1000;
    opt->undo_max_bytes = UINT64_C(4) << 30;
    opt->undo_max_age = 90;
    opt->image_fd = -1;
    opt->report_fd = -1;
    opt->notes = g_ptr_array_new_with_free_func(g_free);
}

/* ---- values with a short list of words ------------------------------------------------------------- */

static bool take_repair(struct options *opt, const char *value, GError **error)
{
    if (g_str_equal(value, "leaks")) {
        opt->mode = FRONT_LEAKS;
    } else if (g_str_equal(value, "all")) {
        opt->mode = FRONT_ALL;
    } else {
        g_set_error(error, VR_ERROR, VR_ERROR_USAGE,
                    "Unknown option value for -r (expecting 'leaks' or 'all'): %s", value);
        return false;
    }
    return true;
}

static bool take_mode(struct options *opt, const char *value, GError **error)
{
    for (int mode = FRONT_CHECK; mode <= FRONT_UNDO; mode++) {
        if (g_str_equal(value, options_mode_name(mode))) {
            opt->mode = mode;
            opt->own_mode = true;
            return true;
        }
    }
    g_set_error(error, VR_ERROR, VR_ERROR_USAGE, "--mode expects 'check', 'leaks', 'all' or 'undo', not '%s'",
                value);
    return false;
}

static bool take_output(struct options *opt, const char *value, GError **error)
{
    opt->json = g_str_equal(value, "json");
    if (opt->json || g_str_equal(value, "human"))
        return true;
    g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "--output must be used with human or json as argument.");
    return false;
}

static bool take_cache(const char *value, GError **error)
{
    static const char *const modes[] = {"none", "off", "directsync", "writeback", "unsafe", "writethrough"};

    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        if (g_str_equal(value, modes[i]))
            return true;
    }
    g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "Invalid source cache option: %s", value);
    return false;
}

static bool take_accel(struct options *opt, const char *value, GError **error)
{
    if (g_str_equal(value, "auto")) {
        opt->accel = VMM_ACCEL_AUTO;
    } else if (g_str_equal(value, "kvm")) {
        opt->accel = VMM_ACCEL_KVM;
    } else if (g_str_equal(value, "process")) {
        opt->accel = VMM_ACCEL_PROCESS;
    } else {
        g_set_error(error, VR_ERROR, VR_ERROR_USAGE, "--accel expects 'kvm', 'process' or 'auto', not '%s'",
                    value);
        return false;
    }
    return true;
}

static bool take_number(const char *option, const char *value, uint64_t max, uint64_t *number, GError **error)
{
    if (number_parse(value, 0, max, number))
        return true;
    g_set_error(error, VR_ERROR, VR_ERROR_USAGE, "%s expects a number from 0 to %" G_GUINT64_FORMAT ", not '%s'",
                option, max, value);
    return false;
}

static bool take_limit(struct options *opt, int letter, const char *value, GError **error)
{
    if (letter == OPT_UNDO_MAX_AGE)
        return take_number("--undo-max-age", value, 36500, &opt->undo_max_age, error);
    if (letter == OPT_UNDO_MAX_BYTES && size_parse(value, &opt->undo_max_bytes) && opt->undo_max_bytes)
        return true;
    if (letter == OPT_UNDO_MAX_COUNT && number_parse(value, 1, 10000, &opt->undo_max_count))
        return true;
    if (letter == OPT_UNDO_MAX_TOTAL && number_parse(value, 1, 10000, &opt->undo_max_total))
        return true;
    g_set_error(error, VR_ERROR, VR_ERROR_USAGE,
                letter == OPT_UNDO_MAX_BYTES ? "--undo-max-bytes expects a size such as 4G, not '%s'"
                                             : "--undo-max-count and --undo-max-total expect a number from 1 to 10000, not '%s'",
                value);
    return false;
}

/* ---- the table of letters --------------------------------------------------------------------------- */

static bool take_numeric(struct options *opt, int letter, const char *value, GError **error)
{
    uint64_t number = 0;

    switch (letter) {
    case OPT_MEMORY:
        if (size_parse(value, &opt->memory))
            return true;
        g_set_error(error, VR_ERROR, VR_ERROR_USAGE, "--memory expects a size such as 256M, not '%s'", value);
        return false;
    case OPT_TIMEOUT:
        if (!take_number("--timeout", value, 86400, &number, error))
            return false;
        opt->timeout = (unsigned)number;
        return true;
    case OPT_MAX_MESSAGES:
        if (!take_number("--max-messages", value, VR_EXAMPLES_MAX, &number, error))
            return false;
        opt->examples = (uint32_t)number;
        return true;
    case OPT_IMAGE_FD:
        if (!take_number("--image-fd", value, G_MAXINT, &number, error))
            return false;
        opt->image_fd = (int)number;
        return true;
    default:
        if (!take_number("--report-fd", value, G_MAXINT, &number, error))
            return false;
        opt->report_fd = (int)number;
        return true;
    }
}

static bool take_switch(struct options *opt, int letter)
{
    switch (letter) {
    case 'h':
        opt->show_help = true;
        return true;
    case 'V':
        opt->show_version = true;
        return true;
    case 'q':
        opt->quiet = true;
        return true;
    case 'U':
        opt->force_share = true;
        return true;
    case 'p':
        opt->progress = PROGRESS_ALWAYS;
        return true;
    case OPT_IMAGE_OPTS:
        opt->image_opts = true;
        return true;
    case OPT_STREAM:
        opt->stream = true;
        return true;
    case OPT_FORCE_LEAKS:
        opt->force_leaks = true;
        return true;
    default:
        return false;
    }
}

static bool take_option(struct options *opt, int letter, const char *value, GError **error)
{
    if (take_switch(opt, letter))
        return true;
    switch (letter) {
    case 'f':
        string_set(&opt->format, value);
        return true;
    case 'r':
        return take_repair(opt, value, error);
    case 'T':
        return take_cache(value, error);
    case OPT_OUTPUT:
        return take_output(opt, value, error);
    case OPT_MODE:
        return take_mode(opt, value, error);
    case OPT_ACCEL:
        return take_accel(opt, value, error);
    case OPT_UNDO:
        string_set(&opt->undo, value);
        return true;
    case OPT_UNDO_MAX_COUNT:
    case OPT_UNDO_MAX_TOTAL:
    case OPT_UNDO_MAX_BYTES:
    case OPT_UNDO_MAX_AGE:
        return take_limit(opt, letter, value, error);
    case OPT_REPORT:
        string_set(&opt->report, value);
        return true;
    case OPT_NAME:
        string_set(&opt->name, value);
        return true;
    case OPT_USER:
        string_set(&opt->user, value);
        return true;
    case OPT_NOTE:
        return notes_take(opt->notes, value, error);
    case OPT_OBJECT:
        return object_parse(value, error);
    default:
        return take_numeric(opt, letter, value, error);
    }
}

/* ---- rules between options --------------------------------------------------------------------------- */

static bool refuse(GError **error, const char *text)
{
    g_set_error(error, VR_ERROR, VR_ERROR_USAGE, "%s", text);
    return false;
}

static bool check_together(const struct options *opt, bool repair_given, GError **error)
{
    if (opt->own_mode && repair_given)
        return refuse(error, "-r and --mode are mutually exclusive");
    if (opt->image_fd >= 0 && opt->image_opts)
        return refuse(error, "--image-fd and --image-opts are mutually exclusive");
    if (opt->report && opt->report_fd >= 0)
        return refuse(error, "--report and --report-fd are mutually exclusive");
    if (opt->report && opt->undo && g_str_equal(opt->report, opt->undo))
        return refuse(error, "--report and --undo name the same file");
    if (opt->stream && opt->json)
        return refuse(error, "--stream and --output=json are mutually exclusive");
    return true;
}

/* `file:` and `host_device:` are the two protocols that mean a file of this host. */
static bool path_from_filename(struct options *opt, GError **error)
{
    static const char *const local[] = {"file:", "host_device:"};
    const char *name = opt->filename;
    size_t before_colon = strcspn(name, ":/");

    for (size_t i = 0; i < G_N_ELEMENTS(local); i++) {
        if (g_str_has_prefix(name, local[i])) {
            string_set(&opt->path, name + strlen(local[i]));
            return true;
        }
    }
    if (opt->image_fd < 0 && name[before_colon] == ':') {
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED,
                    "Could not open '%s': Unknown protocol '%.*s'; only files and block devices of this host can be "
                    "checked (a file of this name: ./%s)",
                    name, (int)before_colon, name, name);
        return false;
    }
    if (!*name) {
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED,
                    "Could not open '': The 'file' block driver requires a file name");
        return false;
    }
    string_set(&opt->path, name);
    return true;
}

static bool take_file(struct options *opt, const char *argument, GError **error)
{
    GError *local = NULL;

    opt->filename = g_strdup(argument);
    if (!opt->image_opts)
        return path_from_filename(opt, error);
    if (opt->format) {
        g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "--image-opts and --format are mutually exclusive");
        return false;
    }
    if (image_opts_parse(argument, opt, &local))
        return true;
    g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "Could not open '%s': %s", argument, local->message);
    g_error_free(local);
    return false;
}

bool options_parse(struct options *opt, int argc, char **argv, GError **error)
{
    bool repair_given = false;
    int letter;

    options_default(opt);
    if (argc > 1 && g_str_equal(argv[1], "check")) {
        argc--;
        argv++;
    }
    optind = 0; /* GNU: start afresh, the tests parse more than once */
    while ((letter = getopt_long(argc, argv, ":hVf:r:T:qUp", long_options, NULL)) != -1) {
        if (letter == '?' || letter == ':') {
            g_set_error(error, VR_ERROR, VR_ERROR_USAGE,
                        letter == ':' ? "missing argument for option '%s'" : "unrecognized option '%s'",
                        argv[optind - 1]);
            return false;
        }
        repair_given = repair_given || letter == 'r';
        if (!take_option(opt, letter, optarg, error))
            return false;
        if (opt->show_help || opt->show_version)
            return true;
    }
    if (optind != argc - 1)
        return refuse(error, "Expecting one image file name");
    return check_together(opt, repair_given, error) && take_file(opt, argv[optind], error);
}
