/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pass 7: COPIED flags of the active L1 table and its L2 tables.
 *
 * Tests:    COPIED is set exactly where the refcount of the target is 1, as it will be after pass 6
 * Collects: plans L1 and L2 entries
 * Needs:    pass 6: the map holds refcounts as they will be
 * Frees:    nothing
 *
 * Snapshots are not looked at: the flag means nothing in their tables.
 * Skipped where the earlier passes saw that no flag can be wrong: every entry has COPIED, every refcount in use is 1.
 */
#include "passes.h"
#include "plan.h"

struct copied {
    struct vr_ctx *ctx;
    uint8_t *piece;         /* VR_L1_PIECE bytes: the entries of the L1 table from piece_first on, with flags mended */
    uint64_t piece_first;   /* UINT64_MAX: none yet */
    uint64_t lo, hi;        /* entries that are to be written, all of one cluster; lo == hi: none */
    struct vr_l1_walk l1;   /* entries are judged before the tables that they name, as qemu does */
    bool l1_ended;
    uint64_t index, entry;  /* the entry that comes next */
    enum vr_status status;  /* the first failure of a look-up */
    uint64_t times;         /* active L1 entries that name the table at hand: qemu judges it for each of them */
    bool foreign;           /* the table at hand is more likely guest data: nothing is written into it */
    bool contested;         /* the L1 table may be longer or elsewhere than it should be: nothing that it names is certain */
};

/* qemu-img mends COPIED in mode leaks as well, once nothing else is left to mend. */
static enum vr_kept copied_kept(const struct vr_ctx *ctx, uint64_t offset)
{
    if (offset % ctx->img->cluster_size != 0 || (vr_claims_at(ctx, offset) & VR_CLAIM_DOUBTFUL))
        return VR_KEPT_DOUBTFUL;
    if (ctx->mode != VR_MODE_LEAKS)
        return VR_KEPT_NO;
    uint64_t others = vr_remaining(ctx, VR_SEV_LEAK) + vr_remaining(ctx, VR_SEV_ERROR) +
                      vr_remaining(ctx, VR_SEV_CORRUPT) -
                      (ctx->sum->found[VR_WALK_CHECK][VR_P_COPIED_L1] - ctx->sum->fixed[VR_P_COPIED_L1]) -
                      (ctx->sum->found[VR_WALK_CHECK][VR_P_COPIED_L2] - ctx->sum->fixed[VR_P_COPIED_L2]);
    return others ? VR_KEPT_MODE : VR_KEPT_NO;
}

/* Whether the flag of entry is wrong and to be flipped. A refcount that cannot be read contradicts nothing. */
static bool judge_flag(struct copied *c, enum vr_problem p, struct vr_finding *f, uint64_t entry)
{
    struct vr_ctx *ctx = c->ctx;
    const struct vr_image *img = ctx->img;
    uint64_t offset = entry & VR_OFFSET_MASK;
    uint64_t cluster = offset >> img->h.cluster_bits;
    uint64_t refcount = 1; /* of a cluster in a data file, which is nobody else's */

    if (p == VR_P_COPIED_L1 || !(img->h.incompatible & VR_INCOMPAT_DATA_FILE)) {
        if (!img->rebuild_planned && !vr_refcount_known(img, cluster))
            return false;
        if (cluster < img->clusters)
            refcount = vr_refmap_get(&img->refs, cluster).count;
        else if (img->rebuild_planned)
            refcount = 0; /* the new structures end where the file does */
        else if (c->status == VR_OK)
            c->status = vr_refcount_read(ctx, cluster, &refcount);
    }
    if (((entry & VR_COPIED) != 0) == (refcount == 1))
        return false;
    f->got = entry;
    f->want = refcount;
    f->root = VR_ROOT_ACTIVE;
    /* Of a cluster of the file that has no refcount it is the refcount that is wrong, and was left alone. */
    f->kept = c->foreign || c->contested || (refcount == 0 && cluster < img->clusters) ? VR_KEPT_DOUBTFUL : copied_kept(ctx, offset);
    if (vr_report(ctx, p, f) == VR_FIX)
        return true; /* what comes to the table by another entry finds it mended */
    f->count = c->times - 1;
    if (p == VR_P_COPIED_L2 && f->count > 0)
        vr_report(ctx, p, f);
    return false;
}

static enum vr_status write_l1(struct copied *c)
{
    uint64_t first = c->lo, n = c->hi - c->lo;

    c->lo = c->hi = 0;
    if (n == 0)
        return VR_OK;
    return vr_plan_in_place(c->ctx, VR_EPOCH_COPIED, c->ctx->img->h.l1_offset + first * 8,
                            c->piece + (first - c->piece_first) * 8, (uint32_t)n * 8);
}

/* Entries of a cluster are written together: there may be millions of them. */
static enum vr_status flip_l1(struct copied *c, uint64_t index, uint64_t entry)
{
    const struct vr_image *img = c->ctx->img;
    uint64_t l1 = img->h.l1_offset;

    if (c->lo < c->hi && (c->piece_first != c->l1.first ||
                          (l1 + c->lo * 8) >> img->h.cluster_bits != (l1 + index * 8) >> img->h.cluster_bits))
        VR_TRY(write_l1(c));
    if (c->piece_first != c->l1.first)
        memcpy(c->piece, c->l1.piece, c->l1.have * 8);
    c->piece_first = c->l1.first;
    if (c->lo == c->hi)
        c->lo = index;
    c->hi = index + 1;
    vr_store64(c->piece + (index - c->piece_first) * 8, entry ^ VR_COPIED);
    return VR_OK;
}

static enum vr_status check_l1_entry(struct copied *c, uint64_t index, uint64_t entry)
{
    struct vr_ctx *ctx = c->ctx;
    struct vr_finding f = vr_finding_none();

    f.host = ctx->img->h.l1_offset + index * 8;
    f.index = index;
    f.guest = index * ctx->img->l2_entries << ctx->img->h.cluster_bits;
    /* An L1 table that lies on other metadata is not written to. */
    c->foreign = (vr_claims_at(ctx, f.host) & VR_CLAIM_METADATA) != VR_CLAIM_L1;
    if ((entry & VR_OFFSET_MASK) == 0 || !judge_flag(c, VR_P_COPIED_L1, &f, entry))
        return VR_OK;
    return flip_l1(c, index, entry);
}

/* Every entry of the L1 table up to this one that was not looked at yet. */
static enum vr_status check_l1_upto(struct copied *c, uint64_t last)
{
    while (!c->l1_ended && c->index <= last) {
        if (c->entry != 0)
            VR_TRY(check_l1_entry(c, c->index, c->entry));
        c->l1_ended = !vr_l1_next(&c->l1, &c->index, &c->entry);
    }
    return c->l1.status;
}

/*
 * A cluster that one pointer calls an L2 table and another one guest data. It is taken for a table only where every
 * entry maps a cluster of the file that nothing else claims (but for entries that map the table itself: guest data
 * would hardly name its own place). Else the pointer that calls it a table may be the damaged one.
 */
static bool reads_as_table(const struct vr_ctx *ctx, const struct vr_block *b)
{
    const struct vr_image *img = ctx->img;

    for (uint64_t i = 0; i < img->l2_entries; i++) {
        uint64_t entry = vr_load64(b->data + i * img->l2_entry_size);
        uint64_t offset = entry & VR_OFFSET_MASK;
        if (entry == 0 || offset == b->offset)
            continue;
        if ((entry & VR_L2_RESERVED) || offset % img->cluster_size != 0 || offset >= ctx->file_size)
            return false;
        struct vr_ref ref = vr_refmap_get(&img->refs, offset >> img->h.cluster_bits);
        if (offset != 0 && (ref.count > 1 || (ref.claims & ~(uint32_t)VR_CLAIM_DATA)))
            return false;
    }
    return true;
}

/* The usual case: a data cluster of the file, with the flag that its references ask for. */
static bool flag_is_right(const struct vr_image *img, uint64_t entry)
{
    uint64_t offset = entry & VR_OFFSET_MASK, cluster = offset >> img->h.cluster_bits;

    if (entry == 0)
        return true;
    if ((entry & ~(VR_OFFSET_MASK | VR_COPIED)) != 0 || cluster >= img->clusters ||
        (img->h.incompatible & VR_INCOMPAT_DATA_FILE))
        return false;
    uint64_t count = vr_refmap_plain(&img->refs, cluster);
    return count != 0 && count <= img->refs.max && (count == 1) == ((entry & VR_COPIED) != 0);
}

static enum vr_status check_table(struct copied *c, const struct vr_block *b)
{
    struct vr_ctx *ctx = c->ctx;
    const struct vr_image *img = ctx->img;
    unsigned size = img->l2_entry_size;
    uint64_t lo = UINT64_MAX, hi = 0;

    /* As qemu: where not even the table's own refcount can be read, its flags are not judged. */
    if (!img->rebuild_planned && !vr_refcount_known(img, b->offset >> img->h.cluster_bits))
        return VR_OK;
    uint32_t times = vr_refmap_get(&img->refs, b->offset >> img->h.cluster_bits).active;
    c->times = times ? times : 1;
    c->foreign = (vr_claims_at(ctx, b->offset) & (VR_CLAIM_DATA | VR_CLAIM_COMPRESSED)) && !reads_as_table(ctx, b);
    for (uint64_t i = 0; i < img->l2_entries; i++) {
        uint64_t entry = vr_load64(b->data + i * size);
        if (flag_is_right(img, entry))
            continue;
        enum vr_l2_type type = vr_l2_type(entry, img->h.incompatible);
        if (type != VR_L2_NORMAL && type != VR_L2_ZERO_ALLOC)
            continue;
        struct vr_finding f = vr_finding_none();
        f.host = b->offset + i * size;
        f.index = i;
        f.guest = (b->tag * img->l2_entries + i) << img->h.cluster_bits;
        if (!judge_flag(c, VR_P_COPIED_L2, &f, entry))
            continue;
        vr_store64(b->data + i * size, entry ^ VR_COPIED);
        lo = vr_min(lo, i * size);
        hi = i * size + 8;
    }
    if (lo >= hi)
        return VR_OK;
    return vr_plan_in_place(ctx, VR_EPOCH_COPIED, b->offset + lo, b->data + lo, (uint32_t)(hi - lo));
}

/* Part of the L1 table is said to be something else as well, and does not read as part of an L1 table. */
static enum vr_status l1_contested(struct copied *c)
{
    struct vr_ctx *ctx = c->ctx;
    struct vr_l1_walk w;
    uint64_t index, entry;

    c->contested = ctx->img->l1_contested;
    VR_TRY(vr_l1_open(&w, ctx));
    while (!c->contested && vr_l1_next(&w, &index, &entry))
        c->contested = (vr_claims_at(ctx, ctx->img->h.l1_offset + index * 8) & ~(uint32_t)VR_CLAIM_L1) &&
                       !vr_l1_followable(ctx, entry);
    return w.status;
}

enum vr_status vr_pass_copied(struct vr_ctx *ctx)
{
    struct copied c = {.ctx = ctx, .piece_first = UINT64_MAX};
    struct vr_l1_walk w;
    struct vr_stream s = {.next = vr_l1_next_table, .arg = &w};
    struct vr_block b;

    if (!ctx->img->copied_matters)
        return VR_OK;
    c.piece = vr_arena_get(&ctx->arena, VR_L1_PIECE);
    if (!c.piece)
        return VR_ENOMEM;
    VR_TRY(l1_contested(&c));
    VR_TRY(vr_l1_open(&c.l1, ctx));
    VR_TRY(vr_l1_open(&w, ctx));
    w.once = VR_CLAIM_SEEN; /* a copy that was read ahead would not have the flags that the first visit planned */
    VR_TRY(vr_stream_open(&s, ctx, (uint32_t)ctx->img->cluster_size, ctx->img->h.l1_size));
    for (;;) {
        VR_TRY(vr_stream_get(&s, &b));
        VR_TRY(check_l1_upto(&c, b.data ? b.tag & UINT32_MAX : UINT64_MAX));
        if (!b.data)
            break;
        VR_TRY(check_table(&c, &b));
    }
    VR_TRY(write_l1(&c));
    return w.status != VR_OK ? w.status : c.status;
}
