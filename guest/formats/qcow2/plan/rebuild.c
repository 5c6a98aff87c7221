/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* rebuild.c: plans new refcount blocks and a new refcount table, made from the reference map. */
#include "plan.h"

/* What the new structures need. All in clusters, but for the blocks of the table. */
struct layout {
    uint64_t in_use;  /* blocks of clusters in which some refcount is not 0 */
    uint64_t ranges;  /* blocks that the table must have entries for */
    uint64_t table;
};

static enum vr_status refuse(struct vr_ctx *ctx, enum vr_problem row, uint64_t got)
{
    struct vr_finding f = vr_finding_none();

    f.host = ctx->img->h.reftable_offset;
    f.got = got;
    vr_report(ctx, row, &f);
    return VR_EREFUSED;
}

/* ---- the old structures ------------------------------------------------------------------------------------ */

/* Every cluster of the old table and every old block that pass 2 or vr_check_refblock_owners() claimed. */
static void each_old(struct vr_ctx *ctx, void (*each)(struct vr_ctx *ctx, uint64_t cluster, enum vr_claim claim))
{
    struct vr_image *img = ctx->img;
    uint64_t first = img->h.reftable_offset >> img->h.cluster_bits;

    for (uint64_t i = 0; img->table_entries != 0 && i < img->h.reftable_clusters; i++)
        each(ctx, first + i, VR_CLAIM_REFTABLE);
    for (uint64_t i = 0; i < img->table_entries; i++) {
        uint64_t entry = vr_load64(img->reftable + i * 8), offset = entry & VR_REFT_MASK;
        if (offset != 0 && !(entry & VR_REFT_RESERVED) && offset % img->cluster_size == 0 &&
            offset < ctx->first_size)
            each(ctx, offset >> img->h.cluster_bits, VR_CLAIM_REFBLOCK);
    }
}

/* After the switch it is free. */
static void drop(struct vr_ctx *ctx, uint64_t cluster, enum vr_claim claim)
{
    vr_refmap_drop(&ctx->img->refs, cluster, claim);
}

static void report_freed(struct vr_ctx *ctx, uint64_t cluster, enum vr_claim claim)
{
    struct vr_finding f = vr_finding_none();

    (void)claim;
    f.index = cluster;
    f.host = cluster << ctx->img->h.cluster_bits;
    f.want = vr_refmap_get(&ctx->img->refs, cluster).count;
    f.got = f.want + 1;
    vr_report(ctx, VR_P_REBUILD_FREED, &f);
}

/* ---- the new ones -------------------------------------------------------------------------------------------- */

static bool range_in_use(const struct vr_image *img, uint64_t range, uint64_t clusters)
{
    uint64_t first = range * img->block_entries, end = vr_min(first + img->block_entries, clusters);

    for (uint64_t c = first; c < end; c++)
        if (!vr_refmap_is_free(&img->refs, c))
            return true;
    return false;
}

/* The new structures need refcounts themselves: add up until nothing is added any more. */
static struct layout lay_out(const struct vr_image *img, uint64_t base)
{
    struct layout l = {0};
    uint64_t old_ranges = (img->clusters + img->block_entries - 1) / img->block_entries;
    uint64_t used_before = 0, extra = 0;

    for (uint64_t r = 0; r < old_ranges; r++)
        used_before += range_in_use(img, r, img->clusters);
    for (;;) {
        uint64_t end = base + extra;
        uint64_t first_new = base / img->block_entries;
        l.ranges = (end + img->block_entries - 1) / img->block_entries;
        /* Ranges that hold new clusters: all from first_new on. */
        l.in_use = used_before + (extra ? l.ranges - first_new : 0) -
                   (extra && first_new < old_ranges && range_in_use(img, first_new, img->clusters));
        l.table = (l.ranges * 8 + img->cluster_size - 1) / img->cluster_size;
        if (l.in_use + l.table <= extra)
            return l;
        extra = l.in_use + l.table;
    }
}

static enum vr_status plan_block(struct vr_ctx *ctx, uint64_t range, uint64_t offset, uint8_t *block)
{
    struct vr_image *img = ctx->img;
    uint64_t first = range * img->block_entries;
    uint64_t n = vr_min(img->block_entries, img->clusters - first);

    memset(block, 0, img->cluster_size);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t plain = vr_refmap_plain(&img->refs, first + i); /* most clusters */
        if (plain || !vr_refmap_is_free(&img->refs, first + i))
            vr_refcount_set(block, img->h.refcount_order, i,
                            plain == 1 ? 1 : vr_refmap_get(&img->refs, first + i).count);
    }
    return vr_plan_write(ctx, VR_EPOCH_STRUCTURE, offset, block, (uint32_t)img->cluster_size);
}

/* Blocks from offset on, in the order of the ranges; the table behind them. */
static enum vr_status plan_structures(struct vr_ctx *ctx, const struct layout *l, uint64_t offset)
{
    struct vr_image *img = ctx->img;
    uint64_t table_bytes = l->table << img->h.cluster_bits;
    uint8_t *block = vr_arena_get(&ctx->arena, img->cluster_size);
    uint8_t *table = vr_arena_get(&ctx->arena, table_bytes);

    if (!block || !table)
        return VR_ENOMEM;
    for (uint64_t range = 0; range < l->ranges; range++) {
        if (!range_in_use(img, range, img->clusters))
            continue;
        VR_TRY(plan_block(ctx, range, offset, block));
        vr_store64(table + range * 8, offset);
        offset += img->cluster_size;
    }
    for (uint64_t at = 0; at < table_bytes; at += img->cluster_size)
        VR_TRY(vr_plan_write(ctx, VR_EPOCH_STRUCTURE, offset + at, table + at, (uint32_t)img->cluster_size));
    vr_store64(block, offset);
    vr_store32(block + 8, (uint32_t)l->table);
    return vr_plan_pointer(ctx, VR_HEADER_REFTABLE_AT, block, 12);
}

/* What was wrong with the old structures is mended by having others. */
static void settle_findings(struct vr_ctx *ctx, uint64_t offset, uint64_t n)
{
    struct vr_finding f = vr_finding_none();
    static const uint8_t rows[] = {VR_P_REFTABLE_PAST_EOF, VR_P_RTE_RESERVED, VR_P_RTE_UNALIGNED, VR_P_RTE_PAST_EOF,
                                   VR_P_RB_SHARED, VR_P_REF_UNREADABLE};

    for (unsigned i = 0; i < sizeof(rows); i++)
        vr_report_fixed(ctx, (enum vr_problem)rows[i]);
    f.host = offset;
    f.got = n;
    vr_report(ctx, VR_P_REBUILD, &f);
    each_old(ctx, report_freed);
}

/* Whether new refcount structures would take away what shows that leaks may be somebody's. */
static bool hides_what_keeps_leaks(const struct vr_ctx *ctx)
{
    const uint64_t *found = ctx->sum->found[ctx->walk];

    return vr_keeps_leaks(ctx) && !(ctx->flags & VR_BOOT_FORCE_LEAKS) &&
           (vr_only_behind(ctx) || found[VR_P_DATA_ON_METADATA] || found[VR_P_BITMAP_OVERLAP]);
}

enum vr_status vr_rebuild(struct vr_ctx *ctx)
{
    struct vr_image *img = ctx->img;
    uint64_t offset;

    if (((ctx->implied & VR_KEEPS_LEAKS) && img->refcounts_lost) || hides_what_keeps_leaks(ctx))
        return refuse(ctx, VR_P_REBUILD_UNSAFE, 0);
    each_old(ctx, drop);
    struct layout l = lay_out(img, vr_room_base(ctx));
    uint64_t n = l.in_use + l.table;
    if (l.table << img->h.cluster_bits > VR_REFTABLE_MAX)
        return refuse(ctx, VR_P_REBUILD_NO_ROOM, n);
    VR_TRY(vr_take_room(ctx, n, &offset));
    if (offset == 0)
        return refuse(ctx, VR_P_REBUILD_NO_ROOM, n);
    for (uint64_t c = 0; c < n; c++)
        vr_refmap_claim(&img->refs, (offset >> img->h.cluster_bits) + c,
                        c < l.in_use ? VR_CLAIM_REFBLOCK : VR_CLAIM_REFTABLE, 1);
    if (img->refs.full)
        return VR_ENOMEM;
    settle_findings(ctx, offset, n);
    img->rebuild_planned = true;
    return plan_structures(ctx, &l, offset);
}
