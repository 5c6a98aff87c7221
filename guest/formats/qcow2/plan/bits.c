/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* bits.c: plans what changes in the header: dirty, corrupt and unknown autoclear bits, pointers to new structures; no other byte of it. */
#include "plan.h"

struct bits {
    uint32_t version;
    uint64_t before; /* incompatible features as first read */
};

static struct bits bits_read(const struct vr_ctx *ctx)
{
    return (struct bits){.version = ctx->sum->qcow2_version, .before = ctx->sum->incompatible};
}

/* The bits that the mode clears, given what a walk found: none unless it was free of corruptions and errors. */
static uint64_t bits_to_clear(const struct vr_ctx *ctx, const struct bits *b, enum vr_walk walk)
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
static bool has_unknown(const struct vr_ctx *ctx, const struct bits *b)
{
    return b->version >= 3 && !ctx->header_shared && (ctx->sum->autoclear & ~VR_AUTOCLEAR_KNOWN);
}

/* Clears the autoclear bits that are not known here, as the format demands of who writes. */
static enum vr_status end_unknown(struct vr_ctx *ctx, const struct bits *b)
{
    if (!has_unknown(ctx, b))
        return VR_OK;
    vr_report_fixed(ctx, VR_P_AUTOCLEAR_UNKNOWN);
    return plan_word(ctx, VR_EPOCH_MARK, VR_HEADER_AUTOCLEAR_AT, ctx->sum->autoclear & VR_AUTOCLEAR_KNOWN);
}

enum vr_status vr_check_autoclear(struct vr_ctx *ctx)
{
    struct bits b = bits_read(ctx);
    struct vr_finding f = vr_finding_none();

    if (!vr_planning(ctx) || !has_unknown(ctx, &b) || vr_remaining(ctx, VR_SEV_LEAK) == 0 ||
        (ctx->planned == 0 && !vr_bits_has_more(ctx)))
        return VR_OK;
    f.host = VR_HEADER_AUTOCLEAR_AT;
    f.got = ctx->sum->autoclear & ~VR_AUTOCLEAR_KNOWN;
    f.want = vr_remaining(ctx, VR_SEV_LEAK);
    vr_report(ctx, VR_P_AUTOCLEAR_UNSAFE, &f);
    return VR_EREFUSED;
}

/* Where a table lies on the header, a bit that is set for the time of a repair would be damage in the table. */
static bool may_mark(const struct vr_ctx *ctx, const struct bits *b)
{
    return b->version >= 3 && ctx->mode == VR_MODE_ALL && !ctx->header_shared;
}

/* Mode all: the corrupt bit is the first thing that reaches the disk, so that no VM starts on half a repair. */
static enum vr_status mark(struct vr_ctx *ctx, const struct bits *b)
{
    VR_TRY(end_unknown(ctx, b));
    if (!may_mark(ctx, b) || (b->before & VR_INCOMPAT_CORRUPT))
        return VR_OK;
    return plan(ctx, VR_EPOCH_MARK, b->before | VR_INCOMPAT_CORRUPT);
}

/* What marking before and clearing after a plan write together. clears: a bit goes; planned: there is more to write. */
static uint64_t bits_bytes(const struct vr_ctx *ctx, const struct bits *b, bool clears, bool planned)
{
    bool marks = planned && may_mark(ctx, b);

    return (marks && !(b->before & VR_INCOMPAT_CORRUPT) ? 8 : 0) + (clears || marks ? 8 : 0) +
           ((clears || planned) && has_unknown(ctx, b) ? 8 : 0);
}

enum vr_status vr_plan_pointer(struct vr_ctx *ctx, uint64_t at, void *buf, uint32_t len)
{
    struct bits b = bits_read(ctx);

    /* They share a sector, and the mark reaches the disk first. */
    VR_TRY(mark(ctx, &b));
    return vr_plan_write(ctx, VR_EPOCH_POINTER, at, buf, len);
}

bool vr_bits_has_more(const struct vr_ctx *ctx)
{
    struct bits b = bits_read(ctx);

    return bits_to_clear(ctx, &b, VR_WALK_CHECK) != 0;
}

enum vr_status vr_bits_begin(struct vr_ctx *ctx)
{
    struct bits b = bits_read(ctx);

    return ctx->planned != 0 ? mark(ctx, &b) : end_unknown(ctx, &b);
}

enum vr_status vr_bits_finish(struct vr_ctx *ctx, enum vr_walk walk)
{
    struct bits bits = bits_read(ctx), *b = &bits;
    uint64_t clear = bits_to_clear(ctx, b, walk);

    if (clear & VR_INCOMPAT_DIRTY)
        vr_report_fixed(ctx, VR_P_DIRTY);
    if (clear & VR_INCOMPAT_CORRUPT)
        vr_report_fixed(ctx, VR_P_CORRUPT);
    return clear != 0 || (may_mark(ctx, b) && ctx->planned != 0) ? plan(ctx, VR_EPOCH_CLEAN, b->before & ~clear) : VR_OK;
}

/* They go last, as in a repair: where a walk over the result would be clean. */
void vr_bits_dry_run(struct vr_ctx *ctx, struct vr_would *w, bool planned)
{
    const uint64_t *found = ctx->sum->found[VR_WALK_CHECK];
    struct bits bits = bits_read(ctx);

    if (!vr_remaining(ctx, VR_SEV_CORRUPT) && !vr_remaining(ctx, VR_SEV_ERROR)) {
        w->mended[VR_P_DIRTY] = found[VR_P_DIRTY];
        w->mended[VR_P_CORRUPT] = ctx->mode == VR_MODE_ALL ? found[VR_P_CORRUPT] : 0;
    }
    if (planned || w->mended[VR_P_DIRTY] || w->mended[VR_P_CORRUPT])
        w->mended[VR_P_AUTOCLEAR_UNKNOWN] = found[VR_P_AUTOCLEAR_UNKNOWN];
    w->bytes += bits_bytes(ctx, &bits, w->mended[VR_P_DIRTY] || w->mended[VR_P_CORRUPT], planned);
}
