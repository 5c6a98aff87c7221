/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow2.c: qcow2 as a format of the engine: its passes, in the order in which a walk runs them. */
#include "map.h"
#include "passes.h"
#include "plan.h"

static vr_pass_fn *const passes[] = {
    vr_pass_header,
    vr_pass_bitmap_directory,
    vr_pass_reftable,
    vr_pass_snapshots,
    vr_pass_map,
    vr_pass_bitmaps,
    vr_plan_zero_entries,
    vr_check_refblock_owners,
    vr_plan_snapshot_table,
    vr_pass_refcounts,
    vr_pass_copied,
    vr_check_autoclear,
};

const struct vr_format_ops vr_qcow2 = {
    .passes = passes,
    .npasses = sizeof(passes) / sizeof(*passes),
    .image_bytes = sizeof(struct vr_image),
    .not_verified = VR_P_NOT_VERIFIED,
    .has_more = vr_bits_has_more,
    .begin = vr_bits_begin,
    .finish = vr_bits_finish,
    .dry_run = vr_bits_dry_run,
};
