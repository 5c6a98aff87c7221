/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * lost.c: whether what looks leaked is what a lost pointer or a lost table led to. Called by pass 6, before the first leak
 * is judged; an image without leaks never comes here.
 *
 * A cut write leaves the clusters that were allocated last, with data in them. A lost map leaves more: tables that nothing
 * references and that name what nothing references, or a hole in a table whose neighbours lie around the leaks. Of leaked
 * clusters the first sector is read, and nothing of those that are holes in the file.
 */
#include "lost.h"

#define ASK_EVERY  64u      /* clusters read between two questions about holes */
#define WHOLE_MAX  4096u    /* clusters read as a whole because their first sector is zeros; the others are taken to hold something */
#define FEW_WRONG  16u      /* refcounts of a block that one damaged pointer, or a few, can explain */
#define MANY_BYTES (UINT64_C(512) << 20) /* of clusters that hold something: more than one interrupted write leaves */

uint64_t vr_lost_next(struct vr_lost *l, const uint64_t *map, uint64_t c)
{
    uint64_t w = c / 64;

    if (w >= l->words)
        return l->words * 64;
    uint64_t rest = map[w] >> (c % 64) << (c % 64);
    while (rest == 0 && ++w < l->words) {
        rest = map[w];
        l->scanned++;
    }
    return rest ? w * 64 + (uint64_t)__builtin_ctzll(rest) : l->words * 64;
}

bool vr_lost_zero(const uint8_t *p, uint64_t n)
{
    for (uint64_t i = 0; i < n; i += 8)
        if (vr_load64(p + i) != 0)
            return false;
    return true;
}

/* ---- which clusters ------------------------------------------------------------------------------------------- */

static bool next_refblock(void *arg, struct vr_block *b)
{
    struct vr_lost *l = arg;
    const struct vr_image *img = l->ctx->img;

    for (; l->next_block < img->blocks; l->next_block++) {
        uint64_t offset = vr_refblock_offset(img, l->next_block);
        if (offset == 0 || offset % img->cluster_size != 0 || offset >= l->ctx->file_size)
            continue;
        *b = (struct vr_block){.offset = offset, .tag = l->next_block++};
        return true;
    }
    return false;
}

/* A refcount block of which most is wrong, or that the end of the file cuts, is damaged itself, and says nothing of pointers. */
struct tally {
    uint64_t used, wrong, low;
};

/* Damaged pointers do not count: what they name is known to be doubtful. */
static void take_refcount(struct vr_lost *l, uint64_t c, uint64_t on_disk, struct tally *t)
{
    const struct vr_image *img = l->ctx->img;
    struct vr_ref ref = vr_refmap_get(&img->refs, c);
    bool low = on_disk < ref.count - vr_min(ref.doubtful, ref.count), runs = (ref.claims & VR_CLAIM_COMPRESSED) != 0;

    t->wrong += on_disk != ref.count;
    t->low += low;
    l->low_runs |= low && runs;
    if (low && (on_disk == 1 || runs))
        l->low[c / 64] |= UINT64_C(1) << (c % 64);
    if (on_disk > ref.count)
        l->high[c / 64] |= UINT64_C(1) << (c % 64);
    /* A map names a cluster once at most: with more references than there are maps, its refcount is what is damaged. */
    if (on_disk > ref.count && ref.count != 0)
        l->shared |= runs || on_disk <= img->nroots;
    if (on_disk != 0 && ref.count == 0 && ref.claims == 0)
        l->held[c / 64] |= UINT64_C(1) << (c % 64);
}

static void take_refcounts(struct vr_lost *l, const struct vr_block *b)
{
    const struct vr_image *img = l->ctx->img;
    uint64_t first = b->tag * img->block_entries, end = vr_min(first + img->block_entries, img->clusters);
    struct tally t = {0};

    for (uint64_t c = first; c < end; c++) {
        uint64_t on_disk = vr_refcount_get(b->data, img->h.refcount_order, c - first);
        if (on_disk != 0 ? on_disk != vr_refmap_plain(&img->refs, c) : !vr_refmap_is_free(&img->refs, c))
            take_refcount(l, c, on_disk, &t);
        t.used += on_disk != 0;
    }
    if (b->offset + img->cluster_size <= l->ctx->file_size && (t.wrong <= FEW_WRONG || t.wrong <= t.used / 2))
        l->nlow += t.low;
}

static enum vr_status find_high(struct vr_lost *l)
{
    struct vr_stream s = {.next = next_refblock, .arg = l};
    struct vr_block b;

    VR_TRY(vr_stream_open(&s, l->ctx, (uint32_t)l->ctx->img->cluster_size, l->ctx->img->blocks - l->next_block));
    for (;;) {
        VR_TRY(vr_stream_get(&s, &b));
        if (!b.data)
            return VR_OK;
        take_refcounts(l, &b);
    }
}

/* ---- what they hold -------------------------------------------------------------------------------------------- */

/* Nothing can be lost with what holds nothing. */
static void forget(struct vr_lost *l, uint64_t c)
{
    l->held[c / 64] &= ~(UINT64_C(1) << (c % 64));
}

/* Skips, and forgets, what is a hole. */
static void skip_hole(struct vr_lost *l, uint64_t *c)
{
    unsigned cb = l->ctx->img->h.cluster_bits;
    struct vr_request r = {.op = VR_OP_NEXT_DATA, .offset = *c << cb, .buf = l->answer, .len = sizeof(*l->answer)};

    if (*c >= l->words * 64 || vr_io_do(&l->ctx->io, &r) != VR_OK)
        return;
    for (; *c < l->words * 64 && *c < *l->answer >> cb; *c = vr_lost_next(l, l->held, *c + 1))
        forget(l, *c);
}

static bool next_leaked(void *arg, struct vr_block *b)
{
    struct vr_lost *l = arg;
    uint64_t c = vr_lost_next(l, l->held, l->next);

    if (l->asked++ % ASK_EVERY == 0)
        skip_hole(l, &c);
    if (c >= l->words * 64)
        return false;
    *b = (struct vr_block){.offset = c << l->ctx->img->h.cluster_bits, .tag = c};
    l->next = c + 1;
    return true;
}

/* Whether a word can stand in an L1, L2 or bitmap table; counts those that name another cluster that is high. */
static bool is_entry(const struct vr_lost *l, uint64_t self, uint64_t word, uint64_t *names)
{
    const struct vr_image *img = l->ctx->img;
    uint64_t offset = word & VR_OFFSET_MASK;

    if (word <= VR_ZERO)
        return true;
    if (word & VR_COMPRESSED) {
        struct vr_run run = vr_compressed_run(word & ~VR_COPIED, img->h.cluster_bits);
        if ((word & VR_COPIED) || run.offset >= l->ctx->file_size)
            return false;
        offset = run.offset & ~(img->cluster_size - 1);
    } else if ((word & ~(VR_OFFSET_MASK | VR_COPIED | VR_ZERO)) || offset % img->cluster_size != 0) {
        return false;
    }
    uint64_t c = offset >> img->h.cluster_bits;
    /* With an external data file, offsets are in that file. */
    if (img->h.incompatible & VR_INCOMPAT_DATA_FILE)
        *names += 1;
    else if (offset == 0)
        return false;
    else if (c >= img->clusters)
        return false;
    else
        *names += c != self && vr_lost_bit(l, l->high, c);
    return true;
}

static uint64_t table_names(const struct vr_lost *l, uint64_t self, const uint8_t *p, uint64_t len, unsigned stride)
{
    uint64_t names = 0;

    for (uint64_t i = 0; i < len; i += stride)
        if (!is_entry(l, self, vr_load64(p + i), &names))
            return 0;
    return names;
}

/* Whether an entry of a snapshot table can stand there; its length, with the padding. */
static bool is_snapshot(const struct vr_lost *l, const struct vr_snapshot *s, const uint8_t *p, uint64_t left, uint64_t *len)
{
    uint64_t id_at = VR_SNAPSHOT_FIXED + (uint64_t)s->extra_size;

    if (s->l1_offset == 0 || s->l1_offset % l->ctx->img->cluster_size != 0 || s->l1_offset >= l->ctx->file_size ||
        s->l1_size == 0 || s->extra_size > VR_SNAPSHOT_EXTRA_MAX || s->id_len == 0 || s->id_len > 128 || id_at + s->id_len > left)
        return false;
    for (uint32_t i = 0; i < s->id_len; i++)
        if (p[id_at + i] < 0x20 || p[id_at + i] > 0x7e)
            return false;
    *len = (id_at + s->id_len + s->name_len + 7) & ~UINT64_C(7);
    return true;
}

/*
 * A snapshot table that is lost: one of the L1 tables that its first sector names looks leaked itself. A table that was replaced
 * is a leak as well, and names what the new one names.
 */
static bool is_snapshot_table(const struct vr_lost *l, const uint8_t *p)
{
    uint64_t len;

    for (uint64_t at = 0; at + VR_SNAPSHOT_FIXED <= VR_SECTOR; at += len) {
        struct vr_snapshot s = vr_snapshot_decode(p + at);
        if (!is_snapshot(l, &s, p + at, VR_SECTOR - at, &len))
            return false;
        if (vr_lost_bit(l, l->high, s.l1_offset >> l->ctx->img->h.cluster_bits))
            return true;
    }
    return false;
}

/* What says of its clusters, in its own row, that nobody needs them any more. */
static bool explained(const struct vr_ctx *ctx, enum vr_problem row)
{
    return ctx->sum->found[ctx->walk][row] != 0;
}

static void report_table(struct vr_lost *l, uint64_t c, uint64_t names)
{
    struct vr_finding f = vr_finding_none();

    f.host = c << l->ctx->img->h.cluster_bits;
    f.index = c;
    f.got = names;
    vr_report(l->ctx, VR_P_LEAKED_TABLE, &f);
}

static bool has_copied(const uint8_t *p, uint64_t len)
{
    bool copied = false;

    for (uint64_t i = 0; i < len; i += 8)
        copied |= (vr_load64(p + i) & VR_COPIED) != 0;
    return copied;
}

static void judge_bytes(struct vr_lost *l, uint64_t c, const uint8_t *p, uint64_t len)
{
    const struct vr_ctx *ctx = l->ctx;
    bool stale = explained(ctx, VR_P_BITMAPS_STALE) || explained(ctx, VR_P_BITMAPS_STALE_V2);
    uint64_t names = table_names(l, c, p, len, 8);

    /* Entries of a bitmap table have no COPIED flag. */
    if (names != 0 && stale && !has_copied(p, len))
        return;

    if (names == 0 && l->ctx->img->l2_entry_size == 16)
        names = table_names(l, c, p, len, 16);
    if (names == 0 && is_snapshot_table(l, p))
        names = 1;
    if (names != 0)
        report_table(l, c, names);
}

static enum vr_status take_content(struct vr_lost *l, const struct vr_block *b)
{
    uint64_t size = l->ctx->img->cluster_size;
    const uint8_t *p = b->data;
    uint64_t len = VR_SECTOR;

    if (vr_lost_zero(p, VR_SECTOR) && l->whole++ < WHOLE_MAX) {
        VR_TRY(vr_read(l->ctx, b->offset, l->cluster, (uint32_t)size));
        if (vr_lost_zero(l->cluster, size)) {
            forget(l, b->tag);
            return VR_OK;
        }
        p = l->cluster;
        len = size;
    }
    l->nheld++;
    judge_bytes(l, b->tag, p, len);
    return VR_OK;
}

static enum vr_status look_into(struct vr_lost *l)
{
    struct vr_stream s = {.next = next_leaked, .arg = l};
    struct vr_block b;

    VR_TRY(vr_stream_open(&s, l->ctx, VR_SECTOR, VR_STREAM_DEPTH));
    for (;;) {
        VR_TRY(vr_stream_get(&s, &b));
        if (!b.data)
            return VR_OK;
        VR_TRY(take_content(l, &b));
    }
}

/* ---- together ---------------------------------------------------------------------------------------------------- */

static void report_number(struct vr_lost *l, enum vr_problem row, uint64_t number)
{
    struct vr_finding f = vr_finding_none();

    f.got = number;
    vr_report(l->ctx, row, &f);
}

/* What says nothing as long as nothing leaks. */
static void judge_leaks(struct vr_lost *l)
{
    struct vr_image *img = l->ctx->img;
    struct vr_finding f = vr_finding_none();

    img->leaks_matter = l->nheld != 0 || l->shared;
    /* An image that was not closed may have refcounts behind what its maps say, of any number of clusters. */
    bool closed = !(img->h.incompatible & VR_INCOMPAT_DIRTY);
    if (closed && l->nheld > MANY_BYTES >> img->h.cluster_bits)
        report_number(l, VR_P_LEAKS_MANY, l->nheld);
    if (closed && l->nlow != 0 && img->leaks_matter)
        report_number(l, VR_P_POINTER_DOUBTFUL, l->nlow);
    if (img->leaks_matter && !img->has_bitmaps && (img->h.autoclear & VR_AUTOCLEAR_BITMAPS)) {
        f.host = VR_HEADER_AUTOCLEAR_AT;
        vr_report(l->ctx, VR_P_BITMAPS_HIDDEN, &f);
    }
}

static enum vr_status judge(struct vr_lost *l)
{
    const struct vr_image *img = l->ctx->img;

    l->words = img->clusters / 64 + 1;
    l->high = vr_arena_get(&l->ctx->arena, l->words * 8);
    l->low = vr_arena_get(&l->ctx->arena, l->words * 8);
    l->held = vr_arena_get(&l->ctx->arena, l->words * 8);
    l->answer = vr_arena_get(&l->ctx->arena, sizeof(*l->answer));
    l->cluster = vr_arena_get(&l->ctx->arena, img->cluster_size);
    if (!l->high || !l->low || !l->held || !l->answer || !l->cluster)
        return VR_ENOMEM;
    VR_TRY(find_high(l));
    VR_TRY(look_into(l));
    judge_leaks(l);
    return vr_look_for_gaps(l);
}

enum vr_status vr_judge_leaks(struct vr_ctx *ctx, uint64_t block)
{
    struct vr_lost l = {.ctx = ctx, .next_block = block};
    uint64_t mark = vr_arena_mark(&ctx->arena), bytes = ctx->stream_bytes;
    uint8_t *buf = ctx->stream_buf;

    ctx->img->leaks_judged = true;
    if (explained(ctx, VR_P_SNAP_DROPPED) || explained(ctx, VR_P_SNAP_DROPPED_BYTES))
        return VR_OK; /* what these snapshots had is to be freed, and nothing tells it from the rest */
    ctx->stream_buf = NULL; /* pass 6 has blocks in it */
    enum vr_status st = judge(&l);
    if (st != VR_OK)
        vr_io_drain(&ctx->io);
    ctx->stream_buf = buf;
    ctx->stream_bytes = bytes;
    vr_arena_reset(&ctx->arena, mark);
    return st;
}
