/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fuzz_journal.c: the reader of undo journals, over journals and images of any content.
 *
 * Input: sectors of the image (one byte), the image, the journal. The mutator makes the checksums right again, most of
 * the time: behind them is what has to be looked at.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "fuzz.h"
#include "journal_format.h"
#include "undo.h"

#define SIZE_MAX_AFTER (1u << 30)

static int file_of(int *fd, const void *bytes, size_t size)
{
    if (*fd <= 0)
        *fd = memfd_create("fuzz", MFD_CLOEXEC);
    HOLD(*fd > 0 && ftruncate(*fd, 0) == 0 && pwrite(*fd, bytes, size, 0) == (ssize_t)size, "a file can be made");
    return *fd;
}

static int same(int fd, const uint8_t *bytes, size_t size)
{
    static uint8_t now[256 * VMM_SECTOR];
    struct stat st;

    return fstat(fd, &st) == 0 && (size_t)st.st_size == size && pread(fd, now, size, 0) == (ssize_t)size &&
           memcmp(now, bytes, size) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int image_fd, journal_fd;
    struct vmm_undo u;
    struct stat st;

    if (size < 1 || size - 1 < data[0] * (size_t)VMM_SECTOR)
        return 0;
    const uint8_t *image = data + 1, *journal = image + data[0] * (size_t)VMM_SECTOR;
    size_t image_size = data[0] * (size_t)VMM_SECTOR, journal_size = (size_t)(data + size - journal);
    /* A journal may rightly restore any length; not here. */
    struct vmm_journal_header h = {0};
    memcpy(&h, journal, journal_size < sizeof(h) ? journal_size : sizeof(h));
    if (h.size_before > SIZE_MAX_AFTER)
        return 0;
    file_of(&image_fd, image, image_size);
    file_of(&journal_fd, journal, journal_size);
    int err = vmm_undo_probe(image_fd, journal_fd, &u);
    HOLD(same(image_fd, image, image_size), "a probe changes nothing");
    if (err)
        return 0;
    enum vmm_undo_state state = u.state;
    HOLD(memchr(u.image_name, 0, sizeof(u.image_name)), "the image's name ends");
    err = vmm_undo_apply(image_fd, journal_fd, true, &u);
    if (state != VMM_UNDO_READY)
        HOLD(same(image_fd, image, image_size), "what cannot be rolled back is left alone");
    else if (!err)
        HOLD(fstat(image_fd, &st) == 0 && (uint64_t)st.st_size == u.size_before, "the old length is back");
    (void)vmm_undo_rollback(image_fd, journal_fd, true);
    return 0;
}

/* ---- damage ------------------------------------------------------------------------------------------------------------- */

/* Checksums as a writer would have put them, from the beginning as far as records follow each other. */
static void seal(uint8_t *journal, size_t size)
{
    struct vmm_journal_header h;
    size_t at = sizeof(h);

    if (size < sizeof(h))
        return;
    memcpy(&h, journal, sizeof(h));
    h.crc = 0;
    h.crc = crc32c(0, &h, sizeof(h));
    memcpy(journal, &h, sizeof(h));
    for (;;) {
        struct vmm_journal_record r;
        if (size - at < sizeof(r))
            return;
        memcpy(&r, journal + at, sizeof(r));
        size_t body = r.sectors * (size_t)(VMM_SECTOR + sizeof(uint32_t));
        r.crc = 0;
        if (r.magic == VMM_RECORD_MAGIC && r.sectors <= VMM_RECORD_SECTORS && size - at - sizeof(r) >= body) {
            uint32_t crc = crc32c(0, &r, sizeof(r));
            r.crc = crc32c(crc, journal + at + sizeof(r), body);
            memcpy(journal + at, &r, sizeof(r));
            at += sizeof(r) + body;
            continue;
        }
        size_t len = r.magic == VMM_END_MAGIC ? sizeof(struct vmm_journal_end) : sizeof(struct vmm_journal_trailer);
        if ((r.magic != VMM_END_MAGIC && r.magic != VMM_TRAILER_MAGIC) || size - at < len)
            return;
        memset(journal + at + 4, 0, 4);
        uint32_t crc = crc32c(0, journal + at, len);
        memcpy(journal + at + 4, &crc, 4);
        at += len;
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    size = LLVMFuzzerMutate(data, size, max);
    if (size > 1 && seed % 8 != 0 && size - 1 >= data[0] * (size_t)VMM_SECTOR)
        seal(data + 1 + data[0] * (size_t)VMM_SECTOR, size - 1 - data[0] * (size_t)VMM_SECTOR);
    return size;
}
