/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* boot.h: from the first instruction to the session, and the way out. */
#ifndef VR_BOOT_H
#define VR_BOOT_H

#include "core.h"

/* ring.c */
struct vr_ring_client {
    struct vr_carrier carrier; /* first: a carrier is a ring client */
    uint8_t *base;             /* where guest address 0 is: 0 in a VM, the shared region in a process */
    struct vr_ring *ring;
    uint32_t sq_tail, cq_head;
};
void vr_ring_open(struct vr_ring_client *rc, uint8_t *base);

/*
 * Ring the doorbell: the host takes what was posted, and returns once completion `want` - 1 (free-running index)
 * is there. In a VM it is an OUT instruction; the process accelerator supplies its own.
 */
void vr_doorbell(uint32_t want);

/* Last words, then the guest is gone. No formatting, no allocation. */
void vr_panic(struct vr_ring_client *rc, const char *words) __attribute__((noreturn));

/* The guest: checks the boot information, runs the session, sends FINISH. Never returns. */
void vr_guest_main(uint8_t *base) __attribute__((noreturn));

#endif
