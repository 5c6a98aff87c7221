/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * passes.h: the parts of a walk over a qcow2 image. Each reports what it finds, plans what the mode repairs, and returns failures
 * of the program only. qcow2.c has their order.
 */
#ifndef VR_QCOW2_PASSES_H
#define VR_QCOW2_PASSES_H

#include "image.h"

enum vr_status vr_pass_header(struct vr_ctx *ctx) VR_CHECKED;
/* Whether QEMU would open it, as far as bitmaps go. After the header, before anything else. */
enum vr_status vr_pass_bitmap_directory(struct vr_ctx *ctx) VR_CHECKED;
enum vr_status vr_pass_reftable(struct vr_ctx *ctx) VR_CHECKED;
enum vr_status vr_pass_snapshots(struct vr_ctx *ctx) VR_CHECKED;
enum vr_status vr_pass_bitmaps(struct vr_ctx *ctx) VR_CHECKED;
/* Whether something else owns a refcount block. After everything is claimed, before anything is written to one. */
enum vr_status vr_check_refblock_owners(struct vr_ctx *ctx) VR_CHECKED;
enum vr_status vr_pass_refcounts(struct vr_ctx *ctx) VR_CHECKED;
enum vr_status vr_pass_copied(struct vr_ctx *ctx) VR_CHECKED;

#endif
