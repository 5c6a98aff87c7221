/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* room.c: finds clusters for new structures: behind the end of the file; on a device, behind everything in use. */
#include "plan.h"

/*
 * A device cannot grow by itself; whoever can make it larger is told by how much. Not where that would bring a pointer to
 * life that names a place behind the end.
 */
static void room_lacks(struct vr_ctx *ctx, uint64_t end)
{
    const struct vr_image *img = ctx->img;

    if (ctx->flags & VR_BOOT_DEVICE && end > ctx->file_size && end <= img->dangling && end <= VR_OFFSET_MAX)
        ctx->sum->room_needed = end - ctx->file_size;
}

static enum vr_status refuse(struct vr_ctx *ctx, uint64_t clusters)
{
    struct vr_finding f = vr_finding_none();

    f.got = clusters;
    vr_report(ctx, VR_P_REBUILD_NO_ROOM, &f);
    return VR_EREFUSED;
}

/* Most that a run may add to a file: what the VMM grants (vr_abi.h). */
static bool may_grow(const struct vr_ctx *ctx, uint64_t size)
{
    uint64_t most = ctx->first_size + ctx->first_size / 8 + VR_GROWTH_MAX;

    return !(ctx->flags & VR_BOOT_DEVICE) && size <= most;
}

enum vr_status vr_grow_file(struct vr_ctx *ctx, uint64_t size)
{
    struct vr_request r = {.op = VR_OP_SET_SIZE, .offset = size};

    if (size <= ctx->file_size)
        return VR_OK;
    /* A pointer that names a place behind the end would come to life, were the file to reach it. */
    if (!may_grow(ctx, size) || size > ctx->img->dangling) {
        room_lacks(ctx, size);
        return refuse(ctx, 1);
    }
    if (!ctx->would)
        VR_TRY(vr_io_do(&ctx->io, &r));
    ctx->file_size = size;
    return VR_OK;
}

enum vr_status vr_plan_in_place(struct vr_ctx *ctx, enum vr_epoch epoch, uint64_t offset, void *buf, uint32_t len)
{
    VR_TRY(vr_grow_file(ctx, offset + len));
    return vr_plan_write(ctx, epoch, offset, buf, len);
}

/* Behind the end of a file; on a device, behind everything in use, which pass 6 knows. */
uint64_t vr_room_base(const struct vr_ctx *ctx)
{
    return ctx->flags & VR_BOOT_DEVICE ? vr_max(ctx->img->highest, ctx->img->highest_unread) : ctx->img->clusters;
}

static bool file_has_room(const struct vr_ctx *ctx, uint64_t end)
{
    const struct vr_image *img = ctx->img;

    return end <= img->refs.clusters && end << img->h.cluster_bits <= img->dangling &&
           may_grow(ctx, end << img->h.cluster_bits);
}

/* Where part of the map is not known, what it names may be anywhere on a device. */
static bool device_is_known(const struct vr_ctx *ctx)
{
    return ctx->img->highest != 0 && !(ctx->implied & VR_KEEPS_LEAKS);
}

static bool device_has_room(struct vr_ctx *ctx, uint64_t end)
{
    if (!device_is_known(ctx))
        return false;
    room_lacks(ctx, end << ctx->img->h.cluster_bits);
    return end <= ctx->file_size >> ctx->img->h.cluster_bits;
}

enum vr_status vr_take_room(struct vr_ctx *ctx, uint64_t n, uint64_t *offset)
{
    struct vr_image *img = ctx->img;
    uint64_t first = vr_room_base(ctx), end = first + n;
    bool device = ctx->flags & VR_BOOT_DEVICE;

    *offset = 0;
    if (end > VR_OFFSET_MAX >> img->h.cluster_bits || !(device ? device_has_room(ctx, end) : file_has_room(ctx, end)))
        return VR_OK;
    /* Whatever pass 6 could not see is still in the map. */
    for (uint64_t c = first; c < end; c++)
        if (!vr_refmap_is_free(&img->refs, c))
            return VR_OK;
    if (!device) {
        VR_TRY(vr_grow_file(ctx, end << img->h.cluster_bits));
        img->clusters = end;
    }
    *offset = first << img->h.cluster_bits;
    return VR_OK;
}
