/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* guest_ring.c: attacks on the ring, request by request; and odd ones that are allowed and must work. */
#include "guest.h"

#include "vr_records.h"

#define NEED(condition, words) \
    do {                       \
        if (!(condition))      \
            give_up(words);    \
    } while (0)

/* One request that must end the run: a good read, with something wrong in it. */
#define READ(name, ...)                  \
    void attack_##name(void)             \
    {                                    \
        struct vr_sqe q = good_read();   \
        __VA_ARGS__;                     \
        (void)call(&q);                  \
    }
#define REQUEST(name, ...)                       \
    void attack_##name(void)                     \
    {                                            \
        const struct vr_sqe q = {__VA_ARGS__};   \
        (void)call(&q);                          \
    }
#define HEAP_END (VR_GPA_HEAP + BOOT->heap_size)
#define DATA_END ((uint64_t)(uintptr_t)data_page + VR_PAGE_SIZE)

READ(op_zero, q.op = 0)
READ(op_unknown, q.op = VR_OP_NEXT_DATA + 1)
READ(reserved_set, q.reserved = 0x8000)
READ(read_zero, q.len = 0)
READ(read_long, q.len = VR_IO_MAX + 1)
READ(read_huge, q.len = UINT32_MAX)
READ(offset_over, q.offset = VR_OFFSET_MAX + 1)
READ(offset_end_over, q.offset = VR_OFFSET_MAX - 511)
READ(offset_wrap, q.offset = UINT64_MAX - 511)
READ(buf_null, q.buf.gpa = 0)
READ(buf_tables, q.buf.gpa = 0x1000)
READ(buf_boot, q.buf.gpa = VR_GPA_BOOT)
READ(buf_ring, q.buf.gpa = VR_GPA_RING)
READ(buf_text, q.buf.gpa = VR_GPA_IMAGE)
READ(buf_rodata, q.buf.gpa = (uint64_t)(uintptr_t)"rodata")
READ(buf_gap, q.buf.gpa = VR_GPA_IMAGE_END)
READ(buf_stack_below, q.buf.gpa = VR_GPA_STACK - 1)
READ(buf_stack_into_heap, q.buf.gpa = VR_GPA_STACK_END - 511)
READ(buf_data_end, q.buf.gpa = DATA_END - 511)
READ(buf_heap_end, q.buf.gpa = HEAP_END - 511)
READ(buf_heap_after, q.buf.gpa = HEAP_END)
READ(buf_wrap, q.buf.gpa = UINT64_MAX - 255)
READ(buf_stack_wrap, q.buf.gpa = UINT64_MAX - 255 + VR_GPA_STACK)

#define WRITE(name, ...)                                   \
    void attack_##name(void)                               \
    {                                                      \
        struct vr_sqe q = good_write(VR_EPOCH_POINTER, 0, 0xa5); \
        __VA_ARGS__;                                       \
        (void)call(&q);                                    \
    }

WRITE(write_check, q.offset = 0) /* good, but for the mode */
WRITE(write_buf_text, q.buf.gpa = VR_GPA_IMAGE)
WRITE(write_behind, q.offset = BOOT->image_size - 511)
WRITE(write_behind_far, q.offset = VR_OFFSET_MAX - 512)
WRITE(write_zero, q.len = 0)
WRITE(write_epoch, q.value = VR_EPOCH_COUNT)

void attack_write_earlier_epoch(void)
{
    struct vr_sqe q = good_write(VR_EPOCH_POINTER, 4096, 0xa5);

    NEED(call(&q) == VR_OK, "the first write failed");
    q = good_write(VR_EPOCH_STRUCTURE, 4096, 0x5a);
    (void)call(&q);
}

static void commit(void)
{
    const struct vr_sqe q = {.op = VR_OP_COMMIT};

    NEED(call(&q) == VR_OK, "the commit failed");
}

void attack_write_after_commit(void)
{
    const struct vr_sqe q = good_write(VR_EPOCH_POINTER, 0, 0xa5);

    commit();
    (void)call(&q);
}

REQUEST(size_check, .op = VR_OP_SET_SIZE, .offset = BOOT->image_size)
REQUEST(size_shrink, .op = VR_OP_SET_SIZE, .offset = BOOT->image_size - 1)
REQUEST(size_large, .op = VR_OP_SET_SIZE, .offset = BOOT->image_size + BOOT->image_size / 8 + VR_GROWTH_MAX + 1)
REQUEST(size_wrap, .op = VR_OP_SET_SIZE, .offset = UINT64_MAX)
REQUEST(size_device, .op = VR_OP_SET_SIZE, .offset = BOOT->image_size + 512)
REQUEST(commit_check, .op = VR_OP_COMMIT)

void attack_size_after_commit(void)
{
    commit();
    attack_size_device();
}

void attack_commit_twice(void)
{
    commit();
    attack_commit_check();
}

void attack_records_flood(void)
{
    const struct vr_sqe q = {.op = VR_OP_RECORD, .buf = {VR_GPA_HEAP},
                             .len = VR_RECORDS_MAX * sizeof(struct vr_record)};

    /* Never waits: the ring holds what one doorbell takes. */
    for (uint32_t i = 0; i < 4000000u / VR_RECORDS_MAX + VR_RING_ENTRIES; i++) {
        post(&q);
        if (i % 128 == 127)
            wait_all();
    }
    wait_all();
}

REQUEST(records_none, .op = VR_OP_RECORD, .buf = {VR_GPA_HEAP})
REQUEST(records_uneven, .op = VR_OP_RECORD, .buf = {VR_GPA_HEAP}, .len = sizeof(struct vr_record) + 1)
REQUEST(records_many, .op = VR_OP_RECORD, .buf = {VR_GPA_HEAP}, .len = (VR_RECORDS_MAX + 1) * sizeof(struct vr_record))
REQUEST(records_huge, .op = VR_OP_RECORD, .buf = {VR_GPA_HEAP}, .len = UINT32_MAX - 63)
REQUEST(records_buf, .op = VR_OP_RECORD, .buf = {VR_GPA_IMAGE}, .len = sizeof(struct vr_record))
REQUEST(next_data_len, .op = VR_OP_NEXT_DATA, .buf = {VR_GPA_HEAP}, .len = 16)
REQUEST(next_data_offset, .op = VR_OP_NEXT_DATA, .buf = {VR_GPA_HEAP}, .len = 8, .offset = VR_OFFSET_MAX + 1)
REQUEST(next_data_buf, .op = VR_OP_NEXT_DATA, .buf = {VR_GPA_IMAGE}, .len = 8)
REQUEST(progress_walk, .op = VR_OP_PROGRESS, .value = VR_WALK_COUNT << 8 | VR_PASS_MAP)
REQUEST(progress_pass, .op = VR_OP_PROGRESS, .value = VR_PASS_COUNT)
REQUEST(progress_pass_zero, .op = VR_OP_PROGRESS, .value = 0)
REQUEST(progress_done, .op = VR_OP_PROGRESS, .value = VR_PASS_MAP, .offset = UINT64_C(2) << 32 | 1)
REQUEST(summary_short, .op = VR_OP_FINISH, .buf = {VR_GPA_HEAP}, .len = sizeof(struct vr_summary) - 1)
REQUEST(summary_long, .op = VR_OP_FINISH, .buf = {VR_GPA_HEAP}, .len = sizeof(struct vr_summary) + 1)
REQUEST(summary_buf, .op = VR_OP_FINISH, .buf = {VR_GPA_IMAGE}, .len = sizeof(struct vr_summary))

void attack_wait_idle(void)
{
    vr_doorbell(1);
}

void attack_wait_more(void)
{
    const struct vr_sqe q = good_read();

    post(&q);
    vr_doorbell(2);
}

void attack_wait_far(void)
{
    vr_doorbell(INT32_MAX);
}

void attack_tail_far(void)
{
    RING->sq_tail = VR_RING_ENTRIES + 1;
    vr_doorbell(0);
}

void attack_tail_back(void)
{
    RING->sq_tail = UINT32_MAX;
    vr_doorbell(0);
}

void attack_panic_words(void)
{
    give_up("last words");
}

void attack_panic_controls(void)
{
    give_up("\x1b[31mred\n\x7f\xff end");
}

static void panic_of(uint64_t gpa, uint32_t len)
{
    const struct vr_sqe q = {.op = VR_OP_PANIC, .buf = {gpa}, .len = len};

    memset(HEAP, 'w', VR_PAGE_SIZE);
    (void)call(&q);
}

void attack_panic_most(void)
{
    panic_of(VR_GPA_HEAP, VR_PANIC_MAX);
}

void attack_panic_long(void)
{
    panic_of(VR_GPA_HEAP, VR_PANIC_MAX + 1);
}

void attack_panic_buf(void)
{
    panic_of(VR_GPA_BOOT, 64);
}

/* ---- odd, and allowed -------------------------------------------------------------------------------------------- */

/* A read to that place works, and brings what another read brings to the heap. */
static void read_to(uint64_t gpa)
{
    struct vr_sqe q = good_read();

    NEED(call(&q) == VR_OK, "a plain read failed");
    q.buf.gpa = gpa;
    NEED(call(&q) == VR_OK, "the read failed");
    NEED(memcmp((const void *)gpa, HEAP, 512) == 0, "the read brought other bytes");
    finish();
}

void attack_heap_exact_end(void)
{
    read_to(HEAP_END - 512);
}

void attack_stack_exact(void)
{
    read_to(VR_GPA_STACK);
}

void attack_data_exact(void)
{
    read_to(DATA_END - 512);
}

void attack_offset_last(void)
{
    struct vr_sqe q = good_read();

    q.offset = VR_OFFSET_MAX - 512;
    memset(HEAP, 1, 512);
    NEED(call(&q) == VR_OK && HEAP[0] == 0 && HEAP[511] == 0, "the last offset does not read as zeros");
    finish();
}

/* As far ahead as behind: an index that may be taken for either must not be waited for. */
void attack_wait_opposite(void)
{
    vr_doorbell(UINT32_C(1) << 31);
    finish();
}

void attack_read_behind_end(void)
{
    struct vr_sqe q = good_read();

    q.offset = BOOT->image_size - 1;
    memset(HEAP, 1, 512);
    NEED(call(&q) == VR_OK, "the read failed");
    for (unsigned i = 1; i < 512; i++)
        NEED(HEAP[i] == 0, "behind the end there is something");
    finish();
}

/* Takes effect as it was when the doorbell rang. */
void attack_change_after_post(void)
{
    struct vr_sqe q = good_read();

    q.len = VR_IO_MAX;
    for (unsigned i = 0; i < 4; i++)
        post(&q);
    vr_doorbell(0);
    for (unsigned i = 0; i < VR_RING_ENTRIES; i++)
        RING->sq[i] = (struct vr_sqe){.op = 77, .reserved = 1, .buf = {VR_GPA_IMAGE}, .len = UINT32_MAX};
    wait_all();
    for (unsigned i = 0; i < 4; i++)
        NEED(RING->cq[i].status == VR_OK, "a request was read again");
    finish();
}

/* As many as there is room for, twice round. */
void attack_full_ring(void)
{
    struct vr_sqe q = good_read();

    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < VR_RING_ENTRIES; i++) {
            q.id = i;
            q.buf.gpa = VR_GPA_HEAP + i * 512;
            q.offset = i * 512;
            post(&q);
        }
        wait_all();
        uint32_t sum = 0;
        for (uint32_t i = 0; i < VR_RING_ENTRIES; i++)
            sum += RING->cq[i].status == VR_OK ? RING->cq[i].id : 0;
        NEED(sum == VR_RING_ENTRIES * (VR_RING_ENTRIES - 1) / 2, "a completion is missing");
    }
    finish();
}

/* What the guest writes where only the host writes does not matter to the host. */
void attack_indices_wrong_in_ring(void)
{
    const struct vr_sqe q = good_read();

    memset(RING->cq, 0xff, sizeof(RING->cq));
    RING->cq_tail = 0x80000000u;
    post(&q);
    vr_doorbell(1);
    NEED(RING->cq_tail == 1 && RING->cq[0].status == VR_OK, "the host took its index from the ring");
    finish();
}

void attack_record_unknown(void)
{
    struct vr_record *r = (struct vr_record *)HEAP;
    const struct vr_sqe q = {.op = VR_OP_RECORD, .buf = {VR_GPA_HEAP}, .len = sizeof(*r)};

    *r = (struct vr_record){.code = 0xdead, .flags = 0xff, .walk = 0xff, .kept = 0xff, .count = UINT64_MAX};
    NEED(call(&q) == VR_OK, "the record failed");
    finish();
}

void attack_claims_commit(void)
{
    finish();
}

void attack_size_grow(void)
{
    struct vr_sqe q = {.op = VR_OP_SET_SIZE, .offset = BOOT->image_size + 65536};

    NEED(call(&q) == VR_OK, "the new size failed");
    q = good_write(VR_EPOCH_STRUCTURE, BOOT->image_size + 65536 - 512, 0x77);
    NEED(call(&q) == VR_OK, "the write failed");
    commit();
    finish();
}

/* Sector 0 in the first and the last epoch, sector 8 in one between, sector 9 as it is already. */
void attack_epochs(void)
{
    struct vr_sqe q = good_read();

    q.offset = 9 * 512;
    NEED(call(&q) == VR_OK, "the read failed");
    q.op = VR_OP_WRITE;
    q.value = VR_EPOCH_COPIED;
    NEED(call(&q) == VR_OK, "the write of what is there failed");
    q = good_write(VR_EPOCH_MARK, 0, 0x11);
    NEED(call(&q) == VR_OK, "the first write failed");
    q = good_write(VR_EPOCH_POINTER, 8 * 512, 0x22);
    NEED(call(&q) == VR_OK, "the second write failed");
    q = good_write(VR_EPOCH_CLEAN, 0, 0x33);
    NEED(call(&q) == VR_OK, "the third write failed");
    q = good_read();
    NEED(call(&q) == VR_OK && HEAP[0] == 0x33 && HEAP[511] == 0x33, "a read does not see the last epoch");
    commit();
    NEED(call(&q) == VR_OK && HEAP[0] == 0x33 && HEAP[511] == 0x33, "the image has something else");
    finish();
}

void attack_commit_nothing(void)
{
    commit();
    finish();
}
