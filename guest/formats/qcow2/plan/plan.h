/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* plan.h: plans of whole structures, and of the bits in the header. */
#ifndef VR_QCOW2_PLAN_H
#define VR_QCOW2_PLAN_H

#include "image.h"

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

/* ---- snapshot_table.c -------------------------------------------------------------------------------------- */

/* Reports what is wrong with entries of the snapshot table, and plans a new table. After the maps, before refcounts. */
enum vr_status vr_plan_snapshot_table(struct vr_ctx *ctx) VR_CHECKED;

/* ---- bits.c: dirty, corrupt, autoclear (v3) ---------------------------------------------------------------------- */

/* For struct vr_format_ops. */
bool vr_bits_has_more(const struct vr_ctx *ctx);
enum vr_status vr_bits_begin(struct vr_ctx *ctx) VR_CHECKED;
enum vr_status vr_bits_finish(struct vr_ctx *ctx, enum vr_walk walk) VR_CHECKED;
void vr_bits_dry_run(struct vr_ctx *ctx, struct vr_would *w, bool planned);
/*
 * The last pass: refuses a repair that would clear unknown autoclear bits and keep leaks. The next one could not know what they
 * were kept for, and would free them.
 */
enum vr_status vr_check_autoclear(struct vr_ctx *ctx) VR_CHECKED;
/* Mode all: plan a pointer of the header, len bytes at offset at. */
enum vr_status vr_plan_pointer(struct vr_ctx *ctx, uint64_t at, void *buf, uint32_t len) VR_CHECKED;

#endif
