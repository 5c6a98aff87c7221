/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* snapshots.c: entries of the snapshot table. */
#include "format.h"

struct vr_snapshot vr_snapshot_decode(const uint8_t *buf)
{
    return (struct vr_snapshot){.l1_offset = vr_load64(buf),
                                .l1_size = vr_load32(buf + 8),
                                .id_len = (uint16_t)vr_load16(buf + 12),
                                .name_len = (uint16_t)vr_load16(buf + 14),
                                .extra_size = vr_load32(buf + 36)};
}

uint64_t vr_snapshot_bytes(const struct vr_snapshot *s)
{
    return (uint64_t)VR_SNAPSHOT_FIXED + s->extra_size + s->id_len + s->name_len;
}
