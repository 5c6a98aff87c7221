/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * backend.h: what the files of the storage-backend extension share, a section for each file.
 *
 * Threads: the slots run in libvirt's RPC workers, several at a time; each streaming job has a relay
 * thread; one more thread refreshes pools. Everything here may be called from any of them, unless the
 * section says otherwise. "Reports" means: the thread's libvirt error is set with a whole sentence.
 */
#ifndef BACKEND_H
#define BACKEND_H

#include <glib.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/* ---- symbols.c: libvirt's private functions, found at run time ---- */

enum {
    SLOT_FIND_POOL_SOURCES,
    SLOT_CHECK_POOL,
    SLOT_START_POOL,
    SLOT_BUILD_POOL,
    SLOT_REFRESH_POOL,
    SLOT_STOP_POOL,
    SLOT_DELETE_POOL,
    SLOT_BUILD_VOL,
    SLOT_BUILD_VOL_FROM,
    SLOT_CREATE_VOL,
    SLOT_REFRESH_VOL,
    SLOT_DELETE_VOL,
    SLOT_RESIZE_VOL,
    SLOT_UPLOAD_VOL,
    SLOT_DOWNLOAD_VOL,
    SLOT_WIPE_VOL,
    SLOT_COUNT,
};

/* virStorageBackend as every libvirt since 3.1 lays it out: a type and sixteen function pointers. */
struct backend_table {
    int type;
    void *slot[SLOT_COUNT];
};

/* Private libvirt functions; all that pass libvirt's objects take them as opaque pointers. Those of the
 * second group may be NULL. */
struct libvirt_symbols {
    struct backend_table *(*backend_for_type)(int type);
    int (*pool_type_from_string)(const char *type);
    void *(*pool_get_def)(void *pool);
    char *(*pool_def_format)(void *pooldef);
    char *(*vol_def_format)(void *pooldef, void *vol);
    int (*fd_stream_open)(virStreamPtr st, int fd);
    void (*report_error)(int domain, int code, const char *file, const char *func, size_t line, const char *fmt, ...)
        G_GNUC_PRINTF(6, 7);

    void (*object_lock)(void *object);
    void (*object_unlock)(void *object);
    void *(*identity_current)(void);
    void *(*identity_system)(void);
    int (*identity_set_current)(void *identity);
    int (*identity_uid)(void *identity, uid_t *uid);
    int (*identity_sasl)(void *identity, const char **name);
    int (*identity_x509)(void *identity, const char **name);
};
extern struct libvirt_symbols lv;

/* Fills lv. On failure: NULL-terminated name of the first missing symbol in *missing. */
bool symbols_load(const char **missing);

#define vr_error(code, ...) lv.report_error(VIR_FROM_STORAGE, code, __FILE__, __func__, __LINE__, __VA_ARGS__)

/* A line for the daemon's log, for what no client is there to hear. Clears the thread's libvirt error. */
void vr_log(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
/* This thread's last such line; "" = there was none. */
const char *vr_log_last(void);

/* ---- tables.c: load-time proof and patching; main thread, before any pool is loaded ---- */

/* Entry point, called by the stub with the stock module's handle. 0 = the doors are in place, -1 = stock is
 * untouched and the log says why. */
int vol_repair_backend_init(void *stock);

/* The stock functions behind our slots in the table of one type of pool; NULL where libvirt has none. */
struct stock_slots {
    int (*build_vol_from)(void *pool, void *vol, void *src, unsigned int flags);
    int (*download_vol)(void *pool, void *vol, virStreamPtr st, unsigned long long offset, unsigned long long length,
                        unsigned int flags);
    int (*upload_vol)(void *pool, void *vol, virStreamPtr st, unsigned long long offset, unsigned long long length,
                      unsigned int flags);
    int (*delete_vol)(void *pool, void *vol, unsigned int flags);
    int (*resize_vol)(void *pool, void *vol, unsigned long long capacity, unsigned int flags);
    int (*wipe_vol)(void *pool, void *vol, unsigned int algorithm, unsigned int flags);
};
/* NULL and an error: the type is none of those that we serve. */
const struct stock_slots *tables_stock(const char *pool_type);
/* Volumes of such a pool are block devices. */
bool tables_holds_devices(const char *pool_type);
/* `<type name='...'/>` for each type of pool whose table is ours and is the one in use. */
void tables_append_types(GString *xml);

/* ---- config.c: vol-repair.conf ---- */

#define UNDO_LIMITS 4
/* The last of the major version that this was run on: names and tables can be proved, what functions expect cannot. */
#define NEWEST_LIBVIRT 12999999ul

struct config {
    bool enabled;
    bool refresh_source_pool;
    unsigned long newest_libvirt; /* as virGetVersion; 0 = any */
    char *helper;
    char *accel;
    char *memory;
    char *user;        /* USER[:GROUP], or NULL */
    char *reports_dir; /* NULL: the default */
    unsigned timeout;  /* seconds */
    char *undo_limits[UNDO_LIMITS]; /* as in undo_limit_names; NULL: the program's own */
};
/* Names of the program's options without their dashes. In the file they are written with underscores. */
extern const char *const undo_limit_names[UNDO_LIMITS];
void config_free(struct config *cfg);
typedef struct config Config; /* for g_autoptr */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Config, config_free)

/* A missing file gives the defaults. On any other trouble: NULL and a whole sentence in *error. */
struct config *config_load(char **error);
bool config_memory_is_valid(const char *text);
bool config_accel_is_valid(const char *text);
struct job_options;
/* What the configuration has is the most that a caller gets. Reports and returns false where a request wants more. */
bool config_allows(const struct config *cfg, const struct job_options *opts);

/* <localstatedir>/lib/vol-repair/undo, or a session's own. Caller frees. */
char *config_undo_dir(void);
/* As configured, or <runstatedir>/vol-repair/reports, or a session's own. Caller frees. */
char *config_reports_dir(void);

/* ---- volume.c: what libvirt knows of a pool and a volume ---- */

/* Texts are bytes as libvirt has them, not necessarily UTF-8. */
struct volume {
    char *pool;      /* name of its pool; NULL where that is not known */
    char *pool_type; /* "dir", "logical", ...; NULL with it */
    char *pool_path; /* its target directory; NULL with it */
    char *name;
    char *path;
    char *format; /* "" where libvirt has none */
    int mode;     /* requested permissions; -1 = not given */
    int owner, group;
};
void volume_free(struct volume *vol);
typedef struct volume Volume; /* for g_autoptr */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Volume, volume_free)

/*
 * pool, vol: as a slot receives them. locked: the driver calls the slot with the pool locked; its lock is not recursive.
 * Reports and returns NULL.
 */
struct volume *volume_from_defs(void *pool, void *vol, bool locked);
/* Its pool is the one that the XML describes; NULL: not known. */
void volume_set_pool(struct volume *vol, const char *pool_xml);
/* Of a volume's XML, which may be NULL; NULL: it lies upon nothing. Caller frees. */
char *volume_backing_path(const char *vol_xml);

/* ---- identity.c: who asks ---- */

/* "uid:1000", "sasl:NAME", "x509:DN", or "" where the caller has no identity. Caller frees. */
char *identity_caller(void);
/* root and the daemon's own user see everything, others what is theirs. */
bool identity_may_see(const char *caller, const char *owner);
/* He is root or the daemon's own user: what is shared among callers is not divided for him. */
bool identity_is_trusted(const char *caller);
/* Makes the calling (own) thread act for the daemon itself. */
void identity_become_system(void);

/* ---- access.c: may the caller do that ---- */

/* Asks libvirt, as the caller, in which pool the volume of this path is. What it does not tell stays unknown. */
void access_learn_pool(struct volume *vol);
/* Asks libvirt, as the caller. Reports and returns false. */
bool access_allows(const struct volume *vol, bool to_write);
/* In a slot: the call is such a question, and is answered; the slot must return -1. */
bool access_was_asked(void);

/* ---- domains.c: who has a block device ---- */

/*
 * *domain: the name of a running domain that has it (writers: and may write to it), or NULL; caller frees. False where not
 * every domain was looked at.
 */
bool domains_user_of(dev_t device, bool writers, char **domain);

/* ---- open.c: the volume's image ---- */

/* For reading only, or for reading and writing. Nobody else may have it, where it is a block device. Reports and returns -1. */
int open_image(const struct volume *vol, bool to_write, struct stat *st);
/* What two names of one file, or of one device, have in common. */
void open_identity(const struct stat *st, dev_t *dev, ino_t *ino);

/* ---- notes.c: what libvirt knows of the image ---- */

#define NOTES_MAX 16

/* Values for the helper's --note. Caller unrefs. */
GPtrArray *notes_collect(const struct volume *vol, const struct stat *st);

/* ---- owner.c: files that root may not open ---- */

/*
 * open() without O_CREAT. Where root is denied a file it is tried as the file's owner; *owner: who that is, 0 = it was not
 * tried. -1 and errno.
 */
int owner_open(const char *path, int flags, uid_t *owner);

/* ---- job.c: the job table ---- */

/* Examples of a problem that a request may ask for: the report is kept in memory more than once. */
#define MESSAGES_MAX 1000

enum job_mode { MODE_CHECK, MODE_LEAKS, MODE_ALL, MODE_UNDO, MODE_COUNT };
extern const char *const job_mode_name[MODE_COUNT];

/* What a request may set; every text may be NULL. */
struct job_options {
    char *format, *accel, *memory, *undo;
    int timeout;      /* seconds; -1 = not given */
    int max_messages; /* -1 = not given */
};
void job_options_free(struct job_options *opts);
typedef struct job_options JobOptions; /* for g_autoptr */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(JobOptions, job_options_free)

/* One `vol-repair` process. Descriptors are the caller's to close. */
struct helper {
    pid_t pid;
    int out, err; /* read ends of its standard output and error */
};

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
struct relay_result;
void job_finish(struct job *job, const struct relay_result *result);
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

/* ---- joblist.c ---- */

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
/*
 * Runs program with descriptor i being fds[i], or /dev/null where that is -1, and no other; in a process group of its own, all
 * signals at their defaults. Each of fds is -1 or at least count. The process, or -errno.
 */
pid_t spawn_process(const char *program, char **argv, char **envp, const int *fds, int count);
/* Reports and returns false. */
bool spawn_helper(const struct spawn *sp, struct helper *helper);

/* ---- program.c: whether it can be started ---- */

/* Runs the program, for a moment, unless that was tried just now. NULL: it can be used; else why not. Caller frees. */
char *program_trouble(const char *path);
/* What to say where starting it failed with that errno: what to do, where that is known. Caller frees. */
char *program_start_error(const char *path, int error);

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

/* What the helper said last. */
struct relay_result {
    int status;       /* wait status */
    bool reported;    /* a report line arrived; if not, it died, and verdict is "failed" */
    bool never_began; /* no guest ran, nothing of the image was changed */
    bool may_have_written;
    bool image_changed; /* as the report says; without one, may_have_written */
    char verdict[32];
    char error[1024]; /* the report's sentence, or the last line on standard error */
    char undo[4096];  /* path of the journal that was kept; "" = none */
};
struct relay {
    struct job *job;
    struct helper helper;
    int client_fd;                                  /* write end towards the client; -1 = none */
    void (*on_progress)(void *opaque, int percent); /* may be NULL */
    void *opaque;
};
/* Runs until the helper has ended; closes helper.out and helper.err. What the client has not taken yet is
 * left in *rest, for relay_drain(). */
void relay_run(struct relay *relay, struct relay_result *result, struct spool *rest);
/* Takes what matters from a report. */
void relay_take_report(struct relay_result *result, const char *line, size_t len);
/* Gives the client the rest, until it has all of it, is gone, or takes nothing for job->patience; closes client_fd. */
void relay_drain(struct relay *relay, struct spool *rest);

/* ---- json.c: the little JSON we need: one-line objects of our own program, and of ours ---- */

/* First member `key` anywhere in line (len bytes). A string is unescaped into out. */
bool json_find_string(const char *line, size_t len, const char *key, char *out, size_t size);
bool json_find_int(const char *line, size_t len, const char *key, int *out);
bool json_find_bool(const char *line, size_t len, const char *key, bool *out);
/* Where the object begins; NULL = there is none. What is searched from there may lie behind it. */
const char *json_find_object(const char *line, size_t len, const char *key);
/* Appends "text" quoted; bytes that are not UTF-8 become U+FFFD. */
void json_append_string(GString *to, const char *text);
/* The report of a job whose helper died without one; pretty-printed. Caller frees. */
char *json_crash_report(const struct job *job, const char *error, bool image_changed);

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
void syslog_job_ended(const struct job *job, const struct relay_result *result);
/* What may stand in a line of a log: printable, bounded. Caller frees. */
char *syslog_escape(const char *text);

/* ---- events.c: the reports pool and refreshes ---- */

/* The directory, made where it was not there. NULL where it cannot be had, or belongs to somebody else. Caller frees. */
char *events_dir(void);
/* The file of a job that has its number. Caller frees. */
char *events_path(const char *dir, const struct job *job);
/* Writes its start line. Best effort. */
void events_job_named(const struct job *job, const char *dir);
/* Called by each door: from here on libvirt may be called by threads of our own. */
void events_daemon_serves(void);
/* Tells the listeners. */
void events_job_started(const struct job *job);
/* The helper could not be started. */
void events_job_withdrawn(const struct job *job);
void events_job_ended(const struct job *job, bool source_sane);
void events_write_report(const struct job *job, const char *text, size_t len);
/* Highest job number in the reports directory; 0 = none. */
unsigned events_last_id(void);

/* ---- the doors: slots ---- */

int stream_download_vol(void *pool, void *vol, virStreamPtr st, unsigned long long offset, unsigned long long length,
                        unsigned int flags);
int create_build_vol_from(void *pool, void *vol, void *src, unsigned int flags);
char *control_find_pool_sources(const char *spec, unsigned int flags);
/* guard.c */
int guard_delete_vol(void *pool, void *vol, unsigned int flags);
int guard_resize_vol(void *pool, void *vol, unsigned long long capacity, unsigned int flags);
int guard_wipe_vol(void *pool, void *vol, unsigned int algorithm, unsigned int flags);
int guard_upload_vol(void *pool, void *vol, virStreamPtr st, unsigned long long offset, unsigned long long length,
                     unsigned int flags);
/* For the doors that also clone and download: the stock functions for the pool at hand. Reports and returns NULL where a repair
 * is working on the volume. */
const struct stock_slots *guard_reading(void *pool, void *vol);

/* A token's options leave the table. Reports and returns NULL. */
struct job_options *control_take_options(unsigned long long token);

#endif
