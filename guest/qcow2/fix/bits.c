/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* bits.c: plans what changes in the header: dirty, corrupt and unknown autoclear bits, pointers to new structures; no other byte of it. */
#include "fix.h"
#include "format.h"

struct vr_bits vr_bits_read(const struct vr_ctx *ctx)
{
    return (struct vr_bits){.version = ctx->sum->qcow2_version, .before = ctx->sum->incompatible};
}

uint64_t vr_bits_to_clear(const struct vr_ctx *ctx, const struct vr_bits *b, enum vr_walk walk)
{
    uint64_t may = ctx->mode == VR_MODE_ALL ? VR_INCOMPAT_DIRTY | VR_INCOMPAT_CORRUPT : VR_INCOMPAT_DIRTY;

    if (b->version < 3 || vr_found(ctx, walk, VR_SEV_CORRUPT) || vr_found(ctx, walk, VR_SEV_ERROR))
        return 0;
    return b->before & may;
}

static enum vr_status plan_word(struct vr_ctx *ctx, enum vr_epoch epoch, uint64_t at, uint64_t value)
{
    uint8_t *word = vr_arena_get(&ctx->arena, 8);

    if (!word)
        return VR_ENOMEM;
    vr_store64(word, value);
    return vr_plan_write(ctx, epoch, at, word, 8);
}

static enum vr_status plan(struct vr_ctx *ctx, enum vr_epoch epoch, uint64_t incompatible)
{
    return plan_word(ctx, epoch, VR_HEADER_INCOMPAT_AT, incompatible);
}

/* Whether there are autoclear bits that whoever writes has to clear. */
static bool has_unknown(const struct vr_ctx *ctx, const struct vr_bits *b)
{
    return b->version >= 3 && !ctx->header_shared && (ctx->sum->autoclear & ~VR_AUTOCLEAR_KNOWN);
}

enum vr_status vr_bits_end_unknown(struct vr_ctx *ctx, const struct vr_bits *b)
{
    if (!has_unknown(ctx, b))
        return VR_OK;
    vr_report_fixed(ctx, VR_P_AUTOCLEAR_UNKNOWN);
    return plan_word(ctx, VR_EPOCH_MARK, VR_HEADER_AUTOCLEAR_AT, ctx->sum->autoclear & VR_AUTOCLEAR_KNOWN);
}

enum vr_status vr_settle_autoclear(struct vr_ctx *ctx)
{
    struct vr_bits b = vr_bits_read(ctx);
    struct vr_finding f = vr_finding_none();

    if (!vr_planning(ctx) || !has_unknown(ctx, &b) || vr_remaining(ctx, VR_SEV_LEAK) == 0 ||
        (ctx->planned == 0 && !vr_bits_to_clear(ctx, &b, VR_WALK_CHECK)))
        return VR_OK;
    f.host = VR_HEADER_AUTOCLEAR_AT;
    f.got = ctx->sum->autoclear & ~VR_AUTOCLEAR_KNOWN;
    f.want = vr_remaining(ctx, VR_SEV_LEAK);
    vr_report(ctx, VR_P_AUTOCLEAR_UNSAFE, &f);
    return VR_EREFUSED;
}

/* Where a table lies on the header, a bit that is set for the time of a repair would be damage in the table. */
static bool may_mark(const struct vr_ctx *ctx, const struct vr_bits *b)
{
    return b->version >= 3 && ctx->mode == VR_MODE_ALL && !ctx->header_shared;
}

enum vr_status vr_bits_mark(struct vr_ctx *ctx, const struct vr_bits *b)
{
    VR_TRY(vr_bits_end_unknown(ctx, b));
    if (!may_mark(ctx, b) || (b->before & VR_INCOMPAT_CORRUPT))
        return VR_OK;
    return plan(ctx, VR_EPOCH_MARK, b->before | VR_INCOMPAT_CORRUPT);
}

uint64_t vr_bits_bytes(const struct vr_ctx *ctx, const struct vr_bits *b, bool clears, bool planned)
{
    bool marks = planned && may_mark(ctx, b);

    return (marks && !(b->before & VR_INCOMPAT_CORRUPT) ? 8 : 0) + (clears || marks ? 8 : 0) +
           ((clears || planned) && has_unknown(ctx, b) ? 8 : 0);
}

enum vr_status vr_plan_pointer(struct vr_ctx *ctx, uint64_t at, void *buf, uint32_t len)
{
    struct vr_bits b = vr_bits_read(ctx);

    /* They share a sector, and the mark reaches the disk first. */
    VR_TRY(vr_bits_mark(ctx, &b));
    return vr_plan_write(ctx, VR_EPOCH_POINTER, at, buf, len);
}

enum vr_status vr_bits_settle(struct vr_ctx *ctx, const struct vr_bits *b, enum vr_walk walk)
{
    uint64_t clear = vr_bits_to_clear(ctx, b, walk);

    if (clear & VR_INCOMPAT_DIRTY)
        vr_report_fixed(ctx, VR_P_DIRTY);
    if (clear & VR_INCOMPAT_CORRUPT)
        vr_report_fixed(ctx, VR_P_CORRUPT);
    return clear != 0 || (may_mark(ctx, b) && ctx->planned != 0) ? plan(ctx, VR_EPOCH_CLEAN, b->before & ~clear) : VR_OK;
}
