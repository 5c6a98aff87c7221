/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * real_virsh.c: finds the virsh that is not this program, becomes it, or runs it.
 *
 * Where a package has put this program into the place of /usr/bin/virsh, the real one stands beside it, under the name
 * that dpkg-divert gave it. Where this program has a directory of its own, the next virsh in PATH is the real one.
 *
 * Two copies of this program could each take the other for the real one. So each leaves its device and inode number
 * in the environment, and nobody starts what is in that list. A script named virsh that looks for virsh in PATH comes
 * back here too: the length of the list tells.
 */
#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "wrapper.h"

#define SEEN_VARIABLE "VOL_REPAIR_VIRSH_SEEN"
#define DIVERTED ".libvirt" /* virsh.libvirt: packaging/debian/vol-repair-virsh.preinst */
#define LAST_RESORT "/usr/bin/virsh"
#define PASSES_IN_PATH 8 /* shells inside of virsh inside of shells are passes as well */
#define PASSES_MAX 16

static char *identity(const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || access(path, X_OK) < 0)
        return NULL;
    return g_strdup_printf("%llx:%llx", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
}

/* Adds this program to the list, once a process; the length of the list. */
static unsigned note_ourselves(void)
{
    static unsigned passes;
    g_autofree char *self = identity("/proc/self/exe");
    g_autofree char *all = NULL;
    const char *seen = getenv(SEEN_VARIABLE);

    if (passes)
        return passes;
    all = g_strjoin(",", self ? self : "", seen, NULL);
    setenv(SEEN_VARIABLE, all, 1);
    for (const char *entry = all; entry; entry = strchr(entry + 1, ','))
        passes++;
    return passes;
}

static bool is_real(const char *path)
{
    g_autofree char *id = identity(path);
    g_auto(GStrv) seen = g_strsplit(getenv(SEEN_VARIABLE) ? getenv(SEEN_VARIABLE) : "", ",", -1);

    return id && !g_strv_contains((const char *const *)seen, id);
}

/* path, if it is a real virsh, or else the one that had to make room for it; NULL: neither. Frees path. */
static char *real_at(char *path)
{
    char *diverted = is_real(path) ? g_steal_pointer(&path) : g_strconcat(path, DIVERTED, NULL);

    g_free(path);
    if (is_real(diverted))
        return diverted;
    g_free(diverted);
    return NULL;
}

/* The one beside the path that this program was started by: whoever calls /usr/bin/virsh wants no other in PATH. */
static char *diverted_for_us(void)
{
    const char *started_as = (const char *)getauxval(AT_EXECFN);
    g_autofree char *diverted = g_strconcat(started_as ? started_as : "", DIVERTED, NULL);

    return started_as && is_real(diverted) ? g_steal_pointer(&diverted) : NULL;
}

/* NULL: there is none, and that has been said. */
static char *find(void)
{
    g_auto(GStrv) places = g_strsplit(getenv("PATH") ? getenv("PATH") : "", ":", -1);
    unsigned passes = note_ourselves();
    char *path;

    if (passes > PASSES_MAX) {
        show_error("something named virsh in PATH starts the virsh in PATH again and again");
        return NULL;
    }
    path = diverted_for_us();
    for (unsigned i = 0; !path && passes <= PASSES_IN_PATH && places[i]; i++) {
        /* An empty or relative place is wherever the caller happens to stand. */
        if (places[i][0] == '/')
            path = real_at(g_build_filename(places[i], "virsh", NULL));
    }
    if (!path)
        path = real_at(g_strdup(LAST_RESORT));
    if (!path)
        show_error("the virsh of libvirt was not found in PATH, nor is there a " LAST_RESORT);
    return path;
}

int real_virsh_exec(char **argv)
{
    static char name[] = "virsh";
    g_autofree char *path = find();

    if (!path)
        return 127;
    fflush(NULL);
    argv[0] = name;
    execv(path, argv);
    show_error("cannot run %s: %s", path, g_strerror(errno));
    return 126;
}

int real_virsh_run(char **argv)
{
    extern char **environ;
    static char name[] = "virsh";
    g_autofree char *path = find();
    int status, error;
    pid_t pid;

    if (!path)
        return 127;
    fflush(NULL);
    argv[0] = name;
    error = posix_spawn(&pid, path, NULL, NULL, argv, environ);
    if (error) {
        show_error("cannot run %s: %s", path, g_strerror(error));
        return 126;
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

char *real_virsh_errors(char **argv)
{
    static char name[] = "virsh";
    g_autofree char *path = find();
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    char *errors = NULL;

    if (!path)
        return NULL;
    g_ptr_array_add(all, path);
    g_ptr_array_add(all, name);
    for (char **word = argv + 1; *word; word++)
        g_ptr_array_add(all, *word);
    g_ptr_array_add(all, NULL);
    if (!g_spawn_sync(NULL, (char **)all->pdata, NULL, G_SPAWN_FILE_AND_ARGV_ZERO | G_SPAWN_STDOUT_TO_DEV_NULL, NULL,
                      NULL, NULL, &errors, NULL, &error))
        show_error("cannot run %s: %s", path, error->message);
    return errors;
}
