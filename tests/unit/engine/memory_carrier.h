/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * memory_carrier.h: an image in memory behind the engine's carrier, so that a session runs in a plain process.
 *
 * It keeps the rules of the ring as the VMM does (ring.c), and aborts where the engine breaks one.
 * Completions come back in reverse order of posting, to show that nothing depends on their order, and reads are carried out only
 * then, as by a slow disk: into memory that must still be the reader's.
 */
#ifndef MEMORY_CARRIER_H
#define MEMORY_CARRIER_H

#include "core.h"

struct memory_image {
    struct vr_carrier carrier; /* first */
    uint8_t *disk;             /* what is committed; owned */
    uint8_t *view;             /* what the guest sees; owned */
    uint64_t size;             /* of disk */
    uint64_t view_size;        /* of view: grows before disk does */
    uint8_t *epochs;           /* of each sector of view: the last that changed it; owned */
    bool checks;               /* the session is a check */
    struct vr_cqe done[VR_RING_ENTRIES];
    struct vr_request late[VR_RING_ENTRIES]; /* reads among them, not carried out yet: op 0 = none */
    unsigned ndone;
    bool oldest_first;         /* completions come in the order of posting instead */
    const struct vr_arena *arena; /* of the session; NULL: none, memory is the test's */
    uint64_t fail_read_at;     /* a read that touches this byte fails; UINT64_MAX = none */
    uint32_t flags;            /* VR_BOOT_* */
    bool lose_writes;          /* planned writes are not seen by later reads */
    unsigned writes, commits; /* of the last session */
    unsigned records;
    struct vr_record last[64]; /* first records */
};

/* Takes a copy of bytes. */
void memory_image_open(struct memory_image *m, const void *bytes, uint64_t size);
void memory_image_close(struct memory_image *m);
/* A whole session in the given mode; sum is overwritten. heap = bytes of arena. */
void memory_session(struct memory_image *m, enum vr_mode mode, uint64_t heap, struct vr_summary *sum);

#endif
