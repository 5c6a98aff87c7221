/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_refmap.c: the reference map against a plain array, and the arena under it. */
#include "image.h"

#include "cm.h"

#define CLUSTERS 4096u

static uint8_t heap[1 << 20] __attribute__((aligned(64)));
static bool wide; /* all tests run with both kinds of map */

static struct vr_arena fresh_arena(uint64_t size)
{
    memset(heap, 0, sizeof(heap));
    return (struct vr_arena){.base = heap, .size = size};
}

/* Random claims of all kinds agree with counting in an array. */
static void test_random_claims_agree_with_an_array(void **state)
{
    static uint64_t counts[CLUSTERS];
    static uint32_t claims[CLUSTERS], tables[CLUSTERS], active[CLUSTERS];
    struct vr_arena arena = fresh_arena(sizeof(heap));
    struct vr_refmap m;
    uint32_t seed = 1;

    (void)state;
    memset(counts, 0, sizeof(counts));
    memset(claims, 0, sizeof(claims));
    memset(tables, 0, sizeof(tables));
    memset(active, 0, sizeof(active));
    assert_int_equal(vr_refmap_open(&m, &arena, CLUSTERS, 300, wide), VR_OK);
    for (unsigned i = 0; i < 200000; i++) {
        seed = seed * 1664525u + 1013904223u;
        uint64_t c = (seed >> 8) % (i % 3 ? CLUSTERS : 8);
        enum vr_claim kind = i % 7 ? i % 5 ? VR_CLAIM_DATA : VR_CLAIM_COMPRESSED : (enum vr_claim)(1u << (seed >> 28) % 13);
        uint64_t times = 1 + (seed >> 20) % 3, room = counts[c] < 300 ? 300 - counts[c] : 0;
        assert_int_equal(vr_refmap_claim(&m, c, kind, times), times > room ? times - room : 0);
        counts[c] += times;
        claims[c] |= (uint32_t)kind;
        tables[c] += kind == VR_CLAIM_L2 || kind == VR_CLAIM_SNAPSHOT_L2;
        active[c] += kind == VR_CLAIM_L2;
    }
    for (unsigned c = 0; c < CLUSTERS; c++) {
        struct vr_ref r = vr_refmap_get(&m, c);
        assert_true(r.count == (counts[c] < 300 ? counts[c] : 300));
        assert_int_equal(r.claims, claims[c]);
        assert_int_equal(r.tables, tables[c]);
        assert_int_equal(r.active, active[c]);
    }
    assert_false(m.full);
}

static void test_set_keeps_claims(void **state)
{
    struct vr_arena arena = fresh_arena(sizeof(heap));
    struct vr_refmap m;

    (void)state;
    assert_int_equal(vr_refmap_open(&m, &arena, CLUSTERS, UINT64_MAX, wide), VR_OK);
    assert_int_equal(vr_refmap_claim(&m, 5, VR_CLAIM_L2, 1), 0);
    vr_refmap_set(&m, 5, 0);
    assert_int_equal(vr_refmap_get(&m, 5).claims, VR_CLAIM_L2);
    assert_int_equal(vr_refmap_get(&m, 5).count, 0);
    vr_refmap_set(&m, 6, 1000);
    assert_int_equal(vr_refmap_get(&m, 6).count, 1000);
    vr_refmap_set(&m, 6, UINT64_MAX);
    assert_true(vr_refmap_get(&m, 6).count == UINT64_MAX);
}

/* What was claimed is given back one by one, beyond the width too. */
static void test_drop(void **state)
{
    struct vr_arena arena = fresh_arena(sizeof(heap));
    struct vr_refmap m;

    (void)state;
    assert_int_equal(vr_refmap_open(&m, &arena, CLUSTERS, 1, wide), VR_OK);
    assert_int_equal(vr_refmap_claim(&m, 3, VR_CLAIM_REFBLOCK, 1), 0);
    assert_int_equal(vr_refmap_claim(&m, 3, VR_CLAIM_DATA, 1), 1);
    vr_refmap_drop(&m, 3, VR_CLAIM_REFBLOCK);
    assert_int_equal(vr_refmap_get(&m, 3).count, 1);
    assert_int_equal(vr_refmap_get(&m, 3).claims, VR_CLAIM_DATA);
    vr_refmap_drop(&m, 3, VR_CLAIM_REFBLOCK);
    assert_int_equal(vr_refmap_get(&m, 3).count, 0);
    assert_int_equal(vr_refmap_get(&m, 3).claims, VR_CLAIM_DATA);
    assert_int_equal(vr_refmap_claim(&m, 4, VR_CLAIM_REFTABLE, 1), 0);
    vr_refmap_drop(&m, 4, VR_CLAIM_REFTABLE);
    assert_true(vr_refmap_is_free(&m, 4));
}

/* When the exact table cannot grow, the map says so instead of miscounting in silence. */
static void test_a_full_map_says_so(void **state)
{
    struct vr_arena arena = fresh_arena((wide ? CLUSTERS : CLUSTERS / 8 + 64) + 64 * 32 + 64);
    struct vr_refmap m;

    (void)state;
    assert_int_equal(vr_refmap_open(&m, &arena, CLUSTERS, 100, wide), VR_OK);
    for (unsigned c = 0; c < 64; c++) {
        vr_refmap_claim(&m, c, VR_CLAIM_L2, 1);
        vr_refmap_claim(&m, c, VR_CLAIM_L2, 1);
    }
    assert_true(m.full);
}

/* Clusters claimed once as data, and as many as make the map wide that are claimed twice, by turns. */
static void claim_many(struct vr_refmap *m, unsigned twice)
{
    for (unsigned i = 0; i < twice; i++) {
        vr_refmap_claim(m, i * 7, VR_CLAIM_DATA, 1);
        vr_refmap_claim(m, i * 7 + 3, VR_CLAIM_DATA, 2);
        if (i % 5 == 0)
            vr_refmap_claim(m, i * 7 + 3, VR_CLAIM_L2, 1);
    }
}

static void expect_many(const struct vr_refmap *m, unsigned twice)
{
    for (unsigned i = 0; i < twice; i++) {
        struct vr_ref one = vr_refmap_get(m, i * 7), two = vr_refmap_get(m, i * 7 + 3);
        assert_int_equal(one.count, 1);
        assert_int_equal(one.claims, VR_CLAIM_DATA);
        assert_int_equal(two.count, i % 5 ? 2 : 3);
        assert_int_equal(two.claims, i % 5 ? VR_CLAIM_DATA : VR_CLAIM_DATA | VR_CLAIM_L2);
        assert_int_equal(two.tables, i % 5 == 0);
        assert_true(vr_refmap_is_free(m, i * 7 + 1));
        assert_int_equal(vr_refmap_plain(m, i * 7), 1);
    }
}

static void test_a_thin_map_becomes_wide_where_it_pays(void **state)
{
    static uint8_t big[4 << 20] __attribute__((aligned(64)));
    const unsigned clusters = 200000;

    (void)state;
    for (int rooms = 0; rooms < 2; rooms++) {
        /* Without the room for a wide map, it goes on as it is. */
        struct vr_arena arena = {.base = big, .size = rooms ? sizeof(big) : clusters / 8 + 8192 * 2 * 32 + 50000};
        struct vr_refmap m;
        memset(big, 0, sizeof(big));
        assert_int_equal(vr_refmap_open(&m, &arena, clusters, 300, false), VR_OK);
        claim_many(&m, 5500);
        assert_int_equal(m.bytes != NULL, rooms);
        assert_false(m.full);
        expect_many(&m, 5500);
    }
}

/* The short way for compressed runs says no, or does what claims one by one do. */
static void test_compressed_runs_at_once(void **state)
{
    static const uint64_t widths[] = {1, 3, 15, 65535, UINT64_MAX};
    uint32_t seed = 7;

    (void)state;
    for (unsigned w = 0; w < 5; w++) {
        struct vr_arena arena = fresh_arena(sizeof(heap));
        struct vr_refmap at_once, one_by_one;
        unsigned taken = 0;
        assert_int_equal(vr_refmap_open(&at_once, &arena, 64, widths[w], true), VR_OK);
        assert_int_equal(vr_refmap_open(&one_by_one, &arena, 64, widths[w], true), VR_OK);
        vr_refmap_claim(&at_once, 9, VR_CLAIM_DATA, 1);
        vr_refmap_claim(&one_by_one, 9, VR_CLAIM_DATA, 1);
        for (unsigned i = 0; i < 6000; i++) {
            seed = seed * 1664525u + 1013904223u;
            uint64_t first = (seed >> 8) % 62, last = first + (seed >> 20) % 3;
            if (!vr_refmap_take_compressed(&at_once, first, last))
                continue;
            taken++;
            for (uint64_t c = first; c <= last; c++)
                assert_int_equal(vr_refmap_claim(&one_by_one, c, VR_CLAIM_COMPRESSED, 1), 0);
        }
        assert_int_equal(taken > 0, 1);
        assert_memory_equal(at_once.bytes, one_by_one.bytes, 64);
    }
}

static void test_arena_bounds(void **state)
{
    struct vr_arena arena = fresh_arena(256);

    (void)state;
    assert_null(vr_arena_get(&arena, 257));
    assert_null(vr_arena_get(&arena, UINT64_MAX));
    uint64_t mark = vr_arena_mark(&arena);
    uint8_t *p = vr_arena_get(&arena, 256);
    assert_non_null(p);
    assert_null(vr_arena_get(&arena, 1));
    memset(p, 0xff, 256);
    vr_arena_reset(&arena, mark);
    p = vr_arena_get(&arena, 65);
    assert_non_null(p);
    for (unsigned i = 0; i < 65; i++)
        assert_int_equal(p[i], 0); /* memory used before comes back as zeros */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_claims_agree_with_an_array),
        cmocka_unit_test(test_set_keeps_claims), cmocka_unit_test(test_drop),
        cmocka_unit_test(test_a_full_map_says_so), cmocka_unit_test(test_compressed_runs_at_once),
        cmocka_unit_test(test_a_thin_map_becomes_wide_where_it_pays),
        cmocka_unit_test(test_arena_bounds),
    };

    int failed = cmocka_run_group_tests_name("refmap, thin", tests, NULL, NULL);
    wide = true;
    return failed + cmocka_run_group_tests_name("refmap, wide", tests, NULL, NULL);
}
