/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* overlay.c: sectors that the guest wrote, one version an epoch, in an unlinked file with an index in memory. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm.h"
#include "common.h"
#include "journal_format.h"

#define SECTORS (OVERLAY_PAGE / VMM_SECTOR)
#define FIRST_BUCKETS 256u

void overlay_init(struct overlay *ov, int fd, int image_fd, uint64_t size, uint64_t memory)
{
    *ov = (struct overlay){.fd = fd, .image_fd = image_fd, .size = size, .lock = PTHREAD_MUTEX_INITIALIZER};
    /* Buckets take about as much again as the smallest versions would; growing needs the old and the new at once. */
    ov->limit = memory / 3 / sizeof(*ov->versions);
    atomic_init(&ov->empty, true);
}

void overlay_drop(struct overlay *ov)
{
    free(ov->versions);
    free(ov->buckets);
    ov->versions = NULL;
    ov->buckets = NULL;
    ov->count = ov->room = ov->nbuckets = 0;
    ov->fd = -1;
    atomic_store(&ov->empty, true);
}

/* ---- index --------------------------------------------------------------------------------------------------- */

static uint64_t bucket_of(const struct overlay *ov, uint64_t page)
{
    return ((page * UINT64_C(0x9e3779b97f4a7c15)) >> 17) & (ov->nbuckets - 1);
}

/* The versions of one page, by epoch; NULL where it has none. */
static void find(const struct overlay *ov, uint64_t page, struct overlay_version *by_epoch[VR_EPOCH_COUNT])
{
    uint32_t i = ov->nbuckets ? ov->buckets[bucket_of(ov, page)] : 0;

    memset(by_epoch, 0, VR_EPOCH_COUNT * sizeof(by_epoch[0]));
    for (; i; i = ov->versions[i - 1].chain)
        if (ov->versions[i - 1].page == page)
            by_epoch[ov->versions[i - 1].epoch] = &ov->versions[i - 1];
}

static int rehash(struct overlay *ov)
{
    uint64_t n = ov->nbuckets ? ov->nbuckets * 4 : FIRST_BUCKETS;
    uint32_t *buckets = calloc(n, sizeof(*buckets));

    if (!buckets)
        return -ENOMEM;
    free(ov->buckets);
    ov->buckets = buckets;
    ov->nbuckets = n;
    for (uint64_t i = 0; i < ov->count; i++) {
        uint64_t b = bucket_of(ov, ov->versions[i].page);
        ov->versions[i].chain = buckets[b];
        buckets[b] = (uint32_t)i + 1;
    }
    return 0;
}

static int make_room(struct overlay *ov)
{
    if (ov->count >= ov->limit || ov->count >= UINT32_MAX - 1)
        return -ENOSPC;
    if (ov->count == ov->room) {
        uint64_t room = ov->room ? ov->room * 2 : FIRST_BUCKETS;
        struct overlay_version *grown = realloc(ov->versions, room * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        ov->versions = grown;
        ov->room = room;
    }
    return ov->count >= ov->nbuckets ? rehash(ov) : 0;
}

static int add_version(struct overlay *ov, uint64_t page, uint32_t epoch, struct overlay_version **v)
{
    int err = make_room(ov);

    if (err)
        return err;
    uint64_t b = bucket_of(ov, page);
    *v = &ov->versions[ov->count];
    **v = (struct overlay_version){
        .page = page, .slot = (uint32_t)ov->count, .epoch = (uint8_t)epoch, .chain = ov->buckets[b]};
    ov->buckets[b] = (uint32_t)++ov->count;
    return 0;
}

/* ---- reading --------------------------------------------------------------------------------------------------- */

int overlay_page(struct overlay *ov, const struct overlay_version *v, uint8_t page[OVERLAY_PAGE])
{
    uint32_t slot = v->slot;

    if (slot - ov->window_at >= ov->window_slots) {
        /* Neighbours are mostly wanted one after the other. */
        uint32_t n = slot == ov->window_at + ov->window_slots ? OVERLAY_CHUNK / OVERLAY_PAGE : 1;
        ov->window_slots = 0;
        int err = pread_zeros(ov->fd, ov->window, (size_t)n * OVERLAY_PAGE, (uint64_t)slot * OVERLAY_PAGE);
        if (err)
            return err;
        ov->window_at = slot;
        ov->window_slots = n;
    }
    memcpy(page, ov->window + (size_t)(slot - ov->window_at) * OVERLAY_PAGE, OVERLAY_PAGE);
    return 0;
}

/* Puts every version of one page over buf, which holds [from, to) of it. */
static int merge_page(struct overlay *ov, uint64_t page, uint8_t *buf, uint32_t from, uint32_t to)
{
    struct overlay_version *by_epoch[VR_EPOCH_COUNT];
    uint8_t data[OVERLAY_PAGE];

    find(ov, page, by_epoch);
    for (unsigned e = 0; e < VR_EPOCH_COUNT; e++) {
        const struct overlay_version *v = by_epoch[e];
        int err = v ? overlay_page(ov, v, data) : 0;
        if (err)
            return err;
        for (uint32_t s = 0; v && s < SECTORS; s++) {
            uint32_t lo = s * VMM_SECTOR > from ? s * VMM_SECTOR : from;
            uint32_t hi = (s + 1) * VMM_SECTOR < to ? (s + 1) * VMM_SECTOR : to;
            if ((v->dirty >> s & 1) && lo < hi)
                memcpy(buf + (lo - from), data + lo, hi - lo);
        }
    }
    return 0;
}

static int read_locked(struct overlay *ov, uint8_t *buf, uint32_t len, uint64_t offset)
{
    int err = pread_zeros(ov->image_fd, buf, len, offset);

    while (!err && len > 0) {
        uint32_t from = offset % OVERLAY_PAGE;
        uint32_t n = OVERLAY_PAGE - from < len ? OVERLAY_PAGE - from : len;
        err = merge_page(ov, offset / OVERLAY_PAGE, buf, from, from + n);
        buf += n;
        offset += n;
        len -= n;
    }
    return err;
}

int overlay_read(struct overlay *ov, void *buf, uint32_t len, uint64_t offset)
{
    if (atomic_load(&ov->empty))
        return pread_zeros(ov->image_fd, buf, len, offset);
    pthread_mutex_lock(&ov->lock);
    int err = read_locked(ov, buf, len, offset);
    pthread_mutex_unlock(&ov->lock);
    return err;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

/* What is to be written to one page. */
struct piece {
    uint64_t page;
    const uint8_t *now; /* how the page reads */
    const uint8_t *buf; /* what bytes [from, from + len) of it are to read */
    uint32_t from, len;
};

/* Sectors of the page that would read differently; then[] is the page as it would read. */
static int changed_sectors(const struct piece *p, uint8_t *then)
{
    int changed = 0;

    memcpy(then, p->now, OVERLAY_PAGE);
    memcpy(then + p->from, p->buf, p->len);
    for (uint32_t s = 0; s < SECTORS; s++)
        if (memcmp(p->now + s * VMM_SECTOR, then + s * VMM_SECTOR, VMM_SECTOR) != 0)
            changed |= 1 << s;
    return changed;
}

static int store_sectors(struct overlay *ov, const struct overlay_version *v, const uint8_t *then, int changed)
{
    uint64_t at = (uint64_t)v->slot * OVERLAY_PAGE;
    int err = 0;

    ov->window_slots = 0;
    if (v->dirty == 0) /* nobody asks for its other sectors */
        return pwrite_all(ov->fd, then, OVERLAY_PAGE, at);
    /* No other sector: this version of one may be older than what the page reads as. */
    for (uint32_t s = 0; s < SECTORS && !err; s++)
        if (changed >> s & 1)
            err = pwrite_all(ov->fd, then + s * VMM_SECTOR, VMM_SECTOR, at + s * VMM_SECTOR);
    return err;
}

static int write_page(struct overlay *ov, uint32_t epoch, const struct piece *p)
{
    struct overlay_version *by_epoch[VR_EPOCH_COUNT], *v;
    uint8_t then[OVERLAY_PAGE];

    int changed = changed_sectors(p, then);
    if (changed == 0)
        return 0;
    find(ov, p->page, by_epoch);
    /* What a later epoch wrote would hide an earlier one's sector, now and on the disk. */
    for (unsigned e = epoch + 1; e < VR_EPOCH_COUNT; e++)
        if (by_epoch[e] && (by_epoch[e]->dirty & changed))
            return -EPROTO;
    v = by_epoch[epoch];
    int err = v ? 0 : add_version(ov, p->page, epoch, &v);
    err = err ? err : store_sectors(ov, v, then, changed);
    if (!err)
        v->dirty |= (uint8_t)changed;
    return err;
}

/* Up to the end of a chunk. Returns the bytes taken, or -errno. */
static int write_chunk(struct overlay *ov, uint32_t epoch, const uint8_t *buf, uint32_t len, uint64_t offset)
{
    uint8_t now[OVERLAY_CHUNK];
    uint32_t from = offset % OVERLAY_CHUNK, done = 0;
    uint32_t first = from - from % OVERLAY_PAGE;

    len = OVERLAY_CHUNK - from < len ? OVERLAY_CHUNK - from : len;
    uint32_t read = from + len - first;
    read += (OVERLAY_PAGE - read % OVERLAY_PAGE) % OVERLAY_PAGE;
    int err = read_locked(ov, now + first, read, offset - from + first);
    while (!err && done < len) {
        uint32_t at = from + done, in_page = at % OVERLAY_PAGE;
        uint32_t n = OVERLAY_PAGE - in_page < len - done ? OVERLAY_PAGE - in_page : len - done;
        struct piece p = {(offset + done) / OVERLAY_PAGE, now + (at - in_page), buf + done, in_page, n};
        err = write_page(ov, epoch, &p);
        done += n;
    }
    return err ? err : (int)done;
}

int overlay_write(struct overlay *ov, uint32_t epoch, const void *buf, uint32_t len, uint64_t offset)
{
    const uint8_t *p = buf;
    int taken = 0;

    pthread_mutex_lock(&ov->lock);
    ov->written += len;
    while (len > 0 && (taken = write_chunk(ov, epoch, p, len, offset)) >= 0) {
        p += taken;
        offset += (uint32_t)taken;
        len -= (uint32_t)taken;
    }
    if (ov->count)
        atomic_store(&ov->empty, false);
    pthread_mutex_unlock(&ov->lock);
    return taken < 0 ? taken : 0;
}

/* ---- before the commit --------------------------------------------------------------------------------------------- */

static int by_epoch_and_page(const void *a, const void *b)
{
    const struct overlay_version *x = a, *y = b;

    if (x->epoch != y->epoch)
        return x->epoch < y->epoch ? -1 : 1;
    return (x->page > y->page) - (x->page < y->page);
}

void overlay_sort(struct overlay *ov)
{
    if (ov->count)
        qsort(ov->versions, ov->count, sizeof(*ov->versions), by_epoch_and_page);
}
