/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pass 1: header and header extensions.
 *
 * Tests:    magic, version, cluster size, feature bits, bounds of L1 and refcount table, extensions, backing file name
 * Collects: img->h and the sizes that follow from it; dirty and corrupt bits
 * Needs:    nothing
 * Frees:    nothing
 *
 * What qemu-img refuses to open is refused here with the same reason, in the same order; but nothing outside the image
 * is needed: no backing file, no data file, no key.
 */
#include "passes.h"

static enum vr_status refuse(struct vr_ctx *ctx, enum vr_problem row, uint64_t host, uint64_t got, uint64_t want)
{
    struct vr_finding f = vr_finding_none();

    f.host = host;
    f.got = got;
    f.want = want;
    vr_report(ctx, row, &f);
    return VR_EREFUSED;
}

/* 8 bytes of an extension header, from what was read with the header or from the image. */
static enum vr_status extension_at(struct vr_ctx *ctx, uint8_t *buf, uint64_t at, struct vr_extension *ext)
{
    if (at + 8 <= VR_HEADER_READ) {
        *ext = vr_extension_decode(buf + at);
        return VR_OK;
    }
    uint8_t *eight = buf + VR_HEADER_READ;
    VR_TRY(vr_read(ctx, at, eight, 8));
    *ext = vr_extension_decode(eight);
    return VR_OK;
}

/* LUKS: u64 offset and u64 length of the header and key material in the file. */
static enum vr_status luks_extension(struct vr_ctx *ctx, uint64_t at, const struct vr_extension *ext)
{
    struct vr_image *img = ctx->img;
    uint64_t mask = (UINT64_C(1) << img->h.cluster_bits) - 1;
    uint8_t *payload = vr_arena_get(&ctx->arena, 16);

    if (!payload)
        return VR_ENOMEM;
    if (img->h.crypt_method != VR_CRYPT_LUKS)
        return refuse(ctx, VR_P_HDR_LUKS_UNEXPECTED, at, img->h.crypt_method, VR_CRYPT_LUKS);
    if (ext->len != 16)
        return refuse(ctx, VR_P_HDR_LUKS_LENGTH, at, ext->len, 16);
    VR_TRY(vr_read(ctx, at + 8, payload, 16));
    img->luks_offset = vr_load64(payload);
    img->luks_len = vr_load64(payload + 8);
    if (img->luks_offset & mask)
        return refuse(ctx, VR_P_HDR_LUKS_OFFSET, at, img->luks_offset, mask + 1);
    return VR_OK;
}

/* Without its autoclear bit only its length is looked at. */
static enum vr_status bitmaps_extension(struct vr_ctx *ctx, uint64_t at, const struct vr_extension *ext)
{
    struct vr_image *img = ctx->img;
    uint8_t *payload = vr_arena_get(&ctx->arena, VR_BITMAPS_EXT);

    if (!payload)
        return VR_ENOMEM;
    if (ext->len != VR_BITMAPS_EXT)
        return refuse(ctx, VR_P_BITMAPS_EXT_LENGTH, at, ext->len, VR_BITMAPS_EXT);
    img->has_bitmaps = true;
    img->bitmaps_at = at;
    if (!(img->h.autoclear & VR_AUTOCLEAR_BITMAPS))
        return VR_OK;
    VR_TRY(vr_read(ctx, at + 8, payload, VR_BITMAPS_EXT));
    img->bitmaps = vr_bitmaps_decode(payload);
    struct vr_verdict v = vr_bitmaps_judge(&img->bitmaps, UINT64_C(1) << img->h.cluster_bits);
    return v.row != VR_P_COUNT ? refuse(ctx, v.row, at, v.got, v.want) : VR_OK;
}

static enum vr_status take_extension(struct vr_ctx *ctx, uint64_t at, const struct vr_extension *ext, bool *luks)
{
    switch (ext->type) {
    case VR_EXT_BACKING_FORMAT:
        return ext->len >= 16 ? refuse(ctx, VR_P_HDR_BACKING_FORMAT, at, ext->len, 15) : VR_OK;
    case VR_EXT_LUKS:
        *luks = true;
        return luks_extension(ctx, at, ext);
    case VR_EXT_BITMAPS:
        return bitmaps_extension(ctx, at, ext);
    case VR_EXT_DATA_FILE:
        ctx->img->data_file_named = true;
        return VR_OK;
    default:
        return VR_OK;
    }
}

/* Walks the list; each extension takes at least 8 bytes of at most one cluster, so it ends. */
static enum vr_status walk_extensions(struct vr_ctx *ctx, uint8_t *buf, bool *luks)
{
    const struct vr_header *h = &ctx->img->h;
    uint64_t end = vr_extensions_end(h);
    uint64_t at = h->header_length;

    while (at < end) {
        struct vr_extension ext;
        if (at > end - vr_min(end, 8))
            return refuse(ctx, VR_P_HDR_EXTENSION, at, 0, end);
        VR_TRY(extension_at(ctx, buf, at, &ext));
        if (ext.len > end - at - 8)
            return refuse(ctx, VR_P_HDR_EXTENSION, at, ext.len, end - at - 8);
        if (ext.type == VR_EXT_END)
            return VR_OK;
        VR_TRY(take_extension(ctx, at, &ext, luks));
        at += 8 + (((uint64_t)ext.len + 7) & ~UINT64_C(7));
    }
    return VR_OK;
}

/* What only shows when all extensions are known, in the order in which an open looks. */
static enum vr_status judge_together(struct vr_ctx *ctx, bool luks)
{
    const struct vr_header *h = &ctx->img->h;
    uint64_t cs = UINT64_C(1) << h->cluster_bits;

    if ((h->autoclear & VR_AUTOCLEAR_DATA_RAW) && !(h->incompatible & VR_INCOMPAT_DATA_FILE))
        return refuse(ctx, VR_P_HDR_DATA_FILE_RAW, 88, h->autoclear, 0);
    if ((h->incompatible & VR_INCOMPAT_DATA_FILE) && !ctx->img->data_file_named && !(ctx->flags & VR_BOOT_DATA_FILE))
        return refuse(ctx, VR_P_HDR_DATA_FILE_MISSING, VR_HEADER_INCOMPAT_AT, h->incompatible, 0);
    if (h->crypt_method == VR_CRYPT_LUKS && !luks)
        return refuse(ctx, VR_P_HDR_LUKS_MISSING, 32, h->crypt_method, 0);
    if (h->backing_offset != 0 && (h->backing_size > 1023 || h->backing_size > cs - h->backing_offset))
        return refuse(ctx, VR_P_HDR_BACKING_NAME, h->backing_offset, h->backing_size, 1023);
    return VR_OK;
}

static void note_bits(struct vr_ctx *ctx)
{
    struct vr_finding f = vr_finding_none();

    f.host = VR_HEADER_INCOMPAT_AT;
    f.got = ctx->img->h.incompatible;
    /* Whether they may be cleared is known only after the verification: vr_report_fixed(). */
    f.kept = VR_KEPT_MODE;
    if (f.got & VR_INCOMPAT_DIRTY)
        vr_report(ctx, VR_P_DIRTY, &f);
    if (f.got & VR_INCOMPAT_CORRUPT)
        vr_report(ctx, VR_P_CORRUPT, &f);
    f.host = VR_HEADER_AUTOCLEAR_AT;
    f.got = ctx->img->h.autoclear & ~VR_AUTOCLEAR_KNOWN;
    if (f.got != 0)
        vr_report(ctx, VR_P_AUTOCLEAR_UNKNOWN, &f);
}

static void fill_image(struct vr_ctx *ctx)
{
    struct vr_image *img = ctx->img;
    struct vr_summary *sum = ctx->sum;
    unsigned cb = img->h.cluster_bits;

    img->cluster_size = UINT64_C(1) << cb;
    img->clusters = vr_ceil_shift(ctx->file_size, cb);
    img->l2_entry_size = img->h.incompatible & VR_INCOMPAT_EXTL2 ? 16 : 8;
    img->l2_entries = img->cluster_size / img->l2_entry_size;
    img->dangling = UINT64_MAX;
    img->block_entries = (img->cluster_size * 8) >> img->h.refcount_order;
    img->blocks = (img->clusters + img->block_entries - 1) / img->block_entries;
    sum->virtual_size = img->h.virtual_size;
    sum->qcow2_version = img->h.version;
    sum->cluster_bits = cb;
    sum->refcount_bits = 1u << img->h.refcount_order;
    sum->total_clusters = vr_ceil_shift(img->h.virtual_size & ~UINT64_C(511), cb);
    if (ctx->walk == VR_WALK_CHECK) {
        sum->incompatible = img->h.incompatible;
        sum->compatible = img->h.compatible;
        sum->autoclear = img->h.autoclear;
    }
}

enum vr_status vr_pass_header(struct vr_ctx *ctx)
{
    struct vr_image *img = ctx->img;
    bool luks = false;
    uint8_t *buf = vr_arena_get(&ctx->arena, VR_HEADER_READ + 8);

    if (!buf)
        return VR_ENOMEM;
    VR_TRY(vr_read(ctx, 0, buf, VR_HEADER_READ));
    vr_header_decode(buf, &img->h);
    struct vr_verdict v = vr_header_judge(buf, &img->h, ctx->file_size);
    if (v.row != VR_P_COUNT)
        return refuse(ctx, v.row, 0, v.got, v.want);
    VR_TRY(walk_extensions(ctx, buf, &luks));
    VR_TRY(judge_together(ctx, luks));
    fill_image(ctx);
    note_bits(ctx);
    return VR_OK;
}
