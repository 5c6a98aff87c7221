/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * journal_format.h: the undo journal on disk. The only declaration; docs/undo-format.md is its prose.
 *
 * header, then for each run of sectors that the commit writes a record (old bytes, then CRC32C of each new sector),
 * then an end mark. All that is durable before the first byte of the image changes. After the commit a trailer follows.
 * Integers are little endian. CRC32C (Castagnoli) over the named bytes, with the crc field itself as 0.
 *
 * A sector that changes twice (the header's: corrupt bit set, later cleared) has two records with the same old bytes.
 * No valid end mark: the journal was cut while it was written, so the image was not touched.
 * Its room is written with the end mark, so that a full disk cannot be what it is missing for.
 * No valid trailer: the commit was cut, or only its trailer was; each sector is the old one or one of the new ones.
 * With the second magic: an undo has begun to put the old bytes back; with the third: it is whole, and the journal has
 * served.
 */
#ifndef JOURNAL_FORMAT_H
#define JOURNAL_FORMAT_H

#include <stdint.h>

#define VMM_JOURNAL_MAGIC   UINT64_C(0x0a0d4f444e555256) /* "VRUNDO\r\n" */
#define VMM_JOURNAL_VERSION 2u
#define VMM_RECORD_MAGIC    0x44524352u /* "RCRD" */
#define VMM_END_MAGIC       0x444e4556u /* "VEND" */
#define VMM_TRAILER_MAGIC   0x454e4f44u /* "DONE" */
#define VMM_UNDOING_MAGIC   0x4f444e55u /* "UNDO": the same trailer, once an undo has begun */
#define VMM_SPENT_MAGIC     0x5245564fu /* "OVER": once it is whole; such a journal undoes nothing any more */

#define VMM_SECTOR          512u
#define VMM_RECORD_SECTORS  2048u /* most in one record */

struct vmm_journal_header {
    uint64_t magic;
    uint32_t version;
    uint32_t crc;        /* of this header */
    uint64_t size_before;/* of the image, bytes */
    uint64_t size_after;
    uint32_t mode;       /* enum vr_mode */
    uint32_t reserved;
    char image_name[256];/* NUL-terminated: the path it had */
    /* Version 1 ends here. */
    char identity[160];  /* NUL-terminated: undo_name.c; what finds the image again */
};
#define VMM_HEADER_1_SIZE 296u

struct vmm_journal_record {
    uint32_t magic;
    uint32_t crc;     /* of this record, the old bytes and the array of CRCs */
    uint64_t offset;  /* in the image, a multiple of VMM_SECTOR */
    uint32_t sectors; /* 1..VMM_RECORD_SECTORS */
    uint32_t epoch;   /* enum vr_epoch */
    /* old bytes: sectors * VMM_SECTOR (zeros behind the old end of the image), then uint32_t new_crc[sectors] */
};

struct vmm_journal_end {
    uint32_t magic;
    uint32_t crc; /* of this mark */
    uint64_t records;
    uint64_t sectors;
};

struct vmm_journal_trailer {
    uint32_t magic;
    uint32_t crc; /* of this trailer */
    uint64_t size;
    int64_t mtime_seconds; /* of the image after the commit; 0 for a block device */
    uint64_t mtime_nanoseconds;
};

_Static_assert(sizeof(struct vmm_journal_header) == 456, "the journal's header changed its size");
_Static_assert(sizeof(struct vmm_journal_record) == 24, "the journal's record changed its size");
_Static_assert(sizeof(struct vmm_journal_end) == 24, "the journal's end mark changed its size");
_Static_assert(sizeof(struct vmm_journal_trailer) == 32, "the journal's trailer changed its size");

#endif
