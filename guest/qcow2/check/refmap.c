/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* refmap.c: reference counts of host clusters, one byte each, with an exact table for the unusual ones. */
#include "check.h"

#define COMPRESSED_ONE  VR_REF_DATA_END /* first of the codes "compressed data alone": one run more for each */
#define SINGLE_METADATA 0xc0u /* first of the codes "claimed once, as metadata" */
#define EXACT           0xffu
#define FIRST_SLOTS     64u

struct vr_ref_entry {
    uint64_t key; /* cluster + 1; 0 = free */
    struct vr_ref ref; /* its count is not limited by the width */
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
    if (v < COMPRESSED_ONE)
        return (struct vr_ref){.count = v, .claims = VR_CLAIM_DATA};
    if (v < SINGLE_METADATA)
        return (struct vr_ref){.count = v - COMPRESSED_ONE + 1, .claims = VR_CLAIM_COMPRESSED};
    uint32_t claim = UINT32_C(1) << (v - SINGLE_METADATA);
    return (struct vr_ref){
        .count = 1, .claims = claim, .tables = (claim & VR_CLAIM_TABLE) != 0, .active = claim == VR_CLAIM_L2};
}

static struct vr_ref get_unlimited(const struct vr_refmap *m, uint64_t cluster)
{
    uint8_t v = m->bytes[cluster];

    return v != EXACT ? from_byte(v) : find(m->table, m->slots, cluster)->ref;
}

struct vr_ref vr_refmap_get(const struct vr_refmap *m, uint64_t cluster)
{
    struct vr_ref r = get_unlimited(m, cluster);

    r.count = vr_min(r.count, m->max);
    return r;
}

/* The byte that says all there is to say, or EXACT. */
static uint8_t to_byte(struct vr_ref r)
{
    bool single = r.claims != 0 && (r.claims & (r.claims - 1)) == 0;

    if (r.claims == 0 && r.count == 0)
        return 0;
    if ((r.claims & ~(uint32_t)VR_CLAIM_DATA) == 0 && r.count < COMPRESSED_ONE && r.count != 0)
        return (uint8_t)r.count;
    if (r.claims == VR_CLAIM_COMPRESSED && r.count != 0 && r.count <= SINGLE_METADATA - COMPRESSED_ONE)
        return (uint8_t)(COMPRESSED_ONE + r.count - 1);
    if (single && r.count == 1 && r.tables <= 1)
        return (uint8_t)(SINGLE_METADATA + (unsigned)__builtin_ctz(r.claims));
    return EXACT;
}

static void put(struct vr_refmap *m, uint64_t cluster, struct vr_ref r)
{
    if (m->bytes[cluster] != EXACT) {
        uint8_t v = to_byte(r);
        if (v != EXACT) {
            m->bytes[cluster] = v;
            return;
        }
        if (m->used + 1 > m->slots / 4 * 3 && !grow(m)) {
            m->full = true;
            return;
        }
        m->used++;
        m->bytes[cluster] = EXACT;
    }
    *find(m->table, m->slots, cluster) = (struct vr_ref_entry){cluster + 1, r};
}

uint64_t vr_refmap_claim(struct vr_refmap *m, uint64_t cluster, enum vr_claim claim, uint64_t times)
{
    if (m->bytes[cluster] == 0 && claim == VR_CLAIM_DATA && times == 1) {
        m->bytes[cluster] = 1;
        return 0;
    }
    struct vr_ref r = get_unlimited(m, cluster);
    uint64_t room = m->max > r.count ? m->max - r.count : 0;
    r.count += times;
    r.claims |= (uint32_t)claim;
    if (claim & VR_CLAIM_TABLE)
        r.tables++;
    if (claim == VR_CLAIM_L2)
        r.active++;
    put(m, cluster, r);
    return times > room ? times - room : 0;
}

void vr_refmap_drop(struct vr_refmap *m, uint64_t cluster, enum vr_claim claim)
{
    struct vr_ref r = get_unlimited(m, cluster);

    if (r.count != 0)
        r.count--;
    r.claims &= ~(uint32_t)claim;
    put(m, cluster, r);
}

void vr_refmap_set(struct vr_refmap *m, uint64_t cluster, uint64_t count)
{
    struct vr_ref r = get_unlimited(m, cluster);

    r.count = count;
    put(m, cluster, r);
}

void vr_refmap_mark(struct vr_refmap *m, uint64_t cluster, enum vr_claim claim)
{
    struct vr_ref r = get_unlimited(m, cluster);

    r.claims |= (uint32_t)claim;
    put(m, cluster, r);
}
