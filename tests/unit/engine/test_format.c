/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_format.c: qcow2 as bytes: header judgement, entry types, refcounts of every width. */
#include "disk.h"

#include <string.h>

#include "cm.h"

/* A sound version 3 header of a 64 MiB disk with 64 KiB clusters. */
static void sound_header(uint8_t buf[VR_HEADER_READ])
{
    static const struct {
        uint32_t at, value;
    } fields[] = {{0, VR_QCOW2_MAGIC}, {4, 3}, {20, 16}, {28, 64 << 20}, {36, 1}, {44, 0x30000}, {52, 0x10000},
                  {56, 1}, {96, 4}, {100, 112}};

    memset(buf, 0, VR_HEADER_READ);
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        for (unsigned b = 0; b < 4; b++)
            buf[fields[i].at + b] = (uint8_t)(fields[i].value >> (24 - 8 * b));
}

static enum vr_problem judge(const uint8_t *buf)
{
    struct vr_header h;

    vr_header_decode(buf, &h);
    return vr_header_judge(buf, &h, 1 << 20).row;
}

static void test_sound_header_opens(void **state)
{
    uint8_t buf[VR_HEADER_READ];

    (void)state;
    sound_header(buf);
    assert_int_equal(judge(buf), VR_P_COUNT);
}

/* One byte changed, one verdict. */
static void test_each_header_field_is_judged(void **state)
{
    static const struct {
        uint32_t at;
        uint8_t value;
        enum vr_problem row;
    } cases[] = {
        {0, 0, VR_P_HDR_MAGIC},          {7, 4, VR_P_HDR_VERSION},        {7, 1, VR_P_HDR_VERSION},
        {23, 8, VR_P_HDR_CLUSTER_BITS},  {23, 22, VR_P_HDR_CLUSTER_BITS}, {103, 103, VR_P_HDR_SHORT},
        {101, 2, VR_P_HDR_LONG},         {12, 1, VR_P_HDR_BACKING_OFFSET},{104, 2, VR_P_HDR_COMPRESSION_TYPE},
        {79, 8, VR_P_HDR_COMPRESSION_BIT_SET}, {104, 1, VR_P_HDR_COMPRESSION_BIT_CLEAR}, {79, 32, VR_P_HDR_FEATURES},
        {72, 128, VR_P_HDR_FEATURES},    {99, 7, VR_P_HDR_REFCOUNT_ORDER},{59, 129, VR_P_HDR_REFTABLE_LARGE},
        {55, 1, VR_P_HDR_REFTABLE_OFFSET}, {48, 0x80, VR_P_HDR_REFTABLE_OFFSET}, {36, 1, VR_P_HDR_L1_LARGE},
        {47, 2, VR_P_HDR_L1_OFFSET},     {24, 0x80, VR_P_HDR_SIZE},       {39, 0, VR_P_HDR_L1_SMALL},
        {35, 3, VR_P_HDR_CRYPT},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t buf[VR_HEADER_READ];
        sound_header(buf);
        buf[cases[i].at] = cases[i].value;
        if (judge(buf) != cases[i].row)
            fail_msg("byte %u = %u: row %d, expected %d", cases[i].at, cases[i].value, judge(buf), cases[i].row);
    }
}

static void test_limits_of_the_tables(void **state)
{
    uint8_t buf[VR_HEADER_READ];

    (void)state;
    sound_header(buf);
    memcpy(buf + 36, "\x00\x40\x00\x00", 4); /* L1: exactly 4194304 entries */
    assert_int_equal(judge(buf), VR_P_COUNT);
    buf[39] = 1;
    assert_int_equal(judge(buf), VR_P_HDR_L1_LARGE);
    sound_header(buf);
    buf[59] = 128; /* refcount table: exactly 8 MiB */
    assert_int_equal(judge(buf), VR_P_COUNT);
}

static void test_version_2_ignores_version_3_fields(void **state)
{
    uint8_t buf[VR_HEADER_READ];
    struct vr_header h;

    (void)state;
    sound_header(buf);
    buf[7] = 2;
    memset(buf + 72, 0xff, 64);
    assert_int_equal(judge(buf), VR_P_COUNT);
    vr_header_decode(buf, &h);
    assert_int_equal(h.refcount_order, 4);
    assert_int_equal(h.incompatible, 0);
    assert_int_equal(h.header_length, VR_HEADER_V2);
}

static void test_entry_types(void **state)
{
    (void)state;
    assert_int_equal(vr_l2_type(0, 0), VR_L2_UNALLOCATED);
    assert_int_equal(vr_l2_type(VR_COPIED, 0), VR_L2_UNALLOCATED);
    assert_int_equal(vr_l2_type(1, 0), VR_L2_ZERO_PLAIN);
    assert_int_equal(vr_l2_type(0x50001, 0), VR_L2_ZERO_ALLOC);
    assert_int_equal(vr_l2_type(VR_COPIED | 0x50000, 0), VR_L2_NORMAL);
    assert_int_equal(vr_l2_type(VR_COMPRESSED | 0x50001, 0), VR_L2_COMPRESSED);
    assert_int_equal(vr_l2_type(1, VR_INCOMPAT_EXTL2), VR_L2_UNALLOCATED);
    assert_int_equal(vr_l2_type(0x50001, VR_INCOMPAT_EXTL2), VR_L2_NORMAL);
    assert_int_equal(vr_l2_type(VR_COPIED, VR_INCOMPAT_DATA_FILE), VR_L2_NORMAL);
}

/* "Compressed Clusters Descriptor", at both ends of the cluster sizes. */
static void test_compressed_runs(void **state)
{
    struct vr_run r;

    (void)state;
    r = vr_compressed_run(VR_COMPRESSED | 0x50123, 16);
    assert_true(r.offset == 0x50123 && r.len == 512 - 0x123);
    r = vr_compressed_run(VR_COMPRESSED | UINT64_C(255) << 54 | 0x50000, 16);
    assert_true(r.offset == 0x50000 && r.len == 65536 * 2);
    r = vr_compressed_run(VR_COMPRESSED | UINT64_C(1) << 61 | 1, 9);
    assert_true(r.offset == 1 && r.len == 1023);
    r = vr_compressed_run(UINT64_MAX & ~VR_COPIED, 21);
    assert_true(r.offset == (UINT64_C(1) << 49) - 1 && r.len == (UINT64_C(1) << 13) * 512 - 511);
}

static void test_snapshot_entries(void **state)
{
    static const uint8_t e[VR_SNAPSHOT_FIXED + VR_SNAPSHOT_EXTRA_V3] = {0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 1, 0, 0, 2, 0, 3,
                                                 [36] = 0, [37] = 0, [38] = 0, [39] = 24, [53] = 7};
    struct vr_snapshot s = vr_snapshot_decode(e);

    (void)state;
    assert_true(s.l1_offset == 0x50000 && s.l1_size == 256 && s.id_len == 2 && s.name_len == 3 && s.extra_size == 24);
    assert_int_equal(s.disk_size, 0x70000);
    assert_int_equal(vr_snapshot_bytes(&s), 40 + 24 + 5);
    s = (struct vr_snapshot){.extra_size = UINT32_MAX, .id_len = UINT16_MAX, .name_len = UINT16_MAX};
    assert_true(vr_snapshot_bytes(&s) == 40 + UINT64_C(0xffffffff) + 2 * 65535);
}

/* Every width keeps every value at every place, and touches nothing beside it. */
static void test_refcounts_of_every_width(void **state)
{
    (void)state;
    for (unsigned order = 0; order <= 6; order++) {
        uint64_t max = vr_refcount_max(order);
        uint64_t values[] = {0, 1, max, max / 2};
        uint64_t n = (64 * 8) >> order;
        for (uint64_t i = 0; i < n; i++) {
            for (unsigned v = 0; v < 4; v++) {
                uint8_t block[64];
                memset(block, v & 1 ? 0xff : 0, sizeof(block));
                vr_refcount_set(block, order, i, values[v]);
                assert_true(vr_refcount_get(block, order, i) == values[v]);
                if (i > 0)
                    assert_true(vr_refcount_get(block, order, i - 1) == (v & 1 ? max : 0));
                if (i + 1 < n)
                    assert_true(vr_refcount_get(block, order, i + 1) == (v & 1 ? max : 0));
            }
        }
    }
}

/* Below a byte, the first refcount stands in the least significant bits (specification, "Refcount blocks"). */
static void test_narrow_refcounts_start_at_the_low_bits(void **state)
{
    uint8_t block[1] = {0};

    (void)state;
    vr_refcount_set(block, 0, 0, 1);
    assert_int_equal(block[0], 0x01);
    vr_refcount_set(block, 2, 1, 0xf);
    assert_int_equal(block[0], 0xf1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound_header_opens),
        cmocka_unit_test(test_each_header_field_is_judged),
        cmocka_unit_test(test_limits_of_the_tables),
        cmocka_unit_test(test_version_2_ignores_version_3_fields),
        cmocka_unit_test(test_entry_types), cmocka_unit_test(test_compressed_runs),
        cmocka_unit_test(test_snapshot_entries),
        cmocka_unit_test(test_refcounts_of_every_width),
        cmocka_unit_test(test_narrow_refcounts_start_at_the_low_bits),
    };

    return cmocka_run_group_tests_name("format", tests, NULL, NULL);
}
