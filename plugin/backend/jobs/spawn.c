/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * spawn.c: starts `vol-repair` with nothing of the daemon's but what it needs.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "common.h"
#include "jobs.h"

/* Descriptors in the helper. Ours are moved to FIRST_OWN_FD and above first, so that no dup2 covers another's source. */
enum { HELPER_IMAGE_FD = 3, HELPER_REPORT_FD = 4, HELPER_FD_COUNT = 5, FIRST_OWN_FD = 10 };

/* The daemon's environment says nothing to the helper but these. */
static const char *const passed_on[] = {"PATH", "HOME",   "USER",     "LOGNAME",        "TMPDIR",
                                        "LANG", "LC_ALL", "LC_CTYPE", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"};

static char **make_environment(void)
{
    GPtrArray *env = g_ptr_array_new();

    for (size_t i = 0; i < G_N_ELEMENTS(passed_on); i++) {
        const char *value = g_getenv(passed_on[i]);

        if (value)
            g_ptr_array_add(env, g_strdup_printf("%s=%s", passed_on[i], value));
    }
    g_ptr_array_add(env, NULL);
    return (char **)g_ptr_array_free(env, FALSE);
}

/*
 * A journal that a caller names is one of this image: others lie in the same directory, and their callers may have rights that
 * this one lacks. A name out of a report is whole already.
 */
static char *journal_path(int image_fd, const char *name)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", image_fd);
    g_autofree char *real_path = g_file_read_link(link, NULL);
    g_autofree char *dir = config_undo_dir();
    g_autofree char *file = undo_file_name(image_fd, real_path ? real_path : "", name);

    return g_build_filename(dir, file, NULL);
}

/* After the format, option or configuration decides; the option wins. */
static void add_settings(GPtrArray *args, const struct spawn *sp)
{
    const struct job_options *opts = sp->opts;
    unsigned timeout = opts && opts->timeout >= 0 ? (unsigned)opts->timeout : sp->cfg->timeout;

    /* job_options_are_allowed() has refused what is less than a configuration that insists; auto is no less. */
    bool ask = opts && opts->accel && !g_str_equal(sp->cfg->accel, "kvm");

    g_ptr_array_add(args, g_strdup_printf("--accel=%s", ask ? opts->accel : sp->cfg->accel));
    g_ptr_array_add(args, g_strdup_printf("--memory=%s", opts && opts->memory ? opts->memory : sp->cfg->memory));
    g_ptr_array_add(args, g_strdup_printf("--timeout=%u", timeout));
    if (sp->cfg->user)
        g_ptr_array_add(args, g_strdup_printf("--user=%s", sp->cfg->user));
    for (unsigned i = 0; i < UNDO_LIMITS; i++) {
        if (sp->cfg->undo_limits[i])
            g_ptr_array_add(args, g_strdup_printf("--%s=%s", undo_limit_names[i], sp->cfg->undo_limits[i]));
    }
    if (opts && opts->max_messages >= 0)
        g_ptr_array_add(args, g_strdup_printf("--max-messages=%d", opts->max_messages));
    if (opts && opts->undo) {
        g_autofree char *path = journal_path(sp->image_fd, opts->undo);

        g_ptr_array_add(args, g_strconcat("--undo=", path, NULL));
    }
}

static char **make_arguments(const struct spawn *sp)
{
    GPtrArray *args = g_ptr_array_new();

    g_ptr_array_add(args, g_strdup("vol-repair"));
    g_ptr_array_add(args, g_strdup_printf("--mode=%s", job_mode_name[sp->job->mode]));
    g_ptr_array_add(args, g_strdup("--stream"));
    g_ptr_array_add(args, g_strdup_printf("--image-fd=%d", HELPER_IMAGE_FD));
    g_ptr_array_add(args, g_strdup("-f"));
    g_ptr_array_add(args, g_strdup(sp->format));
    add_settings(args, sp);
    if (sp->report_fd >= 0)
        g_ptr_array_add(args, g_strdup_printf("--report-fd=%d", HELPER_REPORT_FD));
    else if (sp->job->event_path)
        g_ptr_array_add(args, g_strdup_printf("--report=%s", sp->job->event_path));
    for (unsigned i = 0; i < sp->notes->len; i++)
        g_ptr_array_add(args, g_strdup_printf("--note=%s", (char *)g_ptr_array_index(sp->notes, i)));
    g_ptr_array_add(args, g_strdup("--"));
    g_ptr_array_add(args, g_strdup(sp->job->path));
    g_ptr_array_add(args, NULL);
    return (char **)g_ptr_array_free(args, FALSE);
}

static void close_all(int *fds, int count)
{
    for (int i = 0; i < count; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
}

/* fds as process_spawn() wants them, all of our own, above the helper's numbers; errno on failure. */
static bool prepare_fds(const struct spawn *sp, const int out[2], const int err[2], int fds[HELPER_FD_COUNT])
{
    const int from[HELPER_FD_COUNT] = {-1, out[1], err[1], sp->image_fd, sp->report_fd};

    for (int i = 0; i < HELPER_FD_COUNT; i++)
        fds[i] = -1;
    for (int i = 0; i < HELPER_FD_COUNT; i++) {
        if (from[i] < 0)
            continue;
        fds[i] = fcntl(from[i], F_DUPFD_CLOEXEC, FIRST_OWN_FD);
        if (fds[i] < 0) {
            int saved = errno;

            close_all(fds, HELPER_FD_COUNT);
            errno = saved;
            return false;
        }
    }
    return true;
}

bool spawn_helper(const struct spawn *sp, struct helper *helper)
{
    g_auto(GStrv) argv = make_arguments(sp), envp = make_environment();
    int out[2] = {-1, -1}, err[2] = {-1, -1}, fds[HELPER_FD_COUNT], rc;

    if (pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0 || !prepare_fds(sp, out, err, fds)) {
        rc = errno;
    } else {
        helper->pid = process_spawn(sp->cfg->helper, argv, envp, fds, HELPER_FD_COUNT - (sp->report_fd < 0));
        rc = helper->pid < 0 ? -helper->pid : 0;
        close_all(fds, HELPER_FD_COUNT);
    }
    close_all(&out[1], 1);
    close_all(&err[1], 1);
    if (rc != 0) {
        g_autofree char *why = program_start_error(sp->cfg->helper, rc);

        close_all(out, 1);
        close_all(err, 1);
        vr_error(VIR_ERR_OPERATION_FAILED, "the program '%s' cannot be started: %s", sp->cfg->helper, why);
        return false;
    }
    helper->out = out[0];
    helper->err = err[0];
    return true;
}
