/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* start.c: checks the boot information, lays out the arena, runs the session and finishes. */
#include "boot.h"

_Static_assert(VR_ABI_VERSION == 5, "the note in start.S names version 5");

static const char *boot_fault(const struct vr_boot *b)
{
    if (b->magic != VR_BOOT_MAGIC)
        return "boot information has no magic";
    if (b->version != VR_ABI_VERSION)
        return "boot information has another ABI version";
    if (b->mode < VR_MODE_CHECK || b->mode > VR_MODE_ALL)
        return "boot information names no mode";
    if (b->heap_size < 2 * VR_HEAP_ALIGN || b->heap_size % VR_HEAP_ALIGN != 0)
        return "the heap is too small";
    if (b->image_size > VR_OFFSET_MAX || b->examples > VR_EXAMPLES_MAX)
        return "boot information passes a limit";
    return NULL;
}

void vr_guest_main(uint8_t *base)
{
    const struct vr_boot *boot = (const struct vr_boot *)(base + VR_GPA_BOOT);
    struct vr_ring_client rc = {0};
    struct vr_arena arena = {.base = base + VR_GPA_HEAP, .size = boot->heap_size};

    vr_ring_open(&rc, base);
    const char *fault = boot_fault(boot);
    if (fault)
        vr_panic(&rc, fault);
    struct vr_ctx *ctx = vr_arena_get(&arena, sizeof(*ctx));
    struct vr_summary *sum = vr_arena_get(&arena, sizeof(*sum));
    struct vr_record *batch = vr_arena_get(&arena, VR_RECORDS_MAX * sizeof(*batch));
    if (!ctx || !sum || !batch)
        vr_panic(&rc, "the heap is too small");
    *ctx = (struct vr_ctx){.io.carrier = &rc.carrier, .arena = arena, .mode = (enum vr_mode)boot->mode,
                           .file_size = boot->image_size, .examples = boot->examples, .flags = boot->flags,
                           .sum = sum, .batch = batch};
    vr_session(ctx);
    struct vr_request finish = {.op = VR_OP_FINISH, .buf = sum, .len = sizeof(*sum)};
    if (vr_io_do(&ctx->io, &finish) != VR_OK)
        vr_panic(&rc, "the summary was refused");
    vr_panic(&rc, "ran on after FINISH");
}
