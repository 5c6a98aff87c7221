/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_undo.c: a commit cut at every write is recognised and rolled back byte for byte; what has changed is refused. */
#include "undo_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

struct shape {
    const char *name;
    uint64_t size, growth;
};

static const struct shape shapes[] = {
    {"whole sectors", 65536, 0},
    {"a partial last sector", 65536 + 100, 0},
    {"one byte in the last sector", 40961, 0},
    {"growth by whole sectors", 65536, 131072},
    {"growth from a partial sector", 65536 + 100, 1000},
    {"growth within the last sector", 65536 + 100, 57},
    {"growth by a part of a sector", 65536, 300},
};
#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

static enum vmm_undo_state probe(int image, int journal, struct vmm_undo *u)
{
    assert_int_equal(vmm_undo_probe(image, journal, u), 0);
    return u->state;
}

static void assert_rolls_back(const struct repair *r, int image, int journal)
{
    struct vmm_undo u;

    assert_int_equal(vmm_undo_apply(image, journal, true, &u), 0);
    assert_true(repair_is_original(r, image));
    /* A second time there is nothing to do. */
    assert_int_equal(vmm_undo_apply(image, journal, true, &u), 0);
    assert_int_equal(u.state, VMM_UNDO_ORIGINAL);
    assert_true(repair_is_original(r, image));
}

static void cut_at_every_write(void **state)
{
    (void)state;
    for (unsigned i = 0; i < SHAPES; i++) {
        struct repair r;
        repair_make(&r, 17 + i, shapes[i].size, shapes[i].growth);
        assert_in_range(r.writes, 20, 1000);
        for (uint64_t writes = 0; writes <= r.writes; writes++) {
            struct vmm_undo u;
            int image = repair_image(&r, writes, true), journal = repair_journal(&r, -1);
            bool original = repair_is_original(&r, image);
            assert_int_equal(probe(image, journal, &u), original ? VMM_UNDO_ORIGINAL : VMM_UNDO_READY);
            assert_false(u.finished);
            assert_rolls_back(&r, image, journal);
            close(image);
            close(journal);
        }
        repair_free(&r);
    }
}

/* What the kernel had written when the power went off need not be a prefix: any mix within one epoch. */
static void any_mix_of_old_and_new(void **state)
{
    uint64_t seed = 99;

    (void)state;
    for (unsigned i = 0; i < SHAPES; i++) {
        struct repair r;
        repair_make(&r, 170 + i, shapes[i].size, shapes[i].growth);
        for (unsigned round = 0; round < 20; round++) {
            struct vmm_undo u;
            int image = repair_image(&r, 0, true), journal = repair_journal(&r, -1);
            for (uint64_t w = 0; w < r.writes; w++) {
                uint64_t left = r.size_after - r.offsets[w];
                if (unit_random(&seed) & 1)
                    assert_int_equal(
                        pwrite_all(image, r.sectors[w], left < VMM_SECTOR ? left : VMM_SECTOR, r.offsets[w]), 0);
            }
            assert_int_equal(probe(image, journal, &u), VMM_UNDO_READY);
            assert_rolls_back(&r, image, journal);
            close(image);
            close(journal);
        }
        repair_free(&r);
    }
}

static void finished(void **state)
{
    (void)state;
    for (unsigned i = 0; i < SHAPES; i++) {
        struct repair r;
        struct vmm_undo u;
        repair_make(&r, 23 + i, shapes[i].size, shapes[i].growth);
        int image = repair_image(&r, r.writes, true), journal = repair_journal(&r, image);
        assert_int_equal(probe(image, journal, &u), VMM_UNDO_READY);
        assert_true(u.finished);
        assert_true(vmm_undo_is_journal(journal));
        assert_int_equal(u.size_before, r.size_before);
        assert_int_equal(u.size_after, r.size_after);
        assert_int_equal(u.bytes, r.writes * VMM_SECTOR);
        assert_int_equal(u.end, r.journal_size);
        assert_int_equal(u.mode, VR_MODE_ALL);
        assert_string_equal(u.image_name, "image.qcow2");
        assert_rolls_back(&r, image, journal);
        close(image);
        close(journal);
        repair_free(&r);
    }
}

/* All but its trailer: it stands, and is not rolled back unasked. */
static void complete_without_a_trailer(void **state)
{
    struct repair r;
    struct vmm_undo u;

    (void)state;
    repair_make(&r, 29, 65536 + 100, 70000);
    int journal = repair_journal(&r, -1);
    for (uint64_t writes = 1; writes <= r.writes; writes++) {
        int image = repair_image(&r, writes, true);
        assert_int_equal(probe(image, journal, &u), VMM_UNDO_READY);
        assert_int_equal(vmm_undo_is_cut(&u), writes < r.writes);
        assert_int_equal(u.complete, writes == r.writes);
        close(image);
    }
    close(journal);
    repair_free(&r);
}

/* A whole undo is the end of a journal: what looks half undone later is somebody else's doing (and data by now). */
static void spent(void **state)
{
    (void)state;
    for (unsigned is_finished = 0; is_finished < 2; is_finished++) {
        struct vmm_journal_info info;
        struct repair r;
        struct vmm_undo u;
        repair_make(&r, 33, 65536, 0);
        int image = repair_image(&r, r.writes, true), journal = repair_journal(&r, is_finished ? image : -1);
        assert_int_equal(vmm_undo_peek(journal, &info), 0);
        assert_int_equal(info.stage, is_finished ? VMM_JOURNAL_DONE : VMM_JOURNAL_OPEN);
        assert_rolls_back(&r, image, journal);
        assert_int_equal(vmm_undo_peek(journal, &info), 0);
        assert_int_equal(info.stage, VMM_JOURNAL_SPENT);
        assert_int_equal(pwrite_all(image, r.sectors[r.writes / 2], VMM_SECTOR, r.offsets[r.writes / 2]), 0);
        assert_int_equal(probe(image, journal, &u), VMM_UNDO_SPENT);
        assert_true(u.spent && !vmm_undo_is_cut(&u));
        assert_int_equal(vmm_undo_apply(image, journal, true, &u), 0);
        assert_int_equal(u.state, VMM_UNDO_SPENT);
        assert_false(repair_is_original(&r, image));
        close(image);
        close(journal);
        repair_free(&r);
    }
}

/* The undo of a copy leaves the journal to the image it was made for. */
static void not_spent_by_a_copy(void **state)
{
    struct repair r;
    struct vmm_undo u;

    (void)state;
    repair_make(&r, 35, 65536, 0);
    int image = repair_image(&r, r.writes, true), journal = repair_journal(&r, image);
    assert_int_equal(vmm_undo_apply(image, journal, false, &u), 0);
    assert_true(repair_is_original(&r, image));
    assert_int_equal(probe(image, journal, &u), VMM_UNDO_ORIGINAL);
    assert_true(u.finished && !u.undoing && !u.spent);
    close(image);
    close(journal);
    repair_free(&r);
}

/* By its header and its end alone, at any length that a crash may leave. */
static void stages(void **state)
{
    struct vmm_journal_info info;
    struct repair r;

    (void)state;
    repair_make(&r, 36, 65536, 4096);
    int journal = repair_journal(&r, -1);
    for (uint64_t size = 0; size <= r.journal_size + 32; size += size + 512 < r.journal_size ? 97 : 1) {
        assert_int_equal(ftruncate(journal, (off_t)size), 0);
        assert_int_equal(vmm_undo_peek(journal, &info), 0);
        assert_int_equal(info.stage, size == r.journal_size || size == r.journal_size + 32 ? VMM_JOURNAL_OPEN
                                                                                           : VMM_JOURNAL_VOID);
        assert_int_equal(info.bytes, size);
        /* Zeros are what is missing at the end of it. */
        assert_int_equal(info.headed, size >= VMM_HEADER_1_SIZE + strlen("file:here:7"));
        close(journal);
        journal = repair_journal(&r, -1);
    }
    assert_int_equal(info.size_before, 65536);
    assert_int_equal(info.size_after, 65536 + 4096);
    assert_string_equal(info.image_name, "image.qcow2");
    assert_string_equal(info.identity, "file:here:7");
    close(journal);
    repair_free(&r);
}

static void touch(int image)
{
    const struct timespec times[2] = {{1, 0}, {1, 5}};

    assert_int_equal(futimens(image, times), 0);
}

/* An undo that failed or was killed: the image's time is its own doing, and it can go on. */
static void undo_that_was_cut(void **state)
{
    struct repair r;
    struct vmm_undo u;

    (void)state;
    repair_make(&r, 37, 65536, 5000);
    int image = repair_image(&r, r.writes, true), journal = repair_journal(&r, image);
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", image);
    int read_only = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(vmm_undo_apply(read_only, journal, true, &u), -EBADF);
    /* It began, but wrote nothing: somebody else has. */
    assert_int_equal(probe(image, journal, &u), VMM_UNDO_READY);
    assert_true(u.finished && u.undoing && !vmm_undo_is_cut(&u));
    touch(image);
    assert_int_equal(probe(image, journal, &u), VMM_UNDO_CHANGED);
    /* Half of it is written. */
    for (uint64_t w = 0; w < r.writes / 2; w++)
        assert_int_equal(pwrite_all(image, r.before + r.offsets[w], VMM_SECTOR, r.offsets[w]), 0);
    touch(image);
    assert_int_equal(probe(image, journal, &u), VMM_UNDO_READY);
    assert_true(vmm_undo_is_cut(&u));
    assert_rolls_back(&r, image, journal);
    close(read_only);
    close(image);
    close(journal);
    repair_free(&r);
}

/* After a sync that failed, what reads as old bytes may be in the page cache alone. */
static void again_writes_all_but_holes(void **state)
{
    struct repair r;

    (void)state;
    repair_make(&r, 43, 65536, 0);
    int image = repair_image(&r, 0, true), journal = repair_journal(&r, -1);
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", image);
    int read_only = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(vmm_undo_rollback(read_only, journal, false), 0);
    assert_int_equal(vmm_undo_rollback(read_only, journal, true), -EBADF);
    assert_int_equal(vmm_undo_rollback(image, journal, true), 0);
    assert_true(repair_is_original(&r, image));
    close(read_only);
    close(image);
    close(journal);
    repair_free(&r);
}

static void holes_stay_holes(void **state)
{
    const uint64_t size = 1 << 20;
    uint8_t byte = 1;

    (void)state;
    struct vmm_config cfg = {.mode = VR_MODE_ALL, .image_fd = unit_file(NULL, 0), .image_size = size};
    struct overlay ov;
    uint64_t bytes;
    struct stat st;
    int journal = unit_file(NULL, 0);
    assert_int_equal(ftruncate(cfg.image_fd, (off_t)size), 0);
    overlay_init(&ov, unit_file(NULL, 0), cfg.image_fd, size, 64 << 20);
    assert_int_equal(overlay_write(&ov, VR_EPOCH_STRUCTURE, &byte, 1, 5000), 0);
    overlay_sort(&ov);
    assert_int_equal(journal_write(journal, &cfg, &ov, &bytes), 0);
    assert_int_equal(vmm_undo_rollback(cfg.image_fd, journal, true), 0);
    assert_int_equal(fstat(cfg.image_fd, &st), 0);
    assert_int_equal(st.st_blocks, 0);
    close(ov.fd);
    overlay_drop(&ov);
    close(journal);
    close(cfg.image_fd);
}

/* The writer's own rollback compares nothing: a torn sector is no obstacle. */
static void rollback_over_a_torn_sector(void **state)
{
    struct repair r;
    struct vmm_undo u;

    (void)state;
    repair_make(&r, 31, 65536 + 100, 70000);
    int image = repair_image(&r, r.writes / 2, true), journal = repair_journal(&r, -1);
    assert_int_equal(pwrite_all(image, "torn", 4, r.offsets[r.writes / 2] + 50), 0);
    assert_int_equal(probe(image, journal, &u), VMM_UNDO_CHANGED);
    assert_int_equal(vmm_undo_rollback(image, journal, false), 0);
    assert_true(repair_is_original(&r, image));
    close(image);
    close(journal);
    repair_free(&r);
}

/* ---- images that must not be touched ------------------------------------------------------------------- */

static void change_sector(const struct repair *r, int image)
{
    assert_int_equal(pwrite_all(image, "changed", 7, r->offsets[r->writes / 2] + 11), 0);
}

/* A byte that the journal does not know of, which only the modification time tells. */
static void change_elsewhere(const struct repair *r, int image)
{
    for (uint64_t at = 0; at + VMM_SECTOR <= r->size_before; at += VMM_SECTOR) {
        bool known = false;
        for (uint64_t w = 0; w < r->writes; w++)
            known = known || r->offsets[w] == at;
        if (!known) {
            assert_int_equal(pwrite_all(image, "x", 1, at), 0);
            break;
        }
    }
    const struct timespec times[2] = {{1, 0}, {1, 5}};
    assert_int_equal(futimens(image, times), 0);
}

static void change_nanosecond(const struct repair *r, int image)
{
    struct stat st;

    (void)r;
    assert_int_equal(fstat(image, &st), 0);
    const struct timespec times[2] = {st.st_atim, {st.st_mtim.tv_sec, (st.st_mtim.tv_nsec + 1) % 1000000000}};
    assert_int_equal(futimens(image, times), 0);
}

static void grow_by_one(const struct repair *r, int image)
{
    assert_int_equal(ftruncate(image, (off_t)r->size_after + 1), 0);
}

static void cut_by_one(const struct repair *r, int image)
{
    assert_int_equal(ftruncate(image, (off_t)r->size_before - 1), 0);
}

static void other_image(const struct repair *r, int image)
{
    uint8_t *bytes = malloc(r->size_after);
    uint64_t seed = 1234;

    assert_non_null(bytes);
    unit_fill(&seed, bytes, r->size_after);
    assert_int_equal(pwrite_all(image, bytes, r->size_after, 0), 0);
    free(bytes);
}

static void empty_image(const struct repair *r, int image)
{
    (void)r;
    assert_int_equal(ftruncate(image, 0), 0);
}

static const struct {
    const char *name;
    void (*change)(const struct repair *r, int image);
    enum vmm_undo_state cut, finished;
} changes[] = {
    {"a sector is neither old nor new", change_sector, VMM_UNDO_CHANGED, VMM_UNDO_CHANGED},
    {"another sector was written", change_elsewhere, VMM_UNDO_READY, VMM_UNDO_CHANGED},
    {"touched", change_nanosecond, VMM_UNDO_READY, VMM_UNDO_CHANGED},
    {"longer", grow_by_one, VMM_UNDO_CHANGED, VMM_UNDO_CHANGED},
    {"shorter", cut_by_one, VMM_UNDO_CHANGED, VMM_UNDO_CHANGED},
    {"another image", other_image, VMM_UNDO_FOREIGN, VMM_UNDO_FOREIGN},
    {"an empty file", empty_image, VMM_UNDO_FOREIGN, VMM_UNDO_FOREIGN},
};

static uint8_t *snapshot(int fd, uint64_t *size)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    *size = (uint64_t)st.st_size;
    uint8_t *bytes = malloc(*size + 1);
    assert_non_null(bytes);
    assert_int_equal(pread_zeros(fd, bytes, *size, 0), 0);
    return bytes;
}

static void assert_refused(int image, int journal, enum vmm_undo_state expected, const char *name)
{
    struct vmm_undo u;
    uint64_t size, size_after;
    uint8_t *bytes = snapshot(image, &size);

    if (probe(image, journal, &u) != expected)
        fail_msg("%s: state %u instead of %u", name, (unsigned)u.state, (unsigned)expected);
    if (expected != VMM_UNDO_READY) {
        assert_int_equal(vmm_undo_apply(image, journal, true, &u), 0);
        uint8_t *now = snapshot(image, &size_after);
        assert_int_equal(size, size_after);
        assert_memory_equal(bytes, now, size);
        free(now);
    }
    free(bytes);
}

static void what_has_changed_is_left_alone(void **state)
{
    (void)state;
    for (unsigned i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        for (unsigned is_finished = 0; is_finished < 2; is_finished++) {
            struct repair r;
            repair_make(&r, 41 + i, 65536 + 100, 0);
            int image = repair_image(&r, r.writes, true), journal = repair_journal(&r, is_finished ? image : -1);
            changes[i].change(&r, image);
            assert_refused(image, journal, is_finished ? changes[i].finished : changes[i].cut, changes[i].name);
            close(image);
            close(journal);
            repair_free(&r);
        }
    }
}

static void cannot_be_read_or_written(void **state)
{
    struct repair r;
    struct vmm_undo u;

    (void)state;
    repair_make(&r, 61, 65536, 0);
    int image = repair_image(&r, r.writes, true), journal = repair_journal(&r, image);
    assert_int_equal(vmm_undo_probe(image, -1, &u), -EBADF);
    assert_int_equal(vmm_undo_probe(-1, journal, &u), -EBADF);
    /* Reading is all that this descriptor can do: an error, and the journal still holds everything. */
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", image);
    int read_only = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(read_only >= 0);
    assert_int_equal(vmm_undo_apply(read_only, journal, true, &u), -EBADF);
    assert_rolls_back(&r, image, journal);
    close(read_only);
    close(image);
    close(journal);
    repair_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cut_at_every_write),
        cmocka_unit_test(any_mix_of_old_and_new),
        cmocka_unit_test(finished),
        cmocka_unit_test(complete_without_a_trailer),
        cmocka_unit_test(spent),
        cmocka_unit_test(not_spent_by_a_copy),
        cmocka_unit_test(stages),
        cmocka_unit_test(undo_that_was_cut),
        cmocka_unit_test(again_writes_all_but_holes),
        cmocka_unit_test(holes_stay_holes),
        cmocka_unit_test(rollback_over_a_torn_sector),
        cmocka_unit_test(what_has_changed_is_left_alone),
        cmocka_unit_test(cannot_be_read_or_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
