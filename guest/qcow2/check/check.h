/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* check.h: the walk over a qcow2 image: what it knows, its reference map, its passes. One section a file. */
#ifndef VR_CHECK_H
#define VR_CHECK_H

#include "core.h"
#include "format.h"

/* ---- refmap.c: who claims which host cluster, and how often ----------------------------------------------- */

/* What a cluster is to the one who claims it. The bits of a cluster claimed by several add up. */
enum vr_claim {
    VR_CLAIM_HEADER = 1 << 0,
    VR_CLAIM_L1 = 1 << 1,
    VR_CLAIM_REFTABLE = 1 << 2,
    VR_CLAIM_REFBLOCK = 1 << 3,
    VR_CLAIM_L2 = 1 << 4,
    VR_CLAIM_DATA = 1 << 5,
    VR_CLAIM_DOUBTFUL = 1 << 6, /* by a damaged pointer: counted as qemu counts it, never acted upon */
    VR_CLAIM_SEEN = 1 << 7,     /* a table that several pointers name, and the first of them was dealt with */
};
#define VR_CLAIM_METADATA (VR_CLAIM_HEADER | VR_CLAIM_L1 | VR_CLAIM_REFTABLE | VR_CLAIM_REFBLOCK | VR_CLAIM_L2)

struct vr_ref {
    uint64_t count;
    uint32_t claims; /* enum vr_claim bits */
};

struct vr_ref_entry;

/*
 * One byte a cluster: 0 free; 1..0xbf claimed as data that often; 0xc0 + n claimed once, as the n-th bit of
 * enum vr_claim; 0xff look into the exact table (hash, open addressing).
 */
struct vr_refmap {
    struct vr_arena *arena;
    uint8_t *bytes;
    uint64_t clusters;
    uint64_t max; /* refcounts saturate here: the width of the image */
    struct vr_ref_entry *table;
    uint64_t slots, used;
    bool full; /* the exact table could not grow: the walk must fail */
};

enum vr_status vr_refmap_open(struct vr_refmap *m, struct vr_arena *arena, uint64_t clusters, uint64_t max) VR_CHECKED;
/* One more reference to a cluster (inside the map). False where the width cannot count it; the claim is noted still. */
bool vr_refmap_claim(struct vr_refmap *m, uint64_t cluster, enum vr_claim claim);
struct vr_ref vr_refmap_get(const struct vr_refmap *m, uint64_t cluster);
/* From now on a cluster has this refcount; its claims stay. */
void vr_refmap_set(struct vr_refmap *m, uint64_t cluster, uint64_t count);
/* Add claim bits to a cluster without a reference more. */
void vr_refmap_mark(struct vr_refmap *m, uint64_t cluster, enum vr_claim claim);

/* ---- the image of one walk ------------------------------------------------------------------------------------ */

struct vr_entry_fix; /* pass3_map.c */

struct vr_image {
    struct vr_header h;
    uint64_t cluster_size;
    uint64_t clusters;     /* of the file, the last one may be partial; one more where a region ends behind that */
    uint64_t l2_entries;   /* of one L2 table */
    uint64_t block_entries;/* refcounts of one refcount block */
    uint64_t blocks;       /* refcount blocks that the clusters of the file need */
    uint64_t table_entries;/* of the refcount table; 0 where it lies behind the end of the file */
    uint8_t *reftable;     /* as on disk, big endian */
    uint8_t *refpiece;     /* VR_REFPIECE bytes of a refcount block, for single look-ups */
    uint64_t refpiece_at;  /* their offset, 0 = none yet */
    struct vr_refmap refs;
    uint64_t highest;      /* largest cluster in use + 1 */
    bool incomplete;       /* something could not be followed: what looks leaked may belong to it */
    bool unsound;          /* pointers between structures contradict each other: entries are not rewritten */
    bool rebuild;          /* refcount structures are beyond correction in place */
    bool copied_matters;   /* some COPIED flag may be wrong */
};

/* ---- passes, in order; each reports what it finds, and returns failures of the repairer only --------------------- */

enum vr_status vr_pass_header(struct vr_ctx *ctx) VR_CHECKED;
enum vr_status vr_pass_reftable(struct vr_ctx *ctx) VR_CHECKED;
enum vr_status vr_pass_map(struct vr_ctx *ctx) VR_CHECKED;
enum vr_status vr_pass_refcounts(struct vr_ctx *ctx) VR_CHECKED;
enum vr_status vr_pass_copied(struct vr_ctx *ctx) VR_CHECKED;

/* ---- refcounts on disk (pass2_reftable.c) -------------------------------------------------------------------------- */

#define VR_REFPIECE 4096u

/* Where refcount block i is said to be, 0 where the table has none: its refcounts are 0 then. */
uint64_t vr_refblock_offset(const struct vr_image *img, uint64_t i);
/* Whether the refcount of a cluster can be read at all: its block is where a block of a file can be. */
bool vr_refcount_known(const struct vr_image *img, uint64_t cluster);
/* One refcount, also of a cluster behind the end of the file. */
enum vr_status vr_refcount_read(struct vr_ctx *ctx, uint64_t cluster, uint64_t *refcount) VR_CHECKED;

/* ---- claims.c: claims of regions, and what is wrong with one ------------------------------------------------------- */

/* Whether [offset, offset + size) reaches a cluster or more behind the end of the file (qemu's tolerance). */
bool vr_region_past_eof(const struct vr_ctx *ctx, uint64_t offset, uint64_t size);
/* Claim every cluster that [offset, offset + size) touches; the caller has tested it with vr_region_past_eof(). */
void vr_claim_region(struct vr_ctx *ctx, uint64_t offset, uint64_t size, enum vr_claim claim);
/* Claims of the cluster at offset, 0 where it is outside the file. */
uint32_t vr_claims_at(const struct vr_ctx *ctx, uint64_t offset);

/* ---- l1.c: the active L1 table, in pieces, and the L2 tables that may be followed ----------------------------------- */

struct vr_l1_walk {
    struct vr_ctx *ctx;
    uint8_t *piece;      /* VR_L1_PIECE bytes from the arena */
    uint64_t first, have;/* entries of the piece now in memory */
    uint64_t next;       /* entry that vr_l1_next() gives next */
    enum vr_status status;
};
#define VR_L1_PIECE 65536u

enum vr_status vr_l1_open(struct vr_l1_walk *w, struct vr_ctx *ctx) VR_CHECKED;
/* The next entry that is not 0; false at the end or on a failure (w->status). */
bool vr_l1_next(struct vr_l1_walk *w, uint64_t *index, uint64_t *entry);
/* Whether the L2 table that an L1 entry names may be followed: aligned, in the file, and claimed as an L2 table alone. */
bool vr_l1_followable(const struct vr_ctx *ctx, uint64_t entry);
/* vr_next_block over the L2 tables that may be followed; tag = L1 index. arg = struct vr_l1_walk. */
bool vr_l1_next_table(void *arg, struct vr_block *b);

#endif
