/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* header.c: decodes the qcow2 header and judges, in qemu's order, whether it can be opened. */
#include "disk.h"

#define NO_FAULT ((struct vr_verdict){VR_P_COUNT, 0, 0})
#define INT64_LIMIT UINT64_C(0x7fffffffffffffff)

void vr_header_decode(const uint8_t *buf, struct vr_header *h)
{
    *h = (struct vr_header){
        .version = vr_load32(buf + 4),
        .backing_offset = vr_load64(buf + 8),
        .backing_size = vr_load32(buf + 16),
        .cluster_bits = vr_load32(buf + 20),
        .virtual_size = vr_load64(buf + 24),
        .crypt_method = vr_load32(buf + 32),
        .l1_size = vr_load32(buf + 36),
        .l1_offset = vr_load64(buf + 40),
        .reftable_offset = vr_load64(buf + 48),
        .reftable_clusters = vr_load32(buf + 56),
        .snapshots = vr_load32(buf + 60),
        .snapshots_offset = vr_load64(buf + 64),
        .refcount_order = 4,
        .header_length = VR_HEADER_V2,
    };
    if (h->version < 3)
        return;
    h->incompatible = vr_load64(buf + 72);
    h->compatible = vr_load64(buf + 80);
    h->autoclear = vr_load64(buf + 88);
    h->refcount_order = vr_load32(buf + 96);
    h->header_length = vr_load32(buf + 100);
    if (h->header_length > VR_HEADER_V3)
        h->compression_type = buf[104];
}

/* Version, sizes, features. */
static struct vr_verdict judge_fields(const struct vr_header *h)
{
    uint64_t cs = UINT64_C(1) << (h->cluster_bits & 31);
    bool zstd_bit = h->incompatible & VR_INCOMPAT_COMPRESSION;

    if (h->version != 2 && h->version != 3)
        return (struct vr_verdict){VR_P_HDR_VERSION, h->version, 3};
    if (h->cluster_bits < 9 || h->cluster_bits > 21)
        return (struct vr_verdict){VR_P_HDR_CLUSTER_BITS, h->cluster_bits, 0};
    if (h->version == 3 && h->header_length < VR_HEADER_V3)
        return (struct vr_verdict){VR_P_HDR_SHORT, h->header_length, VR_HEADER_V3};
    if (h->header_length > cs)
        return (struct vr_verdict){VR_P_HDR_LONG, h->header_length, cs};
    if (h->backing_offset > cs)
        return (struct vr_verdict){VR_P_HDR_BACKING_OFFSET, h->backing_offset, cs};
    if (h->compression_type > 1)
        return (struct vr_verdict){VR_P_HDR_COMPRESSION_TYPE, h->compression_type, 1};
    if (h->compression_type == 0 && zstd_bit)
        return (struct vr_verdict){VR_P_HDR_COMPRESSION_BIT_SET, 1, 0};
    if (h->compression_type != 0 && !zstd_bit)
        return (struct vr_verdict){VR_P_HDR_COMPRESSION_BIT_CLEAR, 0, 1};
    if (h->incompatible & ~VR_INCOMPAT_KNOWN)
        return (struct vr_verdict){VR_P_HDR_FEATURES, h->incompatible & ~VR_INCOMPAT_KNOWN, 0};
    if ((h->incompatible & VR_INCOMPAT_EXTL2) && h->cluster_bits < 14)
        return (struct vr_verdict){VR_P_HDR_SUBCLUSTER, cs / 32, 512};
    if (h->refcount_order > 6)
        return (struct vr_verdict){VR_P_HDR_REFCOUNT_ORDER, h->refcount_order, 6};
    return NO_FAULT;
}

/* Where the tables are said to be. Refcount table, then L1 table, as qemu looks. */
static struct vr_verdict judge_tables(const struct vr_header *h)
{
    uint64_t cs = UINT64_C(1) << h->cluster_bits;
    uint64_t l2_entries_bits = h->cluster_bits - ((h->incompatible & VR_INCOMPAT_EXTL2) ? 4 : 3);
    uint64_t need = vr_ceil_shift(h->virtual_size, h->cluster_bits + (unsigned)l2_entries_bits);

    if (h->reftable_clusters > VR_REFTABLE_MAX / cs)
        return (struct vr_verdict){VR_P_HDR_REFTABLE_LARGE, h->reftable_clusters, VR_REFTABLE_MAX / cs};
    if (h->reftable_offset % cs != 0 || h->reftable_offset > INT64_LIMIT - h->reftable_clusters * cs)
        return (struct vr_verdict){VR_P_HDR_REFTABLE_OFFSET, h->reftable_offset, 0};
    if (h->l1_size > VR_L1_ENTRIES_MAX)
        return (struct vr_verdict){VR_P_HDR_L1_LARGE, h->l1_size, VR_L1_ENTRIES_MAX};
    if (h->l1_offset % cs != 0 || h->l1_offset > INT64_LIMIT - h->l1_size * 8)
        return (struct vr_verdict){VR_P_HDR_L1_OFFSET, h->l1_offset, 0};
    if (need > INT32_MAX)
        return (struct vr_verdict){VR_P_HDR_SIZE, h->virtual_size, 0};
    if (h->l1_size < need)
        return (struct vr_verdict){VR_P_HDR_L1_SMALL, h->l1_size, need};
    if (h->crypt_method > 2)
        return (struct vr_verdict){VR_P_HDR_CRYPT, h->crypt_method, 0};
    return NO_FAULT;
}

struct vr_verdict vr_header_judge(const uint8_t *buf, const struct vr_header *h, uint64_t file_size)
{
    struct vr_verdict v;

    if (file_size < 8)
        return (struct vr_verdict){VR_P_HDR_TRUNCATED, file_size, VR_HEADER_V2};
    if (vr_load32(buf) != VR_QCOW2_MAGIC)
        return (struct vr_verdict){VR_P_HDR_MAGIC, vr_load32(buf), VR_QCOW2_MAGIC};
    v = judge_fields(h);
    return v.row != VR_P_COUNT ? v : judge_tables(h);
}

uint64_t vr_extensions_end(const struct vr_header *h)
{
    return h->backing_offset ? h->backing_offset : UINT64_C(1) << h->cluster_bits;
}

struct vr_extension vr_extension_decode(const uint8_t *buf)
{
    return (struct vr_extension){.type = vr_load32(buf), .len = vr_load32(buf + 4)};
}

/* ---- LUKS ------------------------------------------------------------------------------------------------------- */

bool vr_luks_sound(const uint8_t *buf, uint64_t len)
{
    static const uint8_t magic[8] = {'L', 'U', 'K', 'S', 0xba, 0xbe, 0, 1};
    uint64_t key_bytes = vr_load32(buf + 108);

    if (len < VR_LUKS_HEADER || __builtin_memcmp(buf, magic, sizeof(magic)) != 0 || (uint64_t)vr_load32(buf + 104) * 512 > len)
        return false;
    for (const uint8_t *slot = buf + 208; slot < buf + VR_LUKS_HEADER; slot += 48) {
        uint64_t material;
        if (vr_mul_overflows(key_bytes, (uint64_t)vr_load32(slot + 44), &material) ||
            vr_add_overflows(material, (uint64_t)vr_load32(slot + 40) * 512, &material) || material > len)
            return false;
    }
    return true;
}
