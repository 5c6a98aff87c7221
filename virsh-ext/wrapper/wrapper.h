/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* wrapper.h: a front end of the name virsh, which knows the command vol-repair beside those of the real virsh. */
#ifndef VIRSH_EXT_WRAPPER_H
#define VIRSH_EXT_WRAPPER_H

#include "command/command.h"

/* ---- globals.c: virsh's own options, before the command ---- */

/* False: whatever stands there, the real virsh should deal with it. Prints nothing. */
bool globals_parse(int argc, char **argv, struct globals *g);

/* ---- words.c: a command string, as in virsh 'a; b' ---- */

struct command {
    char **words;      /* NULL at the end; at least one */
    size_t start, end; /* its text: bytes [start, end) of the string */
};

/* struct command, freed with the array. NULL where quoting is not balanced. */
GPtrArray *words_split(const char *text);

/* ---- real_virsh.c ---- */

/* Becomes the real virsh with these arguments; returns only if that fails: an exit status. */
int real_virsh_exec(char **argv);
/* Runs it and waits; its exit status. */
int real_virsh_run(char **argv);
/* Runs it for what it says on standard error; NULL where it could not be run. */
char *real_virsh_errors(char **argv);

/* ---- front_end.c ---- */

int front_end_main(int argc, char **argv);

#endif
