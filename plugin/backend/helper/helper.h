/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * helper.h: the helper process, `vol-repair`: how it is started, and how what it says is read. Includes no other room.
 */
#ifndef BACKEND_HELPER_H
#define BACKEND_HELPER_H

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

/* ---- process.c: starting a program ---- */

/* One `vol-repair` process. Descriptors are the caller's to close. */
struct helper {
    pid_t pid;
    int out, err; /* read ends of its standard output and error */
};

/*
 * Runs program with descriptor i being fds[i], or /dev/null where that is -1, and no other; in a process group of its own, all
 * signals at their defaults. Each of fds is -1 or at least count. The process, or -errno.
 */
pid_t process_spawn(const char *program, char **argv, char **envp, const int *fds, int count);

/* ---- program.c: whether it can be started ---- */

/* Runs the program, for a moment, unless that was tried just now. NULL: it can be used; else why not. Caller frees. */
char *program_trouble(const char *path);
/* What to say where starting it failed with that errno: what to do, where that is known. Caller frees. */
char *program_start_error(const char *path, int error);

/* ---- json.c: the little JSON we need: one-line objects of our own program, and of ours ---- */

/* First member `key` anywhere in line (len bytes). A string is unescaped into out. */
bool json_find_string(const char *line, size_t len, const char *key, char *out, size_t size);
bool json_find_int(const char *line, size_t len, const char *key, int *out);
bool json_find_bool(const char *line, size_t len, const char *key, bool *out);
/* Where the object begins; NULL = there is none. What is searched from there may lie behind it. */
const char *json_find_object(const char *line, size_t len, const char *key);
/* Appends "text" quoted; bytes that are not UTF-8 become U+FFFD. */
void json_append_string(GString *to, const char *text);

/* ---- report.c: what a report says ---- */

/* What the helper said last. */
struct helper_result {
    int status;       /* wait status */
    bool reported;    /* a report line arrived; if not, it died, and verdict is "failed" */
    bool never_began; /* no guest ran, nothing of the image was changed */
    bool may_have_written;
    bool image_changed; /* as the report says; without one, may_have_written */
    char verdict[32];
    char error[1024]; /* the report's sentence, or the last line on standard error */
    char undo[4096];  /* path of the journal that was kept; "" = none */
};

/* Takes what matters from a report. */
void helper_take_report(struct helper_result *result, const char *line, size_t len);

#endif
