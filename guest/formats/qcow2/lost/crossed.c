/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * crossed.c: guest data that maps name at more than one guest address.
 *
 * Snapshots share clusters, and never move them: a cluster that two maps name stands at the same guest address in both. Within
 * the active map pass 3 sees it (data-shared); between maps a byte for each cluster does, of the address at which it was met
 * first: one of 255 crossings is not seen. Of compressed runs only those are compared whose cluster has too few references.
 */
#include "lost.h"

#define RUNS_MAX 2048u

struct vr_run_at {
    uint64_t word, guest; /* the entry, and the address at which it stands, in clusters */
};

static uint8_t digest(uint64_t place)
{
    return (uint8_t)(1 + (place * UINT64_C(0x9e3779b97f4a7c15) >> 32) % 255);
}

enum vr_status vr_crossed_open(struct vr_lost *l)
{
    if (l->low_runs && !(l->runs = vr_arena_get(&l->ctx->arena, RUNS_MAX * sizeof(*l->runs))))
        return VR_ENOMEM;
    if (l->ctx->img->nroots < 2)
        return VR_OK;
    l->met = vr_arena_get(&l->ctx->arena, l->words * 64);
    return l->met ? VR_OK : VR_ENOMEM;
}

/* place: a guest address, or an L1 index. Whether this cluster was met at another one. */
static bool met_elsewhere(struct vr_lost *l, uint64_t cluster, uint64_t place)
{
    uint8_t now = digest(place), before = cluster < l->words * 64 ? l->met[cluster] : now;

    if (before == 0)
        l->met[cluster] = now;
    return before != 0 && before != now;
}

static void report(struct vr_lost *l, const struct vr_block *b, uint64_t guest, uint64_t len, uint64_t cluster)
{
    struct vr_finding f = vr_finding_none();

    f.root = (uint32_t)(b->tag >> 32);
    f.guest = guest;
    f.guest_len = len;
    f.index = cluster;
    f.host = cluster << l->ctx->img->h.cluster_bits;
    vr_report(l->ctx, VR_P_CROSSED, &f);
}

static bool run_met_elsewhere(struct vr_lost *l, uint64_t word, uint64_t guest)
{
    for (uint32_t i = 0; i < l->nruns; i++)
        if (l->runs[i].word == word)
            return l->runs[i].guest != guest;
    if (l->nruns < RUNS_MAX)
        l->runs[l->nruns++] = (struct vr_run_at){word, guest};
    return false;
}

static void note_run(struct vr_lost *l, const struct vr_block *b, uint64_t word, uint64_t guest)
{
    const struct vr_image *img = l->ctx->img;
    uint64_t cluster = vr_compressed_run(word & ~VR_COPIED, img->h.cluster_bits).offset >> img->h.cluster_bits;

    if (l->runs && vr_lost_bit(l, l->low, cluster) && run_met_elsewhere(l, word, guest))
        report(l, b, guest << img->h.cluster_bits, img->cluster_size, cluster);
}

/* What the active map has for its own, by its flag and by the refcount, and another map names too. */
static void note_shared(struct vr_lost *l, uint64_t place, uint64_t word, uint64_t cluster)
{
    struct vr_finding f = vr_finding_none();

    l->active_high += l->shared && vr_lost_bit(l, l->high, cluster);
    if (!(word & VR_COPIED) || !vr_lost_bit(l, l->low, cluster) || l->ctx->img->nroots < 2 ||
        (l->ctx->img->h.incompatible & VR_INCOMPAT_DIRTY))
        return;
    f.guest = place << l->ctx->img->h.cluster_bits;
    f.index = cluster;
    f.host = cluster << l->ctx->img->h.cluster_bits;
    vr_report(l->ctx, VR_P_COPIED_SHARED, &f);
}

void vr_note_crossed(struct vr_lost *l, const struct vr_block *b)
{
    const struct vr_image *img = l->ctx->img;
    uint64_t table = (b->tag & UINT32_MAX) * img->l2_entries;

    for (uint64_t i = 0; i < img->l2_entries; i++) {
        uint64_t word = vr_load64(b->data + i * img->l2_entry_size), cluster = (word & VR_OFFSET_MASK) >> img->h.cluster_bits;
        if ((word & VR_COMPRESSED) && !(img->h.incompatible & VR_INCOMPAT_DATA_FILE))
            note_run(l, b, word, table + i);
        if (cluster == 0 || cluster >= img->clusters || (word & VR_COMPRESSED) || (img->h.incompatible & VR_INCOMPAT_DATA_FILE))
            continue;
        if (b->tag >> 32 == VR_ROOT_ACTIVE)
            note_shared(l, table + i, word, cluster);
        if (l->met && vr_refmap_plain(&img->refs, cluster) != 1 && met_elsewhere(l, cluster, table + i))
            report(l, b, (table + i) << img->h.cluster_bits, img->cluster_size, cluster);
    }
}

enum vr_status vr_note_crossed_tables(struct vr_lost *l)
{
    const struct vr_image *img = l->ctx->img;
    struct vr_l1_walk w;
    uint64_t index, entry;

    if (!l->met)
        return VR_OK;
    VR_TRY(vr_l1_open(&w, l->ctx));
    for (uint32_t root = 0; root < img->nroots && w.status == VR_OK; root++) {
        if (vr_root_repeats(img, root))
            continue;
        vr_l1_start(&w, root);
        while (vr_l1_next(&w, &index, &entry)) {
            struct vr_block b = {.tag = (uint64_t)root << 32};
            uint64_t len = img->l2_entries << img->h.cluster_bits, cluster = (entry & VR_OFFSET_MASK) >> img->h.cluster_bits;
            if (!vr_l1_followable(l->ctx, entry))
                continue;
            if (root == VR_ROOT_ACTIVE)
                note_shared(l, index * img->l2_entries, entry, cluster);
            if (met_elsewhere(l, cluster, index))
                report(l, &b, index * len, len, cluster);
        }
    }
    return w.status;
}
