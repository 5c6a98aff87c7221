/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * process.c: starts a program with the descriptors that it is given and nothing else of the daemon's.
 */
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>

#include "helper.h"

pid_t process_spawn(const char *program, char **argv, char **envp, const int *fds, int count)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    pid_t pid = 0;
    int rc = posix_spawn_file_actions_init(&actions);

    if (rc != 0)
        return -rc;
    rc = posix_spawnattr_init(&attr);
    if (rc == 0) {
        sigemptyset(&none);
        sigfillset(&all);
        posix_spawnattr_setsigmask(&attr, &none);
        posix_spawnattr_setsigdefault(&attr, &all);
        posix_spawnattr_setpgroup(&attr, 0);
        posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
        for (int i = 0; rc == 0 && i < count; i++) {
            rc = fds[i] >= 0 ? posix_spawn_file_actions_adddup2(&actions, fds[i], i)
                             : posix_spawn_file_actions_addopen(&actions, i, "/dev/null", O_RDWR, 0);
        }
        /* libvirt's daemons leave descriptors open across exec. */
        if (rc == 0)
            rc = posix_spawn_file_actions_addclosefrom_np(&actions, count);
        if (rc == 0)
            rc = posix_spawn(&pid, program, &actions, &attr, argv, envp);
        posix_spawnattr_destroy(&attr);
    }
    posix_spawn_file_actions_destroy(&actions);
    return rc ? -rc : pid;
}
