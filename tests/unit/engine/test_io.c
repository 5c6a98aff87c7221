/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_io.c: requests in flight, streams and records, over carriers that answer in reverse order, twice, or wrongly. */
#include "memory_carrier.h"

#include "cm.h"

static uint8_t heap[1 << 20] __attribute__((aligned(64)));

struct source {
    uint64_t next, count;
    uint32_t block;
};

static bool next_block(void *arg, struct vr_block *b)
{
    struct source *s = arg;

    if (s->next == s->count)
        return false;
    b->tag = s->next;
    b->offset = s->next++ * s->block;
    return true;
}

static void run_stream(uint32_t block, uint64_t count)
{
    uint8_t *bytes = calloc(count + 1, block);
    struct memory_image m;
    struct source src = {.count = count, .block = block};
    struct vr_stream s = {.next = next_block, .arg = &src};
    struct vr_block b;

    assert_non_null(bytes);
    for (uint64_t i = 0; i < count; i++)
        memset(bytes + i * block, (int)(i % 251), block);
    memory_image_open(&m, bytes, count * block);
    memset(heap, 0, sizeof(heap));
    struct vr_ctx ctx = {.io.carrier = &m.carrier, .arena = {.base = heap, .size = sizeof(heap)}};
    assert_int_equal(vr_stream_open(&s, &ctx, block, count), VR_OK);
    for (uint64_t i = 0; i < count; i++) {
        assert_int_equal(vr_stream_get(&s, &b), VR_OK);
        assert_non_null(b.data);
        assert_int_equal(b.tag, i);
        assert_int_equal(b.data[0], i % 251);
        assert_int_equal(b.data[block - 1], i % 251);
    }
    assert_int_equal(vr_stream_get(&s, &b), VR_OK);
    assert_null(b.data);
    memory_image_close(&m);
    free(bytes);
}

static void test_streams_deliver_in_order(void **state)
{
    (void)state;
    run_stream(512, 0);
    run_stream(512, 1);
    run_stream(512, 1000);
    run_stream(4096, 63);
    run_stream(4096, 64);
    run_stream(4096, 65);
}

static void test_a_failed_read_is_handed_up(void **state)
{
    uint8_t bytes[4096] = {0};
    struct memory_image m;

    (void)state;
    memory_image_open(&m, bytes, sizeof(bytes));
    m.fail_read_at = 1000;
    struct vr_ctx ctx = {.io.carrier = &m.carrier};
    assert_int_equal(vr_read(&ctx, 0, heap, 1000), VR_OK);
    assert_int_equal(vr_read(&ctx, 0, heap, 1001), VR_EIO);
    memory_image_close(&m);
}

/* The ring refuses such offsets; an image may name any. */
static void test_far_behind_every_file_are_zeros(void **state)
{
    static const uint64_t far[] = {VR_OFFSET_MAX - 511, VR_OFFSET_MAX, INT64_MAX, UINT64_MAX - 511, UINT64_MAX};
    uint8_t bytes[512] = {1}, zeros[512] = {0};
    struct memory_image m;

    (void)state;
    memory_image_open(&m, bytes, sizeof(bytes));
    struct vr_ctx ctx = {.io.carrier = &m.carrier};
    for (unsigned i = 0; i < sizeof(far) / sizeof(far[0]); i++) {
        memset(heap, 7, 512);
        assert_int_equal(vr_read(&ctx, far[i], heap, 512), VR_OK);
        assert_memory_equal(heap, zeros, 512);
    }
    assert_int_equal(vr_read(&ctx, 0, heap, 512), VR_OK);
    assert_memory_equal(heap, bytes, 512);
    memory_image_close(&m);
}

/* More requests than slots: the oldest outcomes must be fetched, nothing is lost or overwritten. */
static void test_slots_run_out(void **state)
{
    uint8_t bytes[512] = {0};
    struct memory_image m;
    unsigned slot;

    (void)state;
    memory_image_open(&m, bytes, sizeof(bytes));
    struct vr_ctx ctx = {.io.carrier = &m.carrier};
    struct vr_request r = {.op = VR_OP_READ, .buf = heap, .len = 16};
    for (unsigned i = 0; i < VR_RING_ENTRIES; i++)
        assert_int_equal(vr_io_start(&ctx.io, &r, &slot), VR_OK);
    assert_int_equal(vr_io_start(&ctx.io, &r, &slot), VR_ELIMIT);
    assert_int_equal(vr_io_wait(&ctx.io, 7), VR_OK);
    assert_int_equal(vr_io_start(&ctx.io, &r, &slot), VR_OK);
    memory_image_close(&m);
}

/* Answers with completions that name no request in flight, and with each of its own twice; keeps the last request. */
struct liar {
    struct vr_carrier carrier; /* first */
    struct vr_request last;
    struct vr_cqe answers[4];
    unsigned n;
};

static enum vr_status lie_about(struct vr_carrier *c, uint32_t id, const struct vr_request *r)
{
    struct liar *l = (struct liar *)c;
    const struct vr_cqe answers[] = {{.id = VR_RING_ENTRIES}, {.id = UINT32_MAX}, {.id = id ^ 1}, {.id = id, .status = VR_EIO}};

    l->last = *r;
    memcpy(l->answers, answers, sizeof(answers));
    l->n = 0;
    return VR_OK;
}

static void no_kick(struct vr_carrier *c)
{
    (void)c;
}

static struct vr_cqe next_lie(struct vr_carrier *c)
{
    struct liar *l = (struct liar *)c;

    assert_true(l->n < 4);
    return l->answers[l->n++];
}

static void test_completions_of_nothing_are_ignored(void **state)
{
    struct liar l = {.carrier = {lie_about, no_kick, next_lie}};
    struct vr_io io = {.carrier = &l.carrier};
    struct vr_request r = {.op = VR_OP_READ, .buf = heap, .len = 16};

    (void)state;
    assert_int_equal(vr_io_do(&io, &r), VR_EIO);
    assert_int_equal(l.n, 4);
    assert_int_equal(io.out, 0);
}

/* Two 32-bit numbers have to hold it. */
static void test_progress_of_large_totals(void **state)
{
    struct liar l = {.carrier = {lie_about, no_kick, next_lie}};
    struct vr_ctx ctx = {.io.carrier = &l.carrier, .walk = VR_WALK_VERIFY};

    (void)state;
    vr_progress(&ctx, VR_PASS_MAP, UINT64_C(1) << 39, UINT64_C(1) << 40);
    assert_int_equal(l.last.op, VR_OP_PROGRESS);
    assert_int_equal(l.last.offset >> 32, 1u << 30);
    assert_int_equal(l.last.offset & UINT32_MAX, 1u << 31);
    vr_progress(&ctx, VR_PASS_MAP, 7, 9);
    assert_int_equal(l.last.offset, UINT64_C(7) << 32 | 9);
}

static void test_long_names_end_in_dots(void **state)
{
    char to[8];

    (void)state;
    assert_int_equal(vr_name_fit(to, 8, (const uint8_t *)"12345678", 8), 8);
    assert_memory_equal(to, "12345678", 8);
    assert_int_equal(vr_name_fit(to, 8, (const uint8_t *)"123456789", 9), 8);
    assert_memory_equal(to, "12345...", 8);
    assert_int_equal(vr_name_fit(to, 8, (const uint8_t *)"", 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams_deliver_in_order),
        cmocka_unit_test(test_a_failed_read_is_handed_up),
        cmocka_unit_test(test_far_behind_every_file_are_zeros),
        cmocka_unit_test(test_slots_run_out),
        cmocka_unit_test(test_completions_of_nothing_are_ignored),
        cmocka_unit_test(test_progress_of_large_totals),
        cmocka_unit_test(test_long_names_end_in_dots),
    };

    return cmocka_run_group_tests_name("io", tests, NULL, NULL);
}
