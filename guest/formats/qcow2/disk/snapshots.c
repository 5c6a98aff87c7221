/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* snapshots.c: entries of the snapshot table. */
#include "disk.h"

struct vr_snapshot vr_snapshot_decode(const uint8_t *buf)
{
    uint32_t extra_size = vr_load32(buf + 36);

    return (struct vr_snapshot){.l1_offset = vr_load64(buf),
                                .l1_size = vr_load32(buf + 8),
                                .id_len = (uint16_t)vr_load16(buf + 12),
                                .name_len = (uint16_t)vr_load16(buf + 14),
                                .extra_size = extra_size,
                                .disk_size = extra_size >= VR_SNAPSHOT_EXTRA_V3 ? vr_load64(buf + VR_SNAPSHOT_FIXED + 8) : 0};
}

uint64_t vr_snapshot_bytes(const struct vr_snapshot *s)
{
    return (uint64_t)VR_SNAPSHOT_FIXED + s->extra_size + s->id_len + s->name_len;
}
