/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* front.h: what the files of the front (options, image, locks, child, reports) know of each other. */
#ifndef FRONT_H
#define FRONT_H

#include <glib.h>
#include <sys/stat.h>

#include "common.h"
#include "undo.h"
#include "vmm_proto.h"

#define EXIT_CORRUPTIONS 2
#define EXIT_LEAKS 3
#define EXIT_NO_CHECKS 63

/* ---- options.c: the command line ---------------------------------------------------------------- */

enum front_mode {
    FRONT_CHECK = VR_MODE_CHECK,
    FRONT_LEAKS = VR_MODE_LEAKS,
    FRONT_ALL = VR_MODE_ALL,
    FRONT_UNDO = 4,
};

enum progress_wish { PROGRESS_AUTO, PROGRESS_ALWAYS };

struct options {
    enum front_mode mode;
    bool own_mode;      /* --mode was given, not -r: say more than qemu-img does */
    bool json;          /* --output=json */
    bool quiet;
    bool force_share;
    bool force_leaks;
    bool image_opts;    /* filename is an option string */
    bool read_only;     /* so says the option string */
    bool data_file;     /* it names the external data file */
    bool stream;
    bool show_help, show_version;
    enum progress_wish progress;
    enum vmm_accel accel;
    uint64_t memory;    /* bytes */
    unsigned timeout;   /* seconds */
    uint32_t examples;  /* records for each problem */
    char *user;         /* USER[:GROUP] of the VMM where root starts it; NULL = nobody */
    int image_fd;       /* -1 = open path */
    int report_fd;      /* -1 = none */
    char *format;       /* NULL = probe */
    char *filename;     /* as given: what messages show, unless name is set */
    char *path;         /* what to open */
    char *name;
    char *undo;
    /* --undo-max-...: struct undo_limits */
    uint64_t undo_max_count, undo_max_total, undo_max_bytes, undo_max_age;
    char *report;
    GPtrArray *notes; /* ID:NAME, as notes_take() let them in */
};

/* On failure *opt is still to be given to options_clear(). */
bool options_parse(struct options *opt, int argc, char **argv, GError **error);
void options_clear(struct options *opt);
const char *options_shown_name(const struct options *opt);
const char *options_mode_name(enum front_mode mode);
void options_print_help(void);

/* Whether anybody will see more than qemu-img says. */
static inline bool options_wants_report(const struct options *opt)
{
    return opt->own_mode || opt->stream || opt->report || opt->report_fd >= 0;
}

static inline bool options_is_repair(const struct options *opt)
{
    return opt->mode == FRONT_LEAKS || opt->mode == FRONT_ALL;
}

/* ---- notes.c: what the caller knows of the image ------------------------------------------------------ */

#define NOTES_MAX 16

/* One value of --note. */
bool notes_take(GPtrArray *notes, const char *value, GError **error);

/* ---- imageopts.c: values of options ----------------------------------------------------------------- */

/* `secret,id=...`: whether qemu-img would take it. Nothing here needs an object: no key is ever used. */
bool object_parse(const char *text, GError **error);
/* `driver=qcow2,file.filename=a,,b`: fills format, path, read_only and force_share of opt. */
bool imageopts_parse(const char *text, struct options *opt, GError **error);
enum format_kind { FORMAT_UNKNOWN, FORMAT_NO_CHECKS, FORMAT_QCOW2 };
enum format_kind format_lookup(const char *name);

/* ---- image.c: the image file --------------------------------------------------------------------- */

struct image {
    int fd;
    bool is_device;
    uint64_t size;
    dev_t dev;
    ino_t ino;
    char *real_path; /* as the kernel names it */
    char *identity;  /* what a reboot leaves the same; names the journal (undo_name.c) */
};

/* Which file it is, for image_is_file(), before anything else and whether it can be opened or not. */
void image_identify(struct image *img, const struct options *opt);
/* Opens (or takes) and locks the identified image as the mode needs it. On failure nothing is left open. */
bool image_open(struct image *img, const struct options *opt, GError **error);
void image_close(struct image *img);
/* Kind, identity and size, once more where the size may have changed. */
bool image_measure(struct image *img, const struct options *opt, GError **error);
/* Whether this is the same file as the image: no report and no journal may replace it. */
bool image_is_file(const struct image *img, const char *path);
bool image_is_fd(const struct image *img, int fd);

/* What its journals are found by. */
static inline struct undo_image image_for_undo(const struct image *img)
{
    return (struct undo_image){.path = img->real_path, .identity = img->identity, .size = img->size, .is_device = img->is_device,
                               .dev = img->dev, .ino = img->ino};
}

/* ---- lock.c: QEMU's byte locks -------------------------------------------------------------------- */

enum lock_kind { LOCK_CHECK, LOCK_REPAIR };
bool lock_take(int fd, enum lock_kind kind, const char *shown, GError **error);

/* ---- inuse.c: users without locks ------------------------------------------------------------------- */

/*
 * Before a job, and before the first write of a repair. writers: of a device, only who may write to it counts; a file's writers
 * have locks. May wait a second.
 */
bool inuse_test(const struct image *img, bool writers, const char *shown, GError **error);

/* ---- user.c --------------------------------------------------------------------------------------- */

/* Fills uid and gid, where we are root. text: USER[:GROUP], names or numbers, or NULL. */
bool user_choose(const char *text, struct vmm_config *cfg, GError **error);

/* ---- accel.c: what the guest runs in ----------------------------------------------------------------- */

struct result;
/* Fills accel and kvm_fd of cfg, opening /dev/kvm where the options want it. */
bool accel_open(struct result *res, struct vmm_config *cfg, GError **error);
/* KVM was left to us, and cannot be had, for this reason (taken): into the result, and told to a terminal. */
void accel_fell_back(struct result *res, char *reason);
/* For the report: kvm, process, or none. */
const char *accel_name(const struct result *res);

/* ---- result.c: what a run came to ------------------------------------------------------------------ */

enum verdict {
    VERDICT_CLEAN,
    VERDICT_REPAIRED,
    VERDICT_LEAKS_REMAIN,
    VERDICT_CORRUPTIONS_REMAIN,
    VERDICT_REFUSED,
    VERDICT_FAILED,
    VERDICT_UNDONE,
    VERDICT_BLOCKED,
};

struct counters {
    uint64_t corruptions, leaks, check_errors;  /* what is there after the run */
    uint64_t corruptions_fixed, leaks_fixed;    /* what the run mended */
};

/* An earlier repair or undo that was cut. */
struct interrupted {
    bool repair;      /* in: this run may roll it back */
    char *journal;    /* NULL: there was none */
    char *of;         /* the image that the journal was made for, where it is another one; else NULL */
    uint64_t bytes;   /* of the image that the journal holds */
    bool rolled_back; /* by this run, before anything else */
};

struct result {
    const struct options *opt;
    /* what the child said, checked by frames.c */
    bool have_summary, have_fail, have_stats;
    struct vr_summary summary;
    struct vmm_fail fail;
    struct vmm_stats stats;
    bool commit_asked, commit_begun, commit_ended;
    char *in_use;               /* who was found just before the commit, so that there was none; NULL = nobody */
    struct vmm_commit commit;   /* the last one */
    bool rolled_back;           /* the front itself undid a commit that was cut */
    struct interrupted interrupted;
    GArray *records;            /* struct vr_record, as they came, at most RESULT_RECORDS_MAX */
    GHashTable *names;          /* of snapshots: names.c */
    uint64_t file_size;         /* before the run */
    bool ran;                   /* a guest was started */
    char *accel_reason;         /* why it runs in a process; NULL = under KVM */
    /* conclusions */
    bool qemu_document;         /* qemu-img would print a summary for this run */
    enum verdict verdict;
    int exit_code;
    char *error;                /* with VERDICT_REFUSED and VERDICT_FAILED */
    char *cli_error;            /* what qemu-img would say instead; NULL = error */
    struct counters counters;
    bool image_changed;
    char *undo_path;            /* a journal was kept */
    uint64_t undo_bytes;
    uint64_t us_total;
};

#define RESULT_RECORDS_MAX (1u << 20)
#define RESULT_RANGES_MAX 1000u
#define TEXT_RANGES_MAX 8u

void result_init(struct result *res, const struct options *opt);
void result_clear(struct result *res);
/* Verdict, exit code, counters and error from what the child said. */
void result_conclude(struct result *res);
/* image_changed, from what is known of the commit and of what was rolled back before. */
void result_conclude_image(struct result *res);
/* Whether something that this repair wrote is in the image. */
bool result_repair_changed(const struct result *res);
/* Bytes by which a block device has to be larger for what was refused, or 0: more room would not help. */
uint64_t result_room_needed(const struct result *res);
/* Whether an interrupted repair waits to be rolled back. */
bool result_is_interrupted(const struct result *res);
/* Whether a finding that is there at the end of the run says that part of the map, or of what names it, may be lost. */
bool result_data_may_be_lost(const struct result *res);
/* Whether the image has its corrupt bit at the end of the run: QEMU does not open it for writing. */
bool result_is_corrupt(const struct result *res);
/* After a failure: what became of the image, as the end of a sentence; "" in a check. */
const char *result_image_state(const struct result *res);
/* Nothing ran, or the front itself failed: verdict refused or failed with this sentence. */
void result_fail(struct result *res, const GError *error);
bool result_committed(const struct result *res);
/* Whether the run mended what this record reports. */
bool result_record_fixed(const struct result *res, const struct vr_record *rec);
/* Nothing was done, for this reason; takes the text. */
void result_refuse(struct result *res, char *error);
/* The walk whose numbers are what is there now. */
enum vr_walk result_last_walk(const struct result *res);
const char *verdict_name(enum verdict verdict);
/* Row whose finding ended the run (severity OPEN or REFUSE), as its first record; NULL if none. */
const struct vr_record *result_refusal(const struct result *res);

struct guest_range {
    uint64_t offset, length;
};
/* Guest ranges of one map (VR_ROOT_ACTIVE, or of a snapshot) that the first walk's records speak of, sorted and merged. */
GArray *result_guest_ranges(const struct result *res, uint32_t root);
uint64_t result_ranges_sum(const GArray *ranges);
/* Roots (uint32_t) of the snapshots that the first walk's records speak of, sorted. */
GArray *result_snapshots(const struct result *res);

/* ---- messages.c: from a record to a sentence ------------------------------------------------------- */

struct row_words {
    uint32_t code;
    uint8_t severity, policy, flags, order;
    const char *slug, *spec, *qemu, *message;
};
extern const struct row_words row_words[VR_P_COUNT];

/* Row index of a code, or -1. */
int row_find(uint32_t code);
/* Appends tmpl with the record's fields put in. names may be NULL. fixed: {op} is Repairing. */
void message_render(GString *out, const char *tmpl, GHashTable *names, const struct vr_record *rec, bool fixed);
char *message_of(GHashTable *names, const struct vr_record *rec);
const char *severity_name(uint8_t severity);
const char *kept_name(uint8_t kept);
/* The mode that mends a row: leaks, all, or report for none. */
const char *policy_name(uint8_t policy);

/* ---- names.c: ids and names of snapshots ------------------------------------------------------------- */

#define NAMES_MAX 65536u

/* Root (VR_REC_NAME) to id and name. */
GHashTable *names_new(void);
/* False: malformed. */
bool names_take(GHashTable *names, const struct vr_record *rec);
/* "?" where it is not known. Valid UTF-8 without control and format characters. */
const char *names_get(GHashTable *names, uint32_t root, bool id);

/* ---- frames.c: the child's words, none of them believed -------------------------------------------- */

struct frames {
    struct result *res;
    bool repair;
    bool first; /* none was taken yet */
    uint32_t kept[VR_WALK_COUNT][VR_P_COUNT]; /* records stored so far */
    void (*progress)(void *opaque, enum vr_walk walk, enum vr_pass pass, double part);
    void (*commit)(void *opaque, bool ended);
    void (*ready)(void *opaque); /* the child waits for an answer */
    void *opaque;
};

/* One whole frame. False with *error: the child broke the protocol. */
bool frames_take(struct frames *fr, const struct vmm_msg *msg, const void *body, GError **error);

/* ---- progress.c: one percentage for the whole job --------------------------------------------------- */

struct progress {
    const struct options *opt;
    bool bar;             /* a line on standard error */
    unsigned percent;     /* never falls */
    gint64 last_us;
    const char *phase;
    bool broken;          /* the reader of the stream is gone */
};
void progress_init(struct progress *pr, const struct options *opt);
void progress_update(struct progress *pr, const char *phase, const char *pass, double part);
void progress_done(struct progress *pr);

/* ---- front.c: one run -------------------------------------------------------------------------------- */

/* Runs the guest over the image. What went wrong is in res; false only where nothing could be started. */
bool front_run(struct result *res, const struct image *img, struct undofile *uf, struct progress *pr, GError **error);
/* Blocks SIGINT, SIGTERM and SIGHUP. */
void signals_block(void);

/* ---- job.c: all between the command line and the report ------------------------------------------------ */

/* What went wrong is in res; false with *error where it does not come from the child. img is open afterwards. */
bool job_run(struct result *res, struct image *img, struct progress *pr, GError **error);

/* ---- recover.c: rolling back, in plain host code ------------------------------------------------------ */

/* --mode=undo; named: the journal, or NULL for the newest of this image. */
bool recover_undo(struct result *res, const struct image *img, const char *named, GError **error);
/*
 * A commit or an undo that was cut left a journal, named or in the default directory: says so in *in, of which repair is set.
 * repair: rolls it back first, where it is this image's; another's whose writes are in this image is an error.
 */
bool recover_interrupted(const struct image *img, const char *named, struct interrupted *in, GError **error);

/* ---- reports ------------------------------------------------------------------------------------------- */

/* report_text.c: qemu-img's lines on standard error, its summary on standard output, then ours. */
void text_print_findings(const struct result *res);
/* With -r on what was probed as raw, qemu-img warns first. */
void text_print_raw_warning(const struct result *res);
void text_print_summary(const struct result *res);
void text_print_ours(const struct result *res);

/* report_would.c: what the modes that repair would do (a check only), and the snapshots that are hit. */
void text_print_would(const struct result *res);
/* Whether a mode would mend anything of what a check found; whether mode all would mend more than mode leaks. */
bool result_would_mend(const struct result *res, enum front_mode mode);
bool result_would_mend_more(const struct result *res);
void text_print_snapshots(const struct result *res);
void json_add_would(struct json *j, const struct result *res);
void json_add_snapshots(struct json *j, const struct result *res);
/* notes.c */
void json_add_notes(struct json *j, const struct options *opt);

/* report_json.c: docs/report.md. */
void json_add_ranges(struct json *j, const struct result *res, uint32_t root);
void report_add(struct json *j, const struct result *res);
char *report_text(const struct result *res);

/* report_stream.c: JSON lines; false when the reader is gone. */
bool stream_start(const struct options *opt);
bool stream_progress(const char *phase, const char *pass, unsigned percent);
bool stream_report(const struct result *res);

/* report_file.c: --report and --report-fd. */
bool report_check_target(const struct options *opt, const struct image *img, GError **error);
bool report_write(const struct result *res, const struct image *img, GError **error);

#endif
