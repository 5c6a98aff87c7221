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

#include "checked.h"
#include "vr_problems.h"

void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memset(void *to, int byte, size_t n);
void *memmove(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);

#define VR_CHECKED __attribute__((warn_unused_result))

struct vr_ctx;

/* Hand a failure up. */
#define VR_TRY(expr)                                                                                                   \
    do {                                                                                                               \
        enum vr_status st_ = (expr);                                                                                   \
        if (st_ != VR_OK)                                                                                              \
            return st_;                                                                                                \
    } while (0)

/* ---- arena.c: memory; freed only back to a mark ------------------------------------------------- */

struct vr_arena {
    uint8_t *base;
    uint64_t size, used, peak;
};

/* Zeroed memory, 64-byte aligned; NULL where the arena is used up. The arena was zero at the start. */
void *vr_arena_get(struct vr_arena *a, uint64_t bytes) VR_CHECKED;
uint64_t vr_arena_mark(const struct vr_arena *a);
void vr_arena_reset(struct vr_arena *a, uint64_t mark);

/* ---- io.c: the image, as a set of requests in flight ------------------------------------------------ */

struct vr_request {
    uint16_t op; /* enum vr_op */
    uint64_t offset;
    void *buf;
    uint32_t len;
    uint32_t value;
};

/* What carries requests: the ring in a guest, memory in tests. post() returns a status of the carrier itself. */
struct vr_carrier {
    /* Takes the request; it may only be started at the next kick or next. At most VR_RING_ENTRIES are out at once. */
    enum vr_status (*post)(struct vr_carrier *c, uint32_t id, const struct vr_request *r);
    /* Starts what was posted. */
    void (*kick)(struct vr_carrier *c);
    /* The next completion; waits for one. Called only while requests are out. */
    struct vr_cqe (*next)(struct vr_carrier *c);
};

enum vr_slot_state { VR_SLOT_FREE, VR_SLOT_OUT, VR_SLOT_DONE, VR_SLOT_FORGOTTEN };

struct vr_io {
    struct vr_carrier *carrier;
    unsigned out;     /* requests without completion */
    unsigned unkicked;
    unsigned hint;    /* where to look for a free slot first */
    uint8_t state[VR_RING_ENTRIES];
    int32_t status[VR_RING_ENTRIES];
};

/* Start a request; *slot names it until vr_io_wait(). The buffer stays the caller's and untouched until then. */
enum vr_status vr_io_start(struct vr_io *io, const struct vr_request *r, unsigned *slot) VR_CHECKED;
/* Wait for a started request and give its slot back. */
enum vr_status vr_io_wait(struct vr_io *io, unsigned slot) VR_CHECKED;
/* Start and wait. */
enum vr_status vr_io_do(struct vr_io *io, const struct vr_request *r) VR_CHECKED;
/* Wait for all that is out, and forget it: before memory that reads may go to is given back. */
void vr_io_drain(struct vr_io *io);
/* Start a request without a buffer, whose outcome does not matter. */
void vr_io_tell(struct vr_io *io, const struct vr_request *r);

/* Read len bytes at offset into buf and wait. */
enum vr_status vr_read(struct vr_ctx *ctx, uint64_t offset, void *buf, uint32_t len) VR_CHECKED;
/* Hand len bytes for offset to the overlay and wait. Nothing reaches the image before the commit. */
enum vr_status vr_plan_write(struct vr_ctx *ctx, enum vr_epoch epoch, uint64_t offset, void *buf, uint32_t len)
    VR_CHECKED;

/* ---- window.c: small pieces, one after the other ------------------------------------------------------------- */

#define VR_WINDOW 4096u

struct vr_window {
    struct vr_ctx *ctx;
    uint8_t *buf;
    uint64_t at; /* what it holds, UINT64_MAX = nothing */
};

enum vr_status vr_window_open(struct vr_window *w, struct vr_ctx *ctx) VR_CHECKED;
/* len bytes (at most half the window) at offset, valid until the next look. */
enum vr_status vr_window_look(struct vr_window *w, uint64_t offset, uint64_t len, const uint8_t **p) VR_CHECKED;

/* ---- stream.c: many blocks of one size, read ahead, delivered in order ------------------------------- */

struct vr_block {
    uint64_t offset; /* in the image */
    uint64_t tag;    /* the caller's */
    uint8_t *data;   /* valid until the next vr_stream_get(); NULL at the end of the stream */
};

/* Gives the next block to read (offset and tag); false at the end. */
typedef bool vr_next_block(void *arg, struct vr_block *b);

#define VR_STREAM_DEPTH 64u

struct vr_stream {
    struct vr_ctx *ctx;
    vr_next_block *next;
    void *arg;
    uint32_t block;  /* bytes */
    unsigned depth;  /* blocks in flight */
    unsigned head, tail;
    bool ended, started;
    uint8_t *buf;
    struct vr_block blocks[VR_STREAM_DEPTH];
    unsigned slots[VR_STREAM_DEPTH];
};

/* Buffers come from the arena. expected: about how many blocks there will be, so that little memory is touched for few. */
enum vr_status vr_stream_open(struct vr_stream *s, struct vr_ctx *ctx, uint32_t block, uint64_t expected) VR_CHECKED;
enum vr_status vr_stream_get(struct vr_stream *s, struct vr_block *b) VR_CHECKED;

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

/* ---- the context, and qcow2/session.c: the array of passes, the order of walks ------------------------------ */

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

/* Runs everything; the outcome is in sum. */
void vr_session(struct vr_ctx *ctx);

/* Whether this walk decides about mending. */
static inline bool vr_planning(const struct vr_ctx *ctx)
{
    return ctx->walk == VR_WALK_CHECK && ctx->mode != VR_MODE_CHECK;
}

#endif
