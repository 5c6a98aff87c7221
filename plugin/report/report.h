/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* report.h: what was asked, what came of it, and how it is said. */
#ifndef REPORT_H
#define REPORT_H

#include <glib.h>

#include "common.h"
#include "vmm_proto.h"
#include "words.h"

/* Beside EXIT_SUCCESS and EXIT_FAILURE. */
enum { EXIT_CORRUPTIONS = 2, EXIT_LEAKS = 3, EXIT_NO_CHECKS = 63 };

/* ---- asked.c: what was asked ---------------------------------------------------------------------------- */

enum front_mode { FRONT_CHECK = VR_MODE_CHECK, FRONT_LEAKS = VR_MODE_LEAKS, FRONT_ALL = VR_MODE_ALL, FRONT_UNDO = 4 };

enum progress_wish { PROGRESS_AUTO, PROGRESS_ALWAYS };

struct options {
    enum front_mode mode;
    bool own_mode;      /* --mode was given, not -r: say more than qemu-img does */
    bool json;          /* --output=json */
    bool quiet, stream, force_share, force_leaks;
    bool image_opts;    /* filename is an option string */
    bool read_only;     /* so says the option string */
    bool data_file;     /* it names the external data file */
    bool show_help, show_version;
    enum progress_wish progress;
    enum vmm_accel accel;
    uint64_t memory;    /* bytes */
    unsigned timeout;   /* seconds */
    uint32_t examples;  /* records for each problem */
    char *user;         /* USER[:GROUP] of the VMM where root starts it; NULL = nobody */
    int image_fd, report_fd; /* -1 = open path; -1 = none */
    char *format;       /* NULL = probe */
    char *filename;     /* as given: what messages show, unless name is set */
    char *path;         /* what to open */
    char *name, *undo, *report;
    uint64_t undo_max_count, undo_max_total, undo_max_bytes, undo_max_age; /* age: days; see struct undo_limits */
    GPtrArray *notes;   /* ID:NAME, as notes_take() let them in */
};

const char *options_shown_name(const struct options *opt);
const char *options_mode_name(enum front_mode mode);
/* Whether anybody will see more than qemu-img says. */
bool options_wants_report(const struct options *opt);
bool options_is_repair(const struct options *opt);

/* ---- result.c: what a run came to ------------------------------------------------------------------ */

enum verdict {
    VERDICT_CLEAN, VERDICT_REPAIRED, VERDICT_LEAKS_REMAIN, VERDICT_CORRUPTIONS_REMAIN,
    VERDICT_REFUSED, VERDICT_FAILED, VERDICT_UNDONE, VERDICT_BLOCKED,
};

struct counters {
    uint64_t corruptions, leaks, check_errors;  /* what is there after the run */
    uint64_t corruptions_fixed, leaks_fixed;    /* what the run mended */
};

/* An earlier repair or undo that was cut. */
struct interrupted {
    bool repair, rolled_back; /* in: this run may roll it back; out: it did, before anything else */
    char *journal;    /* NULL: there was none */
    char *of;         /* the image that the journal was made for, where it is another one; else NULL */
    uint64_t bytes;   /* of the image that the journal holds */
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
    GArray *records;            /* struct vr_record, as they came, as many as frames.c takes */
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
    uint64_t undo_bytes, us_total;
};

enum { RESULT_RANGES_MAX = 1000, TEXT_RANGES_MAX = 8 };

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
/* For the report: kvm, process, or none. */
const char *accel_name(const struct result *res);
/* Numbers of a hostile guest may be anything; a report has 63 bits for them. */
void result_add(uint64_t *sum, uint64_t n);

/* ---- ranges.c: what of the guest is hit ------------------------------------------------------------------ */

struct guest_range { uint64_t offset, length; };
/* Guest ranges of one map (VR_ROOT_ACTIVE, or of a snapshot) that the first walk's records speak of, sorted and merged. */
GArray *result_guest_ranges(const struct result *res, uint32_t root);
uint64_t result_ranges_sum(const GArray *ranges);
/* Roots (uint32_t) of the snapshots that the first walk's records speak of, sorted. */
GArray *result_snapshots(const struct result *res);

/* ---- qemu_lines.c, text.c, would.c, notes.c, document.c, stream.c: how it is said ------------------------ */

/* qemu-img's lines on standard error, its summary on standard output, then ours. */
void text_print_findings(const struct result *res);
/* With -r on what was probed as raw, qemu-img warns first. */
void text_print_raw_warning(const struct result *res);
void text_print_summary(const struct result *res);
void text_print_ours(const struct result *res);
/* What the modes that repair would do (a check only), and the snapshots that are hit. */
void text_print_would(const struct result *res);
/* Whether a mode would mend anything of what a check found; whether mode all would mend more than mode leaks. */
bool result_would_mend(const struct result *res, enum front_mode mode);
bool result_would_mend_more(const struct result *res);
void text_print_snapshots(const struct result *res);
void json_add_would(struct json *j, const struct result *res);
void json_add_snapshots(struct json *j, const struct result *res);
/* Index of the kind of note whose name is the first len bytes of text; -1: there is none. */
int note_find(const char *text, size_t len);
void json_add_notes(struct json *j, const struct options *opt);
/* docs/report.md. */
void json_add_ranges(struct json *j, const struct result *res, uint32_t root);
void report_add(struct json *j, const struct result *res);
char *report_text(const struct result *res);
/* JSON lines; false when the reader is gone. */
bool stream_start(const struct options *opt);
bool stream_progress(const char *phase, const char *pass, unsigned percent);
bool stream_report(const struct result *res);

#endif
