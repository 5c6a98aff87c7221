/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * measure.c: runs a command and writes "seconds status peak-KiB bytes-read" to descriptor 3.
 *
 * A program of its own because a child's peak memory counts from the fork: started by an interpreter, no process
 * could look smaller than the interpreter.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Bytes read through system calls by an ended process that nobody has waited for yet, with its own ended children. */
static unsigned long long bytes_read(pid_t pid)
{
    char path[64];
    unsigned long long bytes = 0;

    snprintf(path, sizeof(path), "/proc/%d/io", (int)pid);
    FILE *file = fopen(path, "r");
    if (file) {
        if (fscanf(file, "rchar: %llu", &bytes) != 1)
            bytes = 0;
        fclose(file);
    }
    return bytes;
}

int main(int argc, char **argv)
{
    siginfo_t info;
    struct rusage usage;
    int status;

    if (argc < 2)
        return 125;
    double begin = now();
    pid_t pid = fork();
    if (pid == 0) {
        close(3);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(argv[1], argv + 1);
        _exit(127);
    }
    if (pid < 0 || waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) < 0)
        return 125;
    double seconds = now() - begin;
    unsigned long long bytes = bytes_read(pid);
    if (wait4(pid, &status, 0, &usage) != pid)
        return 125;
    dprintf(3, "%.6f %d %ld %llu\n", seconds, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
            usage.ru_maxrss, bytes);
    return 0;
}
