/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vr_records.h: what the guest says: one record a finding, one summary a run. Text is made by the host. */
#ifndef VR_RECORDS_H
#define VR_RECORDS_H

#include "vr_abi.h"

/* Passes: vr_passes.def. 0 is none. */
enum vr_pass {
#define VR_PASS(sym, number, name, begins, flags) VR_PASS_##sym = number,
#include "vr_passes.def"
#undef VR_PASS
    VR_PASS_COUNT,
};
#define VR_PASS_TIMED   1u
#define VR_PASS_OF_MAPS 2u

/* Which walk over the image a record belongs to. */
enum vr_walk {
    VR_WALK_CHECK = 0,  /* the first walk: what is wrong */
    VR_WALK_VERIFY = 1, /* the walk over the image as it would be, before the commit */
    VR_WALK_FINAL = 2,  /* the walk over the committed image, read from disk again */
    VR_WALK_COUNT = 3,
};

/* What a problem does to an image; severity of its row. */
enum vr_severity {
    VR_SEV_NOTE = 0,    /* worth telling, nothing is wrong with the metadata */
    VR_SEV_LEAK = 1,    /* space that nothing uses */
    VR_SEV_CORRUPT = 2, /* metadata that contradicts itself */
    VR_SEV_ERROR = 3,   /* the check itself could not look (qemu-img's check-errors) */
    VR_SEV_REFUSE = 4,  /* recognised, and nothing is done to the image */
    VR_SEV_OPEN = 5,    /* not an image that can be opened (qemu-img's open errors) */
};

/* What a repair may do about it; policy of its row. */
enum vr_policy {
    VR_POL_REPORT = 0, /* never changed: more than one mending is plausible */
    VR_POL_LEAKS = 1,  /* safe: mended by leaks and all */
    VR_POL_ALL = 2,    /* derivable: mended by all */
};

/* Why a finding that its row would let us mend was left alone. */
enum vr_kept {
    VR_KEPT_NO = 0,         /* mended, or its row never is */
    VR_KEPT_INCOMPLETE = 1, /* the walk was incomplete: what looks leaked may be the lost part's data */
    VR_KEPT_DOUBTFUL = 2,   /* the only claims that differ come from damaged pointers */
    VR_KEPT_MODE = 3,       /* the mode does not mend this */
    VR_KEPT_VERSION = 4,    /* the mending needs qcow2 version 3 */
    VR_KEPT_NO_ROOM = 5,    /* there is no place for a new structure where nothing points */
};

#define VR_NONE UINT64_MAX /* a field that does not apply */

#define VR_REC_FIXED 1u /* flags: the plan mends it */
#define VR_REC_NAME  2u /* flags: no finding, but the id and name of a snapshot: struct vr_name in place of host..count */

#define VR_ROOT_ACTIVE 0u          /* root: the active L1 table */
#define VR_ROOT_BITMAPS 0x80000000u /* root: + n = entry n of the bitmap directory; for its name */
#define VR_ROOT_NONE   UINT32_MAX  /* root: no map is meant */

struct vr_record {
    uint32_t code;     /* in  a row of vr_problems.def */
    uint8_t flags;     /* in  VR_REC_* */
    uint8_t kept;      /* in  enum vr_kept */
    uint8_t walk;      /* in  enum vr_walk */
    uint8_t reserved;  /* in  0 */
    uint64_t host;     /* in  host offset of what is wrong, bytes, or VR_NONE */
    uint64_t guest;    /* in  guest offset that it maps, bytes, or VR_NONE */
    uint64_t guest_len;/* in  guest bytes hit, 0 if none */
    uint64_t index;    /* in  cluster number, or index in the table that the row speaks of */
    uint64_t got;      /* in  value found */
    uint64_t want;     /* in  value expected */
    uint64_t count;    /* in  findings that this record stands for, >= 1 (neighbours may be merged) */
    uint32_t root;     /* in  whose map: VR_ROOT_ACTIVE, or n = entry n - 1 of the snapshot table, or VR_ROOT_NONE */
    uint32_t reserved2;/* in  0 */
};
VR_ABI_SIZE(struct vr_record, 72);

/* Untrusted bytes, in no known encoding, cut where they are longer. root of the record says which snapshot. */
struct vr_name {
    uint8_t id_len, name_len; /* in  bytes in use; what is longer ends in dots here */
    char id[22];
    char name[32];
};
VR_ABI_SIZE(struct vr_name, 56);

/* Rows have a dense index (their order in the table); counters are arrays over it. */
#define VR_ROWS_MAX 128u

/* What a mode that repairs would do; only where VR_BOOT_WOULD asked for it. */
struct vr_would {
    uint64_t mended[VR_ROWS_MAX]; /* in  findings of each row that it would mend */
    uint64_t clusters_freed;      /* in  refcounts that would fall to 0 */
    uint64_t bytes;               /* in  bytes that it would write into the image */
    int32_t status;               /* in  VR_OK, or why it would do nothing: VR_EREFUSED, VR_ENOMEM */
    uint32_t row;                 /* in  code of the row that says why it would refuse, or 0 */
};

struct vr_summary {
    int32_t status;             /* in  enum vr_status of the whole run */
    uint32_t walks;             /* in  bit (1 << enum vr_walk) for each walk that was completed */
    uint64_t found[VR_WALK_COUNT][VR_ROWS_MAX]; /* in  findings for each row and walk */
    uint64_t fixed[VR_ROWS_MAX];                /* in  findings of the first walk that the plan mends */
    uint64_t kept[VR_ROWS_MAX];                 /* in  of those found, kept for a reason in its records */
    /* statistics of the last completed walk, as qemu-img counts them */
    uint64_t total_clusters;
    uint64_t allocated_clusters;
    uint64_t fragmented_clusters;
    uint64_t compressed_clusters;
    uint64_t image_end_offset;
    /* the header, as first read */
    uint64_t virtual_size;
    uint64_t incompatible, compatible, autoclear;
    uint32_t qcow2_version;
    uint32_t cluster_bits;
    uint32_t refcount_bits;
    uint32_t committed;         /* in  1 once a commit has succeeded */
    /* the plan */
    uint64_t clusters_freed;    /* in  refcounts that fall to 0 */
    uint64_t guest_bytes_hit;   /* in  guest bytes in reach of a damage, first walk */
    uint64_t heap_used;         /* in  most arena bytes in use */
    uint64_t room_needed;       /* in  bytes that a device lacks for a new structure (in a check: of mode all), or 0 */
    uint64_t reserved[3];       /* in  0 */
    struct vr_would would[2];   /* in  mode leaks, mode all */
};

#endif
