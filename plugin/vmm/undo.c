/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* undo.c: reads an undo journal, compares it with an image, rolls the image back. */
#include "undo.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crc32c.h"
#include "fileio.h"
#include "journal_format.h"

#define PAYLOAD(sectors) ((size_t)(sectors) * (VMM_SECTOR + sizeof(uint32_t)))

/* One record in memory. */
struct record {
    struct vmm_journal_record head;
    uint8_t payload[PAYLOAD(VMM_RECORD_SECTORS)];
};

/* What a visit to a record does with it; not 0 ends the walk. */
typedef int visit_fn(void *arg, const struct record *r);

static uint32_t crc_without(const void *bytes, size_t len, size_t crc_at)
{
    static const uint32_t zero;
    const uint8_t *p = bytes;
    uint32_t crc = crc32c(0, p, crc_at);

    crc = crc32c(crc, &zero, sizeof(zero));
    return crc32c(crc, p + crc_at + sizeof(zero), len - crc_at - sizeof(zero));
}

static int read_header(int fd, struct vmm_journal_header *h, bool *valid)
{
    int err = pread_zeros(fd, h, sizeof(*h), 0);

    *valid = err == 0 && h->magic == VMM_JOURNAL_MAGIC && h->version == VMM_JOURNAL_VERSION &&
             h->crc == crc_without(h, sizeof(*h), offsetof(struct vmm_journal_header, crc)) &&
             memchr(h->image_name, 0, sizeof(h->image_name)) && h->size_before <= h->size_after;
    return err;
}

bool vmm_undo_is_journal(int journal_fd)
{
    uint64_t magic = 0;

    return pread_zeros(journal_fd, &magic, sizeof(magic), 0) == 0 && magic == VMM_JOURNAL_MAGIC;
}

/* The record at *at; *valid says whether there is a whole one. Moves *at behind it. */
static int read_record(int fd, uint64_t *at, struct record *r, bool *valid)
{
    int err = pread_zeros(fd, &r->head, sizeof(r->head), *at);

    *valid = false;
    if (err || r->head.magic != VMM_RECORD_MAGIC || r->head.sectors == 0 || r->head.sectors > VMM_RECORD_SECTORS ||
        r->head.offset % VMM_SECTOR != 0 || r->head.offset > INT64_MAX - VMM_RECORD_SECTORS * VMM_SECTOR)
        return err;
    size_t payload = PAYLOAD(r->head.sectors);
    err = pread_zeros(fd, r->payload, payload, *at + sizeof(r->head));
    if (err)
        return err;
    *valid = r->head.crc == crc_without(r, sizeof(r->head) + payload, offsetof(struct vmm_journal_record, crc));
    *at += sizeof(r->head) + payload;
    return 0;
}

/* Visits every record in order. *whole: the end mark is there and agrees; u gets counts and u->end. */
static int walk(int fd, struct vmm_undo *u, bool *whole, visit_fn *visit, void *arg)
{
    struct record *r = malloc(sizeof(*r));
    uint64_t at = sizeof(struct vmm_journal_header), sectors = 0;
    bool valid = true;
    int err = r ? 0 : -ENOMEM;

    *whole = false;
    u->records = 0;
    while (!err) {
        err = read_record(fd, &at, r, &valid);
        if (err || !valid)
            break;
        u->records++;
        sectors += r->head.sectors;
        err = visit ? visit(arg, r) : 0;
    }
    free(r);
    u->bytes = sectors * VMM_SECTOR;
    if (err)
        return err;
    struct vmm_journal_end end;
    err = pread_zeros(fd, &end, sizeof(end), at);
    *whole = !err && end.magic == VMM_END_MAGIC && end.records == u->records && end.sectors == sectors &&
             end.crc == crc_without(&end, sizeof(end), offsetof(struct vmm_journal_end, crc));
    u->end = at + sizeof(end);
    return err;
}

/* ---- comparison ------------------------------------------------------------------------------------------ */

/* What the journal knows of each sector, one entry for each record that holds it. */
struct known {
    uint64_t sector;
    uint32_t old_crc, new_crc;
};

struct compare {
    int image_fd;
    struct known *known;
    uint64_t count, room;
};

static int collect(void *arg, const struct record *r)
{
    struct compare *c = arg;

    if (c->count + r->head.sectors > c->room) {
        uint64_t room = (c->room + r->head.sectors) * 2;
        struct known *grown = realloc(c->known, room * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        c->known = grown;
        c->room = room;
    }
    for (uint32_t i = 0; i < r->head.sectors; i++) {
        struct known *k = &c->known[c->count++];
        k->sector = r->head.offset / VMM_SECTOR + i;
        k->old_crc = crc32c(0, r->payload + (size_t)i * VMM_SECTOR, VMM_SECTOR);
        memcpy(&k->new_crc, r->payload + (size_t)r->head.sectors * VMM_SECTOR + i * sizeof(uint32_t), sizeof(uint32_t));
    }
    return 0;
}

static int by_sector(const void *a, const void *b)
{
    uint64_t x = ((const struct known *)a)->sector, y = ((const struct known *)b)->sector;

    return (x > y) - (x < y);
}

struct tally {
    uint64_t old, new, neither;
};

/* Judge the sectors of the image, in ascending order; several entries may speak of one sector. */
static int judge(struct compare *c, struct tally *t)
{
    uint8_t sector[VMM_SECTOR];

    if (c->count)
        qsort(c->known, c->count, sizeof(*c->known), by_sector);
    for (uint64_t i = 0; i < c->count;) {
        uint64_t s = c->known[i].sector;
        int err = pread_zeros(c->image_fd, sector, sizeof(sector), s * VMM_SECTOR);
        if (err)
            return err;
        uint32_t crc = crc32c(0, sector, sizeof(sector));
        bool is_old = false, is_new = false;
        for (; i < c->count && c->known[i].sector == s; i++) {
            is_old |= crc == c->known[i].old_crc;
            is_new |= crc == c->known[i].new_crc;
        }
        t->old += is_old;
        t->new += is_new && !is_old;
        t->neither += !is_old && !is_new;
    }
    return 0;
}

static int image_size(int fd, uint64_t *size, struct stat *st)
{
    if (fstat(fd, st) < 0)
        return -errno;
    off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0)
        return -errno;
    *size = (uint64_t)end;
    return 0;
}

static enum vmm_undo_state decide(const struct vmm_undo *u, const struct tally *t, uint64_t size, const struct stat *st)
{
    bool size_known = size == u->size_before || size == u->size_after;

    if (t->neither > 0 && t->old + t->new == 0)
        return VMM_UNDO_FOREIGN;
    if (t->neither > 0 || !size_known)
        return VMM_UNDO_CHANGED;
    if (t->new == 0 && size == u->size_before)
        return VMM_UNDO_ORIGINAL;
    if (u->finished && S_ISREG(st->st_mode) &&
        (st->st_mtim.tv_sec != u->mtime_seconds || (uint64_t)st->st_mtim.tv_nsec != u->mtime_nanoseconds))
        return VMM_UNDO_CHANGED;
    return VMM_UNDO_READY;
}

static int read_trailer(int fd, struct vmm_undo *u)
{
    struct vmm_journal_trailer t;
    int err = pread_zeros(fd, &t, sizeof(t), u->end);

    u->finished = !err && t.magic == VMM_TRAILER_MAGIC && t.size == u->size_after &&
                  t.crc == crc_without(&t, sizeof(t), offsetof(struct vmm_journal_trailer, crc));
    u->mtime_seconds = t.mtime_seconds;
    u->mtime_nanoseconds = t.mtime_nanoseconds;
    return err;
}

int vmm_undo_probe(int image_fd, int journal_fd, struct vmm_undo *u)
{
    struct compare c = {.image_fd = image_fd};
    struct vmm_journal_header h;
    struct tally t = {0};
    struct stat st;
    uint64_t size = 0;
    bool valid, whole = false;

    *u = (struct vmm_undo){.state = VMM_UNDO_EMPTY};
    int err = read_header(journal_fd, &h, &valid);
    if (err || !valid)
        return err;
    u->size_before = h.size_before;
    u->size_after = h.size_after;
    u->mode = h.mode;
    memcpy(u->image_name, h.image_name, sizeof(u->image_name));
    err = walk(journal_fd, u, &whole, collect, &c);
    if (!err && whole) {
        err = read_trailer(journal_fd, u);
        err = err ? err : image_size(image_fd, &size, &st);
        err = err ? err : judge(&c, &t);
        if (!err)
            u->state = decide(u, &t, size, &st);
    }
    free(c.known);
    return err;
}

/* ---- rolling back -------------------------------------------------------------------------------------------- */

struct restore {
    int image_fd;
    uint64_t size_before;
};

/* Records of one sector hold the same old bytes, so their order does not matter. */
static int restore_record(void *arg, const struct record *r)
{
    const struct restore *to = arg;
    uint64_t len = (uint64_t)r->head.sectors * VMM_SECTOR;

    if (r->head.offset >= to->size_before)
        return 0;
    if (len > to->size_before - r->head.offset)
        len = to->size_before - r->head.offset;
    /* What was never written needs no space now either: the disk may be full, which may be why we are here. */
    for (uint64_t at = 0; at < len; at += VMM_SECTOR) {
        uint8_t now[VMM_SECTOR];
        uint64_t n = len - at < VMM_SECTOR ? len - at : VMM_SECTOR;
        int err = pread_zeros(to->image_fd, now, n, r->head.offset + at);
        if (!err && memcmp(now, r->payload + at, n) != 0)
            err = pwrite_all(to->image_fd, r->payload + at, n, r->head.offset + at);
        if (err)
            return err;
    }
    return 0;
}

int vmm_undo_rollback(int image_fd, int journal_fd)
{
    struct vmm_journal_header h;
    struct vmm_undo u;
    struct stat st;
    uint64_t size = 0;
    bool valid, whole;
    int err = read_header(journal_fd, &h, &valid);

    if (err || !valid)
        return err ? err : -EBADMSG;
    struct restore to = {.image_fd = image_fd, .size_before = h.size_before};
    err = walk(journal_fd, &u, &whole, restore_record, &to);
    if (!err && !whole)
        err = -EBADMSG; /* what came back broken cannot have been put back whole */
    err = err ? err : image_size(image_fd, &size, &st);
    if (!err && size > h.size_before && S_ISREG(st.st_mode) && ftruncate(image_fd, (off_t)h.size_before) < 0)
        err = -errno;
    if (!err && fdatasync(image_fd) < 0)
        err = -errno;
    return err;
}

int vmm_undo_apply(int image_fd, int journal_fd, struct vmm_undo *u)
{
    int err = vmm_undo_probe(image_fd, journal_fd, u);

    if (err || u->state != VMM_UNDO_READY)
        return err;
    return vmm_undo_rollback(image_fd, journal_fd);
}
