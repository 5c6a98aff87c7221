/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fix.h: plans of whole structures; and what stands between a plan and its commit: verification, dirty and corrupt bits. */
#ifndef VR_FIX_H
#define VR_FIX_H

#include "core.h"

/* ---- room.c: space for new structures, where nothing points ------------------------------------------------- */

/* Where vr_take_room() begins: a cluster number. */
uint64_t vr_room_base(const struct vr_ctx *ctx);
/* n clusters in a row; *offset is 0 where they cannot be had. They are free until somebody claims them. */
enum vr_status vr_take_room(struct vr_ctx *ctx, uint64_t n, uint64_t *offset) VR_CHECKED;
/* Make the file at least this long. Refused where it cannot be. */
enum vr_status vr_grow_file(struct vr_ctx *ctx, uint64_t size) VR_CHECKED;
/* As vr_plan_write(), of entries that the end of the file may cut: the file then gets as long as they are. */
enum vr_status vr_plan_in_place(struct vr_ctx *ctx, enum vr_epoch epoch, uint64_t offset, void *buf, uint32_t len) VR_CHECKED;

/* ---- rebuild.c ------------------------------------------------------------------------------------------- */

/*
 * Plans new refcount blocks and a new refcount table from the reference map, and the switch to them. The old ones stay
 * as they are, and become free with the switch. Needs the map as pass 6 leaves it.
 */
enum vr_status vr_rebuild(struct vr_ctx *ctx) VR_CHECKED;

/* ---- verify.c -------------------------------------------------------------------------------------------- */

/* Whether the image as it would be is what the plan promised; else one record, and VR_EREFUSED. */
enum vr_status vr_verify(struct vr_ctx *ctx) VR_CHECKED;

/* ---- would.c --------------------------------------------------------------------------------------------- */

/* Walks the image as that mode would, and fills in sum->would instead of planning anything. walk: of session.c. */
enum vr_status vr_would(struct vr_ctx *ctx, enum vr_mode mode,
                        enum vr_status (*walk)(struct vr_ctx *, enum vr_walk)) VR_CHECKED;

/* ---- bits.c: dirty, corrupt, autoclear (v3) ---------------------------------------------------------------------- */

struct vr_bits {
    uint32_t version;
    uint64_t before; /* incompatible features as first read */
};

struct vr_bits vr_bits_read(const struct vr_ctx *ctx);
/* The bits that the mode clears, given what a walk found: none unless it was free of corruptions and errors. */
uint64_t vr_bits_to_clear(const struct vr_ctx *ctx, const struct vr_bits *b, enum vr_walk walk);
/* Mode all: plan the corrupt bit as the first thing that reaches the disk, so that no VM starts on half a repair. */
enum vr_status vr_bits_mark(struct vr_ctx *ctx, const struct vr_bits *b) VR_CHECKED;
/* Plan to clear the autoclear bits that are not known here, as the format demands of who writes; vr_bits_mark() does it too. */
enum vr_status vr_bits_end_unknown(struct vr_ctx *ctx, const struct vr_bits *b) VR_CHECKED;
/*
 * The last pass: refuses a repair that would clear those bits and keep leaks. The next one could not know what they were kept
 * for, and would free them.
 */
enum vr_status vr_settle_autoclear(struct vr_ctx *ctx) VR_CHECKED;
/* Mode all: plan a pointer of the header, len bytes at offset at. */
enum vr_status vr_plan_pointer(struct vr_ctx *ctx, uint64_t at, void *buf, uint32_t len) VR_CHECKED;
/* Plan the bits as they stay: cleared where the walk allows it, else as they were before. */
enum vr_status vr_bits_settle(struct vr_ctx *ctx, const struct vr_bits *b, enum vr_walk walk) VR_CHECKED;
/* What marking before and settling after a plan write together. clears: a bit goes; planned: there is more to write. */
uint64_t vr_bits_bytes(const struct vr_ctx *ctx, const struct vr_bits *b, bool clears, bool planned);

#endif
