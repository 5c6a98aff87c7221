/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pass 5: persistent bitmaps: directory, bitmap tables, bitmap data.
 *
 * Tests:    what QEMU demands before it opens an image with bitmaps; bounds; what they lie on
 * Collects: claims of directory, tables and data
 * Needs:    vr_pass_bitmap_directory(): pass 1; vr_pass_bitmaps(): pass 3
 * Frees:    nothing
 *
 * Bitmaps are never loaded, stored or changed. Without the autoclear bit the extension means nothing, and its clusters
 * are leaks.
 */
#include "passes.h"

#define VR_COMPARED_MAX (UINT64_C(1) << 26)

struct name_at {
    uint64_t digest, at; /* at: where the name stands, 0 = free */
    uint16_t len;
};

struct walk {
    struct vr_ctx *ctx;
    struct vr_window dir, table;
    struct name_at *names; /* of all bitmaps of the directory, by their digests */
    uint64_t slots;
    uint64_t compared; /* slots and bytes of names */
    enum vr_status (*each)(struct walk *w, uint32_t i, const struct vr_bitmap *b);
    uint64_t at;           /* of the entry that each() is called for */
    uint64_t table_bytes; /* of all tables so far */
};

static enum vr_status refuse(struct vr_ctx *ctx, enum vr_problem row, uint32_t index, uint64_t host)
{
    struct vr_finding f = vr_finding_none();

    f.host = host;
    f.index = index;
    f.root = VR_ROOT_BITMAPS + index;
    vr_report(ctx, row, &f);
    return VR_EREFUSED;
}

static enum vr_status refuse_size(struct walk *w, uint32_t i, const struct vr_bitmap *b)
{
    struct vr_finding f = vr_finding_none();

    f.host = w->at;
    f.index = i;
    f.root = VR_ROOT_BITMAPS + i;
    f.got = b->table_size;
    vr_report(w->ctx, VR_P_BITMAP_SIZE, &f);
    return VR_EREFUSED;
}

static bool in_force(const struct vr_image *img)
{
    return img->has_bitmaps && (img->h.autoclear & VR_AUTOCLEAR_BITMAPS);
}

static enum vr_status send_name(struct walk *w, uint32_t i, const struct vr_bitmap *b, uint64_t at)
{
    struct vr_name n = {0};
    const uint8_t *p;

    VR_TRY(vr_window_look(&w->dir, at + VR_BITMAP_FIXED + b->extra_size, sizeof(n.name), &p));
    n.name_len = vr_name_fit(n.name, sizeof(n.name), p, b->name_len);
    vr_report_name(w->ctx, VR_ROOT_BITMAPS + i, &n);
    return VR_OK;
}

/* ---- the directory ----------------------------------------------------------------------------------------- */

static enum vr_status judge_entry(struct walk *w, uint32_t i, uint64_t at, uint64_t end, struct vr_bitmap *b)
{
    struct vr_ctx *ctx = w->ctx;
    const struct vr_image *img = ctx->img;
    const uint8_t *p;

    if (end - at < VR_BITMAP_FIXED)
        return refuse(ctx, VR_P_BITMAP_DIR_BROKEN, i, at);
    if (i >= img->bitmaps.number)
        return refuse(ctx, VR_P_BITMAPS_MORE, i, at);
    VR_TRY(vr_window_look(&w->dir, at, VR_BITMAP_FIXED, &p));
    *b = vr_bitmap_decode(p);
    if (vr_bitmap_bytes(b) > end - at)
        return refuse(ctx, VR_P_BITMAP_DIR_BROKEN, i, at);
    if (b->extra_size != 0)
        return refuse(ctx, VR_P_BITMAP_EXTRA, i, at);
    if (vr_bitmap_sound(b, img->cluster_size, img->h.virtual_size & ~UINT64_C(511)))
        return VR_OK;
    VR_TRY(send_name(w, i, b, at));
    return refuse(ctx, VR_P_BITMAP_UNSOUND, i, at);
}

/* Every entry of the directory, judged, to w->each. */
static enum vr_status walk_directory(struct walk *w)
{
    const struct vr_bitmaps *dir = &w->ctx->img->bitmaps;
    uint64_t at = dir->dir_offset, end = at + dir->dir_size;
    uint32_t i = 0;

    for (; at < end; i++) {
        struct vr_bitmap b;
        VR_TRY(judge_entry(w, i, at, end, &b));
        w->at = at;
        enum vr_status st = w->each ? w->each(w, i, &b) : VR_OK;
        if (st == VR_EREFUSED)
            VR_TRY(send_name(w, i, &b, at));
        VR_TRY(st);
        at += vr_bitmap_bytes(&b);
    }
    return i == dir->number ? VR_OK : refuse(w->ctx, VR_P_BITMAPS_FEWER, i, dir->dir_offset);
}

static enum vr_status start(struct walk *w, struct vr_ctx *ctx)
{
    *w = (struct walk){.ctx = ctx};
    VR_TRY(vr_window_open(&w->dir, ctx));
    return vr_window_open(&w->table, ctx);
}

/* ---- before anything else: would QEMU open it --------------------------------------------------------------- */

static enum vr_status table_entry(struct walk *w, const struct vr_bitmap *b, uint64_t j, uint64_t *entry)
{
    const uint8_t *p;

    VR_TRY(vr_window_look(&w->table, b->table_offset + j * 8, 8, &p));
    *entry = vr_load64(p);
    return VR_OK;
}

/* ---- names: QEMU keeps bitmaps by them ---- */

static enum vr_status digest_of(struct walk *w, struct name_at *n)
{
    n->digest = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (uint32_t i = 0; i < n->len; i++) {
        const uint8_t *p;
        VR_TRY(vr_window_look(&w->dir, n->at + i, 1, &p));
        n->digest = (n->digest ^ *p) * UINT64_C(0x100000001b3);
    }
    return VR_OK;
}

static enum vr_status same_name(struct walk *w, const struct name_at *a, const struct name_at *b, bool *same)
{
    *same = a->digest == b->digest && a->len == b->len;
    for (uint32_t i = 0; *same && i < a->len; i++) {
        const uint8_t *p;
        VR_TRY(vr_window_look(&w->dir, a->at + i, 1, &p));
        uint8_t one = *p;
        VR_TRY(vr_window_look(&w->dir, b->at + i, 1, &p));
        *same = one == *p;
        w->compared++;
    }
    return VR_OK;
}

/*
 * Whether a bitmap before this one has its name. Ends: half of the slots are free at least. Names that are made to have
 * one digest would take quadratic time: after VR_COMPARED_MAX no name is looked for any more.
 */
static enum vr_status name_is_taken(struct walk *w, const struct vr_bitmap *b, bool *taken)
{
    struct name_at n = {.at = w->at + VR_BITMAP_FIXED + b->extra_size, .len = b->name_len};
    uint64_t i;

    *taken = false;
    VR_TRY(digest_of(w, &n));
    for (i = n.digest & (w->slots - 1); w->names[i].at != 0 && !*taken; i = (i + 1) & (w->slots - 1)) {
        if (w->compared++ > VR_COMPARED_MAX)
            return VR_OK;
        VR_TRY(same_name(w, &w->names[i], &n, taken));
    }
    if (!*taken)
        w->names[i] = n;
    return VR_OK;
}

static enum vr_status open_names(struct walk *w)
{
    for (w->slots = 4; w->slots < w->ctx->img->bitmaps.number * UINT64_C(2);)
        w->slots *= 2;
    w->names = vr_arena_get(&w->ctx->arena, w->slots * sizeof(*w->names));
    return w->names ? VR_OK : VR_ENOMEM;
}

static enum vr_status judge_table(struct walk *w, uint32_t i, const struct vr_bitmap *b)
{
    const struct vr_image *img = w->ctx->img;
    bool in_use = b->flags & VR_BITMAP_IN_USE, taken;
    enum vr_problem row = in_use ? VR_P_BITMAP_TABLE_IN_USE : VR_P_BITMAP_TABLE;

    VR_TRY(name_is_taken(w, b, &taken));
    /* As QEMU does: for one that is in use it does not look whether the name is taken. */
    if (taken && !in_use)
        return refuse(w->ctx, VR_P_BITMAP_TWICE, i, w->at);
    w->table_bytes += b->table_size * UINT64_C(8);
    if (w->table_bytes > w->ctx->file_size + VR_TOGETHER_SLACK)
        return refuse(w->ctx, VR_P_BITMAPS_TOGETHER, i, b->table_offset);
    for (uint64_t j = 0; j < b->table_size; j++) {
        uint64_t entry;
        VR_TRY(table_entry(w, b, j, &entry));
        if (!vr_bitmap_entry_sound(entry, img->cluster_size))
            return refuse(w->ctx, row, i, b->table_offset + j * 8);
    }
    if (in_use || vr_bitmap_size_sound(b, img->cluster_size, img->h.virtual_size & ~UINT64_C(511)))
        return VR_OK;
    return refuse_size(w, i, b);
}

enum vr_status vr_pass_bitmap_directory(struct vr_ctx *ctx)
{
    struct vr_image *img = ctx->img;
    struct vr_finding f = vr_finding_none();
    struct walk w;

    if (img->has_bitmaps && !in_force(img)) {
        f.host = img->bitmaps_at;
        vr_report(ctx, img->h.version < 3 ? VR_P_BITMAPS_STALE_V2 : VR_P_BITMAPS_STALE, &f);
    }
    if (!in_force(img))
        return VR_OK;
    if (img->bitmaps.dir_size == 0)
        return refuse(ctx, VR_P_BITMAP_DIR_EMPTY, 0, img->bitmaps.dir_offset);
    VR_TRY(start(&w, ctx));
    /* All of the directory before any table, as an open does. */
    VR_TRY(walk_directory(&w));
    VR_TRY(open_names(&w));
    w.each = judge_table;
    return walk_directory(&w);
}

/* ---- claims --------------------------------------------------------------------------------------------------- */

static void claim(struct walk *w, uint32_t i, uint64_t offset, uint64_t len)
{
    struct vr_ctx *ctx = w->ctx;
    struct vr_image *img = ctx->img;
    struct vr_finding f = vr_finding_none();
    uint32_t before = 0;

    f.host = offset;
    f.got = len;
    f.index = i;
    f.root = VR_ROOT_BITMAPS + i;
    if (vr_region_past_eof(ctx, offset, len)) {
        vr_report(ctx, VR_P_BITMAP_PAST_EOF, &f);
        vr_note_dangling(ctx, vr_min(offset, ctx->file_size));
        return;
    }
    for (uint64_t at = offset; at < offset + len; at += img->cluster_size)
        before |= vr_claims_at(ctx, at);
    if (before & (VR_CLAIM_METADATA | VR_CLAIM_DATA | VR_CLAIM_COMPRESSED))
        vr_report(ctx, VR_P_BITMAP_OVERLAP, &f);
    vr_claim_region(ctx, offset, len, VR_CLAIM_BITMAP);
}

/* gaps.c looks at it, where something leaks. */
static void note_empty(struct vr_image *img, uint32_t i, const struct vr_bitmap *b)
{
    uint64_t end = b->table_offset + (uint64_t)b->table_size * 8;

    if (img->nempty_bitmaps == VR_EMPTY_BITMAPS_MAX)
        return;
    img->empty_bitmaps[img->nempty_bitmaps++] =
        (struct vr_empty_bitmap){i, b->table_offset >> img->h.cluster_bits, (end - 1) >> img->h.cluster_bits};
}

static enum vr_status claim_bitmap(struct walk *w, uint32_t i, const struct vr_bitmap *b)
{
    bool empty = false;

    claim(w, i, b->table_offset, (uint64_t)b->table_size * 8);
    for (uint64_t j = 0; j < b->table_size; j++) {
        uint64_t entry;
        VR_TRY(table_entry(w, b, j, &entry));
        if (entry & VR_OFFSET_MASK)
            claim(w, i, entry & VR_OFFSET_MASK, w->ctx->img->cluster_size);
        empty |= entry == 0;
    }
    if (empty)
        note_empty(w->ctx->img, i, b);
    return VR_OK;
}

enum vr_status vr_pass_bitmaps(struct vr_ctx *ctx)
{
    struct vr_image *img = ctx->img;
    struct walk w;

    if (!in_force(img))
        return VR_OK;
    VR_TRY(start(&w, ctx));
    w.each = claim_bitmap;
    claim(&w, 0, img->bitmaps.dir_offset, img->bitmaps.dir_size);
    VR_TRY(walk_directory(&w));
    return img->refs.full ? VR_ENOMEM : VR_OK;
}
