/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fuzz_ring.c: the request server under a guest that posts anything.
 *
 * Input: one byte (mode), then actions of 33 bytes: what to do, and a submission. Guest memory is mapped as for a
 * real guest; all of it that a guest cannot write is poisoned, so that a host which touches it is caught by ASan. The
 * functions of main.c that end a process jump back here; the commit is left out: it has tests of its own.
 */
#include <errno.h>
#include <sanitizer/asan_interface.h>
#include <setjmp.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm.h"
#include "fuzz.h"
#include "vr_records.h"

#define HEAP       (2u << 20)
#define IMAGE_SIZE (256u << 10)
#define WRITABLE   (VR_GPA_IMAGE + 0x3000u) /* the data segment of our guest: one page */

static jmp_buf ended;
static struct child child;
static struct vmm_config config;
static uint64_t frames;
static uint8_t pattern[IMAGE_SIZE];

/* ---- main.c, block.c and commit.c, as far as the ring needs them --------------------------------------------- */

uint64_t child_now_us(void)
{
    return 0;
}

void child_phase(struct child *c, uint64_t *phase)
{
    (void)c;
    (void)phase;
}

void child_send(struct child *c, uint32_t type, const void *body, uint32_t len)
{
    const uint8_t *bytes = body;
    volatile uint8_t sum = 0;

    (void)c;
    (void)type;
    for (uint32_t i = 0; i < len; i++)
        sum = (uint8_t)(sum + bytes[i]);
    frames++;
}

void child_end(struct child *c)
{
    (void)c;
    longjmp(ended, 1);
}

void child_fail(struct child *c, enum vmm_fail_kind kind, int error, const char *text)
{
    (void)c;
    (void)error;
    HOLD(kind == VMM_FAIL_GUEST_PROTOCOL || kind == VMM_FAIL_OVERLAY || kind == VMM_FAIL_GUEST_PANIC,
         "a guest's request fails as a guest's fault");
    HOLD(memchr(text, 0, 300), "a failure has words that end");
    longjmp(ended, 1);
}

void child_check_stop(struct child *c)
{
    (void)c;
}

void child_read_waits(struct child *c, bool waits)
{
    (void)c;
    (void)waits;
}

void block_read_now(struct block *b, const struct block_job *job)
{
    int err = overlay_read(&b->child->overlay, job->buf, job->len, job->offset);

    ring_complete(&b->child->ring, job->id, err ? VR_EIO : VR_OK);
}

void block_read(struct block *b, const struct block_job *job)
{
    block_read_now(b, job);
}

void block_drain(struct block *b)
{
    (void)b;
}

enum vr_status commit_run(struct child *c)
{
    overlay_sort(&c->overlay);
    overlay_drop(&c->overlay);
    return VR_OK;
}

/* ---- guest memory ------------------------------------------------------------------------------------------------- */

static void poison_but(uint64_t from, uint64_t to)
{
    __asan_unpoison_memory_region(child.memory + from, to - from);
}

static void make_memory(void)
{
    child.memory_size = VR_GPA_HEAP + HEAP;
    child.memory = mmap(NULL, child.memory_size + VR_PAGE_SIZE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    HOLD(child.memory != MAP_FAILED, "there is memory");
    __asan_poison_memory_region(child.memory, child.memory_size + VR_PAGE_SIZE);
    poison_but(VR_GPA_RING, VR_GPA_RING + sizeof(struct vr_ring));
    poison_but(VR_GPA_HEAP, VR_GPA_HEAP + HEAP);
    poison_but(VR_GPA_STACK, VR_GPA_STACK_END);
    poison_but(WRITABLE, WRITABLE + VR_PAGE_SIZE);
    child.load.nsegments = 2;
    child.load.segments[0] = (struct load_segment){VR_GPA_IMAGE, WRITABLE, false, true};
    child.load.segments[1] = (struct load_segment){WRITABLE, WRITABLE + VR_PAGE_SIZE, true, false};
    child.heap_size = HEAP;
    child.cfg = &config;
    child.block.child = &child;
    for (uint32_t i = 0; i < IMAGE_SIZE; i++)
        pattern[i] = (uint8_t)(i * 7 + i / 512);
    config.image_fd = memfd_create("image", MFD_CLOEXEC);
    config.overlay_fd = memfd_create("overlay", MFD_CLOEXEC);
    HOLD(pwrite(config.image_fd, pattern, IMAGE_SIZE, 0) == IMAGE_SIZE, "the image can be written");
}

/* ---- a guest ---------------------------------------------------------------------------------------------------------- */

struct action {
    uint8_t what;
    struct vr_sqe q;
} __attribute__((packed));

/* Most numbers at random would end the run at the first request: bring some near what is allowed. */
static void tame(const struct action *a, struct vr_sqe *q)
{
    *q = a->q;
    if (a->what & 8)
        q->op = (uint16_t)(1 + q->op % (VR_OP_NEXT_DATA + 1));
    if (a->what & 16)
        q->reserved = 0;
    if (a->what & 32)
        q->offset %= 2 * IMAGE_SIZE;
    if (a->what & 64)
        q->len %= 8192;
    if (a->what & 128)
        q->buf.gpa = VR_GPA_HEAP + q->buf.gpa % HEAP;
    if (a->what & 4)
        q->value %= VR_EPOCH_COUNT + 1;
}

static void play(const uint8_t *data, size_t size)
{
    struct vr_ring *shared = (struct vr_ring *)(void *)(child.memory + VR_GPA_RING);
    uint32_t tail = 0;

    for (; size >= sizeof(struct action); data += sizeof(struct action), size -= sizeof(struct action)) {
        struct action a;
        memcpy(&a, data, sizeof(a));
        if ((a.what & 3) == 3) { /* ring, perhaps with a tail of its own */
            shared->sq_tail = a.q.op % 7 ? tail : a.q.value;
            ring_doorbell(&child.ring, a.q.op % 5 ? child.ring.cq_tail + (shared->sq_tail - child.ring.sq_head) : a.q.len);
            continue;
        }
        tame(&a, &shared->sq[tail % VR_RING_ENTRIES]);
        shared->sq_tail = ++tail;
    }
    ring_doorbell(&child.ring, child.ring.cq_tail);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    if (!child.memory)
        make_memory();
    memset(child.memory + VR_GPA_RING, 0, sizeof(struct vr_ring));
    config.mode = VR_MODE_CHECK + data[0] % 3;
    config.image_size = IMAGE_SIZE - (data[0] & 4 ? 100 : 0);
    config.image_is_device = data[0] & 8;
    overlay_init(&child.overlay, config.overlay_fd, config.image_fd, config.image_size, 1 << 20);
    ring_open(&child.ring, &child, (struct vr_ring *)(void *)(child.memory + VR_GPA_RING));
    if (setjmp(ended) == 0)
        play(data + 1, size - 1);
    if (config.mode == VR_MODE_CHECK)
        HOLD(child.overlay.count == 0, "a check keeps no writes");
    HOLD(child.overlay.size <= config.image_size + config.image_size / 8 + VR_GROWTH_MAX, "an image grows within limits");
    overlay_drop(&child.overlay);
    return 0;
}
