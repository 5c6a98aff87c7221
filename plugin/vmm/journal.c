/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* journal.c: writes the undo journal: everything that a rollback needs, durable before the image changes. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm.h"
#include "common.h"
#include "journal_format.h"

#define SECTORS (OVERLAY_PAGE / VMM_SECTOR)

/* The record being filled: sectors that follow each other in one epoch. */
struct writer {
    int fd;
    const struct vmm_config *cfg;
    struct overlay *ov;
    uint64_t at; /* in the journal */
    uint64_t records, sectors;
    struct vmm_journal_record head;
    uint8_t old[VMM_RECORD_SECTORS * VMM_SECTOR];
    uint32_t new_crc[VMM_RECORD_SECTORS];
};

static int put(struct writer *w, const void *bytes, size_t len)
{
    uint64_t at = w->at;

    w->at += len;
    if (w->cfg->journal_max && w->at > w->cfg->journal_max)
        return -EDQUOT;
    return pwrite_all(w->fd, bytes, len, at);
}

static int flush_record(struct writer *w)
{
    struct vmm_journal_record *h = &w->head;

    if (h->sectors == 0)
        return 0;
    h->magic = VMM_RECORD_MAGIC;
    h->crc = 0;
    int err = pread_zeros(w->cfg->image_fd, w->old, (size_t)h->sectors * VMM_SECTOR, h->offset);
    if (err)
        return err;
    /* What lies behind the old end is not the image's: a file may be longer by the tail of its last sector. */
    if (h->offset + (uint64_t)h->sectors * VMM_SECTOR > w->cfg->image_size) {
        uint64_t have = w->cfg->image_size > h->offset ? w->cfg->image_size - h->offset : 0;
        memset(w->old + have, 0, (uint64_t)h->sectors * VMM_SECTOR - have);
    }
    uint32_t crc = crc32c(0, h, sizeof(*h));
    crc = crc32c(crc, w->old, (size_t)h->sectors * VMM_SECTOR);
    h->crc = crc32c(crc, w->new_crc, h->sectors * sizeof(uint32_t));
    err = put(w, h, sizeof(*h));
    err = err ? err : put(w, w->old, (size_t)h->sectors * VMM_SECTOR);
    err = err ? err : put(w, w->new_crc, h->sectors * sizeof(uint32_t));
    w->records++;
    w->sectors += h->sectors;
    *h = (struct vmm_journal_record){0};
    return err;
}

static int add_sector(struct writer *w, uint32_t epoch, uint64_t offset, const uint8_t *sector)
{
    struct vmm_journal_record *h = &w->head;
    bool follows = h->sectors > 0 && h->sectors < VMM_RECORD_SECTORS && h->epoch == epoch &&
                   h->offset + (uint64_t)h->sectors * VMM_SECTOR == offset;
    int err = follows ? 0 : flush_record(w);

    if (h->sectors == 0) {
        h->offset = offset;
        h->epoch = epoch;
    }
    w->new_crc[h->sectors++] = crc32c(0, sector, VMM_SECTOR);
    return err;
}

static int write_records(struct writer *w)
{
    uint8_t page[OVERLAY_PAGE];

    for (uint64_t i = 0; i < w->ov->count; i++) {
        const struct overlay_version *v = &w->ov->versions[i];
        int err = overlay_page(w->ov, v, page);
        for (uint32_t s = 0; s < SECTORS && !err; s++)
            if (v->dirty >> s & 1)
                err = add_sector(w, v->epoch, v->page * OVERLAY_PAGE + s * VMM_SECTOR, page + s * VMM_SECTOR);
        if (err)
            return err;
    }
    return flush_record(w);
}

static int write_header(struct writer *w)
{
    struct vmm_journal_header h = {.magic = VMM_JOURNAL_MAGIC, .version = VMM_JOURNAL_VERSION,
                                   .size_before = w->cfg->image_size, .size_after = w->ov->size,
                                   .mode = w->cfg->mode};

    memcpy(h.image_name, w->cfg->image_name, sizeof(h.image_name) - 1);
    memcpy(h.identity, w->cfg->image_identity, sizeof(h.identity) - 1);
    h.crc = crc32c(0, &h, sizeof(h));
    return put(w, &h, sizeof(h));
}

/* And the room of the trailer, which is written when the image is: the disk may be full by then. */
static int write_end(struct writer *w)
{
    static const struct vmm_journal_trailer room;
    struct vmm_journal_end end = {.magic = VMM_END_MAGIC, .records = w->records, .sectors = w->sectors};

    end.crc = crc32c(0, &end, sizeof(end));
    int err = put(w, &end, sizeof(end));
    return err ? err : pwrite_all(w->fd, &room, sizeof(room), w->at);
}

int journal_write(int fd, const struct vmm_config *cfg, struct overlay *ov, uint64_t *bytes)
{
    struct writer *w = calloc(1, sizeof(*w));

    if (!w)
        return -ENOMEM;
    w->fd = fd;
    w->cfg = cfg;
    w->ov = ov;
    int err = write_header(w);
    err = err ? err : write_records(w);
    err = err ? err : write_end(w);
    err = err ? err : sync_whole(fd, false);
    *bytes = w->at;
    free(w);
    return err;
}

int journal_finish(int fd, uint64_t at, int image_fd, uint64_t size)
{
    struct vmm_journal_trailer t = {.magic = VMM_TRAILER_MAGIC, .size = size};
    struct stat st;

    int err = file_stat(image_fd, &st);
    if (err)
        return err;
    if (S_ISREG(st.st_mode)) {
        t.mtime_seconds = st.st_mtim.tv_sec;
        t.mtime_nanoseconds = (uint64_t)st.st_mtim.tv_nsec;
    }
    t.crc = crc32c(0, &t, sizeof(t));
    err = pwrite_all(fd, &t, sizeof(t), at);
    return err ? err : sync_whole(fd, true);
}
