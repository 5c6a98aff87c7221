/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* claims.c: claims of regions of the file, with qemu's tolerance at its end. */
#include "check.h"

bool vr_region_past_eof(const struct vr_ctx *ctx, uint64_t offset, uint64_t size)
{
    uint64_t end;

    if (size == 0)
        return false;
    if (vr_add_overflows(offset, size, &end))
        return true;
    return end > ctx->file_size && end - ctx->file_size >= ctx->img->cluster_size;
}

void vr_claim_region(struct vr_ctx *ctx, uint64_t offset, uint64_t size, enum vr_claim claim)
{
    struct vr_image *img = ctx->img;

    if (size == 0)
        return;
    uint64_t last = (offset + size - 1) >> img->h.cluster_bits;
    /* Into the cluster after a partial last one: from here on the image has it, as in qemu. */
    if (last >= img->clusters)
        img->clusters = last + 1;
    for (uint64_t c = offset >> img->h.cluster_bits; c <= last; c++) {
        if (vr_refmap_claim(&img->refs, c, claim))
            continue;
        struct vr_finding f = vr_finding_none();
        f.host = c << img->h.cluster_bits;
        f.index = c;
        f.got = img->refs.max;
        vr_report(ctx, VR_P_REF_OVERFLOW, &f);
    }
}

uint32_t vr_claims_at(const struct vr_ctx *ctx, uint64_t offset)
{
    uint64_t c = offset >> ctx->img->h.cluster_bits;

    return c < ctx->img->clusters ? vr_refmap_get(&ctx->img->refs, c).claims : 0;
}
