/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* rollback.c: puts the old bytes of an undo journal back into the image. */
#include "undo.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"

struct restore {
    int image_fd;
    uint64_t size_before;
    bool again;
};

/* What was never written needs no space now either: the disk may be full, which may be why we are here. */
static bool is_hole(int fd, const uint8_t *old, uint64_t n, uint64_t offset)
{
    if (old[0] || memcmp(old, old + 1, n - 1) != 0)
        return false;
    off_t data = lseek(fd, (off_t)offset, SEEK_DATA);
    return data < 0 ? errno == ENXIO : (uint64_t)data >= offset + n;
}

/* Whether these bytes of the image need not be written. */
static int is_restored(const struct restore *to, const uint8_t *old, uint64_t n, uint64_t offset, bool *restored)
{
    uint8_t now[VMM_SECTOR];

    if (to->again) {
        *restored = is_hole(to->image_fd, old, n, offset);
        return 0;
    }
    int err = pread_zeros(to->image_fd, now, n, offset);
    *restored = !err && memcmp(now, old, n) == 0;
    return err;
}

/* Records of one sector hold the same old bytes, so their order does not matter. */
static int restore_record(void *arg, const struct undo_record *r)
{
    const struct restore *to = arg;
    uint64_t len = (uint64_t)r->head.sectors * VMM_SECTOR;

    if (r->head.offset >= to->size_before)
        return 0;
    if (len > to->size_before - r->head.offset)
        len = to->size_before - r->head.offset;
    uint64_t from = 0, at = 0;
    int err = 0;
    /* Neighbours are written together: from..at are those that wait. */
    while (!err && at < len) {
        uint64_t n = len - at < VMM_SECTOR ? len - at : VMM_SECTOR;
        bool restored = false;
        err = is_restored(to, r->payload + at, n, r->head.offset + at, &restored);
        if (!err && restored) {
            err = pwrite_all(to->image_fd, r->payload + from, at - from, r->head.offset + from);
            from = at + n;
        }
        at += n;
    }
    return err ? err : pwrite_all(to->image_fd, r->payload + from, at - from, r->head.offset + from);
}

int vmm_undo_rollback(int image_fd, int journal_fd, bool again)
{
    struct vmm_journal_header h;
    struct vmm_undo u;
    struct stat st;
    uint64_t size = 0;
    bool valid, whole;
    int err = undo_read_header(journal_fd, &h, &valid);

    if (err || !valid)
        return err ? err : -EBADMSG;
    struct restore to = {.image_fd = image_fd, .size_before = h.size_before, .again = again};
    u.begin = undo_header_size(&h);
    err = undo_walk(journal_fd, &u, &whole, restore_record, &to);
    if (!err && !whole)
        err = -EBADMSG; /* what came back broken cannot have been put back whole */
    err = err ? err : undo_image_size(image_fd, &size, &st);
    if (!err && size > h.size_before && S_ISREG(st.st_mode) && ftruncate(image_fd, (off_t)h.size_before) < 0)
        err = -errno;
    return err ? err : sync_whole(image_fd, true);
}

static int write_trailer(int fd, const struct vmm_undo *u, uint32_t magic)
{
    struct vmm_journal_trailer t = {.magic = magic, .size = u->size_after, .mtime_seconds = u->mtime_seconds,
                                    .mtime_nanoseconds = u->mtime_nanoseconds};

    t.crc = crc32c(0, &t, sizeof(t));
    int err = pwrite_all(fd, &t, sizeof(t), u->end);
    return err ? err : sync_whole(fd, true);
}

int vmm_undo_apply(int image_fd, int journal_fd, bool spend, struct vmm_undo *u)
{
    int err = vmm_undo_probe(image_fd, journal_fd, u);

    if (err || u->spent || (u->state != VMM_UNDO_READY && u->state != VMM_UNDO_ORIGINAL))
        return err;
    /* Durable before the first old byte is: the time of the image's last change will not be the trailer's any more. */
    if (u->state == VMM_UNDO_READY && u->finished && !u->undoing)
        err = write_trailer(journal_fd, u, VMM_UNDOING_MAGIC);
    /* The first write of all must show that one was made: until then the image's time still counts. */
    err = err ? err : vmm_undo_rollback(image_fd, journal_fd, !(u->finished && u->complete));
    if (err || (!spend && (!u->finished || u->undoing)))
        return err;
    /* Whole, and durable: what the image becomes from now on is no business of this journal. */
    return write_trailer(journal_fd, u, spend ? VMM_SPENT_MAGIC : VMM_TRAILER_MAGIC);
}
