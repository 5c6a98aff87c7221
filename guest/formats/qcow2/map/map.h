/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* map.h: between pass_map.c, which walks L2 tables, l2_entry.c, which judges their entries, and parents.c. */
#ifndef VR_QCOW2_MAP_H
#define VR_QCOW2_MAP_H

#include "image.h"

/* pass_map.c: the active map and those of snapshots. After the snapshot table was read. */
enum vr_status vr_pass_map(struct vr_ctx *ctx) VR_CHECKED;
/* l2_entry.c: rewrites the zero entries that the maps put off, or reports why not. After everything is claimed. */
enum vr_status vr_plan_zero_entries(struct vr_ctx *ctx) VR_CHECKED;

#define VR_ENTRY_FIXES_MAX 65536u

/* A zero entry with an unaligned preallocated cluster: whether it is rewritten is known when all tables were read. */
struct vr_entry_fix {
    uint64_t host;  /* where the entry stands */
    uint64_t guest;
    uint64_t entry;
    uint64_t bitmap;
    uint64_t count; /* L1 entries through which it is reached */
    uint32_t root;
};

#define VR_PARENTS_MAX  1024u
#define VR_PARENTS_WORK (UINT64_C(1) << 24) /* L1 entries read to find them, in one walk; for tables behind that one finding stands for all */

struct vr_parent {
    uint32_t root;
    uint64_t index; /* of the L1 entry */
};

struct vr_map_walk {
    struct vr_ctx *ctx;
    struct vr_parent *parents; /* of the table at parents_of; VR_PARENTS_MAX, once there is one */
    uint32_t nparents;
    uint64_t parents_of;       /* host offset, 0 = none yet */
    uint64_t parents_work;     /* L1 entries read so far */
    uint64_t table;            /* host offset of the table at hand */
    uint64_t tables;           /* L1 entries that name it */
    uint64_t plain_clusters;   /* clusters that lie wholly in the file; 0: the image has no plain entries */
    uint8_t plain_times;       /* what a plain entry of the table at hand adds to its cluster; 0: it has none */
    uint64_t plain_mask;       /* bits of an L2 entry in which a plain one says where its cluster is */
    struct vr_entry_fix *fixes; /* VR_ENTRY_FIXES_MAX, once there is one */
    uint32_t nfixes;
    bool no_room;              /* for one more of them */
    uint64_t active;      /* entries of the active L1 table that name the table at hand */
    uint64_t table_next;  /* host offset that would continue the last data cluster of this table; 0 = none yet */
};

/* What vr_plain_entries() needs to know of the image, and of a table (w->tables, w->active). */
void vr_plain_open(struct vr_map_walk *w);
void vr_plain_table(struct vr_map_walk *w);
/*
 * Claims the clusters of entries from entry i of the table at hand on that have nothing to tell: 0, or an aligned
 * cluster of the file that nobody else has claimed. Returns how many there are, up to the first other.
 */
uint64_t vr_plain_entries(struct vr_map_walk *w, const uint8_t *data, uint64_t i);
/* One L2 entry that is not 0. at: where it stands, what it maps, how many L1 entries lead to it. */
void vr_judge_l2_entry(struct vr_map_walk *w, const struct vr_finding *at, uint64_t entry, uint64_t bitmap);
/* vr_report() of a finding about an entry of the table at hand: one for each L1 entry that leads to it. */
enum vr_decision vr_map_report(struct vr_map_walk *w, enum vr_problem row, const struct vr_finding *f);

#endif
