/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pass 2: refcount table, and the claims of everything that the header names directly.
 *
 * Tests:    the refcount table lies in the file; each entry's reserved bits, alignment, bounds; once everything is
 *           claimed, that nothing else owns a refcount block
 * Collects: img->reftable; claims of header, L1 table, refcount table, refcount blocks, LUKS header
 * Needs:    pass 1
 * Frees:    nothing
 *
 * These claims come before any pointer of the map is followed, so that a pointer into them is known for what it is.
 */
#include "passes.h"

static void claim_fixed(struct vr_ctx *ctx)
{
    struct vr_image *img = ctx->img;
    struct vr_finding f = vr_finding_none();

    vr_claim_region(ctx, 0, img->cluster_size, VR_CLAIM_HEADER);
    uint64_t l1_bytes = img->h.l1_size * 8;
    if (vr_region_past_eof(ctx, img->h.l1_offset, l1_bytes)) {
        f.host = img->h.l1_offset;
        f.got = l1_bytes;
        f.guest = 0;
        f.guest_len = img->h.virtual_size;
        f.root = VR_ROOT_ACTIVE;
        vr_report(ctx, VR_P_L1_PAST_EOF, &f);
        /* A file that ends less than a cluster before the table's end has the table, as qemu sees it. */
        vr_note_dangling(ctx, img->h.l1_offset - (l1_bytes < img->cluster_size ? img->cluster_size - l1_bytes : 0));
    } else {
        vr_claim_region(ctx, img->h.l1_offset, l1_bytes, VR_CLAIM_L1);
    }
    uint64_t table_bytes = img->h.reftable_clusters << img->h.cluster_bits;
    if (vr_region_past_eof(ctx, img->h.reftable_offset, table_bytes)) {
        f = vr_finding_none();
        f.host = img->h.reftable_offset;
        f.got = table_bytes;
        vr_report(ctx, VR_P_REFTABLE_PAST_EOF, &f);
        img->rebuild = img->refcounts_lost = true;
    } else {
        vr_claim_region(ctx, img->h.reftable_offset, table_bytes, VR_CLAIM_REFTABLE);
    }
}

/* QEMU opens no image whose LUKS header does not agree with the extension; here nobody has the key to find out. */
static enum vr_status claim_luks(struct vr_ctx *ctx)
{
    struct vr_image *img = ctx->img;
    struct vr_finding f = vr_finding_none();
    uint8_t *buf = vr_arena_get(&ctx->arena, VR_LUKS_HEADER);

    if (img->h.crypt_method != VR_CRYPT_LUKS)
        return VR_OK;
    if (!buf)
        return VR_ENOMEM;
    f.host = img->luks_offset;
    f.got = img->luks_len;
    if (vr_region_past_eof(ctx, img->luks_offset, img->luks_len)) {
        vr_report(ctx, VR_P_LUKS_PAST_EOF, &f);
        vr_note_dangling(ctx, vr_min(img->luks_offset, ctx->file_size));
        return VR_OK;
    }
    vr_claim_region(ctx, img->luks_offset, img->luks_len, VR_CLAIM_LUKS);
    VR_TRY(vr_read(ctx, img->luks_offset, buf, VR_LUKS_HEADER));
    if (!vr_luks_sound(buf, img->luks_len))
        vr_report(ctx, VR_P_LUKS_UNSOUND, &f);
    return VR_OK;
}

static void judge_entry(struct vr_ctx *ctx, uint64_t index, uint64_t entry)
{
    struct vr_image *img = ctx->img;
    struct vr_finding f = vr_finding_none();

    f.host = img->h.reftable_offset + index * 8;
    f.index = index;
    f.got = entry & VR_REFT_MASK;
    if (entry & VR_REFT_RESERVED) {
        f.got = entry;
        vr_report(ctx, VR_P_RTE_RESERVED, &f);
    } else if (f.got % img->cluster_size != 0) {
        vr_report(ctx, VR_P_RTE_UNALIGNED, &f);
    } else if (f.got >= ctx->file_size) {
        vr_report(ctx, VR_P_RTE_PAST_EOF, &f);
        /* qemu-img grows the file for it, and asks for no rebuild in mode leaks. */
        img->rebuild |= ctx->mode == VR_MODE_ALL;
        img->refcounts_lost |= index < img->blocks;
        return;
    } else {
        /* A block for clusters that the file does not have counts nothing: it must not accuse who is there already. */
        if (index < img->blocks)
            vr_claim_region(ctx, f.got, img->cluster_size, VR_CLAIM_REFBLOCK);
        return;
    }
    img->rebuild = true;
    img->refcounts_lost |= index < img->blocks;
}

static enum vr_status read_table(struct vr_ctx *ctx)
{
    struct vr_image *img = ctx->img;
    uint64_t bytes = img->table_entries * 8;

    if (bytes == 0)
        return VR_OK;
    img->reftable = vr_arena_get(&ctx->arena, bytes);
    if (!img->reftable)
        return VR_ENOMEM;
    for (uint64_t at = 0; at < bytes; at += VR_IO_MAX)
        VR_TRY(vr_read(ctx, img->h.reftable_offset + at, img->reftable + at, (uint32_t)vr_min(VR_IO_MAX, bytes - at)));
    return VR_OK;
}

/* Whether the table shares its place with what is not a refcount table: then its entries mean nothing. */
static bool overlaps(const struct vr_ctx *ctx)
{
    const struct vr_image *img = ctx->img;

    for (uint64_t i = 0; i < img->h.reftable_clusters; i++)
        if (vr_claims_at(ctx, img->h.reftable_offset + (i << img->h.cluster_bits)) & ~(uint32_t)VR_CLAIM_REFTABLE)
            return true;
    return false;
}

/*
 * Clusters that the map needs. A region may legally end in the cluster after a partial last one: one more than the file
 * has. Mode all puts a new snapshot table and new refcount structures behind the end.
 */
static uint64_t room_for(const struct vr_ctx *ctx)
{
    const struct vr_image *img = ctx->img;
    uint64_t room = img->clusters + 1;

    if (ctx->mode != VR_MODE_ALL)
        return room;
    if (img->h.snapshots != 0)
        room += (VR_SNAPSHOT_TABLE_MAX >> img->h.cluster_bits) + 1;
    uint64_t blocks = room / img->block_entries + 2;
    return room + blocks + blocks / (img->block_entries / 2) + blocks * 8 / img->cluster_size + 4;
}

enum vr_status vr_pass_reftable(struct vr_ctx *ctx)
{
    struct vr_image *img = ctx->img;

    VR_TRY(vr_refmap_open(&img->refs, &ctx->arena, room_for(ctx), vr_refcount_max(img->h.refcount_order),
                          img->h.snapshots != 0 || (ctx->flags & VR_BOOT_WIDE)));
    claim_fixed(ctx);
    uint64_t bytes = img->h.reftable_clusters << img->h.cluster_bits;
    img->table_entries = vr_region_past_eof(ctx, img->h.reftable_offset, bytes) ? 0 : bytes / 8;
    if (img->table_entries == 0 || overlaps(ctx))
        img->rebuild = img->refcounts_lost = true;
    VR_TRY(read_table(ctx));
    for (uint64_t i = 0; i < img->table_entries; i++) {
        uint64_t entry = vr_load64(img->reftable + i * 8);
        if (entry != 0)
            judge_entry(ctx, i, entry);
    }
    return claim_luks(ctx);
}

/* ---- once everything is claimed --------------------------------------------------------------------------- */

enum vr_status vr_check_refblock_owners(struct vr_ctx *ctx)
{
    struct vr_image *img = ctx->img;

    if (ctx->walk == VR_WALK_CHECK)
        ctx->header_shared = vr_claims_at(ctx, 0) != VR_CLAIM_HEADER;
    for (uint64_t i = 0; i < img->table_entries; i++) {
        uint64_t entry = vr_load64(img->reftable + i * 8);
        uint64_t offset = entry & VR_REFT_MASK;
        if (offset == 0 || (entry & VR_REFT_RESERVED) || offset % img->cluster_size != 0 || offset >= ctx->file_size)
            continue;
        bool spare = i >= img->blocks; /* left out by pass 2 */
        if (spare)
            vr_claim_region(ctx, offset, img->cluster_size, VR_CLAIM_REFBLOCK);
        struct vr_finding f = vr_finding_none();
        struct vr_ref ref = vr_refmap_get(&img->refs, offset >> img->h.cluster_bits);
        f.host = offset;
        f.index = i;
        f.got = ref.count;
        f.want = 1;
        /* Narrow refcounts cannot count a second claim; still, nothing is written through what others own. */
        if ((ref.claims & ~(uint32_t)(VR_CLAIM_REFBLOCK | VR_CLAIM_SEEN)) ||
            (f.got == 1 && vr_refmap_uncapped(&img->refs, offset >> img->h.cluster_bits) > 1))
            img->rebuild = img->refcounts_lost = true;
        if (f.got == 1)
            continue;
        /* Of several entries that name one block, and nothing else does, the first is right for all we know. */
        if (ref.claims == VR_CLAIM_REFBLOCK && !spare) {
            vr_refmap_mark(&img->refs, offset >> img->h.cluster_bits, VR_CLAIM_SEEN);
            continue;
        }
        vr_report(ctx, VR_P_RB_SHARED, &f);
        img->rebuild = true;
        img->refcounts_lost |= !spare;
    }
    return VR_OK;
}
