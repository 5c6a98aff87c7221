/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fix.h: what stands between a plan and its commit: the verdict on the verification walk, dirty and corrupt bits. */
#ifndef VR_FIX_H
#define VR_FIX_H

#include "core.h"

/* ---- verify.c -------------------------------------------------------------------------------------------- */

/* Whether the image as it would be is what the plan promised; else one record, and VR_EREFUSED. */
enum vr_status vr_verify(struct vr_ctx *ctx) VR_CHECKED;

/* ---- bits.c: dirty and corrupt (qcow2 v3) ---------------------------------------------------------------------- */

struct vr_bits {
    uint32_t version;
    uint64_t before; /* incompatible features as first read */
};

struct vr_bits vr_bits_read(const struct vr_ctx *ctx);
/* The bits that the mode clears, given what a walk found: none unless it was free of corruptions and errors. */
uint64_t vr_bits_to_clear(const struct vr_ctx *ctx, const struct vr_bits *b, enum vr_walk walk);
/* Mode all: plan the corrupt bit as the first thing that reaches the disk, so that no VM starts on half a repair. */
enum vr_status vr_bits_mark(struct vr_ctx *ctx, const struct vr_bits *b) VR_CHECKED;
/* Plan the bits as they stay: cleared where the walk allows it, else as they were before. */
enum vr_status vr_bits_settle(struct vr_ctx *ctx, const struct vr_bits *b, enum vr_walk walk) VR_CHECKED;

#endif
