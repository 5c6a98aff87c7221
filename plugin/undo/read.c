/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* read.c: reads an undo journal, and compares it with an image. */
#include "undo.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"

static uint32_t crc_without(const void *bytes, size_t len, size_t crc_at)
{
    static const uint32_t zero;
    const uint8_t *p = bytes;
    uint32_t crc = crc32c(0, p, crc_at);

    crc = crc32c(crc, &zero, sizeof(zero));
    return crc32c(crc, p + crc_at + sizeof(zero), len - crc_at - sizeof(zero));
}

size_t undo_header_size(const struct vmm_journal_header *h)
{
    return h->version == 1 ? VMM_HEADER_1_SIZE : sizeof(*h);
}

int undo_read_header(int fd, struct vmm_journal_header *h, bool *valid)
{
    int err = pread_zeros(fd, h, sizeof(*h), 0);

    *valid = err == 0 && h->magic == VMM_JOURNAL_MAGIC && h->version >= 1 && h->version <= VMM_JOURNAL_VERSION &&
             h->crc == crc_without(h, undo_header_size(h), offsetof(struct vmm_journal_header, crc)) &&
             memchr(h->image_name, 0, sizeof(h->image_name)) && h->size_before <= h->size_after;
    if (*valid && h->version == 1)
        memset(h->identity, 0, sizeof(h->identity));
    *valid = *valid && memchr(h->identity, 0, sizeof(h->identity));
    return err;
}

bool vmm_undo_is_journal(int journal_fd)
{
    uint64_t magic = 0;

    return pread_zeros(journal_fd, &magic, sizeof(magic), 0) == 0 && magic == VMM_JOURNAL_MAGIC;
}

/* The record at *at; *valid says whether there is a whole one. Moves *at behind it. */
static int read_record(int fd, uint64_t *at, struct undo_record *r, bool *valid)
{
    int err = pread_zeros(fd, &r->head, sizeof(r->head), *at);

    *valid = false;
    if (err || r->head.magic != VMM_RECORD_MAGIC || r->head.sectors == 0 || r->head.sectors > VMM_RECORD_SECTORS ||
        r->head.offset % VMM_SECTOR != 0 || r->head.offset > INT64_MAX - VMM_RECORD_SECTORS * VMM_SECTOR)
        return err;
    size_t payload = UNDO_PAYLOAD(r->head.sectors);
    err = pread_zeros(fd, r->payload, payload, *at + sizeof(r->head));
    if (err)
        return err;
    *valid = r->head.crc == crc_without(r, sizeof(r->head) + payload, offsetof(struct vmm_journal_record, crc));
    *at += sizeof(r->head) + payload;
    return 0;
}

static bool end_is_sound(const struct vmm_journal_end *end)
{
    return end->magic == VMM_END_MAGIC &&
           end->crc == crc_without(end, sizeof(*end), offsetof(struct vmm_journal_end, crc));
}

int undo_walk(int fd, struct vmm_undo *u, bool *whole, undo_visit_fn *visit, void *arg)
{
    struct undo_record *r = malloc(sizeof(*r));
    uint64_t at = u->begin, sectors = 0;
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
    *whole = !err && end_is_sound(&end) && end.records == u->records && end.sectors == sectors;
    u->end = at + sizeof(end);
    return err;
}

/* ---- comparison ------------------------------------------------------------------------------------------ */

/* What the journal knows of each sector, one entry for each record that holds it. */
struct known {
    uint64_t sector;
    uint32_t epoch, old_crc, new_crc;
};

struct compare {
    int image_fd;
    uint64_t size_before;
    struct known *known;
    uint64_t count, room;
};

static int collect(void *arg, const struct undo_record *r)
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
        k->epoch = r->head.epoch;
        k->old_crc = crc32c(0, r->payload + (size_t)i * VMM_SECTOR, VMM_SECTOR);
        memcpy(&k->new_crc, r->payload + (size_t)r->head.sectors * VMM_SECTOR + i * sizeof(uint32_t), sizeof(uint32_t));
    }
    return 0;
}

static int by_sector(const void *a, const void *b)
{
    const struct known *x = a, *y = b;

    return x->sector != y->sector ? (x->sector > y->sector) - (x->sector < y->sector)
                                  : (x->epoch > y->epoch) - (x->epoch < y->epoch);
}

struct tally {
    uint64_t old, new, neither; /* a sector is one of these */
    uint64_t unfinished;        /* not what the last epoch that names it left */
    uint64_t below;             /* old or new, and not behind the old end, where any image has the zeros of any other */
    bool marked;                /* the header is neither the old nor the last one */
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
        uint32_t old = c->known[i].old_crc;
        bool is_old = crc == old, is_new = false, is_last = false, agree = true;
        for (; i < c->count && c->known[i].sector == s; i++) {
            agree &= c->known[i].old_crc == old;
            is_last = crc == c->known[i].new_crc;
            is_new |= is_last;
        }
        t->unfinished += !is_last;
        t->marked |= s == 0 && agree && is_new && !is_last && !is_old;
        /* A writer's records of one sector hold the same old bytes. */
        t->old += agree && is_old;
        t->new += agree && is_new && !is_old;
        t->neither += !agree || (!is_old && !is_new);
        t->below += agree && (is_old || is_new) && s * VMM_SECTOR < c->size_before;
    }
    return 0;
}

int undo_image_size(int fd, uint64_t *size, struct stat *st)
{
    int err = file_stat(fd, st);
    if (err)
        return err;
    off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0)
        return -errno;
    *size = (uint64_t)end;
    return 0;
}

static enum vmm_undo_state decide(const struct vmm_undo *u, const struct tally *t, uint64_t size, const struct stat *st)
{
    bool size_known = size == u->size_before || size == u->size_after;

    /* A size is no proof that a journal is this image's. */
    if (t->below == 0)
        return VMM_UNDO_FOREIGN;
    if (t->neither > 0 || !size_known)
        return VMM_UNDO_CHANGED;
    if (t->new == 0 && size == u->size_before)
        return VMM_UNDO_ORIGINAL;
    if (u->spent)
        return VMM_UNDO_SPENT;
    /* An undo that was cut has changed the image itself. */
    if (u->finished && !(u->undoing && !u->complete) && S_ISREG(st->st_mode) &&
        (st->st_mtim.tv_sec != u->mtime_seconds || (uint64_t)st->st_mtim.tv_nsec != u->mtime_nanoseconds))
        return VMM_UNDO_CHANGED;
    return VMM_UNDO_READY;
}

static bool trailer_is_sound(const struct vmm_journal_trailer *t)
{
    return (t->magic == VMM_TRAILER_MAGIC || t->magic == VMM_UNDOING_MAGIC || t->magic == VMM_SPENT_MAGIC) &&
           t->crc == crc_without(t, sizeof(*t), offsetof(struct vmm_journal_trailer, crc));
}

static int read_trailer(int fd, struct vmm_undo *u)
{
    struct vmm_journal_trailer t;
    int err = pread_zeros(fd, &t, sizeof(t), u->end);

    u->finished = !err && trailer_is_sound(&t) && t.size == u->size_after;
    u->undoing = u->finished && t.magic == VMM_UNDOING_MAGIC;
    u->spent = u->finished && t.magic == VMM_SPENT_MAGIC;
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
    bool valid;

    *u = (struct vmm_undo){.state = VMM_UNDO_EMPTY};
    int err = undo_read_header(journal_fd, &h, &valid);
    if (err || !valid)
        return err;
    u->size_before = h.size_before;
    u->size_after = h.size_after;
    u->mode = h.mode;
    u->begin = undo_header_size(&h);
    memcpy(u->image_name, h.image_name, sizeof(u->image_name));
    memcpy(u->identity, h.identity, sizeof(u->identity));
    c.size_before = h.size_before;
    err = undo_walk(journal_fd, u, &u->whole, collect, &c);
    if (!err && u->whole) {
        err = read_trailer(journal_fd, u);
        err = err ? err : undo_image_size(image_fd, &size, &st);
        err = err ? err : judge(&c, &t);
        u->complete = !err && t.unfinished == 0 && size == u->size_after;
        u->marked = !err && t.marked;
        if (!err)
            u->state = decide(u, &t, size, &st);
    }
    free(c.known);
    return err;
}

/* At the end of the file, where a writer that came so far has put them. */
static enum vmm_journal_stage stage_of(int fd, uint64_t size)
{
    struct vmm_journal_trailer t = {0};
    struct vmm_journal_end e = {0};

    if (size < VMM_HEADER_1_SIZE + sizeof(e) + sizeof(t))
        return VMM_JOURNAL_VOID;
    if (pread_zeros(fd, &t, sizeof(t), size - sizeof(t)) || pread_zeros(fd, &e, sizeof(e), size - sizeof(t) - sizeof(e)))
        return VMM_JOURNAL_OPEN;
    if (!end_is_sound(&e)) {
        memcpy(&e, (char *)&t + sizeof(t) - sizeof(e), sizeof(e));
        return end_is_sound(&e) ? VMM_JOURNAL_OPEN : VMM_JOURNAL_VOID;
    }
    if (!trailer_is_sound(&t))
        return VMM_JOURNAL_OPEN;
    return t.magic == VMM_TRAILER_MAGIC   ? VMM_JOURNAL_DONE
           : t.magic == VMM_UNDOING_MAGIC ? VMM_JOURNAL_UNDOING
                                          : VMM_JOURNAL_SPENT;
}

int vmm_undo_peek(int journal_fd, struct vmm_journal_info *info)
{
    struct vmm_journal_header h;
    struct stat st;

    *info = (struct vmm_journal_info){.stage = VMM_JOURNAL_VOID};
    if (fstat(journal_fd, &st) < 0)
        return -errno;
    info->bytes = (uint64_t)st.st_size;
    info->changed_ns = st.st_mtim.tv_sec * INT64_C(1000000000) + st.st_mtim.tv_nsec;
    int err = undo_read_header(journal_fd, &h, &info->headed);
    if (err || !info->headed)
        return err;
    info->size_before = h.size_before;
    info->size_after = h.size_after;
    memcpy(info->image_name, h.image_name, sizeof(info->image_name));
    memcpy(info->identity, h.identity, sizeof(info->identity));
    info->stage = stage_of(journal_fd, info->bytes);
    return 0;
}

bool vmm_undo_is_cut(const struct vmm_undo *u)
{
    return u->state == VMM_UNDO_READY && !u->complete && (!u->finished || u->undoing);
}
