/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pass 6: refcounts on disk against the references that were counted.
 *
 * Tests:    every refcount of a cluster of the file
 * Collects: img->highest, highest_unread; plans refcounts in whole refcount blocks, or new refcount structures; afterwards the map holds
 *           refcounts as they will be
 * Needs:    passes 2 and 3 complete
 * Frees:    nothing
 */
#include "lost.h"
#include "passes.h"
#include "plan.h"

struct compare {
    struct vr_ctx *ctx;
    uint64_t next;        /* refcount block that comes next */
    uint64_t blocks;      /* blocks that the file has clusters for */
    uint64_t first;       /* cluster of entry 0 of the block at hand */
    uint8_t *data;        /* the block, or NULL: all its refcounts are 0 */
    uint64_t lo, hi;      /* entries changed in it: [lo, hi), empty where lo >= hi */
    bool falls;
    bool in_place;        /* corrections go into the blocks that are there */
    bool stopped;         /* at the first wrong refcount of all, before it is judged */
};

/* Clusters in use whose refcounts have no block: in mode all that is known before anything is planned in place. */
static bool block_is_missing(const struct compare *cmp)
{
    const struct vr_image *img = cmp->ctx->img;

    for (uint64_t i = 0; i < cmp->blocks; i++) {
        uint64_t first = i * img->block_entries, n = vr_min(img->block_entries, img->clusters - first);
        if (vr_refblock_offset(img, i) != 0)
            continue;
        for (uint64_t c = first; c < first + n; c++)
            if (!vr_refmap_is_free(&img->refs, c))
                return true;
    }
    return false;
}

/* ---- one cluster -------------------------------------------------------------------------------------------- */

static enum vr_problem problem_of(uint64_t on_disk, uint64_t want)
{
    if (on_disk > want)
        return VR_P_LEAK;
    return on_disk == 0 ? VR_P_REF_ZERO : VR_P_REF_LOW;
}

#define FOUR_ONES UINT64_C(0x0100010001000100) /* four refcounts of 16 bits */

/* Of n clusters: 1, or 8 that eight_alike() found. */
static void put_refcounts(struct compare *cmp, uint64_t cluster, uint64_t n, uint64_t on_disk, uint64_t want)
{
    struct vr_ctx *ctx = cmp->ctx;
    uint64_t i = cluster - cmp->first, half = want ? FOUR_ONES : 0;

    ctx->sum->clusters_freed += want == 0 ? n : 0;
    if (!cmp->in_place || !cmp->data)
        return; /* the map has it right: new refcount structures are made from it */
    if (n == 1) {
        vr_refcount_set(cmp->data, ctx->img->h.refcount_order, i, want);
    } else {
        __builtin_memcpy(cmp->data + i * 2, &half, 8);
        __builtin_memcpy(cmp->data + i * 2 + 8, &half, 8);
    }
    cmp->lo = vr_min(cmp->lo, i);
    cmp->hi = i + n;
    cmp->falls |= on_disk > want;
}

/*
 * What a cluster has in the end whose refcount is not mended, because a damaged pointer names it: at least what the sound
 * ones need, or it would be given to others under them.
 */
static uint64_t kept_refcount(const struct vr_ctx *ctx, uint64_t cluster, uint64_t on_disk, struct vr_ref ref)
{
    uint64_t sound = vr_refmap_uncapped(&ctx->img->refs, cluster) - ref.doubtful;

    if (!(ref.claims & VR_CLAIM_DOUBTFUL) || !vr_planning(ctx) || ctx->mode != VR_MODE_ALL)
        return on_disk;
    return vr_max(on_disk, vr_min(sound, ctx->img->refs.max));
}

/* n clusters in a row that are alike: where n is not 1, their examples were sent. */
static void judge_clusters(struct compare *cmp, uint64_t cluster, uint64_t n, uint64_t on_disk, struct vr_ref ref)
{
    struct vr_ctx *ctx = cmp->ctx;
    struct vr_image *img = ctx->img;
    struct vr_finding f = vr_finding_none();
    enum vr_problem p = problem_of(on_disk, ref.count);

    if (ctx->would && (ref.claims & VR_CLAIM_PLANNED))
        return;
    cmp->stopped = !img->leaks_judged;
    if (cmp->stopped)
        return;
    if ((ref.claims & VR_CLAIM_RELEASED) && on_disk == ref.count + 1) {
        img->copied_matters = true;
        put_refcounts(cmp, cluster, n, on_disk, ref.count);
        return;
    }
    f.host = cluster << img->h.cluster_bits;
    f.index = cluster;
    f.got = on_disk;
    f.want = ref.count;
    f.count = n;
    if (ref.claims & VR_CLAIM_DOUBTFUL)
        f.kept = VR_KEPT_DOUBTFUL;
    else if (p != VR_P_LEAK && cmp->data && vr_only_behind(ctx) && !(ctx->flags & VR_BOOT_FORCE_LEAKS))
        f.kept = VR_KEPT_DOUBTFUL;
    else if (p == VR_P_LEAK && vr_keeps_leaks(ctx) && !(ctx->flags & VR_BOOT_FORCE_LEAKS))
        f.kept = VR_KEPT_INCOMPLETE;
    if (p == VR_P_REF_ZERO && (ctx->mode == VR_MODE_LEAKS || !cmp->data))
        img->rebuild = true;
    bool keep = vr_report(ctx, p, &f) == VR_KEEP;
    img->copied_matters |= keep; /* mended, it is as the entries say, or one of them had no flag */
    uint64_t want = keep ? kept_refcount(ctx, cluster, on_disk, ref) : ref.count;
    if (want != on_disk)
        put_refcounts(cmp, cluster, n, on_disk, want);
    for (uint64_t c = cluster; keep && c < cluster + n; c++)
        vr_refmap_set(&img->refs, c, want);
}

/* ---- one block --------------------------------------------------------------------------------------------- */

static enum vr_status plan_block(struct compare *cmp, uint64_t offset)
{
    const struct vr_image *img = cmp->ctx->img;

    if (cmp->lo >= cmp->hi)
        return VR_OK;
    uint64_t lo = (cmp->lo << img->h.refcount_order) >> 3;
    uint64_t hi = (((cmp->hi - 1) << img->h.refcount_order) >> 3) +
                  (img->h.refcount_order > 3 ? 1u << (img->h.refcount_order - 3) : 1);
    enum vr_epoch epoch = cmp->falls ? VR_EPOCH_DECREASE : VR_EPOCH_INCREASE;

    if (offset + hi > cmp->ctx->file_size)
        VR_TRY(vr_grow_file(cmp->ctx, offset + img->cluster_size));
    return vr_plan_write(cmp->ctx, epoch, offset + lo, cmp->data + lo, (uint32_t)(hi - lo));
}

/*
 * The usual case: eight refcounts of 16 bits that are all 0 or all 1 (NULL: there are none), of clusters that nobody
 * claims, or each one once, as data. cluster is a multiple of 8.
 */
static bool eight_alike(const struct vr_refmap *m, const uint8_t *refcounts, uint64_t cluster, uint64_t *on_disk,
                        uint64_t *claimed)
{
    uint64_t lo = 0, hi = 0, refs8;

    if (refcounts) {
        __builtin_memcpy(&lo, refcounts, 8);
        __builtin_memcpy(&hi, refcounts + 8, 8);
    }
    *on_disk = lo != 0;
    if (lo != hi || (lo != 0 && lo != FOUR_ONES))
        return false;
    if (!m->bytes) {
        uint8_t bits = (uint8_t)(m->once[cluster >> 6] >> (cluster & 56));
        *claimed = bits != 0;
        return bits == 0xff || (bits == 0 && !vr_refmap_thin_exact(m, cluster));
    }
    __builtin_memcpy(&refs8, m->bytes + cluster, 8);
    *claimed = refs8 != 0;
    return refs8 == 0 || refs8 == UINT64_C(0x0101010101010101);
}

/* Returns false where they have to be looked at one by one. */
static bool compare_eight(struct compare *cmp, uint64_t cluster)
{
    struct vr_image *img = cmp->ctx->img;
    uint64_t on_disk, claimed;

    const uint8_t *refcounts = cmp->data ? cmp->data + (cluster - cmp->first) * 2 : NULL;
    if (!eight_alike(&img->refs, refcounts, cluster, &on_disk, &claimed))
        return false;
    if (on_disk != claimed) {
        if (!vr_report_enough(cmp->ctx, problem_of(on_disk, claimed)))
            return false;
        judge_clusters(cmp, cluster, 8, on_disk, (struct vr_ref){.count = claimed, .claims = claimed ? VR_CLAIM_DATA : 0});
    }
    if (on_disk | claimed)
        img->highest = cluster + 8;
    return true;
}

static void compare_one(struct compare *cmp, uint64_t cluster)
{
    struct vr_image *img = cmp->ctx->img;
    uint64_t on_disk = cmp->data ? vr_refcount_get(cmp->data, img->h.refcount_order, cluster - cmp->first) : 0;

    if (on_disk == 0 && vr_refmap_is_free(&img->refs, cluster))
        return;
    img->highest = cluster + 1;
    if (on_disk != 0 && on_disk == vr_refmap_plain(&img->refs, cluster)) {
        img->copied_matters |= on_disk > 1;
        return;
    }
    struct vr_ref ref = vr_refmap_get(&img->refs, cluster);
    img->copied_matters |= ref.count > 1 && ref.claims != VR_CLAIM_COMPRESSED; /* its entries have no such flag */
    if (on_disk != ref.count)
        judge_clusters(cmp, cluster, 1, on_disk, ref);
}

static enum vr_status compare_block(struct compare *cmp, uint64_t first, uint64_t count)
{
    bool eights = !cmp->data || cmp->ctx->img->h.refcount_order == 4;

    cmp->first = first;
    cmp->lo = UINT64_MAX;
    cmp->hi = 0;
    cmp->falls = false;
    for (uint64_t i = 0, n; i < count; i += n) {
        n = eights && i % 8 == 0 && i + 8 <= count && compare_eight(cmp, first + i) ? 8 : 1;
        if (n == 1)
            compare_one(cmp, first + i);
        if (!cmp->stopped)
            continue;
        VR_TRY(vr_judge_leaks(cmp->ctx, first / cmp->ctx->img->block_entries));
        cmp->stopped = false;
        n = 0; /* once more, and now it is judged */
    }
    return VR_OK;
}

/* A block that cannot be read: every refcount in it is unknown. */
static void unreadable_block(struct compare *cmp, uint64_t first, uint64_t count)
{
    struct vr_finding f = vr_finding_none();

    for (uint64_t i = 0; i < count; i++) {
        f.index = first + i;
        f.host = f.index << cmp->ctx->img->h.cluster_bits;
        vr_report(cmp->ctx, VR_P_REF_UNREADABLE, &f);
        if (!vr_refmap_is_free(&cmp->ctx->img->refs, f.index))
            cmp->ctx->img->highest_unread = f.index + 1;
    }
}

/* ---- all blocks ---------------------------------------------------------------------------------------------- */

static uint64_t clusters_in(const struct compare *cmp, uint64_t block)
{
    const struct vr_image *img = cmp->ctx->img;

    return vr_min(img->block_entries, img->clusters - block * img->block_entries);
}

static bool readable(const struct compare *cmp, uint64_t block)
{
    uint64_t offset = vr_refblock_offset(cmp->ctx->img, block);

    return offset != 0 && offset % cmp->ctx->img->cluster_size == 0 && offset < cmp->ctx->file_size;
}

static bool next_block(void *arg, struct vr_block *b)
{
    struct compare *cmp = arg;

    for (; cmp->next < cmp->blocks; cmp->next++) {
        if (!readable(cmp, cmp->next))
            continue;
        b->tag = cmp->next++;
        b->offset = vr_refblock_offset(cmp->ctx->img, b->tag);
        return true;
    }
    return false;
}

static enum vr_status compare_absent(struct compare *cmp, uint64_t block)
{
    const struct vr_image *img = cmp->ctx->img;

    if (!vr_refcount_known(img, block * img->block_entries)) {
        unreadable_block(cmp, block * img->block_entries, clusters_in(cmp, block));
        return VR_OK;
    }
    cmp->data = NULL;
    return compare_block(cmp, block * img->block_entries, clusters_in(cmp, block));
}

static enum vr_status compare_all(struct compare *cmp)
{
    struct vr_ctx *ctx = cmp->ctx;
    struct vr_stream s = {.next = next_block, .arg = cmp};
    struct vr_block b;
    uint64_t done = 0;

    VR_TRY(vr_stream_open(&s, ctx, (uint32_t)ctx->img->cluster_size, vr_min(cmp->blocks, ctx->img->table_entries)));
    for (;;) {
        VR_TRY(vr_stream_get(&s, &b));
        for (uint64_t upto = b.data ? b.tag : cmp->blocks; done < upto; done++)
            VR_TRY(compare_absent(cmp, done));
        if (!b.data)
            return VR_OK;
        cmp->data = b.data;
        VR_TRY(compare_block(cmp, b.tag * ctx->img->block_entries, clusters_in(cmp, b.tag)));
        VR_TRY(plan_block(cmp, b.offset));
        if (++done % 64 == 0)
            vr_progress(ctx, VR_PASS_REFCOUNTS, done, cmp->blocks);
    }
}

/* Mode leaks, as qemu-img: nothing at all is mended where a rebuild is needed. */
static enum vr_status refuse_rebuild(struct vr_ctx *ctx)
{
    struct vr_finding f = vr_finding_none();

    f.host = ctx->img->h.reftable_offset;
    vr_report(ctx, VR_P_NEED_REBUILD, &f);
    return VR_EREFUSED;
}

enum vr_status vr_pass_refcounts(struct vr_ctx *ctx)
{
    struct vr_image *img = ctx->img;
    struct compare cmp = {.ctx = ctx, .blocks = (img->clusters + img->block_entries - 1) / img->block_entries};

    if (vr_planning(ctx) && ctx->mode == VR_MODE_ALL)
        img->rebuild |= block_is_missing(&cmp);
    cmp.in_place = !(ctx->mode == VR_MODE_ALL && img->rebuild);
    vr_progress(ctx, VR_PASS_REFCOUNTS, 0, cmp.blocks);
    VR_TRY(compare_all(&cmp));
    ctx->sum->image_end_offset = (img->highest ? img->highest : 1) << img->h.cluster_bits;
    if (img->refs.full)
        return VR_ENOMEM;
    if (!vr_planning(ctx) || !img->rebuild)
        return VR_OK;
    return ctx->mode == VR_MODE_ALL ? vr_rebuild(ctx) : refuse_rebuild(ctx);
}
