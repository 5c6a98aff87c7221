/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_undo_damage.c: journals that are cut, flipped, forged or garbage: nothing crashes, nothing wrong is written. */
#include "undo_fixture.h"

#include <stdio.h>

#include "common.h"

static struct repair repair;

static int set_up(void **state)
{
    (void)state;
    repair_make(&repair, 71, 65536 + 100, 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    repair_free(&repair);
    return 0;
}

/* The state that a journal of these bytes has, for the repaired image. */
static struct vmm_undo probe_bytes(int image, const uint8_t *journal, uint64_t size)
{
    struct vmm_undo u;
    int fd = unit_file(journal, size);

    assert_int_equal(vmm_undo_probe(image, fd, &u), 0);
    close(fd);
    return u;
}

/* Every byte of the header, of the first record's beginning and of the end; a sample of what lies between. */
static uint64_t step_at(uint64_t at)
{
    return at < 1024 || at + 128 > repair.journal_size ? 1 : 7;
}

/* A file that lacks nothing but zeros reads the same; any other cut is one during the writing. */
static void every_length(void **state)
{
    int image = repair_image(&repair, repair.writes, true);
    uint64_t needed = repair.journal_size;

    (void)state;
    while (repair.journal[needed - 1] == 0)
        needed--;
    assert_in_range(needed, repair.journal_size - 8, repair.journal_size);
    for (uint64_t size = 0; size <= repair.journal_size; size += step_at(size)) {
        struct vmm_undo u = probe_bytes(image, repair.journal, size);
        assert_int_equal(u.state, size >= needed ? VMM_UNDO_READY : VMM_UNDO_EMPTY);
    }
    close(image);
}

static void every_flipped_byte(void **state)
{
    int image = repair_image(&repair, repair.writes, true);
    uint8_t *bytes = malloc(repair.journal_size);
    uint64_t seed = 8;

    (void)state;
    assert_non_null(bytes);
    memcpy(bytes, repair.journal, repair.journal_size);
    for (uint64_t at = 0; at < repair.journal_size; at += step_at(at)) {
        bytes[at] ^= (uint8_t)(1 + unit_random(&seed) % 255);
        assert_int_equal(probe_bytes(image, bytes, repair.journal_size).state, VMM_UNDO_EMPTY);
        bytes[at] = repair.journal[at];
    }
    assert_int_equal(probe_bytes(image, bytes, repair.journal_size).state, VMM_UNDO_READY);
    free(bytes);
    close(image);
}

/* A trailer that is damaged is none: the sectors decide. */
static void every_flipped_byte_of_the_trailer(void **state)
{
    int image = repair_image(&repair, repair.writes, true), journal = repair_journal(&repair, image);
    struct vmm_journal_trailer t;
    struct vmm_undo u;

    (void)state;
    for (uint64_t i = 0; i < sizeof(t); i++) {
        uint8_t *byte = (uint8_t *)&t + i;
        assert_int_equal(pread_zeros(journal, &t, sizeof(t), repair.journal_size), 0);
        *byte ^= 0x10;
        assert_int_equal(pwrite_all(journal, byte, 1, repair.journal_size + i), 0);
        assert_int_equal(vmm_undo_probe(image, journal, &u), 0);
        assert_int_equal(u.state, VMM_UNDO_READY);
        assert_false(u.finished);
        *byte ^= 0x10;
        assert_int_equal(pwrite_all(journal, byte, 1, repair.journal_size + i), 0);
    }
    assert_int_equal(vmm_undo_probe(image, journal, &u), 0);
    assert_true(u.finished);
    close(journal);
    close(image);
}

/* Any bytes, some with a good beginning: an answer, never a crash, and the image stays. */
static void garbage(void **state)
{
    static uint8_t bytes[9000];
    uint64_t seed = 77;

    (void)state;
    for (unsigned round = 0; round < 2000; round++) {
        struct vmm_undo u;
        int image = repair_image(&repair, 0, false);
        uint64_t size = unit_random(&seed) % sizeof(bytes);
        uint64_t good = round % 3 ? unit_random(&seed) % sizeof(bytes) : 0;
        unit_fill(&seed, bytes, size);
        memcpy(bytes, repair.journal, good < repair.journal_size ? good : repair.journal_size);
        int journal = unit_file(bytes, size);
        assert_int_equal(vmm_undo_apply(image, journal, true, &u), 0);
        assert_int_equal(u.state, size >= repair.journal_size && good >= repair.journal_size ? VMM_UNDO_ORIGINAL
                                                                                          : VMM_UNDO_EMPTY);
        (void)vmm_undo_rollback(image, journal, true);
        assert_true(repair_is_original(&repair, image));
        close(journal);
        close(image);
    }
}

/* ---- forged: every checksum is right, the values are not ----------------------------------------------- */

struct forged {
    const char *name;
    uint64_t size_before, size_after, offset;
    uint32_t sectors, end_sectors, version;
    enum vmm_undo_state state; /* 0: whatever it is, READY it is not */
    bool contradicts;          /* and a record more of the same sector, with other old bytes */
};

static const struct forged forged[] = {
    {"sound", 4096, 4096, 0, 1, 1, 2, VMM_UNDO_ORIGINAL},
    {"sound, and old", 4096, 4096, 0, 1, 1, 1, VMM_UNDO_ORIGINAL},
    {"a record that any longer image fits", 512, 4096, 512, 1, 1, 2, VMM_UNDO_FOREIGN},
    {"two records that contradict each other", 4096, 4096, 0, 1, 2, 1, VMM_UNDO_FOREIGN, true},
    {"of another image", 4096, 4096, 512, 1, 1, 1, VMM_UNDO_FOREIGN},
    {"another version", 4096, 4096, 0, 1, 1, 3, VMM_UNDO_EMPTY},
    {"no version", 4096, 4096, 0, 1, 1, 0, VMM_UNDO_EMPTY},
    {"an uneven offset", 4096, 4096, 513, 1, 1, 1, VMM_UNDO_EMPTY},
    {"an offset that wraps", 4096, 4096, UINT64_MAX - 511, 1, 1, 1, VMM_UNDO_EMPTY},
    {"an offset at the limit of files", 4096, 4096, (uint64_t)INT64_MAX - 511, 1, 1, 1, VMM_UNDO_EMPTY},
    {"an offset far behind the end", 4096, 4096, UINT64_C(1) << 61, 1, 1, 1, 0},
    {"no sectors", 4096, 4096, 0, 0, 0, 1, VMM_UNDO_EMPTY},
    {"too many sectors", 4096, 4096, 512, VMM_RECORD_SECTORS + 1, VMM_RECORD_SECTORS + 1, 1, VMM_UNDO_EMPTY},
    {"4294967295 sectors", 4096, 4096, 512, UINT32_MAX, UINT32_MAX, 1, VMM_UNDO_EMPTY},
    {"another number of sectors", 4096, 4096, 0, 1, 2, 1, VMM_UNDO_EMPTY},
    {"a repair that made the image shorter", 8192, 4096, 0, 1, 1, 1, VMM_UNDO_EMPTY},
    {"sizes of another image", 1 << 20, 1 << 21, 0, 1, 1, 1, VMM_UNDO_CHANGED},
};

static uint64_t put(uint8_t *to, const void *bytes, size_t len)
{
    memcpy(to, bytes, len);
    return len;
}

static int forge(const struct forged *f)
{
    struct vmm_journal_header h = {.magic = VMM_JOURNAL_MAGIC, .version = f->version, .size_before = f->size_before,
                                   .size_after = f->size_after, .mode = 3};
    struct vmm_journal_record r = {.magic = VMM_RECORD_MAGIC, .offset = f->offset, .sectors = f->sectors};
    struct vmm_journal_end e = {.magic = VMM_END_MAGIC, .records = 1 + f->contradicts, .sectors = f->end_sectors};
    uint32_t payload = (f->sectors <= VMM_RECORD_SECTORS + 1 ? f->sectors : 8) * (VMM_SECTOR + 4);
    uint8_t *bytes = calloc(1, sizeof(h) + 2 * (sizeof(r) + payload) + sizeof(e));
    uint64_t at = 0;

    assert_non_null(bytes);
    h.crc = crc32c(0, &h, f->version == 1 ? VMM_HEADER_1_SIZE : sizeof(h));
    at += put(bytes, &h, f->version == 1 ? VMM_HEADER_1_SIZE : sizeof(h));
    for (unsigned i = 0; i <= f->contradicts; i++) {
        r.crc = 0;
        bytes[at + sizeof(r)] = (uint8_t)i; /* the other old bytes, and new sums: zeros */
        r.crc = crc32c(crc32c(0, &r, sizeof(r)), bytes + at + sizeof(r), payload);
        at += put(bytes + at, &r, sizeof(r)) + payload;
    }
    e.crc = crc32c(0, &e, sizeof(e));
    at += put(bytes + at, &e, sizeof(e));
    int fd = unit_file(bytes, at);
    free(bytes);
    return fd;
}

/* The image: 4096 bytes; the first sector zeros, the others not. */
static void forged_journals(void **state)
{
    uint8_t image_bytes[4096], now[4096];

    (void)state;
    memset(image_bytes, 0xee, sizeof(image_bytes));
    memset(image_bytes, 0, 512);
    for (unsigned i = 0; i < sizeof(forged) / sizeof(forged[0]); i++) {
        struct vmm_undo u;
        int image = unit_file(image_bytes, sizeof(image_bytes)), journal = forge(&forged[i]);
        assert_int_equal(vmm_undo_apply(image, journal, true, &u), 0);
        if (forged[i].state ? u.state != forged[i].state : u.state == VMM_UNDO_READY)
            fail_msg("%s: state %u", forged[i].name, (unsigned)u.state);
        assert_int_equal(lseek(image, 0, SEEK_END), 4096);
        assert_int_equal(pread_zeros(image, now, sizeof(now), 0), 0);
        assert_memory_equal(now, image_bytes, sizeof(now));
        close(image);
        close(journal);
    }
}

/* Sizes prove nothing: a journal that knows no sector of the image must not cut it. */
static void no_record(void **state)
{
    struct vmm_journal_header h = {.magic = VMM_JOURNAL_MAGIC, .version = 2, .size_before = 0, .size_after = 4096};
    struct vmm_journal_end e = {.magic = VMM_END_MAGIC};
    uint8_t bytes[sizeof(h) + sizeof(e)], image_bytes[4096] = {1};
    struct vmm_undo u;

    (void)state;
    h.crc = crc32c(0, &h, sizeof(h));
    e.crc = crc32c(0, &e, sizeof(e));
    put(bytes + put(bytes, &h, sizeof(h)), &e, sizeof(e));
    int image = unit_file(image_bytes, sizeof(image_bytes)), journal = unit_file(bytes, sizeof(bytes));
    assert_int_equal(vmm_undo_apply(image, journal, true, &u), 0);
    assert_int_equal(u.state, VMM_UNDO_FOREIGN);
    assert_int_equal(lseek(image, 0, SEEK_END), 4096);
    close(image);
    close(journal);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_length),
        cmocka_unit_test(every_flipped_byte),
        cmocka_unit_test(every_flipped_byte_of_the_trailer),
        cmocka_unit_test(garbage),
        cmocka_unit_test(forged_journals),
        cmocka_unit_test(no_record),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
