/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_crc32c.c: both ways to compute CRC32C against known answers and against each other. */
#include "crc32c.c"

#include "unit.h"

typedef uint32_t way_fn(uint32_t crc, const uint8_t *p, size_t len);

static uint32_t whole(way_fn *way, const void *bytes, size_t len)
{
    return ~way(~0u, bytes, len);
}

static void known_answers(way_fn *way)
{
    uint8_t bytes[32];

    assert_int_equal(whole(way, "", 0), 0);
    assert_int_equal(whole(way, "a", 1), 0xc1d04330u);
    assert_int_equal(whole(way, "123456789", 9), 0xe3069283u);
    memset(bytes, 0, sizeof(bytes)); /* these four: RFC 3720, B.4 */
    assert_int_equal(whole(way, bytes, 32), 0x8a9136aau);
    memset(bytes, 0xff, sizeof(bytes));
    assert_int_equal(whole(way, bytes, 32), 0x62a8ab43u);
    for (unsigned i = 0; i < 32; i++)
        bytes[i] = (uint8_t)i;
    assert_int_equal(whole(way, bytes, 32), 0x46dd794eu);
    for (unsigned i = 0; i < 32; i++)
        bytes[i] = (uint8_t)(31 - i);
    assert_int_equal(whole(way, bytes, 32), 0x113fdb5cu);
}

static void need_instruction(void)
{
    if (!crc_step_here()) {
        print_message("SKIP crc32c by instruction: this processor has none\n");
        skip();
    }
}

/* The definition: one bit after the other. */
static uint32_t by_bits(uint32_t crc, const uint8_t *p, size_t len)
{
    for (; len > 0; p++, len--) {
        crc ^= *p;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0x82f63b78u & -(crc & 1));
    }
    return crc;
}

static void the_table_is_as_defined(void **state)
{
    (void)state;
    known_answers(by_bits);
    for (unsigned i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)i;
        assert_int_equal(by_table(0, &byte, 1), by_bits(0, &byte, 1));
        assert_int_equal(by_table(0xdeadbeefu, &byte, 1), by_bits(0xdeadbeefu, &byte, 1));
    }
}

static void by_table_knows(void **state)
{
    (void)state;
    known_answers(by_table);
}

static void by_instruction_knows(void **state)
{
    (void)state;
    need_instruction();
    known_answers(by_instruction);
}

static void both_agree_at_every_length_and_alignment(void **state)
{
    uint64_t seed = 5;
    uint8_t bytes[128];

    (void)state;
    need_instruction();
    unit_fill(&seed, bytes, sizeof(bytes));
    for (unsigned from = 0; from < 16; from++)
        for (unsigned len = 0; len <= sizeof(bytes) - from; len++)
            assert_int_equal(by_table(7, bytes + from, len), by_instruction(7, bytes + from, len));
}

static void goes_on_where_it_stopped(void **state)
{
    static const char digits[] = "123456789";

    (void)state;
    for (unsigned cut = 0; cut <= 9; cut++)
        assert_int_equal(crc32c(crc32c(0, digits, cut), &digits[cut], 9 - cut), 0xe3069283u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_is_as_defined),
        cmocka_unit_test(by_table_knows),
        cmocka_unit_test(by_instruction_knows),
        cmocka_unit_test(both_agree_at_every_length_and_alignment),
        cmocka_unit_test(goes_on_where_it_stopped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
