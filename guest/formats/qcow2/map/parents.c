/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* parents.c: of damage in an L2 table that several L1 entries name, a finding for each map, with its guest address. */
#include "map.h"

/* All L1 entries that name the table at hand; of more than there is room for, the rest counts with the last. */
static enum vr_status collect(struct vr_map_walk *w, uint64_t table)
{
    struct vr_ctx *ctx = w->ctx;
    struct vr_l1_walk l1;
    uint64_t index, entry;

    if (!w->parents)
        w->parents = vr_arena_get(&ctx->arena, VR_PARENTS_MAX * sizeof(*w->parents));
    if (!w->parents)
        return VR_ENOMEM;
    uint64_t mark = vr_arena_mark(&ctx->arena);
    VR_TRY(vr_l1_open(&l1, ctx));
    w->nparents = 0;
    for (uint32_t root = 0; root < ctx->img->nroots && w->nparents < VR_PARENTS_MAX; root++) {
        vr_l1_start(&l1, root);
        w->parents_work += ctx->img->roots[root].l1_size;
        while (w->nparents < VR_PARENTS_MAX && vr_l1_next(&l1, &index, &entry))
            if ((entry & VR_OFFSET_MASK) == table)
                w->parents[w->nparents++] = (struct vr_parent){root, index};
    }
    w->parents_of = table;
    vr_arena_reset(&ctx->arena, mark);
    return l1.status;
}

enum vr_decision vr_map_report(struct vr_map_walk *w, enum vr_problem row, const struct vr_finding *f)
{
    struct vr_ctx *ctx = w->ctx;
    const struct vr_image *img = ctx->img;
    enum vr_decision d = VR_KEEP;

    /* Where no record is sent, only the number counts. */
    if (f->count != w->tables || w->tables < 2 || vr_report_enough(ctx, row))
        return vr_report(ctx, row, f);
    if (w->parents_of != w->table && w->parents_work >= VR_PARENTS_WORK)
        return vr_report(ctx, row, f);
    if (w->parents_of != w->table && collect(w, w->table) != VR_OK)
        return vr_report(ctx, row, f);
    uint64_t n = vr_min(w->nparents, f->count);
    if (n == 0)
        return vr_report(ctx, row, f);
    for (uint64_t i = 0; i < n; i++) {
        struct vr_finding one = *f;
        one.root = w->parents[i].root;
        one.guest = (w->parents[i].index * img->l2_entries + f->guest / img->cluster_size % img->l2_entries)
                    << img->h.cluster_bits;
        one.count = i + 1 < n ? 1 : f->count - (n - 1);
        d = vr_report(ctx, row, &one);
    }
    return d;
}
