/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* l2_entry.c: judges L2 entries, standard, extended and compressed, and claims what they name. */
#include "map.h"
#include "plan.h"

static bool has(const struct vr_ctx *ctx, uint64_t feature)
{
    return ctx->img->h.incompatible & feature;
}

/* ---- claims ------------------------------------------------------------------------------------------------ */

static void count_allocated(struct vr_map_walk *w, uint64_t offset)
{
    w->ctx->sum->allocated_clusters += w->active;
    if (w->table_next != 0 && w->table_next != offset)
        w->ctx->sum->fragmented_clusters += w->active;
    w->table_next = offset + w->ctx->img->cluster_size;
}

/* Guest data where something else is already. Two pointers of the active map, or data on metadata: somebody's is lost. */
static void note_sharing(struct vr_map_walk *w, const struct vr_finding *at, uint64_t offset, uint32_t before)
{
    struct vr_finding f = *at;

    f.host = offset;
    f.index = offset >> w->ctx->img->h.cluster_bits;
    f.guest_len = w->ctx->img->cluster_size;
    if (before & VR_CLAIM_METADATA)
        vr_map_report(w, VR_P_DATA_ON_METADATA, &f);
    else if (at->root == VR_ROOT_ACTIVE && (before & (VR_CLAIM_DATA | VR_CLAIM_COMPRESSED)))
        vr_map_report(w, VR_P_DATA_SHARED, &f);
}

static void claim_data(struct vr_map_walk *w, const struct vr_finding *at, uint64_t offset)
{
    struct vr_image *img = w->ctx->img;
    uint64_t cluster = offset >> img->h.cluster_bits;

    if (at->count == 1 && vr_refmap_is_free(&img->refs, cluster)) {
        vr_refmap_claim(&img->refs, cluster, VR_CLAIM_DATA, 1);
        return;
    }
    uint32_t before = vr_claims_at(w->ctx, offset);
    vr_claim_times(w->ctx, at, (struct vr_run){offset, img->cluster_size}, VR_CLAIM_DATA);
    struct vr_finding again = *at;
    again.count = before ? at->count : w->active - (w->active != 0);
    if (again.count != 0)
        note_sharing(w, &again, offset, before ? before : VR_CLAIM_DATA);
    img->copied_matters = true;
}

static void past_eof(struct vr_map_walk *w, const struct vr_finding *at, uint64_t entry)
{
    struct vr_ctx *ctx = w->ctx;
    struct vr_finding f = *at;

    f.got = entry & VR_OFFSET_MASK;
    f.want = ctx->img->cluster_size;
    f.guest_len = entry & VR_ZERO ? 0 : ctx->img->cluster_size;
    vr_map_report(w, VR_P_L2E_PAST_EOF, &f);
    vr_note_dangling(ctx, f.got);
    ctx->img->copied_matters = true;
}

/* The format lets a cluster lie anywhere in a data file that is not raw; QEMU, which alone writes such images, never moves one. */
static void judge_place(struct vr_map_walk *w, const struct vr_finding *at, uint64_t offset)
{
    struct vr_finding f = *at;

    f.got = offset;
    f.guest_len = w->ctx->img->cluster_size;
    if (offset != at->guest)
        vr_map_report(w, VR_P_DATA_FILE_MOVED, &f);
}

/* What an entry of a data cluster names. With an external data file it is an offset there, and nobody's here. */
static void claim_cluster(struct vr_map_walk *w, const struct vr_finding *at, uint64_t entry)
{
    uint64_t offset = entry & VR_OFFSET_MASK;

    count_allocated(w, offset);
    if (has(w->ctx, VR_INCOMPAT_DATA_FILE)) {
        judge_place(w, at, offset);
        return;
    }
    if (vr_region_past_eof(w->ctx, offset, w->ctx->img->cluster_size))
        past_eof(w, at, entry);
    else
        claim_data(w, at, offset);
}

/* ---- compressed ---------------------------------------------------------------------------------------------- */

static void claim_run(struct vr_map_walk *w, const struct vr_finding *at, struct vr_run run)
{
    struct vr_ctx *ctx = w->ctx;
    unsigned cb = ctx->img->h.cluster_bits;
    struct vr_finding f = *at;

    if (vr_region_past_eof(ctx, run.offset, run.len)) {
        f.got = run.offset;
        f.want = run.len;
        f.guest_len = ctx->img->cluster_size;
        vr_map_report(w, VR_P_COMPRESSED_PAST_EOF, &f);
        vr_note_dangling(ctx, vr_min(run.offset, ctx->file_size));
        return;
    }
    for (uint64_t c = run.offset >> cb; c <= (run.offset + run.len - 1) >> cb; c++) {
        uint32_t before = vr_claims_at(ctx, c << cb);
        if (before & (VR_CLAIM_METADATA | VR_CLAIM_DATA))
            note_sharing(w, at, c << cb, before);
    }
    vr_claim_times(ctx, at, run, VR_CLAIM_COMPRESSED);
}

static void judge_compressed(struct vr_map_walk *w, const struct vr_finding *at, uint64_t entry, uint64_t bitmap)
{
    struct vr_ctx *ctx = w->ctx;
    struct vr_run run = vr_compressed_run(entry & ~VR_COPIED, ctx->img->h.cluster_bits);
    struct vr_finding f = *at;

    f.got = entry;
    f.want = run.offset;
    f.guest_len = ctx->img->cluster_size;
    if (entry & VR_COPIED)
        vr_map_report(w, VR_P_COMPRESSED_COPIED, &f);
    f.got = entry & ~VR_COPIED;
    bool with_file = has(ctx, VR_INCOMPAT_DATA_FILE);
    if (with_file || bitmap != 0) {
        vr_map_report(w, with_file ? VR_P_COMPRESSED_DATA_FILE : VR_P_COMPRESSED_BITMAP, &f);
        return;
    }
    ctx->sum->allocated_clusters += w->active;
    ctx->sum->compressed_clusters += w->active;
    ctx->sum->fragmented_clusters += w->active;
    claim_run(w, at, run);
}

/* ---- unaligned ------------------------------------------------------------------------------------------------ */

/* An entry with an unaligned offset that stays as it is: qemu counts both clusters that the offset straddles. */
static void keep_unaligned(struct vr_map_walk *w, const struct vr_finding *at, uint64_t entry)
{
    struct vr_ctx *ctx = w->ctx;
    struct vr_run both = {entry & VR_OFFSET_MASK, ctx->img->cluster_size};

    count_allocated(w, both.offset);
    if (has(ctx, VR_INCOMPAT_DATA_FILE))
        return;
    if (vr_region_past_eof(ctx, both.offset, both.len))
        past_eof(w, at, entry);
    else
        vr_claim_times(ctx, at, both, VR_CLAIM_DOUBTFUL);
}

/* Whether the entry reads as zeros, and only keeps a cluster for later. */
static bool preallocated(const struct vr_ctx *ctx, uint64_t entry, uint64_t bitmap)
{
    return has(ctx, VR_INCOMPAT_EXTL2) ? VR_SUB_ALLOCATED(bitmap) == 0 : (entry & VR_ZERO) != 0;
}

static bool room_for_fix(struct vr_map_walk *w)
{
    if (!w->fixes)
        w->fixes = vr_arena_get(&w->ctx->arena, VR_ENTRY_FIXES_MAX * sizeof(*w->fixes));
    w->no_room = !w->fixes || w->nfixes == VR_ENTRY_FIXES_MAX;
    return !w->no_room;
}

static void judge_unaligned(struct vr_map_walk *w, const struct vr_finding *at, uint64_t entry, uint64_t bitmap)
{
    struct vr_ctx *ctx = w->ctx;
    struct vr_finding f = *at;
    bool zero = preallocated(ctx, entry, bitmap);
    /*
     * With reserved bits set as well it is garbage rather than a slip, and more may be lost than this entry: it is left
     * as it is, or a second repair would no longer see why what looks leaked was kept.
     */
    bool garbage = entry & VR_L2_RESERVED;

    if (zero && !garbage && vr_planning(ctx) && ctx->mode == VR_MODE_ALL && room_for_fix(w)) {
        w->fixes[w->nfixes++] = (struct vr_entry_fix){at->host, at->guest, entry, bitmap, at->count, at->root};
        return;
    }
    f.got = entry & VR_OFFSET_MASK;
    if (garbage || w->no_room)
        f.kept = VR_KEPT_DOUBTFUL;
    if (!zero)
        f.guest_len = ctx->img->cluster_size;
    vr_map_report(w, zero ? VR_P_L2E_ZERO_UNALIGNED : VR_P_L2E_UNALIGNED, &f);
    keep_unaligned(w, at, entry);
}

/* Version 2 has no zero flag: there an entry reads as zeros only where it is 0 and nothing lies behind the image. */
static enum vr_kept zero_entry_kept(const struct vr_ctx *ctx, uint64_t host)
{
    uint32_t others = VR_CLAIM_DATA | VR_CLAIM_COMPRESSED | (VR_CLAIM_METADATA & ~(uint32_t)VR_CLAIM_TABLE);

    /* A table that is guest data as well, or a bitmap, may be just that: nothing is written through it. */
    if ((ctx->implied & VR_UNSOUND) || (vr_claims_at(ctx, host) & others))
        return VR_KEPT_DOUBTFUL;
    if (ctx->img->h.version < 3 && ctx->img->h.backing_offset != 0)
        return VR_KEPT_VERSION;
    return VR_KEPT_NO;
}

/* What a zero entry without a cluster looks like. With extended L2 its bitmap says so already. */
static uint64_t plain_zero(const struct vr_ctx *ctx)
{
    return ctx->img->h.version < 3 || has(ctx, VR_INCOMPAT_EXTL2) ? 0 : VR_ZERO;
}

enum vr_status vr_plan_zero_entries(struct vr_ctx *ctx)
{
    struct vr_map_walk *w = ctx->img->map;
    uint8_t *word = vr_arena_get(&ctx->arena, 8);

    if (!word)
        return VR_ENOMEM;
    for (uint32_t i = 0; i < w->nfixes; i++) {
        const struct vr_entry_fix *fix = &w->fixes[i];
        struct vr_finding f = vr_finding_none();
        f.host = fix->host;
        f.guest = fix->guest;
        f.got = fix->entry & VR_OFFSET_MASK;
        f.root = fix->root;
        f.kept = zero_entry_kept(ctx, fix->host);
        f.count = f.kept == VR_KEPT_NO ? 1 : fix->count; /* once mended, the other ways to it find nothing */
        if (vr_report(ctx, VR_P_L2E_ZERO_UNALIGNED, &f) == VR_FIX) {
            vr_store64(word, plain_zero(ctx));
            VR_TRY(vr_plan_in_place(ctx, VR_EPOCH_POINTER, fix->host, word, 8));
            continue;
        }
        w->active = fix->root == VR_ROOT_ACTIVE;
        keep_unaligned(w, &f, fix->entry);
    }
    return VR_OK;
}

/* ---- one entry -------------------------------------------------------------------------------------------------- */

static void judge_unallocated(struct vr_map_walk *w, const struct vr_finding *at, uint64_t bitmap)
{
    struct vr_finding f = *at;

    if (VR_SUB_ALLOCATED(bitmap) == 0)
        return;
    f.got = bitmap;
    f.guest_len = w->ctx->img->cluster_size;
    vr_map_report(w, VR_P_SUBCLUSTER_UNALLOCATED, &f);
}

static void judge_subclusters(struct vr_map_walk *w, const struct vr_finding *at, uint64_t entry, uint64_t bitmap)
{
    struct vr_finding f = *at;

    if ((VR_SUB_ALLOCATED(bitmap) & VR_SUB_ZERO(bitmap)) == 0)
        return;
    f.got = entry & VR_OFFSET_MASK;
    f.want = bitmap;
    f.guest_len = w->ctx->img->cluster_size;
    vr_map_report(w, VR_P_SUBCLUSTER_BOTH, &f);
}

void vr_judge_l2_entry(struct vr_map_walk *w, const struct vr_finding *at, uint64_t entry, uint64_t bitmap)
{
    struct vr_ctx *ctx = w->ctx;
    struct vr_image *img = ctx->img;
    enum vr_l2_type type = vr_l2_type(entry, img->h.incompatible);
    struct vr_finding f = *at;

    if (type == VR_L2_COMPRESSED) {
        judge_compressed(w, at, entry, bitmap);
        return;
    }
    f.got = entry;
    if (entry & VR_L2_RESERVED)
        vr_map_report(w, VR_P_L2E_RESERVED, &f);
    if (type == VR_L2_UNALLOCATED)
        judge_unallocated(w, at, bitmap);
    if ((type == VR_L2_UNALLOCATED || type == VR_L2_ZERO_PLAIN) && (entry & VR_COPIED)) {
        f.guest_len = img->cluster_size;
        vr_map_report(w, VR_P_L2E_COPIED_EMPTY, &f);
    }
    if (type == VR_L2_UNALLOCATED || type == VR_L2_ZERO_PLAIN)
        return;
    judge_subclusters(w, at, entry, bitmap);
    if ((entry & VR_OFFSET_MASK) % img->cluster_size != 0) {
        img->copied_matters = true;
        judge_unaligned(w, at, entry, bitmap);
        return;
    }
    if (!(entry & VR_COPIED))
        img->copied_matters = true;
    claim_cluster(w, at, entry);
}
