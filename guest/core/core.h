/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * core.h: what every part of the engine stands on. One section a file of guest/core/.
 *
 * The engine is freestanding C: no libc but memcpy, memset, memmove, memcmp; no allocation but the
 * arena; no state outside struct vr_ctx. Two channels never mix: damage in the image is a finding
 * (vr_report), failure of the repairer is a status (enum vr_status).
 */
#ifndef VR_CORE_H
#define VR_CORE_H

#include "io.h"
#include "vr_problems.h"

/* ---- report.c: the only place that counts ---------------------------------------------------------------- */

struct vr_finding {
    uint64_t host, guest, guest_len, index, got, want; /* as in struct vr_record; vr_finding_none() presets */
    uint64_t count;                                    /* that many at once */
    uint32_t root;                                     /* as in struct vr_record */
    enum vr_kept kept;                                 /* a reason not to mend this one */
};

enum vr_decision { VR_KEEP, VR_FIX };

static inline struct vr_finding vr_finding_none(void)
{
    return (struct vr_finding){.host = VR_NONE, .guest = VR_NONE, .count = 1, .root = VR_ROOT_NONE};
}

extern const struct vr_row vr_rows[VR_P_COUNT];

/* Count a finding, send its record while examples are wanted, and say whether it is to be mended. */
enum vr_decision vr_report(struct vr_ctx *ctx, enum vr_problem p, const struct vr_finding *f);
/* Whether findings of this row are only counted from now on: several may then be reported as one (f->count). */
bool vr_report_enough(const struct vr_ctx *ctx, enum vr_problem p);
/* As much of a text as a record has room for; what is longer ends in dots. Returns the bytes in use. */
uint8_t vr_name_fit(char *to, uint32_t room, const uint8_t *from, uint64_t len);
/* Send the name of a snapshot. */
void vr_report_name(struct vr_ctx *ctx, uint32_t root, const struct vr_name *name);
/* A finding reported as kept turned out to be mended by the plan after all (the dirty and corrupt bits). */
void vr_report_fixed(struct vr_ctx *ctx, enum vr_problem p);
/* Send what is buffered. */
enum vr_status vr_report_flush(struct vr_ctx *ctx) VR_CHECKED;
/* Findings of a severity in a walk; of the first walk, what the plan does not mend. */
uint64_t vr_found(const struct vr_ctx *ctx, enum vr_walk walk, enum vr_severity sev);
uint64_t vr_remaining(const struct vr_ctx *ctx, enum vr_severity sev);
void vr_progress(struct vr_ctx *ctx, enum vr_pass pass, uint64_t done, uint64_t total);

/* ---- formats -------------------------------------------------------------------------------------------------- */

/* A part of a walk: reports what it finds, plans what the mode repairs; failures of the program only are returned. */
typedef enum vr_status vr_pass_fn(struct vr_ctx *ctx);

/* What the engine has to know of an image format. Each has a struct vr_image of its own. */
struct vr_format_ops {
    vr_pass_fn *const *passes; /* in the order in which a walk runs them */
    unsigned npasses;
    uint64_t image_bytes;      /* of its struct vr_image, which every walk has anew */
    enum vr_problem not_verified; /* the row that says that a plan did not verify */
    /* After the first walk, where nothing else is planned: whether there is something to write all the same. */
    bool (*has_more)(const struct vr_ctx *ctx);
    /* Plans what reaches the disk before all else, and what reaches it last; walk: the one that saw the plan, or the first. */
    vr_pass_fn *begin;
    enum vr_status (*finish)(struct vr_ctx *ctx, enum vr_walk walk);
    /* Adds both to a dry run. planned: there is something else. */
    void (*dry_run)(struct vr_ctx *ctx, struct vr_would *w, bool planned);
};

extern const struct vr_format_ops vr_qcow2;

/* ---- the context ---------------------------------------------------------------------------------------------- */

struct vr_image;

struct vr_ctx {
    struct vr_io io;
    struct vr_arena arena;
    enum vr_mode mode;
    enum vr_walk walk;
    uint64_t file_size;
    uint64_t first_size;    /* file_size before anything was planned */
    uint32_t examples;
    uint32_t flags;         /* VR_BOOT_* */
    struct vr_summary *sum;
    const struct vr_format_ops *format;
    struct vr_image *img;   /* of this walk */
    uint64_t planned;       /* writes handed to the overlay */
    struct vr_would *would; /* a walk that only says what it would do, or NULL */
    uint8_t *stream_buf;    /* stream.c, of this walk */
    uint64_t stream_bytes;
    bool header_shared;     /* something else lies on the header as well */
    /* report.c */
    uint32_t implied;       /* by what this walk found: VR_KEEPS_LEAKS ... */
    struct vr_record *batch;
    uint32_t batched;
    uint32_t sent[VR_P_COUNT];
    enum vr_status report_status;
};

/* ---- session.c, verify.c, would.c: the order of walks ------------------------------------------------------------- */

/* Runs everything; the outcome is in sum. */
void vr_session(struct vr_ctx *ctx);
/* Whether the image as it would be is what the plan promised; else one record, and VR_EREFUSED. */
enum vr_status vr_verify(struct vr_ctx *ctx) VR_CHECKED;
/* Walks the image as that mode would, and fills in sum->would instead of planning anything. walk: of session.c. */
enum vr_status vr_would(struct vr_ctx *ctx, enum vr_mode mode,
                        enum vr_status (*walk)(struct vr_ctx *, enum vr_walk)) VR_CHECKED;

/* Whether this walk decides about mending. */
static inline bool vr_planning(const struct vr_ctx *ctx)
{
    return ctx->walk == VR_WALK_CHECK && ctx->mode != VR_MODE_CHECK;
}

#endif
