/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* panic.c: the way out when the guest itself is broken; nothing here formats or allocates. */
#include "boot.h"

void vr_panic(struct vr_ring_client *rc, const char *words)
{
    /* The words must lie where the host may read: not in read-only data. Nobody needs the heap any more. */
    char *copy = (char *)(rc->base + VR_GPA_HEAP);
    uint32_t len = 0;

    while (len < VR_PANIC_MAX && words[len] != '\0') {
        copy[len] = words[len];
        len++;
    }
    struct vr_request r = {.op = VR_OP_PANIC, .buf = copy, .len = len};
    (void)rc->carrier.post(&rc->carrier, 0, &r);
    for (;;)
        rc->carrier.kick(&rc->carrier);
}
