/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* l1.c: walks L1 tables, active and of snapshots, piece by piece, so that their 32 MiB never need to be in memory. */
#include "image.h"

enum vr_status vr_l1_open(struct vr_l1_walk *w, struct vr_ctx *ctx)
{
    *w = (struct vr_l1_walk){.ctx = ctx};
    w->piece = vr_arena_get(&ctx->arena, VR_L1_PIECE);
    return w->piece ? VR_OK : VR_ENOMEM;
}

void vr_l1_start(struct vr_l1_walk *w, uint32_t root)
{
    w->root = root;
    w->first = w->have = w->next = 0;
}

bool vr_l1_next(struct vr_l1_walk *w, uint64_t *index, uint64_t *entry)
{
    const struct vr_root *root = &w->ctx->img->roots[w->root];

    while (w->status == VR_OK && !root->skipped && w->next < root->l1_size) {
        if (w->next >= w->first + w->have) {
            w->first = w->next;
            w->have = vr_min(VR_L1_PIECE / 8, root->l1_size - w->first);
            w->status = vr_read(w->ctx, root->l1_offset + w->first * 8, w->piece, (uint32_t)w->have * 8);
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
    return (claims & VR_CLAIM_TABLE) && !(claims & VR_CLAIM_METADATA & ~(uint32_t)VR_CLAIM_TABLE);
}

/* Whether a table was given already; only those that several L1 entries name can have been. */
static bool seen_before(struct vr_ctx *ctx, uint64_t offset, enum vr_claim mark)
{
    uint64_t cluster = offset >> ctx->img->h.cluster_bits;
    struct vr_ref ref = vr_refmap_get(&ctx->img->refs, cluster);

    if (ref.tables < 2)
        return false;
    if (!(ref.claims & mark))
        vr_refmap_mark(&ctx->img->refs, cluster, mark);
    return ref.claims & mark;
}

bool vr_l1_next_table(void *arg, struct vr_block *b)
{
    struct vr_l1_walk *w = arg;
    uint64_t entry, index;

    for (;;) {
        while (vr_l1_next(w, &index, &entry)) {
            b->offset = entry & VR_OFFSET_MASK;
            b->tag = (uint64_t)w->root << 32 | index;
            if (vr_l1_followable(w->ctx, entry) && (!w->once || !seen_before(w->ctx, b->offset, w->once)))
                return true;
        }
        if (w->status != VR_OK || !w->all_roots || w->root + 1 >= w->ctx->img->nroots)
            return false;
        vr_l1_start(w, w->root + 1);
        if (w->once && vr_root_repeats(w->ctx->img, w->root)) /* all its tables were given */
            w->next = w->ctx->img->roots[w->root].l1_size;
    }
}
