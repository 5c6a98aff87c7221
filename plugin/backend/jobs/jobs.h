/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * jobs.h: jobs from their start to their end: the table, a helper for each, its client, and all that tells of them.
 * Includes host and helper.
 */
#ifndef BACKEND_JOBS_H
#define BACKEND_JOBS_H

#include "helper/helper.h"
#include "host/host.h"

/* ---- options.c: what a request may set ---- */

/* Examples of a problem that a request may ask for: the report is kept in memory more than once. */
#define MESSAGES_MAX 1000

/* What a request may set; every text may be NULL. */
struct job_options {
    char *format, *accel, *memory, *undo;
    int timeout;      /* seconds; -1 = not given */
    int max_messages; /* -1 = not given */
};
void job_options_free(struct job_options *opts);
typedef struct job_options JobOptions; /* for g_autoptr */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(JobOptions, job_options_free)
/* What the configuration has is the most that a caller gets. Reports and returns false where a request wants more. */
bool job_options_are_allowed(const struct job_options *opts, const struct config *cfg);

/* ---- job_table.c: the job table ---- */

enum job_mode { MODE_CHECK, MODE_LEAKS, MODE_ALL, MODE_UNDO, MODE_COUNT };
extern const char *const job_mode_name[MODE_COUNT];

/* Fields above the line never change; those below are guarded by the table's lock. A job stays in the table
 * for a while after its end. */
struct job {
    unsigned id;
    enum job_mode mode;
    bool create_from;
    bool refresh_source_pool;
    char *pool; /* may be NULL */
    char *pool_path;
    char *volume, *path;
    char *owner;
    char *event_path;  /* its file in the reports pool; NULL where there is none */
    char *report_path; /* create-from: the report volume; else NULL */
    dev_t dev;         /* as open_identity() gives them */
    ino_t ino;
    guint64 size;   /* of a file, when the job started */
    gint64 started; /* seconds since the epoch */
    unsigned patience; /* seconds that an ended job waits for a client which takes nothing of its report; 0 = for ever */
    /* ---- */
    pid_t pid; /* 0 = not running yet, or already reaped */
    bool spawned, done;
    bool abort_asked, abort_sent;
    bool retired; /* nobody but the table holds it: it does not count any more */
    gint64 ended; /* seconds since the epoch */
    int percent, exit_code;
    char phase[16], verdict[32];
};

struct job_request {
    enum job_mode mode;
    bool create_from;
    const struct volume *vol;
    const struct job_options *opts; /* may be NULL */
    int report_fd;                  /* create-from: the report volume; else -1. Stays the caller's */
    const char *report_path;        /* create-from: its path */
};

/* Checks, then starts a helper. Reports and returns NULL; nothing was changed then. */
struct job *job_start(const struct job_request *req, struct helper *helper);
bool job_is_running(unsigned long id);
/* Whether a job works on the volume: one that writes, or, unless the caller only reads, any. Reports and returns true. */
bool job_stands_against(const struct volume *vol, bool only_reads);
void job_progress(struct job *job, const char *phase, int percent);
/* Asks the helper to stop at a safe point; does nothing after its end. */
void job_abort(struct job *job);
/* Waits for the process. Returns its wait status. */
int job_reap(struct job *job);
/* Enters the end in the table and tells the listeners. */
void job_finish(struct job *job, const struct helper_result *result);
/* Its client has the report, or is gone. The job must not be touched afterwards. */
void job_release(struct job *job);

/* Calls visit for each job, the newest first, with the table locked. */
void job_each(void (*visit)(const struct job *job, void *opaque), void *opaque);
/* Enters a job of an earlier daemon, newer than all that are there; the table has it from now on. */
void job_restore(struct job *job);
/* A job that is not in the table. */
void job_free(struct job *job);

/* False: no such job (of this caller's). *sent: it was still running. */
bool job_abort_by_id(unsigned id, const char *caller, bool *sent);

/* ---- job_list.c: the table for a caller ---- */

/* <vol-repair-jobs> for a caller. */
char *job_list_xml(const char *caller);

/* ---- spawn.c: starting the helper ---- */

struct spawn {
    const struct config *cfg;
    const struct job *job;
    const struct job_options *opts; /* may be NULL */
    const char *format;
    const GPtrArray *notes;  /* of notes_collect() */
    int image_fd, report_fd; /* report_fd -1 = write to job->event_path, if there is one */
};
/* Reports and returns false. */
bool spawn_helper(const struct spawn *sp, struct helper *helper);

/* ---- spool.c: what a client has not taken yet ---- */

struct spool {
    GString *head;
    int fd;         /* the file with what follows; -1 = none */
    goffset from, to; /* in it */
    guint64 taken;  /* bytes that the client has */
    bool lost;      /* something could not be kept: what comes after it is left out */
};
void spool_init(struct spool *s);
void spool_clear(struct spool *s);
guint64 spool_size(const struct spool *s);
void spool_add(struct spool *s, const char *data, size_t len);
/* As much as the client takes now. False: it is gone. */
bool spool_write(struct spool *s, int fd);

/* ---- relay.c: from a helper to its client ---- */

struct relay {
    struct job *job;
    struct helper helper;
    int client_fd;                                  /* write end towards the client; -1 = none */
    void (*on_progress)(void *opaque, int percent); /* may be NULL */
    void *opaque;
};
/* Runs until the helper has ended; closes helper.out and helper.err. What the client has not taken yet is
 * left in *rest, for relay_drain(). */
void relay_run(struct relay *relay, struct helper_result *result, struct spool *rest);
/* Gives the client the rest, until it has all of it, is gone, or takes nothing for job->patience; closes client_fd. */
void relay_drain(struct relay *relay, struct spool *rest);

/* ---- crash_report.c ---- */

/* The report of a job whose helper died without one; pretty-printed. Caller frees. */
char *crash_report(const struct job *job, const char *error, bool image_changed);

/* ---- history.c: the jobs of earlier daemons ---- */

/* Writes the table to its file. Best effort; not with the table locked. */
void history_save(void);
/* Once, before the first job. */
void history_load(void);

/* ---- syslog.c: the system's log ---- */

/* off: why the extension does nothing; NULL = it is in use. */
void syslog_loaded(const char *off);
void syslog_job_started(const struct job *job, pid_t pid);
/* job's exit code is there. */
void syslog_job_ended(const struct job *job, const struct helper_result *result);
/* What may stand in a line of a log: printable, bounded. Caller frees. */
char *syslog_escape(const char *text);

/* ---- events.c: the reports pool and refreshes ---- */

/* The directory, made where it was not there. NULL where it cannot be had, or belongs to somebody else. Caller frees. */
char *events_dir(void);
/* The file of a job that has its number. Caller frees. */
char *events_path(const char *dir, const struct job *job);
/* Writes its start line. Best effort. */
void events_job_named(const struct job *job, const char *dir);
/* Called by each entry point: from here on libvirt may be called by threads of our own. */
void events_daemon_serves(void);
/* Tells the listeners. */
void events_job_started(const struct job *job);
/* The helper could not be started. */
void events_job_withdrawn(const struct job *job);
void events_job_ended(const struct job *job, bool source_sane);
void events_write_report(const struct job *job, const char *text, size_t len);
/* Highest job number in the reports directory; 0 = none. */
unsigned events_last_id(void);

#endif
