/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* overlay.h: what the guest wrote, until the commit, and the journal that is made of it. */
#ifndef OVERLAY_H
#define OVERLAY_H

#include <pthread.h>
#include <stdatomic.h>

#include "vmm_proto.h"

/* ---- overlay.c: what the guest wrote, until the commit -------------------------------------------------- */

#define OVERLAY_PAGE  4096u
#define OVERLAY_CHUNK 65536u /* read at once: of the image where it is written to, of the overlay's file */

/* One page in one epoch; its data at slot * OVERLAY_PAGE in the overlay's file. */
struct overlay_version {
    uint64_t page;  /* image offset / OVERLAY_PAGE */
    uint32_t slot;
    uint32_t chain; /* index + 1 of the next version in the same hash bucket */
    uint8_t epoch;  /* enum vr_epoch */
    uint8_t dirty;  /* bit for each sector of the page that this version holds */
};

struct overlay {
    int fd;        /* -1: nothing may be written */
    int image_fd;
    uint64_t size; /* of the image as it would be, bytes */
    uint64_t limit;/* most versions: the index's share of the memory budget */
    struct overlay_version *versions;
    uint64_t count, room;
    uint64_t written;  /* bytes that were handed in */
    uint32_t *buckets; /* index + 1 of a version, by page */
    uint64_t nbuckets;
    pthread_mutex_t lock;
    atomic_bool empty; /* looked at without the lock: most runs never write */
    uint32_t window_at, window_slots;
    uint8_t window[OVERLAY_CHUNK]; /* slots of the file that were read last */
};

void overlay_init(struct overlay *ov, int fd, int image_fd, uint64_t size, uint64_t memory);
void overlay_drop(struct overlay *ov);
/* Image and overlay merged; behind the end zeros. 0, or -errno. */
int overlay_read(struct overlay *ov, void *buf, uint32_t len, uint64_t offset);
/*
 * A version of the touched sectors in an epoch. Sectors that read the same already are not kept.
 * 0, -errno, or -EPROTO where a later epoch has a version of one of them.
 */
int overlay_write(struct overlay *ov, uint32_t epoch, const void *buf, uint32_t len, uint64_t offset);
/* Sorts the versions by epoch, then page. Afterwards only versions[] and overlay_page() may be used. */
void overlay_sort(struct overlay *ov);
int overlay_page(struct overlay *ov, const struct overlay_version *v, uint8_t page[OVERLAY_PAGE]);

/* ---- journal.c: old bytes on disk before new ones -------------------------------------------------------- */

/* Writes and syncs everything that a rollback needs, for an overlay that overlay_sort() went over. 0 or -errno. */
int journal_write(int fd, const struct vmm_config *cfg, struct overlay *ov, uint64_t *bytes);
/* The commit is complete and durable. 0 or -errno: the journal then stays one of a cut commit, which is safe. */
int journal_finish(int fd, uint64_t at, int image_fd, uint64_t size);

#endif
