/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* l1.c: walks the active L1 table piece by piece, so that its 32 MiB never need to be in memory. */
#include "check.h"

enum vr_status vr_l1_open(struct vr_l1_walk *w, struct vr_ctx *ctx)
{
    *w = (struct vr_l1_walk){.ctx = ctx};
    w->piece = vr_arena_get(&ctx->arena, vr_min(VR_L1_PIECE, ctx->img->h.l1_size * 8));
    return w->piece ? VR_OK : VR_ENOMEM;
}

bool vr_l1_next(struct vr_l1_walk *w, uint64_t *index, uint64_t *entry)
{
    const struct vr_header *h = &w->ctx->img->h;

    while (w->status == VR_OK && w->next < h->l1_size) {
        if (w->next >= w->first + w->have) {
            w->first = w->next;
            w->have = vr_min(VR_L1_PIECE / 8, h->l1_size - w->first);
            w->status = vr_read(w->ctx, h->l1_offset + w->first * 8, w->piece, (uint32_t)w->have * 8);
            continue;
        }
        uint64_t e = vr_load64(w->piece + (w->next - w->first) * 8);
        *index = w->next++;
        *entry = e;
        if (e != 0)
            return true;
    }
    return false;
}

bool vr_l1_followable(const struct vr_ctx *ctx, uint64_t entry)
{
    uint64_t offset = entry & VR_OFFSET_MASK;

    if (offset % ctx->img->cluster_size != 0 || offset >= ctx->file_size)
        return false;
    uint32_t claims = vr_claims_at(ctx, offset);
    return (claims & VR_CLAIM_L2) && (claims & VR_CLAIM_METADATA) == VR_CLAIM_L2;
}

bool vr_l1_next_table(void *arg, struct vr_block *b)
{
    struct vr_l1_walk *w = arg;
    uint64_t entry;

    while (vr_l1_next(w, &b->tag, &entry)) {
        b->offset = entry & VR_OFFSET_MASK;
        if (vr_l1_followable(w->ctx, entry))
            return true;
    }
    return false;
}
