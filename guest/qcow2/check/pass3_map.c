/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pass 3: the active map: L1 table, L2 tables, data clusters.
 *
 * Tests:    reserved bits, alignment, bounds of L1 and L2 entries; pointers into other metadata; shared clusters
 * Collects: claims of L2 tables and data clusters; allocation statistics; whether COPIED flags can be wrong
 * Needs:    pass 2: a pointer is judged by what its target already is
 * Frees:    nothing
 *
 * All L2 tables are claimed before any is read. A pointer that is damaged, or whose target is something else, is
 * reported and not followed; what it names is claimed as doubtful, so that nothing is freed or raised because of it.
 */
#include "check.h"

#define ENTRY_FIXES_MAX 65536u

/* A zero entry with an unaligned preallocated cluster: whether it is rewritten is known when all tables were read. */
struct vr_entry_fix {
    uint64_t host;  /* where the entry stands */
    uint64_t guest;
    uint64_t entry;
};

struct map_walk {
    struct vr_ctx *ctx;
    struct vr_entry_fix *fixes;
    uint32_t nfixes;
    bool compressed;      /* one is enough to refuse */
    uint64_t table_next;  /* host offset that would continue the last data cluster of this table; 0 = none yet */
};

/* ---- L1 ------------------------------------------------------------------------------------------------ */

static void judge_l1_entry(struct vr_ctx *ctx, uint64_t index, uint64_t entry)
{
    struct vr_image *img = ctx->img;
    uint64_t offset = entry & VR_OFFSET_MASK;
    struct vr_finding f = vr_finding_none();

    f.host = img->h.l1_offset + index * 8;
    f.index = index;
    f.got = entry;
    if (entry & VR_L1_RESERVED)
        vr_report(ctx, VR_P_L1E_RESERVED, &f);
    if (!(entry & VR_COPIED))
        img->copied_matters = true;
    f.got = offset;
    f.want = img->cluster_size;
    f.guest = index * img->l2_entries << img->h.cluster_bits;
    f.guest_len = img->l2_entries << img->h.cluster_bits;
    bool past = vr_region_past_eof(ctx, offset, img->cluster_size);
    bool unaligned = offset % img->cluster_size != 0;
    img->copied_matters |= past || unaligned;
    if (past)
        vr_report(ctx, VR_P_L1E_PAST_EOF, &f);
    else if (unaligned)
        vr_claim_region(ctx, offset, img->cluster_size, VR_CLAIM_DOUBTFUL);
    if (unaligned) {
        f.guest_len = past ? 0 : f.guest_len; /* counted already */
        vr_report(ctx, VR_P_L1E_UNALIGNED, &f);
    }
    if (past || unaligned) {
        img->incomplete = img->unsound = true;
        return;
    }
    if (vr_claims_at(ctx, offset) & VR_CLAIM_METADATA & ~(uint32_t)VR_CLAIM_L2) {
        /* Its owner's claim protects the target; one more would only make the owner look damaged. */
        vr_report(ctx, VR_P_L1E_FOREIGN, &f);
        img->incomplete = img->unsound = true;
        /* Which of the two pointers is right is not known: a refcount block that may be an L2 table is not written. */
        img->rebuild |= (vr_claims_at(ctx, offset) & VR_CLAIM_REFBLOCK) != 0;
        return;
    }
    vr_claim_region(ctx, offset, img->cluster_size, VR_CLAIM_L2);
}

static enum vr_status claim_tables(struct vr_ctx *ctx, uint64_t *tables)
{
    struct vr_l1_walk w;
    uint64_t index, entry;

    VR_TRY(vr_l1_open(&w, ctx));
    while (vr_l1_next(&w, &index, &entry)) {
        judge_l1_entry(ctx, index, entry);
        (*tables)++;
    }
    return w.status;
}

/* ---- L2 ------------------------------------------------------------------------------------------------ */

static void count_allocated(struct map_walk *w, uint64_t offset)
{
    w->ctx->sum->allocated_clusters++;
    if (w->table_next != 0 && w->table_next != offset)
        w->ctx->sum->fragmented_clusters++;
    w->table_next = offset + w->ctx->img->cluster_size;
}

static void claim_data(struct vr_ctx *ctx, const struct vr_finding *at, uint64_t offset)
{
    struct vr_image *img = ctx->img;
    uint64_t cluster = offset >> img->h.cluster_bits;

    if (img->refs.bytes[cluster] == 0) {
        img->refs.bytes[cluster] = 1;
        return;
    }
    struct vr_finding f = *at;
    uint32_t before = vr_claims_at(ctx, offset);
    vr_claim_region(ctx, offset, img->cluster_size, VR_CLAIM_DATA);
    f.host = offset;
    f.index = cluster;
    f.guest_len = img->cluster_size;
    if (before & VR_CLAIM_METADATA)
        vr_report(ctx, VR_P_DATA_ON_METADATA, &f);
    else if (before & VR_CLAIM_DATA)
        vr_report(ctx, VR_P_DATA_SHARED, &f);
    img->copied_matters = true;
}

static void past_eof(struct vr_ctx *ctx, const struct vr_finding *at, uint64_t entry)
{
    struct vr_finding f = *at;

    f.got = entry & VR_OFFSET_MASK;
    f.want = ctx->img->cluster_size;
    f.guest_len = entry & VR_ZERO ? 0 : ctx->img->cluster_size;
    vr_report(ctx, VR_P_L2E_PAST_EOF, &f);
    ctx->img->incomplete = ctx->img->copied_matters = true;
}

/* An entry with an unaligned offset that stays as it is: qemu counts both clusters that the offset straddles. */
static void keep_unaligned(struct map_walk *w, const struct vr_finding *at, uint64_t entry)
{
    struct vr_ctx *ctx = w->ctx;
    uint64_t offset = entry & VR_OFFSET_MASK;

    count_allocated(w, offset);
    if (vr_region_past_eof(ctx, offset, ctx->img->cluster_size))
        past_eof(ctx, at, entry);
    else
        vr_claim_region(ctx, offset, ctx->img->cluster_size, VR_CLAIM_DOUBTFUL);
}

static void judge_unaligned(struct map_walk *w, const struct vr_finding *at, uint64_t entry)
{
    struct vr_ctx *ctx = w->ctx;
    struct vr_finding f = *at;
    bool zero = entry & VR_ZERO;
    /*
     * With reserved bits set as well it is garbage rather than a slip, and more may be lost than this entry: it is left
     * as it is, or a second repair would no longer see why what looks leaked was kept.
     */
    bool garbage = entry & VR_L2_RESERVED;

    ctx->img->incomplete |= garbage;
    if (zero && !garbage && vr_planning(ctx) && ctx->mode == VR_MODE_ALL && w->nfixes < ENTRY_FIXES_MAX) {
        w->fixes[w->nfixes++] = (struct vr_entry_fix){at->host, at->guest, entry};
        return;
    }
    f.got = entry & VR_OFFSET_MASK;
    if (garbage || w->nfixes == ENTRY_FIXES_MAX)
        f.kept = VR_KEPT_DOUBTFUL;
    if (!zero) {
        f.guest_len = ctx->img->cluster_size;
        ctx->img->incomplete = ctx->img->unsound = true;
    }
    vr_report(ctx, zero ? VR_P_L2E_ZERO_UNALIGNED : VR_P_L2E_UNALIGNED, &f);
    keep_unaligned(w, at, entry);
}

static void judge_l2_entry(struct map_walk *w, const struct vr_finding *at, uint64_t entry)
{
    struct vr_ctx *ctx = w->ctx;
    struct vr_image *img = ctx->img;
    uint64_t offset = entry & VR_OFFSET_MASK;
    struct vr_finding f = *at;
    enum vr_l2_type type = vr_l2_type(entry);

    f.got = entry;
    if (type == VR_L2_COMPRESSED) {
        if (!w->compressed)
            vr_report(ctx, VR_P_SCOPE_COMPRESSED, &f);
        w->compressed = true;
        return;
    }
    if (entry & VR_L2_RESERVED)
        vr_report(ctx, VR_P_L2E_RESERVED, &f);
    if (type == VR_L2_UNALLOCATED || type == VR_L2_ZERO_PLAIN)
        return;
    if (offset % img->cluster_size != 0) {
        img->copied_matters = true;
        judge_unaligned(w, at, entry);
        return;
    }
    if (!(entry & VR_COPIED))
        img->copied_matters = true;
    count_allocated(w, offset);
    if (vr_region_past_eof(ctx, offset, img->cluster_size))
        past_eof(ctx, at, entry);
    else
        claim_data(ctx, at, offset);
}

static void walk_table(struct map_walk *w, const struct vr_block *b)
{
    const struct vr_image *img = w->ctx->img;
    struct vr_finding at = vr_finding_none();

    w->table_next = 0;
    for (uint64_t i = 0; i < img->l2_entries; i++) {
        uint64_t entry = vr_load64(b->data + i * 8);
        if (entry == 0)
            continue;
        at.host = b->offset + i * 8;
        at.index = i;
        at.guest = (b->tag * img->l2_entries + i) << img->h.cluster_bits;
        judge_l2_entry(w, &at, entry);
    }
}

static enum vr_status walk_tables(struct map_walk *w, uint64_t tables)
{
    struct vr_ctx *ctx = w->ctx;
    struct vr_l1_walk l1;
    struct vr_stream s = {.next = vr_l1_next_table, .arg = &l1};
    struct vr_block b;
    uint64_t done = 0;

    VR_TRY(vr_l1_open(&l1, ctx));
    VR_TRY(vr_stream_open(&s, ctx, (uint32_t)ctx->img->cluster_size, tables));
    for (;;) {
        VR_TRY(vr_stream_get(&s, &b));
        if (!b.data)
            break;
        walk_table(w, &b);
        if (++done % 128 == 0)
            vr_progress(ctx, VR_PASS_MAP, done, tables);
    }
    return l1.status;
}

/* ---- zero entries with an unaligned cluster ---------------------------------------------------------------- */

/* Version 2 has no zero flag: there an entry reads as zeros only where it is 0 and nothing lies behind the image. */
static enum vr_kept zero_entry_kept(const struct vr_ctx *ctx, uint64_t host)
{
    /* A table that is guest data as well may be just that: nothing is written through it. */
    if (ctx->img->unsound || (vr_claims_at(ctx, host) & VR_CLAIM_DATA))
        return VR_KEPT_DOUBTFUL;
    if (ctx->img->h.version < 3 && ctx->img->h.backing_offset != 0)
        return VR_KEPT_VERSION;
    return VR_KEPT_NO;
}

static enum vr_status settle_zero_entries(struct map_walk *w)
{
    struct vr_ctx *ctx = w->ctx;
    uint8_t *word = vr_arena_get(&ctx->arena, 8);

    if (!word)
        return VR_ENOMEM;
    for (uint32_t i = 0; i < w->nfixes; i++) {
        const struct vr_entry_fix *fix = &w->fixes[i];
        struct vr_finding f = vr_finding_none();
        f.host = fix->host;
        f.guest = fix->guest;
        f.got = fix->entry & VR_OFFSET_MASK;
        f.kept = zero_entry_kept(ctx, fix->host);
        if (vr_report(ctx, VR_P_L2E_ZERO_UNALIGNED, &f) == VR_FIX) {
            vr_store64(word, ctx->img->h.version < 3 ? 0 : VR_ZERO);
            VR_TRY(vr_plan_write(ctx, VR_EPOCH_POINTER, fix->host, word, 8));
            continue;
        }
        keep_unaligned(w, &f, fix->entry);
    }
    return VR_OK;
}

enum vr_status vr_pass_map(struct vr_ctx *ctx)
{
    struct map_walk w = {.ctx = ctx};
    struct vr_image *img = ctx->img;
    uint64_t tables = 0;

    if (vr_region_past_eof(ctx, img->h.l1_offset, img->h.l1_size * 8))
        return VR_OK;
    w.fixes = vr_arena_get(&ctx->arena, ENTRY_FIXES_MAX * sizeof(*w.fixes));
    if (!w.fixes)
        return VR_ENOMEM;
    VR_TRY(claim_tables(ctx, &tables));
    vr_progress(ctx, VR_PASS_MAP, 0, tables);
    VR_TRY(walk_tables(&w, tables));
    VR_TRY(settle_zero_entries(&w));
    if (w.compressed)
        return VR_EREFUSED;
    return img->refs.full ? VR_ENOMEM : VR_OK;
}
