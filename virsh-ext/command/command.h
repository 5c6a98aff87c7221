/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* command.h: the command vol-repair, as virt-vol-repair and as a command of virsh. Knows nothing of wrapper. */
#ifndef VIRSH_EXT_COMMAND_H
#define VIRSH_EXT_COMMAND_H

#include <stdbool.h>
#include <stdio.h>

#include "vol-repair-client.h"

#define EXT_COMMAND "vol-repair"

/* ---- args.c: the command's own arguments ---- */

struct request {
    char *pool, *vol;
    char *mode_name, *format, *accel, *undo, *memory_text;
    enum vol_repair_mode mode;
    struct vol_repair_options options; /* borrows the strings above */
    bool verbose, json, no_progress, help;
    unsigned given; /* a bit for each row of args_table that was used as an option */
    /* of virt-vol-repair only */
    char *connect;
    bool quiet, version;
};

enum opt_kind { OPT_FLAG, OPT_STRING, OPT_NUMBER };

struct opt {
    const char *name;
    char letter; /* 0: none. A row with a letter is known to virt-vol-repair only */
    enum opt_kind kind;
    const char *value;          /* what help calls the value */
    const char *const *choices; /* or NULL */
    size_t field;               /* offset into struct request */
    const char *help;
};
extern const struct opt args_table[]; /* ends with a NULL name */

/* words: without the command's name, NULL at the end. False: *error is a sentence. */
bool args_parse(struct request *req, char *const *words, bool standalone, char **error);
void args_clear(struct request *req);

/* ---- help.c ---- */

void help_command(FILE *out);    /* as virsh help COMMAND */
void help_group(FILE *out);      /* as one group of virsh help */
void help_standalone(FILE *out); /* virt-vol-repair --help */

/* ---- connect.c: where the command works ---- */

/* virsh's own options, before the command. */
struct globals {
    const char *uri; /* NULL: libvirt's choice */
    int keepalive_interval, keepalive_count;
    bool quiet, readonly, timing;
    int words; /* index of the first word after the options */
};
/* The defaults, and the environment's URI. */
void globals_init(struct globals *g);

/* NULL: the reason has been printed. */
virConnectPtr connect_open(const struct globals *g);
/* By name in the pool, else by path or key. NULL: the reason has been printed. */
virStorageVolPtr connect_find_volume(virConnectPtr conn, const struct request *req);

/* ---- show.c ---- */

/* JSON of any origin: what could steer a terminal is escaped. */
void show_json(const char *json);
/* A line on standard error, with virsh's prefix. Control characters do not reach the terminal. */
void show_error(const char *format, ...) G_GNUC_PRINTF(1, 2);
void show_libvirt_error(void);
/* False: what was printed did not arrive, and that has been said. */
bool show_arrived(void);

/* What a person should type next begins with this, e.g. "virsh -c URI vol-repair". */
struct shown {
    const struct request *req;
    const char *again;  /* command line up to the volume */
    const char *volume; /* its name */
    const char *pool;
};
void show_report(const struct vol_repair_report *report, const struct shown *shown);

/* ---- bar.c: a bar on standard error ---- */

struct bar {
    bool on, drawn;
};
void bar_progress(const struct vol_repair_progress *progress, void *bar);
void bar_clear(struct bar *bar);

/* ---- lost.c ---- */

/* The report of a job of that number, 0 being none, which ended with this error. NULL: there is nothing more to be learned. */
struct vol_repair_report *lost_report(virConnectPtr conn, const struct globals *g, unsigned job, const GError *error);

/* ---- run.c ---- */

/* Runs the command; returns its exit status. program: what the user typed before the volume's name. */
int run_command(const struct request *req, const struct globals *g, const char *program);
/* A signal asked it to end: nothing more should be done. */
bool run_was_interrupted(void);

/* ---- complete.c ---- */

/* words: the command line from the command's name on; the last one is to be completed. */
void complete_command(const struct globals *g, char *const *words);

#endif
