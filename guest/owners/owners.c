/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * owners.c: reference counts of host clusters: a bit each, or a byte, with an exact table for the unusual ones.
 *
 * The map begins thin: most clusters of most images are claimed once, as data, or not at all. Where many are not
 * (snapshots, compressed runs), it becomes wide, if there is memory for that.
 */
#include "owners.h"

#define COMPRESSED_ONE  VR_REF_DATA_END /* first of the codes "compressed data alone": one run more for each */
#define SINGLE_METADATA 0xc0u /* first of the codes "claimed once, as metadata" */
#define EXACT           0xffu
#define FIRST_SLOTS     64u

struct vr_ref_entry {
    uint64_t key; /* cluster + 1; 0 = free */
    struct vr_ref ref; /* its count is not limited by the width */
};

#define GROUP_SHIFT 4u /* clusters that one bit of m->exact speaks of */
/* Clusters for each entry of the exact table below which a thin map is the smaller one (32 bytes, 3/4 full at most). */
#define THIN_PAYS   64u
#define THIN_ENTRIES 4096u /* no map becomes wide for fewer */

enum vr_status vr_refmap_open(struct vr_refmap *m, struct vr_arena *arena, uint64_t clusters, uint64_t max, bool wide)
{
    uint64_t words = (clusters + 63) / 64 + 1; /* and one more, for bits that are looked at eight at a time */

    *m = (struct vr_refmap){.arena = arena, .clusters = clusters, .max = max, .slots = FIRST_SLOTS};
    m->table = vr_arena_get(arena, FIRST_SLOTS * sizeof(*m->table));
    if (wide)
        m->bytes = vr_arena_get(arena, clusters);
    if (!m->bytes) {
        m->once = vr_arena_get(arena, words * 8);
        m->exact = vr_arena_get(arena, ((clusters >> (GROUP_SHIFT + 6)) + 1) * 8);
    }
    return m->table && (m->bytes || (m->once && m->exact)) ? VR_OK : VR_ENOMEM;
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
        return (struct vr_ref){.count = v, .claims = VR_OWNER_DATA};
    if (v < SINGLE_METADATA)
        return (struct vr_ref){.count = v - COMPRESSED_ONE + 1, .claims = VR_OWNER_RUN};
    uint32_t claim = UINT32_C(1) << (v - SINGLE_METADATA);
    return (struct vr_ref){
        .count = 1, .claims = claim, .tables = (claim & (VR_OWNER_TABLE | VR_OWNER_TABLE_OLD)) != 0, .active = claim == VR_OWNER_TABLE,
        .doubtful = claim == VR_OWNER_DOUBTFUL};
}

bool vr_refmap_thin_exact(const struct vr_refmap *m, uint64_t cluster)
{
    return m->exact[cluster >> (GROUP_SHIFT + 6)] >> (cluster >> GROUP_SHIFT & 63) & 1;
}

static struct vr_ref get_thin(const struct vr_refmap *m, uint64_t cluster)
{
    if (m->once[cluster >> 6] >> (cluster & 63) & 1)
        return from_byte(1);
    if (!vr_refmap_thin_exact(m, cluster))
        return from_byte(0);
    const struct vr_ref_entry *e = find(m->table, m->slots, cluster);
    return e->key ? e->ref : from_byte(0);
}

static struct vr_ref get_unlimited(const struct vr_refmap *m, uint64_t cluster)
{
    if (!m->bytes)
        return get_thin(m, cluster);
    uint8_t v = m->bytes[cluster];
    return v != EXACT ? from_byte(v) : find(m->table, m->slots, cluster)->ref;
}

bool vr_refmap_is_free(const struct vr_refmap *m, uint64_t cluster)
{
    if (m->bytes)
        return m->bytes[cluster] == 0;
    struct vr_ref r = get_thin(m, cluster);
    return r.count == 0 && r.claims == 0;
}

bool vr_refmap_take_compressed(struct vr_refmap *m, uint64_t first, uint64_t last)
{
    uint8_t most = (uint8_t)(COMPRESSED_ONE - 1 + vr_min(m->max, SINGLE_METADATA - COMPRESSED_ONE));

    if (!m->bytes)
        return false;
    for (uint64_t c = first; c <= last; c++)
        if (m->bytes[c] != 0 && (m->bytes[c] < COMPRESSED_ONE || m->bytes[c] >= most))
            return false;
    for (uint64_t c = first; c <= last; c++)
        m->bytes[c] = m->bytes[c] ? (uint8_t)(m->bytes[c] + 1) : COMPRESSED_ONE;
    return true;
}

uint64_t vr_refmap_plain(const struct vr_refmap *m, uint64_t cluster)
{
    if (m->bytes)
        return m->bytes[cluster] < COMPRESSED_ONE ? m->bytes[cluster] : 0;
    return m->once[cluster >> 6] >> (cluster & 63) & 1;
}

struct vr_ref vr_refmap_get(const struct vr_refmap *m, uint64_t cluster)
{
    struct vr_ref r = get_unlimited(m, cluster);

    r.count = vr_min(r.count, m->max);
    return r;
}

uint64_t vr_refmap_uncapped(const struct vr_refmap *m, uint64_t cluster)
{
    return get_unlimited(m, cluster).count;
}

/* The byte that says all there is to say, or EXACT. */
static uint8_t to_byte(struct vr_ref r)
{
    bool single = r.claims != 0 && (r.claims & (r.claims - 1)) == 0;

    if (r.claims == 0 && r.count == 0)
        return 0;
    if ((r.claims & ~VR_OWNER_DATA) == 0 && r.count < COMPRESSED_ONE && r.count != 0)
        return (uint8_t)r.count;
    if (r.claims == VR_OWNER_RUN && r.count != 0 && r.count <= SINGLE_METADATA - COMPRESSED_ONE)
        return (uint8_t)(COMPRESSED_ONE + r.count - 1);
    if (single && r.count == 1 && r.tables <= 1)
        return (uint8_t)(SINGLE_METADATA + (unsigned)__builtin_ctz(r.claims));
    return EXACT;
}

/* Room for one entry more. */
static bool table_has_room(struct vr_refmap *m)
{
    if (m->used + 1 <= m->slots / 4 * 3 || grow(m))
        return true;
    m->full = true;
    return false;
}

static void put_exact(struct vr_refmap *m, uint64_t cluster, struct vr_ref r)
{
    if (!table_has_room(m))
        return;
    m->used++;
    *find(m->table, m->slots, cluster) = (struct vr_ref_entry){cluster + 1, r};
}

/* Where a wide map finds no memory, the thin one goes on as long as the table can grow. */
static void become_wide(struct vr_refmap *m)
{
    uint8_t *bytes = m->stays_thin ? NULL : vr_arena_get(m->arena, m->clusters);

    m->stays_thin = !bytes;
    if (!bytes)
        return;
    for (uint64_t c = 0; c < m->clusters; c++)
        bytes[c] = m->once[c >> 6] >> (c & 63) & 1;
    for (uint64_t i = 0; i < m->slots; i++)
        if (m->table[i].key)
            bytes[m->table[i].key - 1] = to_byte(m->table[i].ref);
    m->bytes = bytes;
}

static void put_thin(struct vr_refmap *m, uint64_t cluster, struct vr_ref r)
{
    uint64_t bit = UINT64_C(1) << (cluster & 63);

    if (vr_refmap_thin_exact(m, cluster)) {
        struct vr_ref_entry *e = find(m->table, m->slots, cluster);
        if (e->key) {
            e->ref = r;
            return;
        }
    }
    uint8_t v = to_byte(r);
    m->once[cluster >> 6] &= ~bit;
    if (v <= 1) {
        m->once[cluster >> 6] |= v ? bit : 0;
        return;
    }
    put_exact(m, cluster, r);
    m->exact[cluster >> (GROUP_SHIFT + 6)] |= UINT64_C(1) << (cluster >> GROUP_SHIFT & 63);
    if (m->used > THIN_ENTRIES && m->used > m->clusters / THIN_PAYS)
        become_wide(m);
}

static void put(struct vr_refmap *m, uint64_t cluster, struct vr_ref r)
{
    if (!m->bytes) {
        put_thin(m, cluster, r);
        return;
    }
    if (m->bytes[cluster] == EXACT) {
        find(m->table, m->slots, cluster)->ref = r;
        return;
    }
    uint8_t v = to_byte(r);
    m->bytes[cluster] = v;
    if (v == EXACT)
        put_exact(m, cluster, r);
}

uint64_t vr_refmap_claim(struct vr_refmap *m, uint64_t cluster, uint32_t claim, uint64_t times)
{
    struct vr_ref r = get_unlimited(m, cluster);
    uint64_t room = m->max > r.count ? m->max - r.count : 0;
    r.count += times;
    r.claims |= claim;
    if (claim & (VR_OWNER_TABLE | VR_OWNER_TABLE_OLD))
        r.tables++;
    if (claim == VR_OWNER_TABLE)
        r.active++;
    if (claim == VR_OWNER_DOUBTFUL)
        r.doubtful = (uint32_t)vr_min(r.doubtful + times, UINT32_MAX);
    put(m, cluster, r);
    return times > room ? times - room : 0;
}

void vr_refmap_drop(struct vr_refmap *m, uint64_t cluster, uint32_t claim)
{
    struct vr_ref r = get_unlimited(m, cluster);

    if (r.count != 0)
        r.count--;
    r.claims &= ~claim;
    put(m, cluster, r);
}

void vr_refmap_set(struct vr_refmap *m, uint64_t cluster, uint64_t count)
{
    struct vr_ref r = get_unlimited(m, cluster);

    r.count = count;
    put(m, cluster, r);
}

void vr_refmap_mark(struct vr_refmap *m, uint64_t cluster, uint32_t claim)
{
    struct vr_ref r = get_unlimited(m, cluster);

    r.claims |= claim;
    put(m, cluster, r);
}
