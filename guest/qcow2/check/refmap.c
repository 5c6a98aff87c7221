/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* refmap.c: reference counts of host clusters, one byte each, with an exact table for the unusual ones. */
#include "check.h"

#define SINGLE_METADATA 0xc0u /* first of the codes "claimed once, as metadata" */
#define EXACT           0xffu
#define FIRST_SLOTS     64u

struct vr_ref_entry {
    uint64_t key; /* cluster + 1; 0 = free */
    uint64_t count;
    uint32_t claims;
    uint32_t reserved;
};

enum vr_status vr_refmap_open(struct vr_refmap *m, struct vr_arena *arena, uint64_t clusters, uint64_t max)
{
    *m = (struct vr_refmap){.arena = arena, .clusters = clusters, .max = max, .slots = FIRST_SLOTS};
    m->bytes = vr_arena_get(arena, clusters);
    m->table = vr_arena_get(arena, FIRST_SLOTS * sizeof(*m->table));
    return m->bytes && m->table ? VR_OK : VR_ENOMEM;
}

static struct vr_ref_entry *find(struct vr_ref_entry *table, uint64_t slots, uint64_t cluster)
{
    uint64_t i = (cluster * UINT64_C(0x9e3779b97f4a7c15)) >> 20;

    /* Ends: the table is never more than three quarters full. */
    for (;; i++) {
        struct vr_ref_entry *e = &table[i & (slots - 1)];
        if (e->key == cluster + 1 || e->key == 0)
            return e;
    }
}

static bool grow(struct vr_refmap *m)
{
    uint64_t slots = m->slots * 2;
    struct vr_ref_entry *table = vr_arena_get(m->arena, slots * sizeof(*table));

    if (!table)
        return false;
    for (uint64_t i = 0; i < m->slots; i++)
        if (m->table[i].key)
            *find(table, slots, m->table[i].key - 1) = m->table[i];
    m->table = table;
    m->slots = slots;
    return true;
}

static struct vr_ref from_byte(uint8_t v)
{
    if (v == 0)
        return (struct vr_ref){0, 0};
    if (v < SINGLE_METADATA)
        return (struct vr_ref){v, VR_CLAIM_DATA};
    return (struct vr_ref){1, UINT32_C(1) << (v - SINGLE_METADATA)};
}

struct vr_ref vr_refmap_get(const struct vr_refmap *m, uint64_t cluster)
{
    uint8_t v = m->bytes[cluster];

    if (v != EXACT)
        return from_byte(v);
    const struct vr_ref_entry *e = find(m->table, m->slots, cluster);
    return (struct vr_ref){e->count, e->claims};
}

static void put(struct vr_refmap *m, uint64_t cluster, struct vr_ref r)
{
    bool single = r.claims != 0 && (r.claims & (r.claims - 1)) == 0;

    if (m->bytes[cluster] != EXACT) {
        if (r.claims == 0 && r.count == 0) {
            m->bytes[cluster] = 0;
            return;
        }
        if ((r.claims & ~(uint32_t)VR_CLAIM_DATA) == 0 && r.count < SINGLE_METADATA) {
            m->bytes[cluster] = (uint8_t)r.count;
            return;
        }
        if (single && r.count == 1) {
            m->bytes[cluster] = (uint8_t)(SINGLE_METADATA + (unsigned)__builtin_ctz(r.claims));
            return;
        }
        if (m->used + 1 > m->slots / 4 * 3 && !grow(m)) {
            m->full = true;
            return;
        }
        m->used++;
        m->bytes[cluster] = EXACT;
    }
    *find(m->table, m->slots, cluster) = (struct vr_ref_entry){cluster + 1, r.count, r.claims, 0};
}

bool vr_refmap_claim(struct vr_refmap *m, uint64_t cluster, enum vr_claim claim)
{
    if (m->bytes[cluster] == 0 && claim == VR_CLAIM_DATA) {
        m->bytes[cluster] = 1;
        return true;
    }
    struct vr_ref r = vr_refmap_get(m, cluster);
    bool fits = r.count < m->max;
    r.count += fits;
    /* Who claims it is kept even where a claim cannot be counted any more. */
    r.claims |= (uint32_t)claim;
    put(m, cluster, r);
    return fits;
}

void vr_refmap_set(struct vr_refmap *m, uint64_t cluster, uint64_t count)
{
    struct vr_ref r = vr_refmap_get(m, cluster);

    r.count = count;
    put(m, cluster, r);
}

void vr_refmap_mark(struct vr_refmap *m, uint64_t cluster, enum vr_claim claim)
{
    struct vr_ref r = vr_refmap_get(m, cluster);

    r.claims |= (uint32_t)claim;
    put(m, cluster, r);
}
