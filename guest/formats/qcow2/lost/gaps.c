/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * gaps.c: maps that have nothing where leaks may belong.
 *
 * What looks leaked altogether belongs to no map: a table is suspected that is zeros as a whole, or has a sector of zeros
 * between entries that name what lies around the leak. Of a cluster that has fewer references than its refcount says, some
 * other map still has an entry: a map is suspected that has nothing at the same place of the guest's disk.
 */
#include "lost.h"

#define PLACES_MAX (UINT64_C(1) << 23) /* bits; where that is too few, one stands for several sectors */
#define SCAN_MAX   (UINT64_C(64) << 20) /* words looked at for leaks between two clusters; more is not looked at, but believed */

struct gaps {
    struct vr_lost *l;
    uint64_t per_table;  /* sectors of an L2 table */
    /* Of the sectors of all L2 tables that a map of the largest size has: whether its entries name high clusters. */
    uint64_t *places;
    uint64_t nplaces;
    unsigned shift;
    uint64_t *tables;    /* the same, of an L1 entry */
    uint64_t *older;     /* whether a snapshot has a table there */
    uint64_t ntables;
};

/* ---- entries -------------------------------------------------------------------------------------------------- */

/* Cluster of the image that the entry at p names, or 0. */
static uint64_t named(const struct vr_lost *l, const uint8_t *p)
{
    uint64_t word = vr_load64(p), offset = word & VR_OFFSET_MASK;

    if (l->ctx->img->h.incompatible & VR_INCOMPAT_DATA_FILE)
        return 0;
    if (word & VR_COMPRESSED)
        offset = vr_compressed_run(word & ~VR_COPIED, l->ctx->img->h.cluster_bits).offset;
    return offset >> l->ctx->img->h.cluster_bits;
}

/* The first cluster that the entries of a sector name, or the last; 0 = none. */
static uint64_t named_in(const struct vr_lost *l, const uint8_t *sector, bool last)
{
    unsigned step = l->ctx->img->l2_entry_size;
    uint64_t found = 0;

    for (unsigned at = 0; at < VR_SECTOR && (last || found == 0); at += step) {
        uint64_t c = named(l, sector + at);
        found = c ? c : found;
    }
    return found;
}

/* ---- leaks that another map still names ------------------------------------------------------------------------ */

static void mark(uint64_t *map, uint64_t bits, uint64_t i)
{
    if (i < bits)
        map[i / 64] |= UINT64_C(1) << (i % 64);
}

static bool marked(const uint64_t *map, uint64_t bits, uint64_t first, uint64_t end)
{
    bool any = false;

    for (uint64_t i = first; i < end && i < bits && !any; i++)
        any = map[i / 64] >> (i % 64) & 1;
    return any;
}

/*
 * Whether entries of a sector name mostly high clusters, of those that several maps share. A write that was cut before it
 * took back the references of what it had copied leaves few.
 */
static bool mostly_high(const struct vr_lost *l, const uint8_t *sector)
{
    unsigned step = l->ctx->img->l2_entry_size;
    uint64_t high = 0, shared = 0;

    for (unsigned at = 0; at < VR_SECTOR; at += step) {
        uint64_t c = named(l, sector + at);
        if (c == 0 || c >= l->ctx->img->clusters)
            continue;
        bool is_high = vr_lost_bit(l, l->high, c);
        high += is_high;
        shared += !is_high && vr_refmap_get(&l->ctx->img->refs, c).count > 1;
    }
    return high != 0 && high >= shared;
}

static void note_high(struct gaps *g, const struct vr_block *b)
{
    uint64_t index = b->tag & UINT32_MAX;

    vr_note_crossed(g->l, b);
    if (vr_lost_bit(g->l, g->l->high, b->offset >> g->l->ctx->img->h.cluster_bits))
        mark(g->tables, g->ntables, index);
    for (uint64_t i = 0; i < g->per_table; i++) {
        if (!mostly_high(g->l, b->data + i * VR_SECTOR))
            continue;
        mark(g->tables, g->ntables, index);
        mark(g->places, g->nplaces, (index * g->per_table + i) >> g->shift);
    }
}

/* ---- leaks that no map names ------------------------------------------------------------------------------------ */

/* Whether a cluster between two looks leaked. */
static bool held_between(struct vr_lost *l, uint64_t a, uint64_t b)
{
    return a != 0 && b != 0 && (l->scanned > SCAN_MAX || vr_lost_next(l, l->held, vr_min(a, b)) < vr_max(a, b));
}

/* A sector of zeros where its neighbours are in use: were its entries lost, their clusters lie beside or between theirs. */
static bool has_gap(struct vr_lost *l, const uint8_t *table)
{
    unsigned step = l->ctx->img->l2_entry_size;
    uint64_t size = l->ctx->img->cluster_size, last = 0;
    bool gap = false, before = !vr_lost_zero(table, VR_SECTOR);

    for (uint64_t at = VR_SECTOR; at < size && !gap; at += VR_SECTOR) {
        bool now = !vr_lost_zero(table + at, VR_SECTOR);
        uint64_t end = named(l, table + at - step), begin = named(l, table + at);
        last = before ? named_in(l, table + at - VR_SECTOR, true) : last;
        if (before && !now)
            gap = end != 0 && vr_lost_bit(l, l->held, end + 1);
        if (now && !before)
            gap = (begin != 0 && vr_lost_bit(l, l->held, begin - 1)) || held_between(l, last, named_in(l, table + at, false));
        before = now;
    }
    return gap;
}

/* ---- together ------------------------------------------------------------------------------------------------------ */

/* Whether a sector of zeros stands where another map names high clusters. */
static bool lacks_what_others_have(const struct gaps *g, const struct vr_block *b)
{
    uint64_t first = (b->tag & UINT32_MAX) * g->per_table;
    bool lacks = false;

    for (uint64_t i = 0; i < g->per_table && !lacks; i++) {
        uint64_t place = (first + i) >> g->shift;
        lacks = marked(g->places, g->nplaces, place, place + 1) && vr_lost_zero(b->data + i * VR_SECTOR, VR_SECTOR);
    }
    return lacks;
}

static void report(struct gaps *g, enum vr_problem row, uint32_t root, uint64_t index, uint64_t host)
{
    const struct vr_image *img = g->l->ctx->img;
    struct vr_finding f = vr_finding_none();

    f.root = root;
    f.index = index;
    f.host = host;
    f.guest = index * img->l2_entries << img->h.cluster_bits;
    f.guest_len = img->l2_entries << img->h.cluster_bits;
    vr_report(g->l->ctx, row, &f);
}

static void judge_table(struct gaps *g, const struct vr_block *b)
{
    bool used = !vr_lost_zero(b->data, g->l->ctx->img->cluster_size);
    bool lost = lacks_what_others_have(g, b) || (g->l->nheld != 0 && (!used || has_gap(g->l, b->data)));

    if (lost)
        report(g, used ? VR_P_L2_GAP : VR_P_L2_ZEROED, (uint32_t)(b->tag >> 32), b->tag & UINT32_MAX, b->offset);
}

/* Each L2 table of the image, once. */
static enum vr_status each_table(struct gaps *g, enum vr_claim seen, void (*take)(struct gaps *g, const struct vr_block *b))
{
    struct vr_ctx *ctx = g->l->ctx;
    struct vr_l1_walk l1;
    struct vr_stream s = {.next = vr_l1_next_table, .arg = &l1};
    struct vr_block b;

    VR_TRY(vr_l1_open(&l1, ctx));
    l1.all_roots = true;
    l1.once = seen;
    VR_TRY(vr_stream_open(&s, ctx, (uint32_t)ctx->img->cluster_size, VR_STREAM_DEPTH));
    for (;;) {
        VR_TRY(vr_stream_get(&s, &b));
        if (!b.data)
            return ctx->img->refs.full ? VR_ENOMEM : l1.status;
        take(g, &b);
    }
}

/*
 * L1 entries from `from` to `end` of a root are 0. A map is a copy of the one before it, and loses no table; only a snapshot that
 * was applied takes the active map back to what it was.
 */
static void judge_empty(struct gaps *g, uint32_t root, uint64_t from, uint64_t end)
{
    for (uint64_t i = from; i < end && i < g->ntables; i++)
        if (marked(g->tables, g->ntables, i, i + 1) || (root == VR_ROOT_ACTIVE && marked(g->older, g->ntables, i, i + 1)))
            report(g, VR_P_L1_GAP, root, i, g->l->ctx->img->roots[root].l1_offset + i * 8);
}

/* What snapshots have; the active map is judged by it. */
static enum vr_status note_snapshots(struct gaps *g, struct vr_l1_walk *w)
{
    uint64_t index, entry;

    for (uint32_t root = 1; root < g->l->ctx->img->nroots && w->status == VR_OK; root++) {
        if (vr_root_repeats(g->l->ctx->img, root))
            continue;
        vr_l1_start(w, root);
        while (vr_l1_next(w, &index, &entry))
            mark(g->older, g->ntables, index);
    }
    return w->status;
}

static enum vr_status judge_l1_tables(struct gaps *g)
{
    struct vr_ctx *ctx = g->l->ctx;
    struct vr_l1_walk w;
    uint64_t index, entry, next;

    VR_TRY(vr_l1_open(&w, ctx));
    VR_TRY(note_snapshots(g, &w));
    for (uint32_t root = 0; root < ctx->img->nroots && w.status == VR_OK; root++) {
        if (ctx->img->roots[root].skipped || vr_root_repeats(ctx->img, root))
            continue;
        vr_l1_start(&w, root);
        for (next = 0; vr_l1_next(&w, &index, &entry); next = index + 1)
            judge_empty(g, root, next, index);
        judge_empty(g, root, next, ctx->img->roots[root].l1_size);
    }
    return w.status;
}

/* Leaked tables, and an L1 entry that alone has none. Of all entries but one, the sum says which one it is. */
static enum vr_status judge_only_slot(struct gaps *g)
{
    struct vr_ctx *ctx = g->l->ctx;
    const struct vr_image *img = ctx->img;
    uint64_t reach = img->l2_entries << img->h.cluster_bits, slots = img->h.virtual_size / reach + (img->h.virtual_size % reach != 0);
    uint64_t index, entry, used = 0, sum = 0;
    struct vr_l1_walk w;

    if (img->roots[VR_ROOT_ACTIVE].skipped || ctx->sum->found[ctx->walk][VR_P_LEAKED_TABLE] == 0)
        return VR_OK;
    VR_TRY(vr_l1_open(&w, ctx));
    while (vr_l1_next(&w, &index, &entry)) {
        used += index < slots;
        sum += index < slots ? index : 0;
    }
    if (w.status == VR_OK && slots - used == 1) {
        uint64_t slot = slots * (slots - 1) / 2 - sum;
        report(g, VR_P_L1_ONLY_SLOT, VR_ROOT_ACTIVE, slot, img->roots[VR_ROOT_ACTIVE].l1_offset + slot * 8);
    }
    return w.status;
}

static enum vr_status open_places(struct gaps *g)
{
    struct vr_ctx *ctx = g->l->ctx;

    for (uint32_t i = 0; i < ctx->img->nroots; i++)
        g->ntables = vr_max(g->ntables, ctx->img->roots[i].l1_size);
    g->nplaces = g->ntables * g->per_table;
    while (g->nplaces > PLACES_MAX) {
        g->nplaces = (g->nplaces + 1) / 2;
        g->shift++;
    }
    g->tables = vr_arena_get(&ctx->arena, (g->ntables / 64 + 1) * 8);
    g->older = vr_arena_get(&ctx->arena, (g->ntables / 64 + 1) * 8);
    g->places = vr_arena_get(&ctx->arena, (g->nplaces / 64 + 1) * 8);
    return g->tables && g->older && g->places ? VR_OK : VR_ENOMEM;
}

/*
 * A write that was cut leaves references to what it had copied, which the active map does not name any more. Here it does: some
 * snapshot does not, or the making or deletion of one was cut.
 */
static void report_high(struct vr_lost *l)
{
    struct vr_finding f = vr_finding_none();

    f.got = l->active_high;
    vr_report(l->ctx, VR_P_SHARED_HIGH, &f);
}

/* Data of a bitmap is stored right beside its table. */
static enum vr_status bitmaps_with_gaps(struct gaps *g)
{
    struct vr_lost *l = g->l;
    const struct vr_image *img = l->ctx->img;

    for (uint32_t i = 0; i < img->nempty_bitmaps; i++) {
        struct vr_finding f = vr_finding_none();
        f.index = img->empty_bitmaps[i].index;
        f.root = VR_ROOT_BITMAPS + img->empty_bitmaps[i].index;
        f.host = img->empty_bitmaps[i].first << img->h.cluster_bits;
        if (vr_lost_bit(l, l->held, img->empty_bitmaps[i].first - 1) || vr_lost_bit(l, l->held, img->empty_bitmaps[i].last + 1))
            vr_report(l->ctx, VR_P_BITMAP_GAP, &f);
    }
    return VR_OK;
}

enum vr_status vr_look_for_gaps(struct vr_lost *l)
{
    struct gaps g = {.l = l, .per_table = l->ctx->img->cluster_size / VR_SECTOR};

    VR_TRY(bitmaps_with_gaps(&g));
    VR_TRY(judge_only_slot(&g));
    if (l->ctx->img->nroots > 1 || l->low_runs) {
        VR_TRY(open_places(&g));
        VR_TRY(vr_crossed_open(l));
        VR_TRY(vr_note_crossed_tables(l));
        VR_TRY(each_table(&g, VR_CLAIM_COMPARED, note_high));
        VR_TRY(judge_l1_tables(&g));
        if (l->active_high != 0 && l->ctx->img->nroots > 1)
            report_high(l);
    }
    return l->nheld != 0 || l->shared ? each_table(&g, VR_CLAIM_SUSPECTED, judge_table) : VR_OK;
}
