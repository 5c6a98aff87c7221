/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pass 3: the maps, active and of snapshots: L1 tables, L2 tables, data clusters.
 *
 * Tests:    reserved bits, alignment, bounds of L1 and L2 entries; pointers into other metadata; shared clusters
 * Collects: claims of L2 tables and data clusters; allocation statistics; whether COPIED flags can be wrong
 * Needs:    passes 2 and 4: a pointer is judged by what its target already is
 * Frees:    nothing
 *
 * All L2 tables are claimed before any is read. A pointer that is damaged, or whose target is something else, is
 * reported and not followed; what it names is claimed as doubtful, so that nothing is freed or raised because of it.
 * A table that several L1 entries name, of one map or of several, is read once, and counts that often.
 */
#include "map.h"

/* ---- L1 ------------------------------------------------------------------------------------------------ */

static void judge_l1_entry(struct vr_ctx *ctx, uint32_t root, uint64_t index, uint64_t entry)
{
    struct vr_image *img = ctx->img;
    uint64_t offset = entry & VR_OFFSET_MASK;
    struct vr_finding f = vr_finding_none();

    f.host = img->roots[root].l1_offset + index * 8;
    f.index = index;
    f.root = root;
    f.guest = index * img->l2_entries << img->h.cluster_bits;
    f.got = entry;
    if (entry & VR_L1_RESERVED)
        vr_report(ctx, VR_P_L1E_RESERVED, &f);
    if (!(entry & VR_COPIED))
        img->copied_matters = true;
    f.got = offset;
    f.want = img->cluster_size;
    f.guest_len = img->l2_entries << img->h.cluster_bits;
    bool past = vr_region_past_eof(ctx, offset, img->cluster_size);
    bool unaligned = offset % img->cluster_size != 0;
    img->copied_matters |= past || unaligned;
    if (past) {
        vr_report(ctx, VR_P_L1E_PAST_EOF, &f);
        vr_note_dangling(ctx, offset);
    } else if (unaligned) {
        vr_claim_region(ctx, offset, img->cluster_size, VR_CLAIM_DOUBTFUL);
    }
    if (unaligned) {
        f.guest_len = past ? 0 : f.guest_len; /* counted already */
        vr_report(ctx, VR_P_L1E_UNALIGNED, &f);
    }
    if (past || unaligned)
        return;
    if (vr_claims_at(ctx, offset) & VR_CLAIM_METADATA & ~(uint32_t)VR_CLAIM_TABLE) {
        /* Its owner's claim protects the target; one more would only make the owner look damaged. */
        vr_report(ctx, VR_P_L1E_FOREIGN, &f);
        vr_note_foreign(ctx, vr_claims_at(ctx, offset), false);
        return;
    }
    f.guest_len = 0;
    vr_claim_times(ctx, &f, (struct vr_run){offset, img->cluster_size}, root ? VR_CLAIM_SNAPSHOT_L2 : VR_CLAIM_L2);
}

static enum vr_status claim_tables(struct vr_ctx *ctx, uint64_t *tables)
{
    struct vr_l1_walk w;
    uint64_t index, entry;

    VR_TRY(vr_l1_open(&w, ctx));
    for (uint32_t root = 0; root < ctx->img->nroots && w.status == VR_OK; root++) {
        vr_l1_start(&w, root);
        while (vr_l1_next(&w, &index, &entry)) {
            judge_l1_entry(ctx, root, index, entry);
            (*tables)++;
        }
    }
    return w.status;
}

/* ---- L2 ------------------------------------------------------------------------------------------------ */

static void walk_table(struct vr_map_walk *w, const struct vr_block *b)
{
    const struct vr_image *img = w->ctx->img;
    unsigned size = img->l2_entry_size;
    uint64_t index = b->tag & UINT32_MAX;
    struct vr_ref ref = vr_refmap_get(&img->refs, b->offset >> img->h.cluster_bits);
    struct vr_finding at = vr_finding_none();

    at.root = (uint32_t)(b->tag >> 32);
    at.count = ref.tables;
    w->active = at.root == VR_ROOT_ACTIVE ? ref.active : 0;
    w->table_next = 0;
    w->table = b->offset;
    w->tables = ref.tables;
    vr_plain_table(w);
    for (uint64_t i = 0; i < img->l2_entries; i++) {
        i += vr_plain_entries(w, b->data, i);
        if (i == img->l2_entries)
            break;
        uint64_t entry = vr_load64(b->data + i * size);
        uint64_t bitmap = size == 16 ? vr_load64(b->data + i * size + 8) : 0;
        if (entry == 0 && bitmap == 0)
            continue;
        at.host = b->offset + i * size;
        at.index = i;
        at.guest = (index * img->l2_entries + i) << img->h.cluster_bits;
        vr_judge_l2_entry(w, &at, entry, bitmap);
    }
}

static enum vr_status walk_tables(struct vr_map_walk *w, uint64_t tables)
{
    struct vr_ctx *ctx = w->ctx;
    struct vr_l1_walk l1;
    struct vr_stream s = {.next = vr_l1_next_table, .arg = &l1};
    struct vr_block b;
    uint64_t done = 0;

    VR_TRY(vr_l1_open(&l1, ctx));
    l1.all_roots = true;
    l1.once = VR_CLAIM_VISITED;
    VR_TRY(vr_stream_open(&s, ctx, (uint32_t)ctx->img->cluster_size, tables));
    for (;;) {
        VR_TRY(vr_stream_get(&s, &b));
        if (!b.data)
            break;
        /* A map that is full does not say any more how many name this table. */
        if (ctx->img->refs.full)
            return VR_ENOMEM;
        walk_table(w, &b);
        if (++done % 128 == 0)
            vr_progress(ctx, VR_PASS_MAP, done, tables);
    }
    return l1.status;
}

enum vr_status vr_pass_map(struct vr_ctx *ctx)
{
    struct vr_image *img = ctx->img;
    struct vr_map_walk *w = vr_arena_get(&ctx->arena, sizeof(*w));
    uint64_t tables = 0;

    if (!w)
        return VR_ENOMEM;
    *w = (struct vr_map_walk){.ctx = ctx};
    img->map = w;
    vr_plain_open(w);
    VR_TRY(claim_tables(ctx, &tables));
    vr_progress(ctx, VR_PASS_MAP, 0, tables);
    VR_TRY(walk_tables(w, tables));
    return img->refs.full ? VR_ENOMEM : VR_OK;
}
