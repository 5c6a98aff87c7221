/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* verify.c: compares what the verification walk found with what the plan left over. */
#include "core.h"

static enum vr_status refuse(struct vr_ctx *ctx, const struct vr_finding *f)
{
    ctx->walk = VR_WALK_CHECK; /* so that the record is sent: it tells of the plan, which that walk made */
    vr_report(ctx, ctx->format->not_verified, f);
    VR_TRY(vr_report_flush(ctx));
    return VR_EREFUSED;
}

static enum vr_status compare(struct vr_ctx *ctx, uint64_t found, uint64_t expected)
{
    struct vr_finding f = vr_finding_none();

    f.got = found;
    f.want = expected;
    return found > expected ? refuse(ctx, &f) : VR_OK;
}

enum vr_status vr_verify(struct vr_ctx *ctx)
{
    static const uint8_t severities[] = {VR_SEV_LEAK, VR_SEV_CORRUPT, VR_SEV_ERROR, VR_SEV_REFUSE, VR_SEV_OPEN};

    for (unsigned i = 0; i < sizeof(severities); i++) {
        enum vr_severity sev = (enum vr_severity)severities[i];
        VR_TRY(compare(ctx, vr_found(ctx, VR_WALK_VERIFY, sev), vr_remaining(ctx, sev)));
    }
    /* What a plan does that puts a new structure where data lies already; the refcounts may be too narrow to show it. */
    for (unsigned p = 0; p < VR_P_COUNT; p++)
        if (vr_rows[p].flags & VR_SHARES)
            VR_TRY(compare(ctx, ctx->sum->found[VR_WALK_VERIFY][p], ctx->sum->found[VR_WALK_CHECK][p]));
    return VR_OK;
}
