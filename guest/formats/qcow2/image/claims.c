/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* claims.c: claims of regions of the file, with qemu's tolerance at its end. */
#include "image.h"

bool vr_region_past_eof(const struct vr_ctx *ctx, uint64_t offset, uint64_t size)
{
    uint64_t file = (ctx->file_size + 511) & ~UINT64_C(511); /* qemu counts the file in sectors */
    uint64_t end;

    if (size == 0)
        return false;
    if (vr_add_overflows(offset, size, &end))
        return true;
    return end > file && end - file >= ctx->img->cluster_size;
}

void vr_note_dangling(struct vr_ctx *ctx, uint64_t offset)
{
    ctx->img->dangling = vr_min(ctx->img->dangling, offset & ~(ctx->img->cluster_size - 1));
}

void vr_note_foreign(struct vr_ctx *ctx, uint32_t owners, bool as_l1)
{
    struct vr_image *img = ctx->img;
    /* An L1 table that is the refcount table has the refcount blocks for its L2 tables. */
    uint32_t blocks = VR_CLAIM_REFBLOCK | (as_l1 ? VR_CLAIM_REFTABLE : 0);

    /* A refcount block that may be a table is not written, nor given up for a new one, which would set it free. */
    if (owners & blocks)
        img->rebuild = img->refcounts_lost = true;
    if (owners & VR_CLAIM_REFTABLE)
        img->refcounts_lost = true;
    img->l1_contested |= (owners & VR_CLAIM_L1) != 0;
}

void vr_claim_region(struct vr_ctx *ctx, uint64_t offset, uint64_t size, enum vr_claim claim)
{
    struct vr_finding at = vr_finding_none();

    vr_claim_times(ctx, &at, (struct vr_run){offset, size}, claim);
}

void vr_claim_times(struct vr_ctx *ctx, const struct vr_finding *at, struct vr_run region, enum vr_claim claim)
{
    struct vr_image *img = ctx->img;

    if (region.len == 0)
        return;
    uint64_t last = (region.offset + region.len - 1) >> img->h.cluster_bits;
    /* Into the cluster after a partial last one: from here on the image has it, as in qemu. */
    if (last >= img->clusters)
        img->clusters = last + 1;
    for (uint64_t c = region.offset >> img->h.cluster_bits; c <= last; c++) {
        uint64_t beyond = vr_refmap_claim(&img->refs, c, claim, at->count);
        if (beyond == 0)
            continue;
        struct vr_finding f = *at;
        f.count = beyond;
        f.host = c << img->h.cluster_bits;
        f.index = c;
        f.got = img->refs.max;
        f.guest_len = 0;
        vr_report(ctx, VR_P_REF_OVERFLOW, &f);
    }
}

uint32_t vr_claims_at(const struct vr_ctx *ctx, uint64_t offset)
{
    uint64_t c = offset >> ctx->img->h.cluster_bits;

    return c < ctx->img->clusters ? vr_refmap_get(&ctx->img->refs, c).claims : 0;
}
