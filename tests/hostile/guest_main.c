/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* guest_main.c: the hostile guest: runs the attack that it is told to, over a ring client without any checks. */
#include "guest.h"

#include "vr_records.h"

uint8_t data_page[VR_PAGE_SIZE] __attribute__((aligned(VR_PAGE_SIZE), section(".data")));
static uint32_t sq_tail;

void post(const struct vr_sqe *q)
{
    RING->sq[sq_tail % VR_RING_ENTRIES] = *q;
    sq_tail++;
    __atomic_store_n(&RING->sq_tail, sq_tail, __ATOMIC_RELEASE);
}

void wait_all(void)
{
    while (__atomic_load_n(&RING->cq_tail, __ATOMIC_ACQUIRE) != sq_tail)
        vr_doorbell(sq_tail);
}

int32_t call(const struct vr_sqe *q)
{
    post(q);
    wait_all();
    return RING->cq[(sq_tail - 1) % VR_RING_ENTRIES].status;
}

struct vr_sqe good_read(void)
{
    return (struct vr_sqe){.op = VR_OP_READ, .buf = {VR_GPA_HEAP}, .len = 512};
}

struct vr_sqe good_write(uint32_t epoch, uint64_t offset, uint8_t fill)
{
    uint8_t *bytes = HEAP + VR_PAGE_SIZE;

    memset(bytes, fill, 512);
    return (struct vr_sqe){
        .op = VR_OP_WRITE, .offset = offset, .buf = {(uint64_t)(uintptr_t)bytes}, .len = 512, .value = epoch};
}

void finish(void)
{
    struct vr_summary *s = (struct vr_summary *)(uintptr_t)VR_GPA_HEAP;
    struct vr_sqe q = {.op = VR_OP_FINISH, .buf = {(uint64_t)(uintptr_t)s}, .len = sizeof(*s)};

    memset(s, 0, sizeof(*s));
    s->committed = 1; /* a lie, but where it is none */
    s->heap_used = HOSTILE_MARK;
    (void)call(&q);
    give_up("ran on after FINISH");
}

void give_up(const char *words)
{
    struct vr_sqe q = {.op = VR_OP_PANIC, .buf = {VR_GPA_HEAP}};

    for (; words[q.len] != '\0'; q.len++)
        HEAP[q.len] = (uint8_t)words[q.len];
    post(&q);
    for (;;)
        vr_doorbell(0);
}

#define ROW(name) attack_##name,
static attack_fn *const attacks[] = {HOSTILE_CASES(ROW)};
#undef ROW

void vr_guest_main(uint8_t *base)
{
    (void)base;
    if (BOOT->examples < sizeof(attacks) / sizeof(attacks[0]))
        attacks[BOOT->examples]();
    else
        give_up("no such attack");
    /* What should have ended the run did not. */
    give_up("survived");
}
