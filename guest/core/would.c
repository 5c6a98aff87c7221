/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* would.c: what a mode that repairs would do to the image that a plain check has just seen. Nothing is planned. */
#include "core.h"

enum vr_status vr_would(struct vr_ctx *ctx, enum vr_mode mode, enum vr_status (*walk)(struct vr_ctx *, enum vr_walk))
{
    struct vr_summary *told = ctx->sum;
    struct vr_would *w = &told->would[mode == VR_MODE_ALL];
    uint64_t file_size = ctx->file_size, planned = ctx->planned, mark = vr_arena_mark(&ctx->arena);

    /* Findings are counted apart: the plan changes what is found. */
    ctx->sum = vr_arena_get(&ctx->arena, sizeof(*ctx->sum));
    if (!ctx->sum) {
        ctx->sum = told;
        w->status = VR_ENOMEM;
        return VR_OK;
    }
    ctx->mode = mode;
    ctx->would = w;
    enum vr_status st = walk(ctx, VR_WALK_CHECK);
    w->status = st;
    if (mode == VR_MODE_ALL)
        told->room_needed = ctx->sum->room_needed;
    w->clusters_freed = ctx->sum->clusters_freed;
    memcpy(w->mended, ctx->sum->fixed, sizeof(w->mended));
    if (st == VR_OK)
        ctx->format->dry_run(ctx, w, ctx->planned != planned);
    ctx->mode = VR_MODE_CHECK;
    ctx->would = NULL;
    ctx->sum = told;
    ctx->file_size = file_size;
    ctx->planned = planned;
    vr_arena_reset(&ctx->arena, mark);
    /* What the check has found stands, also where a repair is refused or asks for more memory. */
    return st == VR_EREFUSED || st == VR_ENOMEM ? VR_OK : st;
}
