/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * disk.h: qcow2 as bytes. Pure functions: bytes in, host-endian values out, no I/O, no state.
 * Source of the rules: the qcow2 specification (docs/interop/qcow2 of QEMU), sections named at each part.
 */
#ifndef VR_QCOW2_DISK_H
#define VR_QCOW2_DISK_H

#include "checked.h"
#include "vr_problems.h"

/* ---- header.c: section "Header" --------------------------------------------------------------------- */

#define VR_QCOW2_MAGIC       0x514649fbu
#define VR_HEADER_V2         72u
#define VR_HEADER_V3         104u
#define VR_HEADER_READ       4096u /* bytes that hold every header field and, nearly always, the extensions */
#define VR_L1_ENTRIES_MAX    (UINT64_C(1) << 22)
#define VR_REFTABLE_MAX      (UINT64_C(8) << 20) /* bytes */

#define VR_INCOMPAT_DIRTY       (UINT64_C(1) << 0)
#define VR_INCOMPAT_CORRUPT     (UINT64_C(1) << 1)
#define VR_INCOMPAT_DATA_FILE   (UINT64_C(1) << 2)
#define VR_INCOMPAT_COMPRESSION (UINT64_C(1) << 3)
#define VR_INCOMPAT_EXTL2       (UINT64_C(1) << 4)
#define VR_INCOMPAT_KNOWN       UINT64_C(0x1f)
#define VR_AUTOCLEAR_BITMAPS    (UINT64_C(1) << 0)
#define VR_AUTOCLEAR_DATA_RAW   (UINT64_C(1) << 1)
#define VR_AUTOCLEAR_KNOWN      (VR_AUTOCLEAR_BITMAPS | VR_AUTOCLEAR_DATA_RAW)
#define VR_HEADER_INCOMPAT_AT   72u /* incompatible features, 8 bytes */
#define VR_HEADER_AUTOCLEAR_AT  88u /* autoclear features, 8 bytes */
#define VR_HEADER_REFTABLE_AT   48u /* offset, 8 bytes, and clusters, 4 bytes, of the refcount table */
#define VR_HEADER_SNAPSHOTS_AT  60u /* number, 4 bytes, and offset, 8 bytes, of the snapshot table */
#define VR_CRYPT_LUKS           2u

struct vr_header {
    uint32_t version, cluster_bits, crypt_method, refcount_order, header_length, compression_type;
    uint64_t backing_offset;
    uint32_t backing_size;
    uint64_t virtual_size;
    uint64_t l1_size; /* entries */
    uint64_t l1_offset;
    uint64_t reftable_offset;
    uint64_t reftable_clusters;
    uint32_t snapshots;
    uint64_t snapshots_offset;
    uint64_t incompatible, compatible, autoclear;
};

/* What keeps an image from being opened; row == VR_P_COUNT means nothing does. */
struct vr_verdict {
    enum vr_problem row;
    uint64_t got, want;
};

/* Decodes the fields of buf (VR_HEADER_READ bytes, zeros behind the end of the file); v2 gets the values it implies. */
void vr_header_decode(const uint8_t *buf, struct vr_header *h);
/* The tests of an open, in qemu's order. file_size only matters for an image too short to hold a header. */
struct vr_verdict vr_header_judge(const uint8_t *buf, const struct vr_header *h, uint64_t file_size);

#define VR_EXT_END            0x00000000u
#define VR_EXT_BACKING_FORMAT 0xe2792acau
#define VR_EXT_BITMAPS        0x23852875u
#define VR_EXT_LUKS           0x0537be77u
#define VR_EXT_DATA_FILE      0x44415441u

struct vr_extension {
    uint32_t type, len; /* payload bytes, unpadded */
};

/* Where the extension area ends: at the backing file name, else at the end of the first cluster. */
uint64_t vr_extensions_end(const struct vr_header *h);
struct vr_extension vr_extension_decode(const uint8_t *buf);

/* ---- entries.c: sections "Cluster mapping", "Host cluster management" ------------------------------------- */

#define VR_OFFSET_MASK    UINT64_C(0x00fffffffffffe00) /* L1 and L2 entries, bits 9-55 */
#define VR_REFT_MASK      UINT64_C(0xfffffffffffffe00) /* refcount table entries, bits 9-63 */
#define VR_REFT_RESERVED  UINT64_C(0x00000000000001ff)
#define VR_L1_RESERVED    UINT64_C(0x7f000000000001ff)
#define VR_L2_RESERVED    UINT64_C(0x3f000000000001fe)
#define VR_COPIED         (UINT64_C(1) << 63)
#define VR_COMPRESSED     (UINT64_C(1) << 62)
#define VR_ZERO           UINT64_C(1)

enum vr_l2_type {
    VR_L2_UNALLOCATED,
    VR_L2_ZERO_PLAIN,
    VR_L2_ZERO_ALLOC, /* reads as zeros, and holds a cluster */
    VR_L2_NORMAL,
    VR_L2_COMPRESSED,
};

/* Depends on the incompatible features: with extended L2 bit 0 is no zero flag, with a data file offset 0 is data. */
enum vr_l2_type vr_l2_type(uint64_t entry, uint64_t incompatible);

/* The bytes of the file that a compressed descriptor names; len is at most a cluster and two sectors. */
struct vr_run {
    uint64_t offset, len;
};
struct vr_run vr_compressed_run(uint64_t entry, unsigned cluster_bits);

/* Extended L2: the bitmap after the entry. */
#define VR_SUB_ALLOCATED(bitmap) ((uint32_t)(bitmap))
#define VR_SUB_ZERO(bitmap)      ((uint32_t)((bitmap) >> 32))

/* Refcount i of a refcount block whose refcounts are 2^order bits wide. i is inside the block. */
uint64_t vr_refcount_get(const uint8_t *block, unsigned order, uint64_t i);
/* value must fit into the width. */
void vr_refcount_set(uint8_t *block, unsigned order, uint64_t i, uint64_t value);
uint64_t vr_refcount_max(unsigned order);

/* ---- bitmaps.c: section "Bitmaps" --------------------------------------------------------------------------- */

#define VR_BITMAPS_EXT     24u    /* bytes of the extension's payload */
#define VR_BITMAPS_MAX     65535u
#define VR_BITMAP_DIR_MAX  (UINT64_C(1024) * VR_BITMAPS_MAX) /* bytes */
#define VR_BITMAP_FIXED    24u    /* bytes of a directory entry before its name */
#define VR_BITMAP_IN_USE   1u     /* flags */

struct vr_bitmaps {
    uint32_t number, reserved;
    uint64_t dir_size, dir_offset;
};

struct vr_bitmap {
    uint64_t table_offset;
    uint32_t table_size; /* entries */
    uint32_t flags, extra_size;
    uint16_t name_len;
    uint8_t type, granularity_bits;
};

struct vr_bitmaps vr_bitmaps_decode(const uint8_t *payload);
/* row == VR_P_COUNT: nothing keeps an image with this extension from being opened. */
struct vr_verdict vr_bitmaps_judge(const struct vr_bitmaps *b, uint64_t cluster_size);
struct vr_bitmap vr_bitmap_decode(const uint8_t *entry);
/* Bytes of a directory entry, padding included. */
uint64_t vr_bitmap_bytes(const struct vr_bitmap *b);
/* QEMU's constraints on a directory entry, and on an entry of a bitmap table. */
bool vr_bitmap_sound(const struct vr_bitmap *b, uint64_t cluster_size, uint64_t virtual_size);
/* Whether its table is as long as a disk of this size needs: else QEMU does not read the bits. */
bool vr_bitmap_size_sound(const struct vr_bitmap *b, uint64_t cluster_size, uint64_t virtual_size);
bool vr_bitmap_entry_sound(uint64_t entry, uint64_t cluster_size);

/* ---- snapshots.c: section "Snapshots" --------------------------------------------------------------------- */

#define VR_SNAPSHOTS_MAX        65536u
#define VR_SNAPSHOT_EXTRA_MAX   1024u /* bytes of extra data that QEMU accepts */
#define VR_SNAPSHOT_EXTRA_ODD   65536u /* bytes of extra data that no program has ever written */
#define VR_SNAPSHOT_EXTRA_V3    16u   /* bytes of extra data that version 3 demands */
#define VR_SNAPSHOT_EXTRA_NEW   24u   /* bytes that a table written anew gives every entry at least */
#define VR_SNAPSHOT_FIXED       40u
#define VR_SNAPSHOT_TABLE_MAX   (UINT64_C(1024) * VR_SNAPSHOTS_MAX) /* bytes */

#define VR_LUKS_HEADER 592u

/*
 * Whether the VR_LUKS_HEADER bytes are a LUKS header of version 1, the only one that QEMU puts into an image, whose key slots
 * and the begin of whose payload are within len bytes of it (LUKS On-Disk Format Specification 1.2.3, figures 2 and 3).
 */
bool vr_luks_sound(const uint8_t *buf, uint64_t len);

struct vr_snapshot {
    uint64_t l1_offset;
    uint64_t disk_size; /* bytes; 0 where the entry does not say */
    uint32_t l1_size, extra_size;
    uint16_t id_len, name_len;
};

/* The fixed part of an entry and what version 3 demands: VR_SNAPSHOT_FIXED + VR_SNAPSHOT_EXTRA_V3 bytes. */
struct vr_snapshot vr_snapshot_decode(const uint8_t *buf);
/* Bytes from the start of an entry to the end of its name; the next entry starts at the next multiple of 8. */
uint64_t vr_snapshot_bytes(const struct vr_snapshot *s);

#endif
