/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_session.c: whole sessions over an image in memory: modes, policy, what is written and what never is. */
#include "memory_carrier.h"

#include <string.h>

#include "cm.h"
#include "disk.h"

/*
 * A 4 MiB disk with 4 KiB clusters: header 0, refcount table 1, refcount block 2, L1 3, L2 4, data 5 to 14.
 * Cluster 15 is free, the file has 16 clusters.
 */
#define CS 4096u
#define DATA 10u
static uint8_t image[16 * CS];

static void put32(uint32_t at, uint32_t v)
{
    for (unsigned b = 0; b < 4; b++)
        image[at + b] = (uint8_t)(v >> (24 - 8 * b));
}

static void make_image(void)
{
    static const uint32_t fields[][2] = {{0, VR_QCOW2_MAGIC}, {4, 3}, {20, 12}, {28, 4 << 20}, {36, 2}, {44, 3 * CS},
                                         {52, CS}, {56, 1}, {96, 4}, {100, 112}};

    memset(image, 0, sizeof(image));
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        put32(fields[i][0], fields[i][1]);
    vr_store64(image + CS, 2 * CS);
    vr_store64(image + 3 * CS, VR_COPIED | 4 * CS);
    for (unsigned i = 0; i < DATA; i++)
        vr_store64(image + 4 * CS + i * 8, VR_COPIED | (5 + i) * CS);
    for (unsigned c = 0; c < 5 + DATA; c++)
        image[2 * CS + c * 2 + 1] = 1;
}

struct outcome {
    struct vr_summary sum;
    uint8_t disk[sizeof(image)];
    unsigned commits, writes;
};

static void run(enum vr_mode mode, struct outcome *o)
{
    struct memory_image m;

    memory_image_open(&m, image, sizeof(image));
    memory_session(&m, mode, 8 << 20, &o->sum);
    memcpy(o->disk, m.disk, sizeof(image));
    o->commits = m.commits;
    o->writes = m.writes;
    memory_image_close(&m);
}

static void test_a_clean_image_is_left_alone(void **state)
{
    struct outcome o;

    (void)state;
    make_image();
    for (enum vr_mode mode = VR_MODE_CHECK; mode <= VR_MODE_ALL; mode++) {
        run(mode, &o);
        assert_int_equal(o.sum.status, VR_OK);
        assert_int_equal(o.writes + o.commits, 0);
        assert_int_equal(o.sum.allocated_clusters, DATA);
        assert_int_equal(o.sum.image_end_offset, 15 * CS);
    }
}

static void test_check_never_writes(void **state)
{
    struct outcome o;

    (void)state;
    make_image();
    image[2 * CS + 6 * 2 + 1] = 0;
    image[2 * CS + 15 * 2 + 1] = 1;
    image[79] = 3;
    run(VR_MODE_CHECK, &o);
    assert_int_equal(o.writes + o.commits, 0);
    assert_int_equal(o.sum.found[VR_WALK_CHECK][VR_P_REF_ZERO], 1);
    assert_int_equal(o.sum.found[VR_WALK_CHECK][VR_P_LEAK], 1);
}

static void test_leaks_frees_a_leak_and_only_that(void **state)
{
    struct outcome o;
    uint8_t expected[sizeof(image)];

    (void)state;
    make_image();
    memcpy(expected, image, sizeof(image));
    image[2 * CS + 15 * 2 + 1] = 1;
    run(VR_MODE_LEAKS, &o);
    assert_int_equal(o.sum.fixed[VR_P_LEAK], 1);
    assert_memory_equal(o.disk, expected, sizeof(image));
}

/* A pointer behind the end of the file: what looks leaked may be what it meant. */
static void test_an_incomplete_walk_keeps_leaks(void **state)
{
    struct outcome o;

    (void)state;
    make_image();
    vr_store64(image + 4 * CS, VR_COPIED | 4096 * CS);
    for (enum vr_mode mode = VR_MODE_LEAKS; mode <= VR_MODE_ALL; mode++) {
        run(mode, &o);
        assert_int_equal(o.sum.kept[VR_P_LEAK], 1);
        assert_int_equal(o.disk[2 * CS + 5 * 2 + 1], 1);
    }
}

static void test_leaks_stops_where_used_clusters_are_free(void **state)
{
    struct outcome o;

    (void)state;
    make_image();
    image[2 * CS + 6 * 2 + 1] = 0;
    image[2 * CS + 15 * 2 + 1] = 1;
    run(VR_MODE_LEAKS, &o);
    assert_int_equal(o.sum.status, VR_EREFUSED);
    assert_int_equal(o.sum.found[VR_WALK_CHECK][VR_P_NEED_REBUILD], 1);
    assert_memory_equal(o.disk, image, sizeof(image));
}

static void test_all_restores_everything_derivable(void **state)
{
    struct outcome o;
    uint8_t expected[sizeof(image)];

    (void)state;
    make_image();
    memcpy(expected, image, sizeof(image));
    image[79] = 3; /* dirty and corrupt */
    image[2 * CS + 6 * 2 + 1] = 0;
    image[2 * CS + 8 * 2 + 1] = 9;
    image[2 * CS + 15 * 2 + 1] = 1;
    image[3 * CS] = 0;
    image[4 * CS + 5 * 8] = 0;
    run(VR_MODE_ALL, &o);
    assert_int_equal(o.sum.status, VR_OK);
    assert_int_equal(o.commits, 1);
    assert_memory_equal(o.disk, expected, sizeof(image));
}

/* Mode leaks never touches the corrupt bit; the dirty bit goes when nothing is wrong. */
static void test_bits_by_mode(void **state)
{
    struct outcome o;

    (void)state;
    make_image();
    image[79] = 3;
    run(VR_MODE_LEAKS, &o);
    assert_int_equal(o.disk[79], 2);
    run(VR_MODE_ALL, &o);
    assert_int_equal(o.disk[79], 0);
    vr_store64(image + 4 * CS, VR_COPIED | 4096 * CS);
    run(VR_MODE_ALL, &o);
    assert_int_equal(o.disk[79], 3);
}

/* The whole of a table as guest data: it must be neither followed as a table nor rewritten. */
static void test_a_pointer_into_metadata_is_not_followed(void **state)
{
    struct outcome o;

    (void)state;
    make_image();
    vr_store64(image + 3 * CS + 8, VR_COPIED | 2 * CS);
    run(VR_MODE_ALL, &o);
    assert_int_equal(o.sum.found[VR_WALK_CHECK][VR_P_L1E_FOREIGN], 1);
    assert_memory_equal(o.disk, image, sizeof(image));
}

static void test_shared_clusters_are_named_and_made_safe(void **state)
{
    struct outcome o;

    (void)state;
    make_image();
    vr_store64(image + 4 * CS + 8, VR_COPIED | 5 * CS);
    run(VR_MODE_ALL, &o);
    assert_int_equal(o.sum.found[VR_WALK_CHECK][VR_P_DATA_SHARED], 1);
    assert_int_equal(o.disk[2 * CS + 5 * 2 + 1], 2);
    assert_int_equal(o.disk[4 * CS] | o.disk[4 * CS + 8], 0); /* COPIED is clear in both */
    assert_int_equal(o.sum.walks, 7);
}

static void test_a_read_error_changes_nothing(void **state)
{
    struct memory_image m;
    struct vr_summary sum;

    (void)state;
    make_image();
    image[2 * CS + 15 * 2 + 1] = 1;
    for (unsigned at = 0; at < 5 * CS; at += CS) {
        memory_image_open(&m, image, sizeof(image));
        m.fail_read_at = at;
        memory_session(&m, VR_MODE_ALL, 8 << 20, &sum);
        assert_int_equal(sum.status, VR_EIO);
        assert_int_equal(m.commits, 0);
        memory_image_close(&m);
    }
}

/* Of two tables the first cannot be read, and the other is on its way: into memory that must wait for it. */
static void test_a_read_error_waits_for_what_is_in_flight(void **state)
{
    struct memory_image m;
    struct vr_summary sum;

    (void)state;
    make_image();
    vr_store64(image + 3 * CS + 8, VR_COPIED | 15 * CS);
    image[2 * CS + 15 * 2 + 1] = 1;
    for (unsigned first = 0; first < 2; first++) {
        memory_image_open(&m, image, sizeof(image));
        m.oldest_first = first;
        m.fail_read_at = 4 * CS;
        memory_session(&m, VR_MODE_CHECK, 8 << 20, &sum);
        assert_int_equal(sum.status, VR_EIO);
        memory_image_close(&m);
    }
}

/* The refcounts that would have to rise lie behind the end of the file: there is nothing to correct in place. */
static void test_a_cut_refcount_block_is_made_whole(void **state)
{
    struct memory_image m;
    struct vr_summary sum;

    (void)state;
    for (enum vr_mode mode = VR_MODE_LEAKS; mode <= VR_MODE_ALL; mode++) {
        make_image();
        memcpy(image + 15 * CS, image + 2 * CS, CS);
        vr_store64(image + CS, 15 * CS);
        memory_image_open(&m, image, 15 * CS + 8);
        memory_session(&m, mode, 8 << 20, &sum);
        assert_int_equal(sum.status, mode == VR_MODE_ALL ? VR_OK : VR_EREFUSED);
        assert_int_equal(m.commits, mode == VR_MODE_ALL);
        assert_int_equal(m.size, mode == VR_MODE_ALL ? 16 * CS : 15 * CS + 8);
        assert_int_equal(sum.found[VR_WALK_FINAL][VR_P_REF_ZERO] + sum.found[VR_WALK_FINAL][VR_P_LEAK], 0);
        memory_image_close(&m);
    }
}

/* What the plan promised is not what the verification walk finds: nothing is committed, and a record says so. */
static void test_a_plan_that_does_not_verify_is_refused(void **state)
{
    struct memory_image m;
    struct vr_summary sum;

    (void)state;
    make_image();
    image[2 * CS + 6 * 2 + 1] = 0;
    memory_image_open(&m, image, sizeof(image));
    m.lose_writes = true;
    memory_session(&m, VR_MODE_ALL, 8 << 20, &sum);
    assert_int_equal(sum.status, VR_EREFUSED);
    assert_int_equal(sum.found[VR_WALK_CHECK][VR_P_NOT_VERIFIED], 1);
    assert_int_equal(m.last[m.records - 1].code, 0x6010);
    assert_int_equal(m.commits, 0);
    memory_image_close(&m);
}

/* Of rows that a plan may leave no more of, each is held by itself: less of one does not pay for more of the other. */
static void test_a_plan_that_shares_more_is_refused(void **state)
{
    static const enum vr_problem rows[] = {VR_P_DATA_SHARED, VR_P_DATA_ON_METADATA};
    static struct vr_summary sum;
    static struct vr_ctx ctx;

    (void)state;
    for (unsigned more = 0; more < 2; more++) {
        memset(&sum, 0, sizeof(sum));
        ctx = (struct vr_ctx){.sum = &sum, .format = &vr_qcow2, .walk = VR_WALK_VERIFY};
        sum.found[VR_WALK_CHECK][rows[!more]] = sum.found[VR_WALK_VERIFY][rows[!more]] = 1;
        assert_int_equal(vr_verify(&ctx), VR_OK);
        sum.found[VR_WALK_VERIFY][rows[!more]] = 0;
        sum.found[VR_WALK_VERIFY][rows[more]] = 1;
        assert_int_equal(vr_verify(&ctx), VR_EREFUSED);
        assert_int_equal(sum.found[VR_WALK_CHECK][VR_P_NOT_VERIFIED], 1);
    }
}

static void test_too_little_memory_is_said(void **state)
{
    struct memory_image m;
    struct vr_summary sum;

    (void)state;
    make_image();
    memory_image_open(&m, image, sizeof(image));
    memory_session(&m, VR_MODE_ALL, 65536, &sum);
    assert_int_equal(sum.status, VR_ENOMEM);
    assert_int_equal(m.commits, 0);
    memory_image_close(&m);
}

/*
 * Wherever the map of references has no room for one more, the walk ends with that, and with no record of nothing: the carrier
 * would not take it. Clusters of 512 bytes: L2 tables from 8 on, whose entries name the tables behind them; the last is garbage.
 */
static void test_a_full_map_ends_the_walk(void **state)
{
    enum { SMALL = 512, TABLES = 56, ENTRIES = SMALL / 8 };
    static uint8_t tables[(8 + TABLES) * SMALL];
    struct vr_summary sum;
    unsigned ended = 0;

    (void)state;
    make_image();
    memcpy(tables, image, SMALL);
    tables[23] = 9;
    vr_store64(tables + 40, SMALL);
    vr_store64(tables + 48, 2 * SMALL);
    tables[39] = TABLES;
    vr_store64(tables + 24, (uint64_t)TABLES * ENTRIES * SMALL);
    vr_store64(tables + 2 * SMALL, 3 * SMALL);
    for (unsigned t = 0; t < TABLES; t++) {
        uint8_t *table = tables + (8 + t) * SMALL;
        vr_store64(tables + SMALL + t * 8, VR_COPIED | (8 + t) * SMALL);
        for (unsigned i = 0; i + 1 < ENTRIES; i++)
            vr_store64(table + i * 8, VR_COPIED | (8 + (t + 1 + i) % TABLES) * SMALL);
        vr_store64(table + (ENTRIES - 1) * 8, UINT64_C(0x3f00000000000201));
    }
    for (uint64_t heap = 8 << 10; heap <= 2 << 20; heap += 1 << 10) {
        struct memory_image m;
        memory_image_open(&m, tables, sizeof(tables));
        m.flags = VR_BOOT_WIDE;
        memory_session(&m, VR_MODE_CHECK, heap, &sum);
        ended += sum.status == VR_ENOMEM;
        assert_true(sum.status == VR_ENOMEM || sum.status == VR_OK);
        memory_image_close(&m);
    }
    assert_in_range(ended, 1, 2040);
    assert_int_equal(sum.status, VR_OK);
}

/* A check refuses what mode all may mend; that there is too little memory for a dry run of that does not change it. */
static void test_a_refusal_stands_without_its_dry_run(void **state)
{
    struct memory_image m;
    struct vr_summary sum;
    unsigned short_of_it = 0;

    (void)state;
    make_image();
    put32(60, 1); /* a snapshot, with more extra data than anybody reads */
    vr_store64(image + 64, 15 * CS);
    put32(15 * CS + 36, 2000);
    for (uint64_t heap = 16 << 10; heap <= 2 << 20; heap += 16 << 10) {
        memory_image_open(&m, image, sizeof(image));
        m.flags = VR_BOOT_WOULD | VR_BOOT_WIDE;
        memory_session(&m, VR_MODE_CHECK, heap, &sum);
        assert_true(sum.status == VR_EREFUSED || sum.status == VR_ENOMEM);
        if (sum.status == VR_EREFUSED)
            assert_int_equal(sum.found[VR_WALK_CHECK][VR_P_SNAP_EXTRA_LARGE], 1);
        short_of_it += sum.status == VR_EREFUSED && sum.would[1].status == VR_ENOMEM;
        memory_image_close(&m);
    }
    assert_true(short_of_it > 0);
    assert_int_not_equal(sum.would[1].status, VR_ENOMEM);
}

/* Garbage in every metadata byte, one at a time: a verdict or a refusal, never a crash, and a plan that verifies. */
static void test_every_metadata_byte_flipped(void **state)
{
    struct outcome o;

    (void)state;
    for (unsigned at = 0; at < 5 * CS; at += at % CS < 160 ? 1 : 61) {
        for (unsigned bit = 0; bit < 8; bit += 1 + at % 3) {
            make_image();
            image[at] ^= (uint8_t)(1u << bit);
            run(VR_MODE_ALL, &o);
            if (o.sum.found[VR_WALK_CHECK][VR_P_NOT_VERIFIED])
                fail_msg("byte %u bit %u: the plan does not verify", at, bit);
            if (o.sum.status != VR_OK)
                assert_memory_equal(o.disk, image, sizeof(image));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_clean_image_is_left_alone),
        cmocka_unit_test(test_check_never_writes),
        cmocka_unit_test(test_leaks_frees_a_leak_and_only_that),
        cmocka_unit_test(test_an_incomplete_walk_keeps_leaks),
        cmocka_unit_test(test_leaks_stops_where_used_clusters_are_free),
        cmocka_unit_test(test_all_restores_everything_derivable),
        cmocka_unit_test(test_bits_by_mode),
        cmocka_unit_test(test_a_pointer_into_metadata_is_not_followed),
        cmocka_unit_test(test_shared_clusters_are_named_and_made_safe),
        cmocka_unit_test(test_a_read_error_changes_nothing),
        cmocka_unit_test(test_a_read_error_waits_for_what_is_in_flight),
        cmocka_unit_test(test_a_cut_refcount_block_is_made_whole),
        cmocka_unit_test(test_a_plan_that_does_not_verify_is_refused),
        cmocka_unit_test(test_a_plan_that_shares_more_is_refused),
        cmocka_unit_test(test_too_little_memory_is_said),
        cmocka_unit_test(test_a_full_map_ends_the_walk),
        cmocka_unit_test(test_a_refusal_stands_without_its_dry_run),
        cmocka_unit_test(test_every_metadata_byte_flipped),
    };

    return cmocka_run_group_tests_name("session", tests, NULL, NULL);
}
