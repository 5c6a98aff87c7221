/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* snapshot_table.c: reports entries that break the format, and plans a table with the same snapshots that does not. */
#include "plan.h"

#define CHUNK 65536u

/* The new table, written front to back. */
struct out {
    struct vr_ctx *ctx;
    uint8_t *buf;
    uint64_t at;   /* where buf goes */
    uint32_t used;
};

/* ---- writing ----------------------------------------------------------------------------------------------- */

static enum vr_status flush(struct out *o)
{
    if (o->used == 0)
        return VR_OK;
    VR_TRY(vr_plan_write(o->ctx, VR_EPOCH_STRUCTURE, o->at, o->buf, o->used));
    o->at += o->used;
    o->used = 0;
    return VR_OK;
}

static enum vr_status copy(struct out *o, uint64_t from, uint64_t len)
{
    while (len > 0) {
        if (o->used == CHUNK)
            VR_TRY(flush(o));
        uint32_t n = (uint32_t)vr_min(len, CHUNK - o->used);
        VR_TRY(vr_read(o->ctx, from, o->buf + o->used, n));
        o->used += n;
        from += n;
        len -= n;
    }
    return VR_OK;
}

static enum vr_status put(struct out *o, const uint8_t *bytes, uint32_t len)
{
    if (o->used + len > CHUNK)
        VR_TRY(flush(o));
    memcpy(o->buf + o->used, bytes, len);
    o->used += len;
    return VR_OK;
}

/* Extra data that an entry is given: what it has, up to the limit, and at least what QEMU writes. */
static uint32_t new_extra(const struct vr_snapshot *s)
{
    uint32_t kept = s->extra_size < VR_SNAPSHOT_EXTRA_MAX ? s->extra_size : VR_SNAPSHOT_EXTRA_MAX;

    return kept < VR_SNAPSHOT_EXTRA_NEW ? VR_SNAPSHOT_EXTRA_NEW : kept;
}

static uint64_t new_bytes(const struct vr_snapshot *s)
{
    return (uint64_t)VR_SNAPSHOT_FIXED + new_extra(s) + s->id_len + s->name_len;
}

/* Fields that a short entry does not have: 64 bits of the VM state size, the size of the disk, the instruction count. */
static void fill_extra(const struct vr_ctx *ctx, uint8_t *fixed, uint32_t had)
{
    uint8_t *extra = fixed + VR_SNAPSHOT_FIXED;

    if (had < 8)
        vr_store64(extra, vr_load32(fixed + 32));
    if (had < 16)
        vr_store64(extra + 8, ctx->img->h.virtual_size);
    if (had < 24)
        vr_store64(extra + 16, UINT64_MAX);
}

static enum vr_status write_entry(struct out *o, const struct vr_snapshot_at *e)
{
    uint8_t head[VR_SNAPSHOT_FIXED + VR_SNAPSHOT_EXTRA_NEW], *buf = o->buf + CHUNK;
    uint64_t had = vr_min(e->s.extra_size, VR_SNAPSHOT_EXTRA_NEW);
    static const uint8_t zeros[8];

    memset(head, 0, sizeof(head));
    VR_TRY(vr_read(o->ctx, e->at, buf, (uint32_t)(VR_SNAPSHOT_FIXED + had)));
    memcpy(head, buf, VR_SNAPSHOT_FIXED + had);
    fill_extra(o->ctx, head, (uint32_t)had);
    vr_store32(head + 36, new_extra(&e->s));
    VR_TRY(put(o, head, sizeof(head)));
    VR_TRY(copy(o, e->at + sizeof(head), new_extra(&e->s) - VR_SNAPSHOT_EXTRA_NEW));
    VR_TRY(copy(o, e->at + VR_SNAPSHOT_FIXED + e->s.extra_size, (uint64_t)e->s.id_len + e->s.name_len));
    return put(o, zeros, (uint32_t)(-new_bytes(&e->s) & 7));
}

/* Refcount 1 for clusters that nothing references yet: a leak at worst, should the rest not reach the disk. */
static enum vr_status raise_refcounts(struct vr_ctx *ctx, uint64_t first, uint64_t n)
{
    struct vr_image *img = ctx->img;
    uint8_t *word = vr_arena_get(&ctx->arena, 8);

    if (!word)
        return VR_ENOMEM;
    for (uint64_t c = first; c < first + n; c++) {
        uint64_t block = vr_refblock_offset(img, c / img->block_entries);
        uint64_t bit = (c % img->block_entries) << img->h.refcount_order;
        uint32_t bytes = img->h.refcount_order > 3 ? 1u << (img->h.refcount_order - 3) : 1;
        if (block == 0 || block % img->cluster_size != 0 || block >= ctx->first_size || img->rebuild) {
            img->rebuild = true;
            return VR_OK;
        }
        if (block + (bit >> 3) + bytes > ctx->file_size)
            VR_TRY(vr_grow_file(ctx, block + img->cluster_size));
        VR_TRY(vr_read(ctx, block + (bit >> 3), word, bytes));
        vr_refcount_set(word, img->h.refcount_order, img->h.refcount_order < 3 ? (bit & 7) >> img->h.refcount_order : 0, 1);
        VR_TRY(vr_plan_write(ctx, VR_EPOCH_STRUCTURE, block + (bit >> 3), word, bytes));
        if (ctx->would)
            vr_refmap_mark(&img->refs, c, VR_CLAIM_PLANNED);
    }
    img->refpiece_at = 0;
    return VR_OK;
}

static uint64_t table_bytes(const struct vr_image *img)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < img->nsnapshots; i++)
        bytes = ((bytes + 7) & ~UINT64_C(7)) + new_bytes(&img->snapshots[i].s);
    return bytes;
}

/* The table at offset, the pointer to it, and the claims of both. */
static enum vr_status plan_table(struct vr_ctx *ctx, uint64_t offset, uint64_t bytes)
{
    struct vr_image *img = ctx->img;
    unsigned cb = img->h.cluster_bits;
    struct out o = {.ctx = ctx, .at = offset, .buf = vr_arena_get(&ctx->arena, CHUNK + 4096)};

    if (!o.buf)
        return VR_ENOMEM;
    for (uint32_t i = 0; i < img->nsnapshots; i++)
        VR_TRY(write_entry(&o, &img->snapshots[i]));
    VR_TRY(flush(&o));
    VR_TRY(raise_refcounts(ctx, offset >> cb, vr_ceil_shift(bytes, cb)));
    for (uint64_t c = 0; c < vr_ceil_shift(img->snapshots_end, cb); c++) {
        vr_refmap_drop(&img->refs, (img->h.snapshots_offset >> cb) + c, VR_CLAIM_SNAPSHOTS);
        vr_refmap_mark(&img->refs, (img->h.snapshots_offset >> cb) + c, VR_CLAIM_RELEASED);
    }
    vr_claim_region(ctx, offset, bytes, VR_CLAIM_SNAPSHOTS);
    vr_store32(o.buf, img->nsnapshots);
    vr_store64(o.buf + 4, offset);
    return vr_plan_pointer(ctx, VR_HEADER_SNAPSHOTS_AT, o.buf, 12);
}

/* Fewer snapshots in the same table. */
static enum vr_status plan_count(struct vr_ctx *ctx)
{
    uint8_t *word = vr_arena_get(&ctx->arena, 8);

    if (!word)
        return VR_ENOMEM;
    vr_store32(word, ctx->img->nsnapshots);
    return vr_plan_pointer(ctx, VR_HEADER_SNAPSHOTS_AT, word, 4);
}

/* ---- judging ------------------------------------------------------------------------------------------------- */

/* A list that may be garbage is left as it is; so is one that cannot be put anywhere. bytes: of a new table, 0 = none. */
static enum vr_status judge(struct vr_ctx *ctx, enum vr_kept *kept, uint64_t *offset, uint64_t bytes)
{
    const struct vr_image *img = ctx->img;

    *kept = VR_KEPT_NO;
    if (!vr_planning(ctx) || ctx->mode != VR_MODE_ALL)
        return VR_OK;
    if (img->implausible || (ctx->implied & VR_UNSOUND) || vr_region_past_eof(ctx, img->h.snapshots_offset, img->snapshots_end)) {
        *kept = VR_KEPT_DOUBTFUL;
        return VR_OK;
    }
    if (bytes == 0)
        return VR_OK;
    VR_TRY(vr_take_room(ctx, vr_ceil_shift(bytes, img->h.cluster_bits), offset));
    *kept = *offset ? VR_KEPT_NO : VR_KEPT_NO_ROOM;
    return VR_OK;
}

/* As a plain check says it: no program reads such a table. */
static enum vr_status refuse(struct vr_ctx *ctx, uint64_t dropped)
{
    struct vr_image *img = ctx->img;
    struct vr_finding f = vr_finding_none();
    enum vr_problem row = img->h.snapshots > VR_SNAPSHOTS_MAX ? VR_P_SNAP_TABLE_LARGE : VR_P_SNAP_TABLE_BYTES;

    f.host = VR_HEADER_SNAPSHOTS_AT;
    f.got = dropped;
    f.want = img->h.snapshots;
    for (uint32_t i = 0; i < img->nsnapshots && dropped == 0; i++) {
        if (!img->snapshots[i].long_extra)
            continue;
        row = VR_P_SNAP_EXTRA_LARGE;
        f.index = i;
        f.got = img->snapshots[i].s.extra_size;
        break;
    }
    vr_report(ctx, row, &f);
    return VR_EREFUSED;
}

static void report_entries(struct vr_ctx *ctx, enum vr_kept kept)
{
    const struct vr_image *img = ctx->img;

    for (uint32_t i = 0; i < img->nsnapshots; i++) {
        const struct vr_snapshot_at *e = &img->snapshots[i];
        struct vr_finding f = vr_finding_none();
        f.host = e->at;
        f.index = i;
        f.root = i + 1;
        f.got = e->s.extra_size;
        f.kept = kept;
        if (e->long_extra)
            vr_report(ctx, VR_P_SNAP_EXTRA_CUT, &f);
        if (e->short_extra)
            vr_report(ctx, VR_P_SNAP_EXTRA_SMALL, &f);
    }
}

static void report_dropped(struct vr_ctx *ctx, enum vr_problem row, struct vr_finding f, uint64_t count)
{
    f.count = count;
    if (count != 0)
        vr_report(ctx, row, &f);
}

/* What QEMU leaves behind a table that has become shorter is not in use any more. */
static enum vr_status report_behind_last(struct vr_ctx *ctx)
{
    struct vr_image *img = ctx->img;
    struct vr_finding f = vr_finding_none();
    uint64_t refcount;

    if (img->behind_last == 0 || vr_claims_at(ctx, img->behind_l1) != 0)
        return VR_OK;
    VR_TRY(vr_refcount_read(ctx, img->behind_l1 >> img->h.cluster_bits, &refcount));
    f.host = img->behind_last;
    f.index = img->nsnapshots;
    if (refcount != 0)
        vr_report(ctx, VR_P_SNAP_BEHIND_LAST, &f);
    return VR_OK;
}

enum vr_status vr_plan_snapshot_table(struct vr_ctx *ctx)
{
    struct vr_image *img = ctx->img;
    struct vr_finding dropped = vr_finding_none();
    uint64_t many = img->h.snapshots - vr_min(img->h.snapshots, VR_SNAPSHOTS_MAX), offset = 0;
    bool shorts = false, longs = false;

    VR_TRY(report_behind_last(ctx));
    dropped.count = img->h.snapshots - img->nsnapshots;
    for (uint32_t i = 0; i < img->nsnapshots; i++) {
        shorts |= img->snapshots[i].short_extra;
        longs |= img->snapshots[i].long_extra;
    }
    if (!shorts && !longs && dropped.count == 0)
        return VR_OK;
    uint64_t bytes = shorts || longs ? table_bytes(img) : 0;
    VR_TRY(judge(ctx, &dropped.kept, &offset, bytes));
    if (dropped.kept != VR_KEPT_NO && (longs || dropped.count != 0))
        return refuse(ctx, dropped.count);
    report_entries(ctx, dropped.kept);
    report_dropped(ctx, VR_P_SNAP_DROPPED, dropped, many);
    report_dropped(ctx, VR_P_SNAP_DROPPED_BYTES, dropped, dropped.count - many);
    if (offset != 0)
        return plan_table(ctx, offset, bytes);
    return dropped.count != 0 && vr_planning(ctx) ? plan_count(ctx) : VR_OK;
}
