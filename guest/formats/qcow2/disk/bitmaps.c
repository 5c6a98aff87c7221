/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* bitmaps.c: the bitmaps extension, its directory, bitmap tables; and what QEMU demands of them. */
#include "disk.h"

#define PHYSICAL_MAX    UINT64_C(0x20000000) /* bytes of one bitmap */
#define NAME_MAX        1023u
#define FLAGS_KNOWN     (VR_BITMAP_IN_USE | 2u)
#define DIRTY_TRACKING  1u
#define ENTRY_RESERVED  UINT64_C(0xff000000000001fe)
#define ENTRY_ALL_ONES  UINT64_C(1)

struct vr_bitmaps vr_bitmaps_decode(const uint8_t *payload)
{
    return (struct vr_bitmaps){.number = vr_load32(payload),
                               .reserved = vr_load32(payload + 4),
                               .dir_size = vr_load64(payload + 8),
                               .dir_offset = vr_load64(payload + 16)};
}

struct vr_verdict vr_bitmaps_judge(const struct vr_bitmaps *b, uint64_t cluster_size)
{
    if (b->reserved != 0)
        return (struct vr_verdict){VR_P_BITMAPS_RESERVED, b->reserved, 0};
    if (b->number > VR_BITMAPS_MAX)
        return (struct vr_verdict){VR_P_BITMAPS_MANY, b->number, VR_BITMAPS_MAX};
    if (b->number == 0)
        return (struct vr_verdict){VR_P_BITMAPS_NONE, 0, 1};
    if (b->dir_offset % cluster_size != 0 || b->dir_offset > INT64_MAX)
        return (struct vr_verdict){VR_P_BITMAPS_DIR_OFFSET, b->dir_offset, 0};
    if (b->dir_size > VR_BITMAP_DIR_MAX)
        return (struct vr_verdict){VR_P_BITMAPS_DIR_SIZE, b->dir_size, VR_BITMAP_DIR_MAX};
    return (struct vr_verdict){VR_P_COUNT, 0, 0};
}

struct vr_bitmap vr_bitmap_decode(const uint8_t *entry)
{
    return (struct vr_bitmap){.table_offset = vr_load64(entry),
                              .table_size = vr_load32(entry + 8),
                              .flags = vr_load32(entry + 12),
                              .type = entry[16],
                              .granularity_bits = entry[17],
                              .name_len = (uint16_t)vr_load16(entry + 18),
                              .extra_size = vr_load32(entry + 20)};
}

uint64_t vr_bitmap_bytes(const struct vr_bitmap *b)
{
    return ((uint64_t)VR_BITMAP_FIXED + b->extra_size + b->name_len + 7) & ~UINT64_C(7);
}

bool vr_bitmap_sound(const struct vr_bitmap *b, uint64_t cluster_size, uint64_t virtual_size)
{
    uint64_t bytes = b->table_size * cluster_size;

    if (b->table_size == 0 || b->table_offset == 0 || b->table_offset % cluster_size != 0 || bytes > PHYSICAL_MAX)
        return false;
    if (b->granularity_bits < 9 || b->granularity_bits > 31 || b->type != DIRTY_TRACKING || (b->flags & ~FLAGS_KNOWN))
        return false;
    if (b->name_len > NAME_MAX)
        return false;
    /* bytes * 8 << 31 is at most 2^63. */
    return (b->flags & VR_BITMAP_IN_USE) || virtual_size <= bytes * 8 << b->granularity_bits;
}

bool vr_bitmap_size_sound(const struct vr_bitmap *b, uint64_t cluster_size, uint64_t virtual_size)
{
    uint64_t bits = virtual_size ? ((virtual_size - 1) >> b->granularity_bits) + 1 : 0;
    uint64_t bytes = (bits + 63) / 64 * 8;

    return b->table_size == bytes / cluster_size + (bytes % cluster_size != 0);
}

bool vr_bitmap_entry_sound(uint64_t entry, uint64_t cluster_size)
{
    uint64_t offset = entry & VR_OFFSET_MASK;

    return !(entry & ENTRY_RESERVED) && offset % cluster_size == 0 && (offset == 0 || !(entry & ENTRY_ALL_ONES));
}
