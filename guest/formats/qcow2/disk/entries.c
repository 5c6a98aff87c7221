/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* entries.c: L2 entry types, compressed descriptors, and refcounts of every width. */
#include "disk.h"

enum vr_l2_type vr_l2_type(uint64_t entry, uint64_t incompatible)
{
    bool placed = entry & VR_OFFSET_MASK;

    if (entry & VR_COMPRESSED)
        return VR_L2_COMPRESSED;
    if ((entry & VR_ZERO) && !(incompatible & VR_INCOMPAT_EXTL2))
        return placed ? VR_L2_ZERO_ALLOC : VR_L2_ZERO_PLAIN;
    if (!placed && (entry & VR_COPIED) && (incompatible & VR_INCOMPAT_DATA_FILE))
        return VR_L2_NORMAL; /* guest offset 0 of a data file */
    return placed ? VR_L2_NORMAL : VR_L2_UNALLOCATED;
}

/* "Compressed Clusters Descriptor": x = 62 - (cluster_bits - 8) bits of offset, then sectors besides the first. */
struct vr_run vr_compressed_run(uint64_t entry, unsigned cluster_bits)
{
    unsigned x = 62 - (cluster_bits - 8);
    uint64_t offset = entry & ((UINT64_C(1) << x) - 1);
    uint64_t sectors = ((entry >> x) & ((UINT64_C(1) << (cluster_bits - 8)) - 1)) + 1;

    return (struct vr_run){offset, sectors * 512 - (offset & 511)};
}

/* Widths below a byte: refcount i stands in byte i / n, counted from the least significant bits. */
uint64_t vr_refcount_get(const uint8_t *block, unsigned order, uint64_t i)
{
    switch (order) {
    case 6:
        return vr_load64(block + i * 8);
    case 5:
        return vr_load32(block + i * 4);
    case 4:
        return vr_load16(block + i * 2);
    case 3:
        return block[i];
    default: {
        unsigned width = 1u << order;
        unsigned shift = (unsigned)((i << order) & 7);
        return (uint64_t)(block[(i << order) >> 3] >> shift) & ((1u << width) - 1);
    }
    }
}

void vr_refcount_set(uint8_t *block, unsigned order, uint64_t i, uint64_t value)
{
    if (order >= 3) {
        unsigned bytes = 1u << (order - 3);
        for (unsigned b = 0; b < bytes; b++)
            block[i * bytes + b] = (uint8_t)(value >> (8 * (bytes - 1 - b)));
        return;
    }
    unsigned width = 1u << order;
    unsigned shift = (unsigned)((i << order) & 7);
    uint8_t mask = (uint8_t)(((1u << width) - 1) << shift);
    uint8_t *byte = &block[(i << order) >> 3];
    *byte = (uint8_t)((*byte & ~mask) | ((uint8_t)(value << shift) & mask));
}

uint64_t vr_refcount_max(unsigned order)
{
    return order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << order)) - 1;
}
