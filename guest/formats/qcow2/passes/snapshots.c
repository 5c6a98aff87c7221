/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pass 4: snapshot table, and the L1 tables of snapshots. Runs before pass 3, which walks all maps.
 *
 * Tests:    place and size of the table; each entry's L1 table: alignment, size, bounds, what it lies on
 * Collects: img->snapshots, img->roots; claims of the table and of the L1 tables
 * Needs:    pass 2: what the table and the L1 tables lie on
 * Frees:    nothing
 *
 * A table that qemu-img check does not read is refused here as well, but where mode all may mend it. Entries that are
 * too short or too long are reported by vr_plan_snapshot_table(), once it is known whether the table can be rewritten.
 */
#include "passes.h"

#define NAMES_SENT 256u /* snapshots that are named in any case; later ones where they are damaged */

static enum vr_status refuse(struct vr_ctx *ctx, enum vr_problem row, uint64_t index, uint64_t got, uint64_t want)
{
    struct vr_finding f = vr_finding_none();

    f.host = VR_HEADER_SNAPSHOTS_AT;
    f.index = index;
    f.got = got;
    f.want = want;
    vr_report(ctx, row, &f);
    return VR_EREFUSED;
}

/* ---- the table ------------------------------------------------------------------------------------------- */

static bool may_mend(const struct vr_ctx *ctx)
{
    return ctx->mode == VR_MODE_ALL;
}

/* Number of entries to read, at most VR_SNAPSHOTS_MAX. */
static enum vr_status judge_place(struct vr_ctx *ctx, uint32_t *number)
{
    const struct vr_header *h = &ctx->img->h;
    struct vr_finding f = vr_finding_none();

    *number = (uint32_t)vr_min(h->snapshots, VR_SNAPSHOTS_MAX);
    if (h->snapshots > VR_SNAPSHOTS_MAX && !may_mend(ctx))
        return refuse(ctx, VR_P_SNAP_TABLE_LARGE, 0, h->snapshots - VR_SNAPSHOTS_MAX, h->snapshots);
    if (h->snapshots_offset % ctx->img->cluster_size != 0 || h->snapshots_offset > INT64_MAX - VR_SNAPSHOT_TABLE_MAX)
        return refuse(ctx, VR_P_SNAP_OFFSET, 0, h->snapshots_offset, 0);
    if (h->snapshots == 0 && h->snapshots_offset != 0) {
        f.host = VR_HEADER_SNAPSHOTS_AT;
        f.got = h->snapshots_offset;
        vr_report(ctx, VR_P_SNAP_UNCOUNTED, &f);
    }
    return VR_OK;
}

/* One flipped bit in a length does this. The snapshots behind it are there, and where they begin is not known. */
static enum vr_status refuse_broken(struct vr_ctx *ctx, uint32_t i, uint64_t end)
{
    struct vr_finding f = vr_finding_none();

    f.host = end;
    f.index = i;
    f.got = ctx->img->h.snapshots - i;
    vr_report(ctx, VR_P_SNAP_TABLE_BROKEN, &f);
    return VR_EREFUSED;
}

static enum vr_status read_entry(struct vr_window *t, uint32_t i, uint64_t at)
{
    struct vr_image *img = t->ctx->img;
    struct vr_snapshot_at *e = &img->snapshots[i];
    const uint8_t *p;

    VR_TRY(vr_window_look(t, at, VR_SNAPSHOT_FIXED + VR_SNAPSHOT_EXTRA_V3, &p));
    *e = (struct vr_snapshot_at){.at = at, .s = vr_snapshot_decode(p)};
    e->short_extra = img->h.version >= 3 && e->s.extra_size < VR_SNAPSHOT_EXTRA_V3;
    e->long_extra = e->s.extra_size > VR_SNAPSHOT_EXTRA_MAX;
    if (e->s.extra_size > VR_SNAPSHOT_EXTRA_ODD)
        return refuse_broken(t->ctx, i, at + vr_snapshot_bytes(&e->s));
    if (e->long_extra && !may_mend(t->ctx))
        return refuse(t->ctx, VR_P_SNAP_EXTRA_LARGE, i, e->s.extra_size, VR_SNAPSHOT_EXTRA_MAX);
    return VR_OK;
}

static enum vr_status read_table(struct vr_window *t, uint32_t number)
{
    struct vr_image *img = t->ctx->img;
    uint64_t start = img->h.snapshots_offset, at = start;

    img->snapshots = vr_arena_get(&t->ctx->arena, number * sizeof(*img->snapshots));
    if (!img->snapshots)
        return VR_ENOMEM;
    for (uint32_t i = 0; i < number; i++) {
        at = (at + 7) & ~UINT64_C(7);
        VR_TRY(read_entry(t, i, at));
        at += vr_snapshot_bytes(&img->snapshots[i].s);
        if (at - start > VR_SNAPSHOT_TABLE_MAX) {
            if (at > t->ctx->file_size)
                return refuse_broken(t->ctx, i, at);
            if (!may_mend(t->ctx))
                return refuse(t->ctx, VR_P_SNAP_TABLE_BYTES, i, img->h.snapshots - i, 0);
            break;
        }
        img->nsnapshots = i + 1;
        img->snapshots_end = at - start;
    }
    return VR_OK;
}

/* What other metadata the region lies on, but for these kinds. */
static uint32_t owners_of(const struct vr_ctx *ctx, uint64_t offset, uint64_t size, uint32_t allowed)
{
    uint32_t owners = 0;

    for (uint64_t at = offset; at < offset + size; at += ctx->img->cluster_size)
        owners |= vr_claims_at(ctx, at);
    return owners & VR_CLAIM_METADATA & ~allowed;
}

/* False where the entries mean nothing. */
static bool claim_table(struct vr_ctx *ctx)
{
    struct vr_image *img = ctx->img;
    struct vr_finding f = vr_finding_none();

    f.host = img->h.snapshots_offset;
    f.got = img->snapshots_end;
    if (vr_region_past_eof(ctx, f.host, f.got)) {
        vr_report(ctx, VR_P_SNAP_TABLE_PAST_EOF, &f);
        vr_note_dangling(ctx, vr_min(f.host, ctx->file_size));
        return true;
    }
    if (owners_of(ctx, f.host, f.got, 0) != 0) {
        vr_report(ctx, VR_P_SNAP_TABLE_FOREIGN, &f);
        vr_note_foreign(ctx, owners_of(ctx, f.host, f.got, 0), false);
        return false;
    }
    vr_claim_region(ctx, f.host, f.got, VR_CLAIM_SNAPSHOTS);
    return true;
}

/* ---- one snapshot ------------------------------------------------------------------------------------------ */

/* What no program writes: no id and no name, or a disk without a map, or with a map of a part of it. */
static bool implausible(const struct vr_image *img, const struct vr_snapshot *s)
{
    uint64_t table = img->l2_entries << img->h.cluster_bits; /* bytes that one L1 entry maps */

    return (s->id_len == 0 && s->name_len == 0) || (s->l1_size == 0 && img->h.virtual_size != 0) ||
           s->l1_size < s->disk_size / table + (s->disk_size % table != 0);
}

/* An id is a number, or at least ASCII; a name is any text. A length that is wrong shows what is no text at all. */
static enum vr_status is_text(struct vr_window *t, uint64_t at, uint32_t len, uint8_t most, bool *text)
{
    for (uint32_t i = 0; i < len && *text; i++) {
        const uint8_t *p;
        VR_TRY(vr_window_look(t, at + i, 1, &p));
        *text = *p >= 0x20 && *p != 0x7f && *p <= most;
    }
    return VR_OK;
}

static enum vr_status names_are_text(struct vr_window *t, uint64_t at, const struct vr_snapshot *s, bool *text)
{
    uint64_t id_at = at + VR_SNAPSHOT_FIXED + s->extra_size;

    *text = true;
    VR_TRY(is_text(t, id_at, s->id_len, 0x7e, text));
    return is_text(t, id_at + s->id_len, s->name_len, 0xff, text);
}

/* Whether the bytes behind the last entry are one more: of the header's count, one bit may be wrong. */
static enum vr_status look_behind(struct vr_window *t)
{
    struct vr_image *img = t->ctx->img;
    uint64_t at = (img->h.snapshots_offset + img->snapshots_end + 7) & ~UINT64_C(7);
    const uint8_t *p;
    bool text;

    if (at >= t->ctx->file_size)
        return VR_OK;
    VR_TRY(vr_window_look(t, at, VR_SNAPSHOT_FIXED + VR_SNAPSHOT_EXTRA_V3, &p));
    struct vr_snapshot s = vr_snapshot_decode(p);
    if (s.id_len == 0 || s.l1_size == 0 || s.l1_size > VR_L1_ENTRIES_MAX || s.extra_size > VR_SNAPSHOT_EXTRA_MAX ||
        implausible(img, &s) || s.l1_offset == 0 || s.l1_offset % img->cluster_size != 0 || s.l1_offset >= t->ctx->file_size)
        return VR_OK;
    VR_TRY(names_are_text(t, at, &s, &text));
    img->behind_last = text ? at : 0;
    img->behind_l1 = s.l1_offset;
    return VR_OK;
}

/* The row that says why an L1 table cannot be followed, or VR_P_COUNT. */
static enum vr_problem judge_l1(const struct vr_ctx *ctx, const struct vr_snapshot *s)
{
    if (s->l1_offset % ctx->img->cluster_size != 0)
        return VR_P_SNAP_L1_UNALIGNED;
    if (s->l1_size > VR_L1_ENTRIES_MAX)
        return VR_P_SNAP_L1_LARGE;
    if (vr_region_past_eof(ctx, s->l1_offset, (uint64_t)s->l1_size * 8))
        return VR_P_SNAP_L1_PAST_EOF;
    if (ctx->img->snapshot_l1_bytes + (uint64_t)s->l1_size * 8 > ctx->file_size + VR_TOGETHER_SLACK)
        return VR_P_SNAP_L1_TOGETHER;
    if (owners_of(ctx, s->l1_offset, (uint64_t)s->l1_size * 8, VR_CLAIM_L1) != 0)
        return VR_P_SNAP_L1_FOREIGN;
    return VR_P_COUNT;
}

static void report_l1(struct vr_ctx *ctx, uint32_t i, enum vr_problem row)
{
    struct vr_image *img = ctx->img;
    const struct vr_snapshot *s = &img->snapshots[i].s;
    struct vr_finding f = vr_finding_none();

    f.root = i + 1;
    f.index = i;
    f.host = row == VR_P_SNAP_L1_PAST_EOF || row == VR_P_SNAP_L1_FOREIGN ? s->l1_offset : img->snapshots[i].at;
    f.got = s->l1_offset;
    if (row == VR_P_SNAP_L1_LARGE)
        f.got = s->l1_size;
    if (row == VR_P_SNAP_L1_PAST_EOF) {
        f.got = (uint64_t)s->l1_size * 8;
        vr_note_dangling(ctx, vr_min(s->l1_offset, ctx->file_size));
    }
    if (row == VR_P_SNAP_L1_TOGETHER)
        f.got = img->snapshot_l1_bytes + (uint64_t)s->l1_size * 8;
    vr_report(ctx, row, &f);
    img->roots[i + 1].skipped = true;
    if (row == VR_P_SNAP_L1_FOREIGN)
        vr_note_foreign(ctx, owners_of(ctx, s->l1_offset, (uint64_t)s->l1_size * 8, VR_CLAIM_L1), true);
}

static enum vr_status send_name(struct vr_window *t, uint32_t i)
{
    const struct vr_snapshot_at *e = &t->ctx->img->snapshots[i];
    uint64_t id_at = e->at + VR_SNAPSHOT_FIXED + e->s.extra_size;
    struct vr_name n = {0};
    const uint8_t *p;

    VR_TRY(vr_window_look(t, id_at, sizeof(n.id), &p));
    n.id_len = vr_name_fit(n.id, sizeof(n.id), p, e->s.id_len);
    VR_TRY(vr_window_look(t, id_at + e->s.id_len, sizeof(n.name), &p));
    n.name_len = vr_name_fit(n.name, sizeof(n.name), p, e->s.name_len);
    vr_report_name(t->ctx, i + 1, &n);
    return VR_OK;
}

static enum vr_status judge_snapshot(struct vr_window *t, uint32_t i)
{
    struct vr_ctx *ctx = t->ctx;
    struct vr_image *img = ctx->img;
    const struct vr_snapshot *s = &img->snapshots[i].s;
    struct vr_finding f = vr_finding_none();
    enum vr_problem row = judge_l1(ctx, s);
    bool text, strange;

    VR_TRY(names_are_text(t, img->snapshots[i].at, s, &text));
    strange = implausible(img, s) || !text;

    img->roots[i + 1] = (struct vr_root){.l1_offset = s->l1_offset, .l1_size = s->l1_size};
    if (ctx->walk != VR_WALK_VERIFY && (i < NAMES_SENT || strange || row != VR_P_COUNT))
        VR_TRY(send_name(t, i));
    if (strange) {
        f.host = img->snapshots[i].at;
        f.index = i;
        f.root = i + 1;
        vr_report(ctx, VR_P_SNAP_IMPLAUSIBLE, &f);
        img->implausible = true;
    }
    if (row != VR_P_COUNT)
        report_l1(ctx, i, row);
    else
        vr_claim_region(ctx, s->l1_offset, (uint64_t)s->l1_size * 8, VR_CLAIM_L1);
    /* Of those that are looked at: what owners_of() and the walks of the maps cost. */
    if (row == VR_P_COUNT || row == VR_P_SNAP_L1_FOREIGN)
        img->snapshot_l1_bytes += (uint64_t)s->l1_size * 8;
    return VR_OK;
}

static enum vr_status open_roots(struct vr_ctx *ctx, uint32_t number)
{
    struct vr_image *img = ctx->img;

    img->roots = vr_arena_get(&ctx->arena, (number + UINT64_C(1)) * sizeof(*img->roots));
    if (!img->roots)
        return VR_ENOMEM;
    img->roots[0] = (struct vr_root){.l1_offset = img->h.l1_offset, .l1_size = img->h.l1_size};
    img->roots[0].skipped = vr_region_past_eof(ctx, img->h.l1_offset, img->h.l1_size * 8);
    img->nroots = 1;
    return VR_OK;
}

enum vr_status vr_pass_snapshots(struct vr_ctx *ctx)
{
    struct vr_image *img = ctx->img;
    struct vr_window t;
    uint32_t number;

    VR_TRY(judge_place(ctx, &number));
    VR_TRY(open_roots(ctx, number));
    if (number == 0)
        return VR_OK;
    VR_TRY(vr_window_open(&t, ctx));
    VR_TRY(read_table(&t, number));
    if (img->h.incompatible & VR_INCOMPAT_DATA_FILE) {
        struct vr_finding f = vr_finding_none();
        f.got = img->nsnapshots;
        vr_report(ctx, VR_P_SNAP_DATA_FILE, &f);
    }
    if (!claim_table(ctx))
        return VR_OK;
    for (uint32_t i = 0; i < img->nsnapshots; i++)
        VR_TRY(judge_snapshot(&t, i));
    if (img->nsnapshots == img->h.snapshots)
        VR_TRY(look_behind(&t));
    img->nroots = img->nsnapshots + 1;
    return img->refs.full ? VR_ENOMEM : VR_OK;
}
