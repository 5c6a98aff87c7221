/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* refblocks.c: looks up single refcounts on disk. */
#include "image.h"

uint64_t vr_refblock_offset(const struct vr_image *img, uint64_t i)
{
    return i < img->table_entries ? vr_load64(img->reftable + i * 8) & VR_REFT_MASK : 0;
}

bool vr_refcount_known(const struct vr_image *img, uint64_t cluster)
{
    uint64_t offset = vr_refblock_offset(img, cluster / img->block_entries);

    return offset % img->cluster_size == 0 && offset <= INT64_MAX;
}

enum vr_status vr_refcount_read(struct vr_ctx *ctx, uint64_t cluster, uint64_t *refcount)
{
    struct vr_image *img = ctx->img;
    uint64_t block = vr_refblock_offset(img, cluster / img->block_entries);
    uint64_t i = cluster % img->block_entries;
    uint64_t piece = vr_min(VR_REFPIECE, img->cluster_size);
    uint64_t at = block + (((i << img->h.refcount_order) >> 3) & ~(piece - 1));

    *refcount = 0;
    if (block == 0 || !vr_refcount_known(img, cluster) || block >= ctx->file_size)
        return VR_OK;
    if (!img->refpiece && !(img->refpiece = vr_arena_get(&ctx->arena, VR_REFPIECE)))
        return VR_ENOMEM;
    if (img->refpiece_at != at)
        VR_TRY(vr_read(ctx, at, img->refpiece, (uint32_t)piece));
    img->refpiece_at = at;
    *refcount = vr_refcount_get(img->refpiece, img->h.refcount_order, i % ((piece * 8) >> img->h.refcount_order));
    return VR_OK;
}
