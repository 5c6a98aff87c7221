/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* plain.c: the usual L2 entries, many at a time, that nothing is wrong with. The speed of a check is here. */
#include "map.h"

#define GROUP 8u /* entries, and bytes of the reference map */
#define EACH  UINT64_C(0x0101010101010101) /* times a byte: that byte eight times */

void vr_plain_open(struct vr_map_walk *w)
{
    const struct vr_image *img = w->ctx->img;

    w->plain_mask = VR_OFFSET_MASK & ~(img->cluster_size - 1);
    w->plain_clusters = vr_min(w->ctx->file_size >> img->h.cluster_bits, img->clusters);
    if (img->h.incompatible & VR_INCOMPAT_DATA_FILE)
        w->plain_clusters = 0;
}

void vr_plain_table(struct vr_map_walk *w)
{
    struct vr_image *img = w->ctx->img;

    /* Of one map twice: the sharing has to be noted. Of more than a byte of the reference map counts: one by one. */
    bool counts = w->tables < VR_REF_DATA_END && w->tables <= img->refs.max && w->active <= 1;
    /* A thin map has a bit for clusters that are claimed once, and no more. */
    counts &= w->tables == 1 || img->refs.bytes;
    w->plain_times = w->plain_clusters != 0 && counts ? (uint8_t)w->tables : 0;
    img->copied_matters |= w->tables > 1;
}

/* Whether the eight entries at p are the ones from expected on, in order. */
static bool in_order(const uint8_t *p, uint64_t expected, uint64_t cluster_size)
{
    uint64_t wrong = 0;

    for (unsigned k = 0; k < GROUP; k++, expected += cluster_size)
        wrong |= vr_load64(p + k * 8) ^ expected;
    return wrong == 0;
}

/* Eight clusters that nobody has claimed are claimed from now on. */
static bool take_eight(struct vr_refmap *m, uint64_t cluster, uint8_t times)
{
    uint64_t refs, each = EACH * times;

    if (m->bytes) {
        __builtin_memcpy(&refs, m->bytes + cluster, GROUP);
        if (refs == 0)
            __builtin_memcpy(m->bytes + cluster, &each, GROUP);
        return refs == 0;
    }
    uint16_t bits, some = (uint16_t)(0xffu << (cluster & 7));
    uint8_t *p = (uint8_t *)m->once + (cluster >> 3); /* little-endian words: the bytes are in the order of the bits */
    __builtin_memcpy(&bits, p, 2);
    if ((bits & some) || vr_refmap_thin_exact(m, cluster) || vr_refmap_thin_exact(m, cluster + GROUP - 1))
        return false;
    bits |= some;
    __builtin_memcpy(p, &bits, 2);
    return true;
}

static bool take_one(struct vr_refmap *m, uint64_t cluster, uint8_t times)
{
    uint64_t bit = UINT64_C(1) << (cluster & 63);

    if (m->bytes) {
        bool was_free = m->bytes[cluster] == 0;
        if (was_free)
            m->bytes[cluster] = times;
        return was_free;
    }
    if ((m->once[cluster >> 6] & bit) || (vr_refmap_thin_exact(m, cluster) && !vr_refmap_is_free(m, cluster)))
        return false;
    m->once[cluster >> 6] |= bit;
    return true;
}

/* Groups of eight standard entries of clusters in a row, nobody's so far. Returns the number of entries. */
static uint64_t take_groups(struct vr_map_walk *w, const uint8_t *data, uint64_t i, uint64_t entry)
{
    struct vr_image *img = w->ctx->img;
    uint64_t cluster = (entry & w->plain_mask) >> img->h.cluster_bits, begin = i;

    for (; i + GROUP <= img->l2_entries && cluster + GROUP <= w->plain_clusters; i += GROUP, cluster += GROUP) {
        if (!in_order(data + i * 8, entry, img->cluster_size) || !take_eight(&img->refs, cluster, w->plain_times))
            break;
        entry += GROUP * img->cluster_size;
    }
    return i - begin;
}

/* qemu's statistics: n clusters in a row, beginning at offset. */
static void count_run(struct vr_map_walk *w, uint64_t offset, uint64_t n)
{
    struct vr_summary *sum = w->ctx->sum;

    sum->allocated_clusters += w->active * n;
    if (w->table_next != 0 && w->table_next != offset)
        sum->fragmented_clusters += w->active;
    w->table_next = offset + (n << w->ctx->img->h.cluster_bits);
}

/* A run of compressed data in the file, over clusters that have nothing else. */
static bool take_compressed(struct vr_map_walk *w, uint64_t entry)
{
    unsigned cluster_bits = w->ctx->img->h.cluster_bits;
    struct vr_run run = vr_compressed_run(entry, cluster_bits);
    uint64_t first = run.offset >> cluster_bits, last = (run.offset + run.len - 1) >> cluster_bits;

    if (w->plain_times != 1 || last >= w->plain_clusters)
        return false;
    if (!vr_refmap_take_compressed(&w->ctx->img->refs, first, last))
        return false;
    w->ctx->sum->allocated_clusters += w->active;
    w->ctx->sum->compressed_clusters += w->active;
    w->ctx->sum->fragmented_clusters += w->active;
    return true;
}

/* Where the entry has a subcluster bitmap: that it has none, or one that says nothing twice. */
static bool plain_bitmap(const uint8_t *p, uint64_t entry)
{
    uint64_t bitmap = vr_load64(p + 8);

    return entry == 0 ? bitmap == 0 : (VR_SUB_ALLOCATED(bitmap) & VR_SUB_ZERO(bitmap)) == 0;
}

uint64_t vr_plain_entries(struct vr_map_walk *w, const uint8_t *data, uint64_t i)
{
    struct vr_image *img = w->ctx->img;
    const uint64_t begin = i, mask = w->plain_mask, zero = img->l2_entry_size == 8 ? VR_ZERO : 0;
    uint64_t flags = VR_COPIED;

    while (w->plain_times != 0 && i < img->l2_entries) {
        const uint8_t *p = data + i * img->l2_entry_size;
        uint64_t entry = vr_load64(p), offset = entry & mask, cluster = offset >> img->h.cluster_bits;
        if (img->l2_entry_size != 8 && !plain_bitmap(p, entry))
            break;
        if (entry == 0 || entry == zero) {
            i++;
            continue;
        }
        if ((entry & (VR_COMPRESSED | VR_COPIED)) == VR_COMPRESSED && img->l2_entry_size == 8 && take_compressed(w, entry)) {
            i++;
            continue;
        }
        if (((entry ^ offset) & ~VR_COPIED) != 0 || offset == 0 || cluster >= w->plain_clusters)
            break;
        uint64_t n = img->l2_entry_size == 8 ? take_groups(w, data, i, entry) : 0;
        if (n == 0 && !take_one(&img->refs, cluster, w->plain_times))
            break;
        n = n ? n : 1;
        flags &= entry;
        count_run(w, offset, n);
        i += n;
    }
    img->copied_matters |= !(flags & VR_COPIED);
    return i - begin;
}
