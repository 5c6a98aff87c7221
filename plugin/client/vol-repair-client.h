/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vol-repair-client.h: check and repair storage volumes through libvirt, on hosts that have the vol-repair extension.
 *
 * All functions work on the caller's own libvirt connection and may be called from several threads at once. They
 * block. On failure they set a GError of the domain VOL_REPAIR_ERROR and return NULL (or FALSE), and nothing has to be
 * freed. What they return belongs to the caller. Strings are UTF-8; those that come from the daemon may hold anything
 * else a file name may hold, control characters too.
 */
#ifndef VOL_REPAIR_CLIENT_H
#define VOL_REPAIR_CLIENT_H

#include <glib.h>
#include <libvirt/libvirt.h>

G_BEGIN_DECLS

/* ---- errors ---- */

#define VOL_REPAIR_ERROR (vol_repair_error_quark())
GQuark vol_repair_error_quark(void);

enum vol_repair_error {
    VOL_REPAIR_ERROR_NO_EXTENSION, /* the daemon has no vol-repair extension, or it is switched off */
    VOL_REPAIR_ERROR_UNSUPPORTED,  /* the extension is there, but cannot do this */
    VOL_REPAIR_ERROR_FORMAT,       /* the volume's image is of a format that cannot be checked */
    VOL_REPAIR_ERROR_LIBVIRT,      /* libvirt refused or failed; the message is libvirt's */
    VOL_REPAIR_ERROR_PROTOCOL,     /* the daemon's answer breaks the contract */
    VOL_REPAIR_ERROR_NO_REPORT,    /* the job ended without a report: the repair program or the daemon died */
    VOL_REPAIR_ERROR_ABORTED,      /* aborted by the caller, and no report came back */
    VOL_REPAIR_ERROR_LOST,         /* the connection broke, or the daemon ended: the job ends by itself, and reports */
    VOL_REPAIR_ERROR_RUNNING,      /* the job has not ended yet */
};

/* ---- modes and verdicts ---- */

enum vol_repair_mode {
    VOL_REPAIR_CHECK, /* look; never writes */
    VOL_REPAIR_LEAKS, /* free what nothing uses */
    VOL_REPAIR_ALL,   /* mend all that can be mended */
    VOL_REPAIR_UNDO,  /* take the last repair back */
    VOL_REPAIR_MODE_COUNT
};

enum vol_repair_verdict {
    VOL_REPAIR_CLEAN,
    VOL_REPAIR_REPAIRED,
    VOL_REPAIR_LEAKS_REMAIN,
    VOL_REPAIR_CORRUPTIONS_REMAIN,
    VOL_REPAIR_REFUSED,
    VOL_REPAIR_FAILED,
    VOL_REPAIR_UNDONE,
    VOL_REPAIR_BLOCKED, /* no damage is counted, and QEMU does not open it: marked corrupt, or a repair was interrupted */
    VOL_REPAIR_VERDICT_COUNT
};

/* Static strings, as in the report. */
const char *vol_repair_mode_name(enum vol_repair_mode mode);
const char *vol_repair_verdict_name(enum vol_repair_verdict verdict);
/* FALSE where there is no mode of that name; *mode is unchanged then. Sets no error. */
gboolean vol_repair_mode_from_name(const char *name, enum vol_repair_mode *mode);

/* ---- what a host can do ---- */

struct vol_repair_capabilities {
    char *version;          /* of the extension */
    char **modes;           /* names, NULL at the end; so are the next three */
    char **pools;           /* pool types */
    char **formats;         /* image formats */
    char **doors;           /* ways to ask for a repair */
    char *helper;           /* path of the repair program on the daemon's host */
    gboolean helper_usable; /* the daemon can run it */
    char *helper_trouble;   /* why not; NULL where the daemon does not say */
};

struct vol_repair_capabilities *vol_repair_get_capabilities(virConnectPtr conn, GError **error);
void vol_repair_capabilities_free(struct vol_repair_capabilities *caps);

/* ---- one repair ---- */

/* All zero, but for the two numbers below, means: the defaults of the daemon's host. */
struct vol_repair_options {
    const char *format; /* the image's format, where libvirt's is wrong; NULL: libvirt's */
    const char *accel;  /* kvm, process, auto; NULL: the host's choice */
    const char *undo;   /* base name of the undo journal; NULL: the volume's own */
    guint64 memory;     /* bytes; 0: the host's choice */
    int timeout;        /* seconds without progress until the repairer is stopped; 0: never; -1: the host's choice */
    int max_messages;   /* findings of a kind that the report spells out; -1: the host's choice */
};
/* clang-format off */
#define VOL_REPAIR_OPTIONS_INIT {.timeout = -1, .max_messages = -1}
/* clang-format on */

struct vol_repair_progress {
    const char *phase; /* check, verify, commit, final, undo */
    const char *pass;  /* what is walked over, or NULL */
    unsigned percent;  /* of the whole job, 0 to 100; never falls */
};

/* Called in the thread of vol_repair_run(); its argument lives until it returns. It must not call back into the run. */
typedef void (*vol_repair_progress_fn)(const struct vol_repair_progress *progress, void *opaque);

/*
 * A flag that ends a run at a safe point: before the repairer has written anything nothing is written, afterwards the
 * writing is finished first. One flag may serve any number of runs, at once or in turn; once raised it stays so.
 */
struct vol_repair_abort;
struct vol_repair_abort *vol_repair_abort_new(GError **error);
/* May be called from a signal handler and from any thread, as often as wanted. */
void vol_repair_abort_raise(struct vol_repair_abort *abort_flag);
gboolean vol_repair_abort_is_raised(const struct vol_repair_abort *abort_flag);
/* No run may use it any more. */
void vol_repair_abort_free(struct vol_repair_abort *abort_flag);

struct vol_repair_example {
    char *message;
    gint64 host_offset;  /* bytes into the image; -1: unknown */
    gint64 guest_offset; /* bytes into the guest's disk; -1: none is hit */
    gint64 guest_length;
    gboolean fixed;
};

struct vol_repair_problem {
    char *id; /* slug of the problem table */
    char *code;
    char *severity; /* note, leak, corruption, error, refusal */
    char *policy;   /* the mode that mends it: leaks, all, or report for none; NULL from an older daemon */
    char *kept;     /* why some were left as they are, a word; or NULL */
    gint64 count, fixed, remaining;
    GArray *examples; /* struct vol_repair_example */
};

struct vol_repair_range {
    gint64 offset, length; /* bytes of the guest's disk */
};

/* A snapshot that damage reaches. */
struct vol_repair_snapshot {
    char *id, *name; /* "?" where the image does not say */
    gint64 problems; /* findings that speak of it */
    gint64 guest_bytes_affected;
};

/* What a mode that repairs would do to what a check has found. */
struct vol_repair_would {
    char *refused;  /* slug of the problem because of which it would do nothing; or NULL */
    gint64 mends;   /* problems */
    gint64 clusters_freed, bytes_written;
    gboolean gives_up; /* something is lost by it that could still be read: the report says what */
};

/* docs/report.md explains every field; numbers that the report leaves out are 0, strings NULL. */
struct vol_repair_report {
    char *json; /* the whole report, an object */
    char *filename;
    enum vol_repair_mode mode;
    enum vol_repair_verdict verdict;
    int exit_code; /* 0, 1, 2, 3, 63: as of qemu-img check */
    char *error;   /* one sentence; only where refused or failed */
    char *accel, *accel_reason; /* the reason: only with "process" */
    gboolean image_changed;
    char *interrupted_journal;   /* of an earlier repair or undo that was interrupted; path on the daemon's host */
    char **notes;                /* sentences on what the host knows of the volume, NULL at the end */
    gboolean interrupted_undone; /* it was rolled back first; else it still waits for that */
    gint64 needed_bytes;         /* the volume's device has to be larger by so much to be mended; 0: that is not the reason */
    gboolean corrupt;            /* the image was marked corrupt when it was first read */
    gint64 corruptions, corruptions_fixed, leaks, leaks_fixed, check_errors;
    gint64 guest_bytes_affected;
    gboolean data_may_be_lost;   /* a finding says that part of the map, or of what names it, may be lost */
    gint64 bytes_changed, clusters_freed;
    gint64 milliseconds;
    char *undo_journal; /* path on the daemon's host */
    GArray *problems;   /* struct vol_repair_problem */
    GArray *ranges;     /* struct vol_repair_range: parts of the guest's disk that damage reaches */
    GArray *snapshots;  /* struct vol_repair_snapshot: those that damage reaches */
    gboolean has_would; /* a check that found something: what the two modes would do */
    struct vol_repair_would would_leaks, would_all;
};

/* What vol_repair_run() needs to know beside volume and mode; any part may be NULL. */
struct vol_repair_run {
    const struct vol_repair_options *options;
    vol_repair_progress_fn progress;
    void *opaque; /* for progress */
    struct vol_repair_abort *abort_flag;
    unsigned *job; /* where the job's number goes; 0: none was started, or an older daemon does not say */
};

/*
 * Runs a job on the volume and waits for its end. A report comes back for every job that ran, whatever its verdict;
 * an error means that there is none. run may be NULL. An aborted job's report has the verdict "failed" and the
 * error "aborted", unless the job was past the point where that is possible.
 */
struct vol_repair_report *vol_repair_run(virStorageVolPtr vol, enum vol_repair_mode mode,
                                         const struct vol_repair_run *run, GError **error);
void vol_repair_report_free(struct vol_repair_report *report);

/* ---- the jobs of a host ---- */

struct vol_repair_job {
    unsigned id;
    enum vol_repair_mode mode;
    char *pool; /* NULL where the daemon does not know it: a report made in another pool than the volume's */
    char *volume;
    gboolean running;
    unsigned percent;
    char *phase;    /* NULL once it has ended */
    char *verdict;  /* NULL while it runs */
    int exit_code;  /* -1 while it runs */
    gint64 started; /* seconds since the epoch */
    char *report;   /* name of its volume in the pool vol-repair; NULL where there is none */
};

/* The jobs that the caller may see, newest first: struct vol_repair_job *, freed with the array. */
GPtrArray *vol_repair_list_jobs(virConnectPtr conn, GError **error);
/* Asks a job to end at a safe point. *sent is FALSE where it had ended already. sent may be NULL. */
gboolean vol_repair_abort_job(virConnectPtr conn, unsigned id, gboolean *sent, GError **error);

/*
 * The report of a job that the caller may see, from the files that the daemon's host keeps: for one that has lost its client.
 * A daemon that starts again knows the jobs of the one before.
 */
struct vol_repair_report *vol_repair_get_report(virConnectPtr conn, unsigned id, GError **error);

/* For g_autoptr(). */
typedef struct vol_repair_capabilities VolRepairCapabilities;
typedef struct vol_repair_abort VolRepairAbort;
typedef struct vol_repair_report VolRepairReport;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VolRepairCapabilities, vol_repair_capabilities_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VolRepairAbort, vol_repair_abort_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VolRepairReport, vol_repair_report_free)

G_END_DECLS

#endif
