/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* io.c: requests in flight over a carrier (the ring, or memory in tests), each with a slot of its own. */
#include "core.h"

/* Take one completion. A completion that names no request in flight is a carrier that lies: it is ignored. */
static void reap(struct vr_io *io)
{
    struct vr_cqe cqe = io->carrier->next(io->carrier);

    io->unkicked = 0;
    if (cqe.id >= VR_RING_ENTRIES)
        return;
    if (io->state[cqe.id] == VR_SLOT_OUT)
        io->state[cqe.id] = VR_SLOT_DONE;
    else if (io->state[cqe.id] == VR_SLOT_FORGOTTEN)
        io->state[cqe.id] = VR_SLOT_FREE;
    else
        return;
    io->status[cqe.id] = cqe.status;
    io->out--;
}

static bool find_slot(struct vr_io *io, unsigned *slot)
{
    for (unsigned i = 0; i < VR_RING_ENTRIES; i++) {
        unsigned s = (io->hint + i) % VR_RING_ENTRIES;
        if (io->state[s] == VR_SLOT_FREE) {
            io->hint = s + 1;
            *slot = s;
            return true;
        }
    }
    return false;
}

enum vr_status vr_io_start(struct vr_io *io, const struct vr_request *r, unsigned *slot)
{
    while (!find_slot(io, slot)) {
        if (io->out == 0)
            return VR_ELIMIT; /* every slot holds an outcome that nobody fetched */
        reap(io);
    }
    VR_TRY(io->carrier->post(io->carrier, *slot, r));
    io->state[*slot] = VR_SLOT_OUT;
    io->out++;
    io->unkicked++;
    return VR_OK;
}

enum vr_status vr_io_wait(struct vr_io *io, unsigned slot)
{
    while (io->state[slot] == VR_SLOT_OUT)
        reap(io);
    io->state[slot] = VR_SLOT_FREE;
    return (enum vr_status)io->status[slot];
}

void vr_io_drain(struct vr_io *io)
{
    while (io->out != 0)
        reap(io);
    memset(io->state, VR_SLOT_FREE, sizeof(io->state));
}

enum vr_status vr_io_do(struct vr_io *io, const struct vr_request *r)
{
    unsigned slot;

    VR_TRY(vr_io_start(io, r, &slot));
    return vr_io_wait(io, slot);
}

void vr_io_tell(struct vr_io *io, const struct vr_request *r)
{
    unsigned slot;

    if (vr_io_start(io, r, &slot) == VR_OK)
        io->state[slot] = VR_SLOT_FORGOTTEN;
}

enum vr_status vr_read(struct vr_ctx *ctx, uint64_t offset, void *buf, uint32_t len)
{
    struct vr_request r = {.op = VR_OP_READ, .offset = offset, .buf = buf, .len = len};

    /* What an image names may be anywhere. No file reaches there, and behind a file's end are zeros. */
    if (offset > VR_OFFSET_MAX - len) {
        memset(buf, 0, len);
        return VR_OK;
    }
    return vr_io_do(&ctx->io, &r);
}

enum vr_status vr_plan_write(struct vr_ctx *ctx, enum vr_epoch epoch, uint64_t offset, void *buf, uint32_t len)
{
    struct vr_request r = {.op = VR_OP_WRITE, .offset = offset, .buf = buf, .len = len, .value = (uint32_t)epoch};

    ctx->planned++;
    if (ctx->would) {
        ctx->would->bytes += len;
        return VR_OK;
    }
    return vr_io_do(&ctx->io, &r);
}
