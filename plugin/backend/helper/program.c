/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * program.c: whether the daemon can run vol-repair: by running it, because a security module has a say that no mode bit shows.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "helper.h"

#define APPARMOR_DIR "/etc/apparmor.d"
#define APPARMOR_PROFILE "usr.sbin.libvirtd"
#define TRIAL_MS 5000
#define WAIT_STEP_MS 10
#define CACHE_LIFE (10 * G_USEC_PER_SEC)

/* What the last trial found. A changed file counts at once, a changed rule of a security module after CACHE_LIFE. */
static GMutex lock;
static struct {
    char *path;
    struct stat st;
    gint64 expires; /* monotonic */
    char *trouble;
} last;

/* ---- what a security module would have to be told ---- */

/* The label that AppArmor confines this process with, or NULL. */
static char *apparmor_label(void)
{
    g_autofree char *text = NULL;
    char *mode;

    if (!g_file_get_contents("/proc/self/attr/apparmor/current", &text, NULL, NULL) &&
        !g_file_get_contents("/proc/self/attr/current", &text, NULL, NULL))
        return NULL;
    mode = strstr(text, " (enforce)");
    if (!mode)
        return NULL;
    *mode = '\0';
    return g_steal_pointer(&text);
}

/* Ends with a command, and nothing behind it: it is there to be copied. */
char *program_start_error(const char *path, int error)
{
    g_autofree char *label = error == EACCES ? apparmor_label() : NULL;
    g_autofree char *who = NULL;

    if (error != EACCES || access(path, X_OK) < 0)
        return g_strdup(g_strerror(error));
    if (label)
        who = g_strdup_printf("AppArmor confines this daemon as '%s'; to allow it, as root", label);
    else
        who = g_strdup("its mode allows it, so a security module may not; where that is AppArmor");
    return g_strdup_printf("%s; %s: echo '%s PUx,' >>" APPARMOR_DIR "/local/" APPARMOR_PROFILE
                           " && apparmor_parser -r " APPARMOR_DIR "/" APPARMOR_PROFILE,
                           g_strerror(error), who, path);
}

/* ---- the trial ---- */

/* Waits for TRIAL_MS at most; then the process is killed. False: it did not end by itself. */
static bool wait_for(pid_t pid, int *status)
{
    pid_t waited = 0;

    for (int ms = 0; ms < TRIAL_MS; ms += WAIT_STEP_MS) {
        waited = waitpid(pid, status, WNOHANG);
        if (waited == pid)
            return true;
        if (waited < 0 && errno != EINTR)
            break;
        poll(NULL, 0, WAIT_STEP_MS);
    }
    kill(pid, SIGKILL);
    while (waitpid(pid, status, 0) < 0 && errno == EINTR)
        ;
    return false;
}

/* NULL: it runs. */
static char *try_to_run(const char *path)
{
    char name[] = "vol-repair", option[] = "--version", locale[] = "LC_ALL=C";
    char *argv[] = {name, option, NULL}, *envp[] = {locale, NULL};
    const int nothing[] = {-1, -1, -1};
    int status = 0;
    pid_t pid = process_spawn(path, argv, envp, nothing, G_N_ELEMENTS(nothing));

    if (pid < 0)
        return program_start_error(path, -pid);
    if (!wait_for(pid, &status))
        return g_strdup_printf("it does not end within %d seconds", TRIAL_MS / 1000);
    if (WIFSIGNALED(status))
        return g_strdup_printf("it dies of signal %d", WTERMSIG(status));
    if (WEXITSTATUS(status) != 0)
        return g_strdup_printf("it ends with status %d", WEXITSTATUS(status));
    return NULL;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_mode == b->st_mode && a->st_size == b->st_size &&
           a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

char *program_trouble(const char *path)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&lock);
    struct stat st = {0};

    if (stat(path, &st) < 0)
        return g_strdup(g_strerror(errno));
    if (!last.path || !g_str_equal(last.path, path) || !same_file(&last.st, &st) ||
        last.expires <= g_get_monotonic_time()) {
        g_free(last.path);
        g_free(last.trouble);
        last.path = g_strdup(path);
        last.trouble = try_to_run(path);
        last.st = st;
        last.expires = g_get_monotonic_time() + CACHE_LIFE;
    }
    return g_strdup(last.trouble);
}
