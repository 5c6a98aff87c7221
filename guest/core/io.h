/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* io.h: memory and the image's bytes, for all of the engine. One section a file. */
#ifndef VR_IO_H
#define VR_IO_H

#include "checked.h"
#include "vr_records.h"

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

#endif
