/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* undo_fixture.c: an image in memory, a repair of it, its journal, and the image after each write of the commit. */
#include "undo_fixture.h"

#include <sys/stat.h>

#define PAGE_SECTORS (OVERLAY_PAGE / VMM_SECTOR)

static void *zeros(uint64_t len)
{
    void *p = calloc(1, len ? len : 1);

    assert_non_null(p);
    return p;
}

static uint64_t file_size(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    return (uint64_t)st.st_size;
}

static void random_writes(struct overlay *ov, uint64_t seed, uint64_t size)
{
    uint8_t bytes[3000];

    unit_fill(&seed, bytes, VMM_SECTOR);
    assert_int_equal(overlay_write(ov, VR_EPOCH_MARK, bytes, 8, 72), 0);
    for (unsigned epoch = VR_EPOCH_STRUCTURE; epoch < VR_EPOCH_CLEAN; epoch++) {
        for (unsigned i = 0; i < 3; i++) {
            uint32_t len = (uint32_t)(unit_random(&seed) % sizeof(bytes)) + 1;
            uint64_t at = VMM_SECTOR + unit_random(&seed) % (size - len - VMM_SECTOR);
            unit_fill(&seed, bytes, len);
            assert_int_equal(overlay_write(ov, epoch, bytes, len, at), 0);
        }
    }
    /* The end, where a sector may be partial. */
    assert_int_equal(overlay_write(ov, VR_EPOCH_COPIED, bytes, 100, size - 100), 0);
    memset(bytes, 0, 8);
    assert_int_equal(overlay_write(ov, VR_EPOCH_CLEAN, bytes, 8, 72), 0);
}

/* What commit.c writes, sector by sector. */
static void list_writes(struct repair *r, struct overlay *ov)
{
    uint8_t page[OVERLAY_PAGE];

    r->offsets = zeros(ov->count * PAGE_SECTORS * sizeof(*r->offsets));
    r->sectors = zeros(ov->count * PAGE_SECTORS * sizeof(*r->sectors));
    for (uint64_t i = 0; i < ov->count; i++) {
        const struct overlay_version *v = &ov->versions[i];
        assert_int_equal(overlay_page(ov, v, page), 0);
        for (unsigned s = 0; s < PAGE_SECTORS; s++) {
            if (!(v->dirty >> s & 1))
                continue;
            r->offsets[r->writes] = v->page * OVERLAY_PAGE + s * VMM_SECTOR;
            memcpy(r->sectors[r->writes++], page + s * VMM_SECTOR, VMM_SECTOR);
        }
    }
}

void repair_make(struct repair *r, uint64_t seed, uint64_t size, uint64_t growth)
{
    *r = (struct repair){.size_before = size, .size_after = size + growth};
    r->before = zeros(size + growth + VMM_SECTOR);
    unit_fill(&seed, r->before, size);
    struct vmm_config cfg = {.mode = VR_MODE_ALL, .image_fd = unit_file(r->before, size), .image_size = size,
                             .image_name = "image.qcow2", .image_identity = "file:here:7"};
    struct overlay ov;
    int journal = unit_file(NULL, 0);

    overlay_init(&ov, unit_file(NULL, 0), cfg.image_fd, size, 64 << 20);
    ov.size = r->size_after;
    random_writes(&ov, seed, r->size_after);
    overlay_sort(&ov);
    assert_int_equal(journal_write(journal, &cfg, &ov, &r->journal_size), 0);
    list_writes(r, &ov);
    assert_int_equal(r->journal_size + sizeof(struct vmm_journal_trailer), file_size(journal));
    r->journal = zeros(r->journal_size);
    assert_int_equal(pread_zeros(journal, r->journal, r->journal_size, 0), 0);
    close(journal);
    close(ov.fd);
    overlay_drop(&ov);
    close(cfg.image_fd);
}

void repair_free(struct repair *r)
{
    free(r->before);
    free(r->journal);
    free(r->offsets);
    free(r->sectors);
}

int repair_image(const struct repair *r, uint64_t writes, bool grown)
{
    int fd = unit_file(r->before, r->size_before);

    if (grown)
        assert_int_equal(ftruncate(fd, (off_t)r->size_after), 0);
    for (uint64_t i = 0; i < writes; i++) {
        uint64_t left = r->size_after - r->offsets[i];
        assert_int_equal(pwrite_all(fd, r->sectors[i], left < VMM_SECTOR ? left : VMM_SECTOR, r->offsets[i]), 0);
    }
    return fd;
}

int repair_journal(const struct repair *r, int finished_image_fd)
{
    int fd = unit_file(r->journal, r->journal_size);

    if (finished_image_fd >= 0)
        assert_int_equal(journal_finish(fd, r->journal_size, finished_image_fd, r->size_after), 0);
    return fd;
}

bool repair_is_original(const struct repair *r, int image_fd)
{
    uint8_t *now = zeros(r->size_before);

    assert_int_equal(pread_zeros(image_fd, now, r->size_before, 0), 0);
    bool same = file_size(image_fd) == r->size_before && memcmp(now, r->before, r->size_before) == 0;
    free(now);
    return same;
}
