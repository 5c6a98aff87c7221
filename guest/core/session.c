/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* session.c: the walks over an image of any format: check and plan, verify, commit, look again. */
#include "core.h"

/* Statistics are those of the walk that runs last. */
static void reset_statistics(struct vr_summary *sum)
{
    sum->allocated_clusters = sum->fragmented_clusters = sum->compressed_clusters = sum->image_end_offset = 0;
}

static enum vr_status walk(struct vr_ctx *ctx, enum vr_walk which)
{
    uint64_t mark = vr_arena_mark(&ctx->arena);

    ctx->walk = which;
    ctx->stream_buf = NULL;
    ctx->img = vr_arena_get(&ctx->arena, ctx->format->image_bytes);
    if (!ctx->img)
        return VR_ENOMEM;
    reset_statistics(ctx->sum);
    memset(ctx->sent, 0, sizeof(ctx->sent));
    ctx->implied = 0;
    for (unsigned i = 0; i < ctx->format->npasses; i++) {
        enum vr_status st = ctx->format->passes[i](ctx);
        if (st != VR_OK) {
            vr_io_drain(&ctx->io); /* a stream may have been left before its end */
            enum vr_status flushed = vr_report_flush(ctx);
            return flushed != VR_OK ? flushed : st;
        }
    }
    vr_arena_reset(&ctx->arena, mark);
    ctx->sum->walks |= 1u << which;
    return vr_report_flush(ctx);
}

static bool found_anything(const struct vr_ctx *ctx)
{
    for (unsigned p = 0; p < VR_P_COUNT; p++)
        if (ctx->sum->found[VR_WALK_CHECK][p] != 0)
            return true;
    return false;
}

/* A plain check, and where something was found, what could be done about it. A mode can mend what a check refuses. */
static enum vr_status look(struct vr_ctx *ctx)
{
    enum vr_status st = walk(ctx, VR_WALK_CHECK);

    if (!(ctx->flags & VR_BOOT_WOULD) || (st != VR_OK && st != VR_EREFUSED) || !found_anything(ctx))
        return st;
    VR_TRY(vr_would(ctx, VR_MODE_LEAKS, walk));
    VR_TRY(vr_would(ctx, VR_MODE_ALL, walk));
    return st;
}

static enum vr_status run(struct vr_ctx *ctx)
{
    if (ctx->mode == VR_MODE_CHECK)
        return look(ctx);
    VR_TRY(walk(ctx, VR_WALK_CHECK));
    bool planned = ctx->planned != 0;
    if (!planned && !ctx->format->has_more(ctx))
        return VR_OK;
    VR_TRY(ctx->format->begin(ctx));
    if (planned) {
        VR_TRY(walk(ctx, VR_WALK_VERIFY));
        VR_TRY(vr_verify(ctx));
    }
    VR_TRY(ctx->format->finish(ctx, planned ? VR_WALK_VERIFY : VR_WALK_CHECK));
    struct vr_request commit = {.op = VR_OP_COMMIT};
    VR_TRY(vr_io_do(&ctx->io, &commit));
    ctx->sum->committed = 1;
    return walk(ctx, VR_WALK_FINAL);
}

void vr_session(struct vr_ctx *ctx)
{
    ctx->format = &vr_qcow2;
    ctx->first_size = ctx->file_size;
    ctx->sum->status = run(ctx);
    ctx->sum->heap_used = ctx->arena.peak;
}
