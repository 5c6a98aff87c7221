/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* report.c: findings become records and counters here and nowhere else; policy is read from the problem table. */
#include "core.h"

const struct vr_row vr_rows[VR_P_COUNT] = {
#define VR_PROBLEM(sym, code, sev, pol, flags, order, slug, spec, qemu, msg)                                           \
    [VR_P_##sym] = {code, VR_SEV_##sev, VR_POL_##pol, flags},
#include "vr_problems.def"
#undef VR_PROBLEM
};

static enum vr_decision decide(const struct vr_ctx *ctx, const struct vr_row *row, enum vr_kept *kept)
{
    if (!vr_planning(ctx) || row->policy == VR_POL_REPORT) {
        *kept = VR_KEPT_NO;
        return VR_KEEP;
    }
    if (*kept == VR_KEPT_NO && row->policy == VR_POL_ALL && ctx->mode != VR_MODE_ALL)
        *kept = VR_KEPT_MODE;
    return *kept == VR_KEPT_NO ? VR_FIX : VR_KEEP;
}

enum vr_status vr_report_flush(struct vr_ctx *ctx)
{
    VR_TRY(ctx->report_status);
    if (ctx->batched == 0)
        return VR_OK;
    struct vr_request r = {
        .op = VR_OP_RECORD, .buf = ctx->batch, .len = ctx->batched * (uint32_t)sizeof(struct vr_record)};
    ctx->batched = 0;
    return vr_io_do(&ctx->io, &r);
}

static void send(struct vr_ctx *ctx, const struct vr_record *rec)
{
    ctx->batch[ctx->batched++] = *rec;
    /* A failure is kept and handed up by the next flush: a pass that reports has nothing to undo. */
    if (ctx->batched == VR_RECORDS_MAX && ctx->report_status == VR_OK)
        ctx->report_status = vr_report_flush(ctx);
}

enum vr_decision vr_report(struct vr_ctx *ctx, enum vr_problem p, const struct vr_finding *f)
{
    const struct vr_row *row = &vr_rows[p];
    enum vr_kept kept = f->kept;
    enum vr_decision d = decide(ctx, row, &kept);

    if (ctx->would && (row->severity >= VR_SEV_REFUSE || (row->flags & VR_STOPS)))
        ctx->would->row = row->code;
    ctx->implied |= row->flags;
    ctx->sum->found[ctx->walk][p] += f->count;
    if (d == VR_FIX)
        ctx->sum->fixed[p] += f->count;
    else if (kept != VR_KEPT_NO)
        ctx->sum->kept[p] += f->count;
    if (ctx->walk == VR_WALK_CHECK && (f->root == VR_ROOT_ACTIVE || f->root == VR_ROOT_NONE))
        ctx->sum->guest_bytes_hit += f->guest_len;
    if (!vr_report_enough(ctx, p)) {
        ctx->sent[p]++;
        struct vr_record rec = {
            .code = row->code, .flags = d == VR_FIX ? VR_REC_FIXED : 0, .kept = (uint8_t)kept,
            .walk = (uint8_t)ctx->walk, .host = f->host, .guest = f->guest, .guest_len = f->guest_len,
            .index = f->index, .got = f->got, .want = f->want, .count = f->count, .root = f->root};
        send(ctx, &rec);
    }
    return d;
}

bool vr_report_enough(const struct vr_ctx *ctx, enum vr_problem p)
{
    return ctx->walk == VR_WALK_VERIFY || ctx->would || ctx->sent[p] >= ctx->examples;
}

uint8_t vr_name_fit(char *to, uint32_t room, const uint8_t *from, uint64_t len)
{
    uint64_t n = vr_min(len, room);

    memcpy(to, from, n);
    if (len > room)
        memcpy(to + room - 3, "...", 3);
    return (uint8_t)n;
}

void vr_report_name(struct vr_ctx *ctx, uint32_t root, const struct vr_name *name)
{
    struct vr_record rec = {.flags = VR_REC_NAME, .walk = (uint8_t)ctx->walk, .root = root};

    if (ctx->would)
        return;
    memcpy((uint8_t *)&rec + offsetof(struct vr_record, host), name, sizeof(*name));
    send(ctx, &rec);
}

void vr_report_fixed(struct vr_ctx *ctx, enum vr_problem p)
{
    ctx->sum->fixed[p] = ctx->sum->found[VR_WALK_CHECK][p];
    ctx->sum->kept[p] = 0;
}

uint64_t vr_found(const struct vr_ctx *ctx, enum vr_walk walk, enum vr_severity sev)
{
    uint64_t n = 0;

    for (unsigned p = 0; p < VR_P_COUNT; p++)
        if (vr_rows[p].severity == sev)
            n += ctx->sum->found[walk][p];
    return n;
}

uint64_t vr_remaining(const struct vr_ctx *ctx, enum vr_severity sev)
{
    uint64_t n = vr_found(ctx, VR_WALK_CHECK, sev);

    for (unsigned p = 0; p < VR_P_COUNT; p++)
        if (vr_rows[p].severity == sev)
            n -= ctx->sum->fixed[p];
    return n;
}

void vr_progress(struct vr_ctx *ctx, enum vr_pass pass, uint64_t done, uint64_t total)
{
    unsigned shift = 0;

    while (total >> shift > UINT32_MAX)
        shift++;
    struct vr_request r = {.op = VR_OP_PROGRESS,
                           .offset = (done >> shift) << 32 | total >> shift,
                           .value = (uint32_t)ctx->walk << 8 | (uint32_t)pass};
    vr_io_tell(&ctx->io, &r);
}
