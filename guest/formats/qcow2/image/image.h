/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* image.h: what a walk over a qcow2 image knows of it: its geometry, its tables, who owns which cluster. One section a file. */
#ifndef VR_QCOW2_IMAGE_H
#define VR_QCOW2_IMAGE_H

#include "disk.h"
#include "owners.h"

/* ---- kinds of owners in the map of owners.h ----------------------------------------------------------------- */

/* What a cluster is to the one who claims it. The bits of a cluster claimed by several add up. */
enum vr_claim {
    VR_CLAIM_HEADER = 1 << 0,
    VR_CLAIM_L1 = 1 << 1,
    VR_CLAIM_REFTABLE = 1 << 2,
    VR_CLAIM_REFBLOCK = 1 << 3,
    VR_CLAIM_L2 = VR_OWNER_TABLE,
    VR_CLAIM_DATA = VR_OWNER_DATA,
    VR_CLAIM_DOUBTFUL = VR_OWNER_DOUBTFUL, /* by a damaged pointer: counted as qemu counts it, never acted upon */
    VR_CLAIM_SEEN = 1 << 7,     /* a table that several pointers name, and the first of them was dealt with in passes 2 or 7 */
    VR_CLAIM_COMPRESSED = VR_OWNER_RUN,   /* holds (part of) one compressed run for each reference */
    VR_CLAIM_SNAPSHOT_L2 = VR_OWNER_TABLE_OLD,  /* an L2 table, named by the L1 table of a snapshot */
    VR_CLAIM_SNAPSHOTS = 1 << 10,   /* snapshot table */
    VR_CLAIM_LUKS = 1 << 11,        /* LUKS header and key material */
    VR_CLAIM_VISITED = 1 << 12,     /* an L2 table of several L1 entries, read in pass 3 already */
    VR_CLAIM_RELEASED = 1 << 13,    /* the plan has moved what was here: one reference goes, and that is no leak */
    VR_CLAIM_BITMAP = 1 << 14,      /* bitmap directory, bitmap table or bitmap data */
    VR_CLAIM_COMPARED = 1 << 16,    /* an L2 table of several L1 entries, read in gaps.c already */
    VR_CLAIM_SUSPECTED = 1 << 17,   /* the same, and once more */
    VR_CLAIM_PLANNED = 1 << 15,     /* new: its refcount is planned, which a walk that plans nothing does not read back */
};
#define VR_CLAIM_TABLE (VR_CLAIM_L2 | VR_CLAIM_SNAPSHOT_L2)
#define VR_CLAIM_METADATA                                                                                              \
    (VR_CLAIM_HEADER | VR_CLAIM_L1 | VR_CLAIM_REFTABLE | VR_CLAIM_REFBLOCK | VR_CLAIM_TABLE | VR_CLAIM_SNAPSHOTS |     \
     VR_CLAIM_LUKS | VR_CLAIM_BITMAP)

/* ---- the image of one walk ------------------------------------------------------------------------------------ */

/* Where one map of guest addresses begins: root 0 is the active L1 table, n the one of entry n - 1 of the snapshot table. */
struct vr_root {
    uint64_t l1_offset, l1_size; /* bytes, entries */
    bool skipped;                /* it cannot be followed; why has been reported */
};

/* An entry of the snapshot table, and where it stands. */
struct vr_snapshot_at {
    uint64_t at;
    struct vr_snapshot s;
    bool short_extra, long_extra; /* rewriting the table mends it */
};

/*
 * Tables that a file has many of cannot together be larger than it, by more than one of the largest. Where they say they
 * are, they overlap; to walk all the same would take the time of any product that a small file can write down.
 */
#define VR_TOGETHER_SLACK (UINT64_C(64) << 20)

/* A bitmap whose table has entries that are 0; its clusters. */
struct vr_empty_bitmap {
    uint32_t index;
    uint64_t first, last;
};
#define VR_EMPTY_BITMAPS_MAX 256u

struct vr_image {
    struct vr_header h;
    uint64_t cluster_size;
    uint64_t clusters;     /* of the file, the last one may be partial; one more where a region ends behind that */
    uint64_t l2_entries;   /* of one L2 table */
    unsigned l2_entry_size;/* bytes: 8, or 16 with extended L2 entries */
    struct vr_root *roots;
    uint32_t nroots;
    struct vr_snapshot_at *snapshots;
    uint32_t nsnapshots;   /* of those that the header says, the ones that are kept */
    uint64_t snapshots_end;/* end of the last entry, bytes from the start of the table */
    uint64_t snapshot_l1_bytes; /* L1 tables of snapshots, those that are walked */
    uint64_t bitmaps_at;   /* where the bitmaps extension stands */
    bool has_bitmaps;
    struct vr_bitmaps bitmaps;
    struct vr_empty_bitmap empty_bitmaps[VR_EMPTY_BITMAPS_MAX]; /* the first of them */
    uint32_t nempty_bitmaps;
    bool implausible;      /* some entry of it is not what any program writes */
    uint64_t behind_last;  /* where an entry seems to stand that the header does not count, 0 = none */
    uint64_t behind_l1;    /* and its L1 table */
    bool data_file_named;  /* by its header extension */
    uint64_t luks_offset, luks_len; /* LUKS header and key material; 0, 0 = none */
    uint64_t dangling;     /* lowest cluster behind the end of the file that a pointer names, UINT64_MAX = none */
    uint64_t block_entries;/* refcounts of one refcount block */
    uint64_t blocks;       /* refcount blocks that the clusters of the file need */
    uint64_t table_entries;/* of the refcount table; 0 where it lies behind the end of the file */
    uint8_t *reftable;     /* as on disk, big endian */
    uint8_t *refpiece;     /* VR_REFPIECE bytes of a refcount block, for single look-ups */
    uint64_t refpiece_at;  /* their offset, 0 = none yet */
    struct vr_refmap refs; /* owners.h */
    struct vr_map_walk *map; /* of pass 3: what it put off */
    uint64_t highest;      /* largest cluster in use + 1, as qemu-img sees it: of those whose refcount can be read */
    uint64_t highest_unread; /* and of the others */
    bool rebuild;          /* refcount structures are beyond correction in place */
    bool rebuild_planned;  /* new ones were planned: every refcount is known from now on */
    bool refcounts_lost;   /* some refcounts on disk are unknown, or not to be believed */
    bool leaks_judged;     /* lost.c has said what may be behind them */
    bool leaks_matter;     /* some hold something, or some map still names what has a reference too many */
    bool l1_contested;     /* the active L1 table, or a cluster it is said to have, may be something else */
    bool copied_matters;   /* some COPIED flag may be wrong */
};

/* ---- leaks: what the findings so far say of them ------------------------------------------------------------------ */

/* Whether something found so far says that what looks leaked may be somebody's. */
static inline bool vr_keeps_leaks(const struct vr_ctx *ctx)
{
    return (ctx->implied & VR_KEEPS_LEAKS) ||
           (ctx->img->leaks_matter && (ctx->implied & (VR_SUSPECT | VR_BEHIND)));
}
/* Whether nothing says so but refcounts that are too low. */
static inline bool vr_only_behind(const struct vr_ctx *ctx)
{
    return vr_keeps_leaks(ctx) && !(ctx->implied & (VR_KEEPS_LEAKS | VR_SUSPECT));
}

/* ---- refblocks.c: refcounts on disk -------------------------------------------------------------------------- */

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
/* The same, times over, for the entry or table that *at speaks of. */
void vr_claim_times(struct vr_ctx *ctx, const struct vr_finding *at, struct vr_run region, enum vr_claim claim);
/* A pointer names this offset behind the end of the file: nothing may be put there. */
void vr_note_dangling(struct vr_ctx *ctx, uint64_t offset);
/* A pointer (to an L1 table?) names what these own, and is not followed: which of the two is right is not known. */
void vr_note_foreign(struct vr_ctx *ctx, uint32_t owners, bool as_l1);
/* Claims of the cluster at offset, 0 where it is outside the file. */
uint32_t vr_claims_at(const struct vr_ctx *ctx, uint64_t offset);

/* ---- l1.c: L1 tables, in pieces, and the L2 tables that may be followed --------------------------------------------- */

struct vr_l1_walk {
    struct vr_ctx *ctx;
    uint8_t *piece;      /* VR_L1_PIECE bytes from the arena */
    uint32_t root;       /* of img->roots */
    bool all_roots;      /* vr_l1_next_table() goes on with the snapshots' */
    enum vr_claim once;  /* vr_l1_next_table() marks tables that several entries name, and gives none that is; 0: gives all */
    uint64_t first, have;/* entries of the piece now in memory */
    uint64_t next;       /* entry that vr_l1_next() gives next */
    enum vr_status status;
};
#define VR_L1_PIECE 65536u

enum vr_status vr_l1_open(struct vr_l1_walk *w, struct vr_ctx *ctx) VR_CHECKED;
/* From the start of another root's L1 table. */
void vr_l1_start(struct vr_l1_walk *w, uint32_t root);
/* The next entry that is not 0; false at the end or on a failure (w->status). */
bool vr_l1_next(struct vr_l1_walk *w, uint64_t *index, uint64_t *entry);
/* Whether the L2 table that an L1 entry names may be followed: aligned, in the file, and claimed as an L2 table alone. */
bool vr_l1_followable(const struct vr_ctx *ctx, uint64_t entry);
/* Whether this root has the L1 table of the one before it, as tens of thousands of snapshots may: it says nothing new. */
static inline bool vr_root_repeats(const struct vr_image *img, uint32_t root)
{
    return root > 0 && img->roots[root].l1_offset == img->roots[root - 1].l1_offset &&
           img->roots[root].l1_size == img->roots[root - 1].l1_size;
}
/* vr_next_block over the L2 tables that may be followed; tag = root << 32 | L1 index. arg = struct vr_l1_walk. */
bool vr_l1_next_table(void *arg, struct vr_block *b);

#endif
