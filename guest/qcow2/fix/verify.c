/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* verify.c: compares what the verification walk found with what the plan left over. */
#include "fix.h"

static enum vr_status refuse(struct vr_ctx *ctx, const struct vr_finding *f)
{
    ctx->walk = VR_WALK_CHECK; /* so that the record is sent: it tells of the plan, which that walk made */
    vr_report(ctx, VR_P_NOT_VERIFIED, f);
    VR_TRY(vr_report_flush(ctx));
    return VR_EREFUSED;
}

enum vr_status vr_verify(struct vr_ctx *ctx)
{
    /* What a plan does that puts a new structure where data lies already; the refcounts may be too narrow to show it. */
    static const enum vr_problem shared[] = {VR_P_DATA_ON_METADATA, VR_P_DATA_SHARED};
    static const uint8_t severities[] = {VR_SEV_LEAK, VR_SEV_CORRUPT, VR_SEV_ERROR, VR_SEV_REFUSE, VR_SEV_OPEN};

    for (unsigned i = 0; i < sizeof(severities); i++) {
        enum vr_severity sev = (enum vr_severity)severities[i];
        struct vr_finding f = vr_finding_none();
        f.got = vr_found(ctx, VR_WALK_VERIFY, sev);
        f.want = vr_remaining(ctx, sev);
        if (f.got > f.want)
            return refuse(ctx, &f);
    }
    for (unsigned i = 0; i < sizeof(shared) / sizeof(*shared); i++) {
        struct vr_finding f = vr_finding_none();
        f.got = ctx->sum->found[VR_WALK_VERIFY][shared[i]];
        f.want = ctx->sum->found[VR_WALK_CHECK][shared[i]];
        if (f.got > f.want)
            return refuse(ctx, &f);
    }
    return VR_OK;
}
