/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* lost.h: between lost.c, which looks at what leaked clusters hold, and gaps.c and crossed.c, which look for what led to them. */
#ifndef VR_QCOW2_LOST_H
#define VR_QCOW2_LOST_H

#include "image.h"

/* lost.c: reports what shows that leaks are somebody's. No refcount was judged yet; block: the first of those with a wrong one. */
enum vr_status vr_judge_leaks(struct vr_ctx *ctx, uint64_t block) VR_CHECKED;

#define VR_SECTOR 512u

/* A bit a cluster in each map; words of 64 bits. */
struct vr_lost {
    struct vr_ctx *ctx;
    uint64_t *high;    /* its refcount is higher than the references that were found */
    uint64_t *low;     /* its refcount is 1, and more references were found */
    uint64_t *held;    /* no reference was found; and, once that is known, it holds something */
    uint64_t words;
    uint64_t nheld, nlow;
    bool shared;       /* some cluster is high, and still has a reference */
    bool low_runs;     /* some cluster with compressed data has too low a refcount */
    uint8_t *met;      /* crossed.c: a byte a cluster; NULL: there is one map only */
    struct vr_run_at *runs; /* crossed.c: compressed runs in such clusters */
    uint32_t nruns;
    uint64_t active_high; /* entries of the active map that name high clusters */
    uint64_t scanned;  /* words looked at by vr_lost_next() */
    /* lost.c */
    uint64_t next_block; /* of refcounts, to be read */
    uint64_t next;       /* cluster to be read */
    uint64_t asked;      /* clusters since the last question about holes */
    uint64_t whole;      /* clusters read as a whole */
    uint64_t *answer;    /* of that question */
    uint8_t *cluster;    /* one cluster */
};

static inline bool vr_lost_bit(const struct vr_lost *l, const uint64_t *map, uint64_t c)
{
    return c < l->words * 64 && (map[c / 64] >> (c % 64) & 1);
}

/* The first set bit of such a map at or behind c, or words * 64. */
uint64_t vr_lost_next(struct vr_lost *l, const uint64_t *map, uint64_t c);
bool vr_lost_zero(const uint8_t *p, uint64_t n);
/* crossed.c: reports clusters, compressed runs and tables that maps name at different places. The tables of L1 entries, and each L2 table once. */
enum vr_status vr_crossed_open(struct vr_lost *l) VR_CHECKED;
enum vr_status vr_note_crossed_tables(struct vr_lost *l) VR_CHECKED;
void vr_note_crossed(struct vr_lost *l, const struct vr_block *b);
/* gaps.c: reports each map that has nothing where the leaks may belong. */
enum vr_status vr_look_for_gaps(struct vr_lost *l) VR_CHECKED;

#endif
