/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* arena.c: bump allocation out of one block; memory goes back only to a mark. */
#include "core.h"

#define ALIGN 64u

void *vr_arena_get(struct vr_arena *a, uint64_t bytes)
{
    uint64_t room = a->size - a->used;
    uint64_t padded = (bytes + (ALIGN - 1)) & ~(uint64_t)(ALIGN - 1);

    if (padded < bytes || padded > room)
        return NULL;
    uint8_t *p = a->base + a->used;
    /* Above the peak nothing was ever written: clearing it again would only touch pages for nothing. */
    if (a->used < a->peak)
        memset(p, 0, vr_min(padded, a->peak - a->used));
    a->used += padded;
    if (a->used > a->peak)
        a->peak = a->used;
    return p;
}

uint64_t vr_arena_mark(const struct vr_arena *a)
{
    return a->used;
}

void vr_arena_reset(struct vr_arena *a, uint64_t mark)
{
    a->used = mark;
}
