/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* window.c: small pieces of the image, read one after the other through one buffer. */
#include "core.h"

enum vr_status vr_window_open(struct vr_window *w, struct vr_ctx *ctx)
{
    *w = (struct vr_window){.ctx = ctx, .buf = vr_arena_get(&ctx->arena, VR_WINDOW), .at = UINT64_MAX};
    return w->buf ? VR_OK : VR_ENOMEM;
}

enum vr_status vr_window_look(struct vr_window *w, uint64_t offset, uint64_t len, const uint8_t **p)
{
    if (w->at > offset || offset + len > w->at + VR_WINDOW) {
        w->at = offset;
        VR_TRY(vr_read(w->ctx, offset, w->buf, VR_WINDOW));
    }
    *p = w->buf + (offset - w->at);
    return VR_OK;
}
