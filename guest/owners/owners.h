/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* owners.h: who claims which host cluster, and how often. The kinds of owners are the format's, but for those below. */
#ifndef VR_OWNERS_H
#define VR_OWNERS_H

#include "core.h"

/* Kinds that the map itself tells apart; a format gives its own the other bits, up to 1 << 30. */
#define VR_OWNER_TABLE     (UINT32_C(1) << 4) /* a table of the active map */
#define VR_OWNER_DATA      (UINT32_C(1) << 5)
#define VR_OWNER_DOUBTFUL  (UINT32_C(1) << 6) /* by a damaged pointer */
#define VR_OWNER_RUN       (UINT32_C(1) << 8) /* holds (part of) one run of bytes for each reference */
#define VR_OWNER_TABLE_OLD (UINT32_C(1) << 9) /* a table of the map of a snapshot */

struct vr_ref {
    uint64_t count;  /* references, at most what the width of the image can count */
    uint32_t claims; /* bits: kinds */
    uint32_t tables; /* pointers that name it as a table */
    uint32_t active; /* of those, of the active map */
    uint32_t doubtful; /* references by damaged pointers */
};

struct vr_ref_entry;

/*
 * Wide, one byte a cluster: 0 free; 1..0x7f claimed as data that often; 0x80 + n claimed by n + 1 compressed runs; 0xc0 + n
 * claimed once, as the n-th bit of its kinds; 0xff look into the exact table (hash, open addressing).
 * Thin, one bit a cluster: claimed once, as data; for the rest, a bit for 16 clusters says whether to look into the table.
 */
#define VR_REF_DATA_END 0x80u

struct vr_refmap {
    struct vr_arena *arena;
    uint8_t *bytes;  /* NULL: the map is thin */
    uint64_t *once;  /* thin: a bit a cluster */
    uint64_t *exact; /* thin: a bit for 16 clusters */
    bool stays_thin; /* there was no memory for a wide map */
    uint64_t clusters;
    uint64_t max; /* refcounts saturate here: the width of the image */
    struct vr_ref_entry *table;
    uint64_t slots, used;
    bool full; /* the exact table could not grow: the walk must fail */
};

/* wide: begin as a wide map, where many clusters are expected to be shared, and there is memory. */
enum vr_status vr_refmap_open(struct vr_refmap *m, struct vr_arena *arena, uint64_t clusters, uint64_t max,
                              bool wide) VR_CHECKED;
bool vr_refmap_is_free(const struct vr_refmap *m, uint64_t cluster);
/*
 * One compressed run more over these clusters: where each is nobody's or has compressed data alone, and its byte can say
 * that. Else nothing is changed.
 */
bool vr_refmap_take_compressed(struct vr_refmap *m, uint64_t first, uint64_t last);
/* How often a cluster is claimed, where it is claimed as data alone and the map says so without its table; else 0. */
uint64_t vr_refmap_plain(const struct vr_refmap *m, uint64_t cluster);
/* Thin: whether one of the 16 clusters around this one is in the table. */
bool vr_refmap_thin_exact(const struct vr_refmap *m, uint64_t cluster);
/* That many references more to a cluster (inside the map). Returns how many the width cannot count. */
uint64_t vr_refmap_claim(struct vr_refmap *m, uint64_t cluster, uint32_t claim, uint64_t times);
/* Take one reference back, and the claim: all of that kind are taken back, one by one. */
void vr_refmap_drop(struct vr_refmap *m, uint64_t cluster, uint32_t claim);
struct vr_ref vr_refmap_get(const struct vr_refmap *m, uint64_t cluster);
/* Its references, also those that the width cannot count. */
uint64_t vr_refmap_uncapped(const struct vr_refmap *m, uint64_t cluster);
/* From now on a cluster has this refcount; its claims stay. */
void vr_refmap_set(struct vr_refmap *m, uint64_t cluster, uint64_t count);
/* Add claim bits to a cluster without a reference more. */
void vr_refmap_mark(struct vr_refmap *m, uint64_t cluster, uint32_t claim);

#endif
