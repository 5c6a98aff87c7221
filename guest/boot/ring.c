/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ring.c: the guest's end of the ring: requests in, completions out, and the doorbell. */
#include "boot.h"

/* The host reads what was stored before the tail moved, and we read completions after their tail. */
static enum vr_status ring_post(struct vr_carrier *c, uint32_t id, const struct vr_request *r)
{
    struct vr_ring_client *rc = (struct vr_ring_client *)c;
    struct vr_sqe *sqe = &rc->ring->sq[rc->sq_tail % VR_RING_ENTRIES];

    *sqe = (struct vr_sqe){
        .op = r->op, .id = id, .offset = r->offset, .len = r->len, .value = r->value,
        .buf = {r->buf ? (uint64_t)((uintptr_t)r->buf - (uintptr_t)rc->base) : 0}};
    rc->sq_tail++;
    __atomic_store_n(&rc->ring->sq_tail, rc->sq_tail, __ATOMIC_RELEASE);
    return VR_OK;
}

static void ring_kick(struct vr_carrier *c)
{
    struct vr_ring_client *rc = (struct vr_ring_client *)c;

    vr_doorbell(rc->cq_head);
}

static struct vr_cqe ring_next(struct vr_carrier *c)
{
    struct vr_ring_client *rc = (struct vr_ring_client *)c;

    while (__atomic_load_n(&rc->ring->cq_tail, __ATOMIC_ACQUIRE) == rc->cq_head)
        vr_doorbell(rc->cq_head + 1);
    return rc->ring->cq[rc->cq_head++ % VR_RING_ENTRIES];
}

void vr_ring_open(struct vr_ring_client *rc, uint8_t *base)
{
    rc->carrier = (struct vr_carrier){ring_post, ring_kick, ring_next};
    rc->base = base;
    rc->ring = (struct vr_ring *)(base + VR_GPA_RING);
}
