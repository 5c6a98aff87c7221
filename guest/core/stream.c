/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* stream.c: reads many blocks of one size ahead of their use and delivers them in order. */
#include "core.h"

/* Enough in flight that a doorbell, which is dear, starts many reads; and little enough to stay in the cache. */
#define STREAM_MEMORY (3u << 20)

/* Streams follow one another, never two at a time: the buffer of a walk is the same for all. */
static uint8_t *buffer(struct vr_ctx *ctx, uint64_t bytes)
{
    if (!ctx->stream_buf || ctx->stream_bytes < bytes) {
        ctx->stream_buf = vr_arena_get(&ctx->arena, bytes);
        ctx->stream_bytes = bytes;
    }
    return ctx->stream_buf;
}

enum vr_status vr_stream_open(struct vr_stream *s, struct vr_ctx *ctx, uint32_t block, uint64_t expected)
{
    uint64_t depth = STREAM_MEMORY / block;

    depth = vr_min(vr_min(depth, VR_STREAM_DEPTH), expected + 1);
    s->depth = depth < 2 ? 2 : (unsigned)depth;
    s->ctx = ctx;
    s->block = block;
    s->buf = buffer(ctx, (uint64_t)s->depth * block);
    return s->buf ? VR_OK : VR_ENOMEM;
}

/* Start reads until the depth is reached or the source ends. The block last delivered keeps its buffer. */
static enum vr_status refill(struct vr_stream *s)
{
    while (!s->ended && s->tail - s->head < s->depth - 1) {
        unsigned i = s->tail % s->depth;
        struct vr_block *b = &s->blocks[i];

        if (!s->next(s->arg, b)) {
            s->ended = true;
            break;
        }
        b->data = s->buf + (uint64_t)i * s->block;
        struct vr_request r = {.op = VR_OP_READ, .offset = b->offset, .buf = b->data, .len = s->block};
        VR_TRY(vr_io_start(&s->ctx->io, &r, &s->slots[i]));
        s->tail++;
    }
    return VR_OK;
}

enum vr_status vr_stream_get(struct vr_stream *s, struct vr_block *b)
{
    VR_TRY(refill(s));
    if (s->head == s->tail) {
        b->data = NULL;
        return VR_OK;
    }
    if (s->ctx->io.unkicked >= s->depth / 2) {
        s->ctx->io.carrier->kick(s->ctx->io.carrier);
        s->ctx->io.unkicked = 0;
    }
    unsigned i = s->head % s->depth;
    enum vr_status st = vr_io_wait(&s->ctx->io, s->slots[i]);
    *b = s->blocks[i];
    s->head++;
    return st;
}
