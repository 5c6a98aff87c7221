/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ring.c: takes requests off the ring of a hostile guest: copied once, checked, then done.
 *
 * The first violation ends the run. Nothing here reads a request from shared memory twice.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "vmm.h"
#include "vr_records.h"

/* Requests of one doorbell that are done on the spot rather than handed to threads: start-up reads a few. */
#define INLINE_MAX 2u

static void violation(struct ring *r, const char *rule) __attribute__((noreturn));
static void violation(struct ring *r, const char *rule)
{
    child_fail(r->child, VMM_FAIL_GUEST_PROTOCOL, 0, rule);
}

void ring_open(struct ring *r, struct child *child, struct vr_ring *shared)
{
    *r = (struct ring){.child = child, .shared = shared};
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->completed, NULL);
}

void ring_complete(struct ring *r, uint32_t id, enum vr_status status)
{
    pthread_mutex_lock(&r->lock);
    r->shared->cq[r->cq_tail % VR_RING_ENTRIES] = (struct vr_cqe){.id = id, .status = status};
    r->cq_tail++;
    r->outstanding--;
    __atomic_store_n(&r->shared->cq_tail, r->cq_tail, __ATOMIC_RELEASE);
    pthread_cond_signal(&r->completed);
    pthread_mutex_unlock(&r->lock);
}

/* ---- guest addresses ------------------------------------------------------------------------------------------- */

static bool inside(uint64_t gpa, uint64_t len, uint64_t start, uint64_t end)
{
    return gpa >= start && gpa <= end && len <= end - gpa;
}

/* The only way from a guest address to memory: wholly inside what the guest may write itself. NULL otherwise. */
static void *guest_buffer(const struct child *c, vr_gpa_t at, uint64_t len)
{
    bool ok = inside(at.gpa, len, VR_GPA_HEAP, VR_GPA_HEAP + c->heap_size) ||
              inside(at.gpa, len, VR_GPA_STACK, VR_GPA_STACK_END);

    for (unsigned i = 0; i < c->load.nsegments; i++)
        ok = ok || (c->load.segments[i].write &&
                    inside(at.gpa, len, c->load.segments[i].start, c->load.segments[i].end));
    return ok ? c->memory + at.gpa : NULL;
}

static void *need_buffer(struct ring *r, const struct vr_sqe *q)
{
    void *p = guest_buffer(r->child, q->buf, q->len);

    if (!p)
        violation(r, "a buffer outside the guest's own memory");
    return p;
}

static void need_range(struct ring *r, const struct vr_sqe *q)
{
    if (q->len == 0 || q->len > VR_IO_MAX)
        violation(r, "a length outside the limits");
    if (q->offset > VR_OFFSET_MAX || q->len > VR_OFFSET_MAX - q->offset)
        violation(r, "an image offset outside the limits");
}

/* ---- one function a request --------------------------------------------------------------------------------------- */

static void do_read(struct ring *r, const struct vr_sqe *q, bool now)
{
    need_range(r, q);
    struct block_job job = {.offset = q->offset, .buf = need_buffer(r, q), .len = q->len, .id = q->id};

    if (now) {
        child_read_waits(r->child, true);
        block_read_now(&r->child->block, &job);
        child_read_waits(r->child, false);
    } else {
        block_read(&r->child->block, &job);
    }
}

/* Of the file as it is: what the overlay holds is the guest's own. Where nothing is known of holes, all is data. */
static void do_next_data(struct ring *r, const struct vr_sqe *q)
{
    if (q->len != sizeof(uint64_t))
        violation(r, "a length outside the limits");
    if (q->offset > VR_OFFSET_MAX)
        violation(r, "an image offset outside the limits");
    void *buf = need_buffer(r, q);
    off_t at = lseek(r->child->overlay.image_fd, (off_t)q->offset, SEEK_DATA);
    uint64_t data = at >= 0 ? (uint64_t)at : errno == ENXIO ? UINT64_MAX : q->offset;

    memcpy(buf, &data, sizeof(data));
    ring_complete(r, q->id, VR_OK);
}

static void do_write(struct ring *r, const struct vr_sqe *q)
{
    struct child *c = r->child;

    if (c->cfg->mode == VR_MODE_CHECK)
        violation(r, "a write in mode check");
    if (r->committed)
        violation(r, "a write after the commit");
    need_range(r, q);
    if (q->value >= VR_EPOCH_COUNT)
        violation(r, "an unknown epoch");
    if (q->offset > c->overlay.size || q->len > c->overlay.size - q->offset)
        violation(r, "a write behind the end of the image");
    int err = overlay_write(&c->overlay, q->value, need_buffer(r, q), q->len, q->offset);
    if (err == -EPROTO)
        violation(r, "a write into a sector that a later epoch has written");
    if (err)
        child_fail(c, VMM_FAIL_OVERLAY, err, "");
    ring_complete(r, q->id, VR_OK);
}

static void do_set_size(struct ring *r, const struct vr_sqe *q)
{
    struct child *c = r->child;
    uint64_t limit = c->cfg->image_size + c->cfg->image_size / 8 + VR_GROWTH_MAX;

    if (c->cfg->mode == VR_MODE_CHECK || r->committed)
        violation(r, "a new size in mode check or after the commit");
    if (c->cfg->image_is_device)
        violation(r, "a new size of a block device");
    if (q->offset < c->overlay.size || q->offset > limit)
        violation(r, "a new size outside the limits");
    c->overlay.size = q->offset;
    ring_complete(r, q->id, VR_OK);
}

static void do_commit(struct ring *r, const struct vr_sqe *q)
{
    if (r->child->cfg->mode == VR_MODE_CHECK)
        violation(r, "a commit in mode check");
    if (r->committed)
        violation(r, "a second commit");
    r->committed = true;
    block_drain(&r->child->block);
    child_phase(r->child, &r->child->stats.us_commit);
    enum vr_status st = commit_run(r->child);
    child_phase(r->child, &r->child->stats.us_pass[VR_WALK_FINAL][0]);
    ring_complete(r, q->id, st);
}

static void do_record(struct ring *r, const struct vr_sqe *q)
{
    struct vr_record copy[VR_RECORDS_MAX];
    uint32_t n = q->len / (uint32_t)sizeof(copy[0]);

    if (n == 0 || n > VR_RECORDS_MAX || q->len % sizeof(copy[0]) != 0)
        violation(r, "records of a length outside the limits");
    r->records += n;
    if (r->records > RING_RECORDS_MAX)
        violation(r, "a flood of records");
    memcpy(copy, need_buffer(r, q), q->len);
    child_send(r->child, VMM_MSG_RECORDS, copy, q->len);
    ring_complete(r, q->id, VR_OK);
}

static void do_progress(struct ring *r, const struct vr_sqe *q)
{
    struct vmm_progress p = {.walk = q->value >> 8, .pass = q->value & 0xff,
                             .done = (uint32_t)(q->offset >> 32), .total = (uint32_t)q->offset};

    if (p.walk >= VR_WALK_COUNT || p.pass == 0 || p.pass >= VR_PASS_COUNT || p.done > p.total)
        violation(r, "a progress that makes no sense");
    child_phase(r->child, &r->child->stats.us_pass[p.walk][p.pass]);
    child_send(r->child, VMM_MSG_PROGRESS, &p, sizeof(p));
    ring_complete(r, q->id, VR_OK);
}

static void do_finish(struct ring *r, const struct vr_sqe *q)
{
    struct vr_summary copy;

    if (q->len != sizeof(copy))
        violation(r, "a summary of another length");
    memcpy(&copy, need_buffer(r, q), sizeof(copy));
    block_drain(&r->child->block);
    /* Whether anything was committed is not the guest's to say. */
    copy.committed = r->committed;
    child_send(r->child, VMM_MSG_SUMMARY, &copy, sizeof(copy));
    child_end(r->child);
}

static void do_panic(struct ring *r, const struct vr_sqe *q)
{
    char words[VR_PANIC_MAX + 1] = {0};

    if (q->len > VR_PANIC_MAX)
        violation(r, "last words that do not end");
    memcpy(words, need_buffer(r, q), q->len);
    child_fail(r->child, VMM_FAIL_GUEST_PANIC, 0, words);
}

static void dispatch(struct ring *r, const struct vr_sqe *q, bool now)
{
    switch (q->op) {
    case VR_OP_READ:
        do_read(r, q, now);
        break;
    case VR_OP_WRITE:
        do_write(r, q);
        break;
    case VR_OP_SET_SIZE:
        do_set_size(r, q);
        break;
    case VR_OP_COMMIT:
        do_commit(r, q);
        break;
    case VR_OP_RECORD:
        do_record(r, q);
        break;
    case VR_OP_PROGRESS:
        do_progress(r, q);
        break;
    case VR_OP_FINISH:
        do_finish(r, q);
        break;
    case VR_OP_PANIC:
        do_panic(r, q);
        break;
    case VR_OP_NEXT_DATA:
        do_next_data(r, q);
        break;
    default:
        violation(r, "an unknown request");
    }
}

/* ---- the doorbell ------------------------------------------------------------------------------------------------------ */

/* Returns how many there were. */
static uint32_t take_posted(struct ring *r)
{
    uint32_t tail = __atomic_load_n(&r->shared->sq_tail, __ATOMIC_ACQUIRE);
    uint32_t n = tail - r->sq_head;

    pthread_mutex_lock(&r->lock);
    bool room = n <= VR_RING_ENTRIES - r->outstanding;
    r->outstanding += room ? n : 0;
    pthread_mutex_unlock(&r->lock);
    if (!room)
        violation(r, "more requests than the ring holds");
    if (r->requests == 0)
        child_phase(r->child, &r->child->stats.us_pass[VR_WALK_CHECK][0]);
    r->requests += n;
    for (uint32_t i = 0; i < n; i++) {
        struct vr_sqe q;
        memcpy(&q, (const void *)&r->shared->sq[r->sq_head % VR_RING_ENTRIES], sizeof(q));
        /* The compiler must not go back to shared memory for what was checked in the copy. */
        __asm__ volatile("" : : : "memory");
        r->sq_head++;
        if (q.reserved != 0)
            violation(r, "a reserved field is not 0");
        dispatch(r, &q, n <= INLINE_MAX);
    }
    return n;
}

/* Half the numbers are behind cq_tail. The one opposite is as well: it must not be waited for. */
static bool has_reached(const struct ring *r, uint32_t want)
{
    return (int32_t)(want - r->cq_tail) <= 0;
}

void ring_doorbell(struct ring *r, uint32_t want)
{
    bool progress = take_posted(r) > 0;

    pthread_mutex_lock(&r->lock);
    bool possible = has_reached(r, want) || want - r->cq_tail <= r->outstanding;
    bool waits = possible && !has_reached(r, want);
    if (waits)
        child_read_waits(r->child, true);
    while (possible && !has_reached(r, want)) {
        pthread_cond_wait(&r->completed, &r->lock);
        child_read_waits(r->child, true);
    }
    if (waits)
        child_read_waits(r->child, false);
    progress = progress || r->cq_tail != r->cq_seen;
    r->cq_seen = r->cq_tail;
    pthread_mutex_unlock(&r->lock);
    /* Ringing alone does not keep the watchdog off. */
    if (progress)
        atomic_store(&r->child->last_bell_us, child_now_us());
    if (!possible)
        violation(r, "waits for more than is outstanding");
    child_check_stop(r->child);
}
