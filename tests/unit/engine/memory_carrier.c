/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* memory_carrier.c: an image in memory behind the engine's carrier. */
#include "memory_carrier.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define SECTOR 512u

/* The VMM would end a guest that breaks one. */
static void rule(bool kept, const char *words)
{
    if (kept)
        return;
    fprintf(stderr, "rule broken: the ring: %s\n", words);
    abort();
}

static void need_range(const struct vr_request *r)
{
    rule(r->len != 0 && r->len <= VR_IO_MAX, "a length outside the limits");
    rule(r->offset <= VR_OFFSET_MAX && r->len <= VR_OFFSET_MAX - r->offset, "an image offset outside the limits");
}

static enum vr_status do_read(struct memory_image *m, const struct vr_request *r)
{
    need_range(r);
    if (m->fail_read_at >= r->offset && m->fail_read_at - r->offset < r->len)
        return VR_EIO;
    memset(r->buf, 0, r->len);
    if (r->offset < m->view_size)
        memcpy(r->buf, m->view + r->offset, vr_min(r->len, m->view_size - r->offset));
    return VR_OK;
}

/* Each sector that changes: in which epoch it did last. */
static void note_epoch(struct memory_image *m, const struct vr_request *r)
{
    for (uint64_t at = r->offset, end = r->offset + r->len, next; at < end; at = next) {
        next = vr_min((at / SECTOR + 1) * SECTOR, end);
        if (memcmp(m->view + at, (const uint8_t *)r->buf + (at - r->offset), next - at) == 0)
            continue;
        rule(m->epochs[at / SECTOR] <= r->value, "a write into a sector that a later epoch has written");
        m->epochs[at / SECTOR] = (uint8_t)r->value;
    }
}

static enum vr_status do_write(struct memory_image *m, const struct vr_request *r)
{
    need_range(r);
    rule(!m->checks && m->commits == 0, "a write in mode check, or after the commit");
    rule(r->value < VR_EPOCH_COUNT, "an unknown epoch");
    rule(r->offset <= m->view_size && r->len <= m->view_size - r->offset, "a write behind the end of the image");
    note_epoch(m, r);
    if (!m->lose_writes)
        memcpy(m->view + r->offset, r->buf, r->len);
    m->writes++;
    return VR_OK;
}

static uint8_t *grown(uint8_t *bytes, uint64_t from, uint64_t to)
{
    uint8_t *p = realloc(bytes, to + 1);

    if (!p)
        abort();
    memset(p + from, 0, to - from);
    return p;
}

static enum vr_status do_set_size(struct memory_image *m, uint64_t size)
{
    rule(!m->checks && m->commits == 0, "a new size in mode check or after the commit");
    rule(!(m->flags & VR_BOOT_DEVICE), "a new size of a block device");
    rule(size >= m->view_size && size <= m->size + m->size / 8 + VR_GROWTH_MAX, "a new size outside the limits");
    m->view = grown(m->view, m->view_size, size);
    m->epochs = grown(m->epochs, m->view_size / SECTOR + 1, size / SECTOR + 1);
    m->view_size = size;
    return VR_OK;
}

/* What the front believes of a record (frames.c). */
static void need_record(const struct memory_image *m, const struct vr_record *rec)
{
    unsigned row = 0;

    if (rec->flags == VR_REC_NAME)
        return;
    while (row < VR_P_COUNT && vr_rows[row].code != rec->code)
        row++;
    rule(row < VR_P_COUNT, "a record of no row");
    rule(rec->walk < VR_WALK_COUNT && rec->kept <= VR_KEPT_NO_ROOM && !(rec->flags & ~VR_REC_FIXED), "a malformed record");
    rule(rec->count != 0, "a record of nothing");
    rule(!(rec->flags & VR_REC_FIXED) || (!m->checks && !rec->kept), "a record of what is mended and kept");
}

static void do_records(struct memory_image *m, const struct vr_request *r)
{
    const struct vr_record *records = r->buf;

    rule(r->len != 0 && r->len % sizeof(*records) == 0 && r->len / sizeof(*records) <= VR_RECORDS_MAX,
         "records of a length outside the limits");
    for (uint32_t i = 0; i < r->len / sizeof(*records); i++, m->records++) {
        need_record(m, &records[i]);
        if (m->records < 64)
            m->last[m->records] = records[i];
    }
}

static void need_progress(const struct vr_request *r)
{
    rule(r->value >> 8 < VR_WALK_COUNT && (r->value & 0xff) != 0 && (r->value & 0xff) < VR_PASS_COUNT &&
             r->offset >> 32 <= (uint32_t)r->offset,
         "a progress that makes no sense");
}

/* Zeros of whole pages are its holes. */
static void next_data(const struct memory_image *m, const struct vr_request *r)
{
    uint64_t at = r->offset;

    rule(r->len == sizeof(at) && r->offset <= VR_OFFSET_MAX, "a length or an offset outside the limits");
    while (at < m->size && m->disk[at] == 0)
        at++;
    at = at < m->size ? vr_max(r->offset, at & ~UINT64_C(4095)) : UINT64_MAX;
    memcpy(r->buf, &at, sizeof(at));
}

static enum vr_status perform(struct memory_image *m, const struct vr_request *r)
{
    switch (r->op) {
    case VR_OP_READ:
        return do_read(m, r);
    case VR_OP_WRITE:
        return do_write(m, r);
    case VR_OP_SET_SIZE:
        return do_set_size(m, r->offset);
    case VR_OP_COMMIT:
        rule(!m->checks && m->commits == 0, "a commit in mode check, or a second one");
        m->disk = grown(m->disk, m->size, m->view_size);
        m->size = m->view_size;
        memcpy(m->disk, m->view, m->size);
        m->commits++;
        return VR_OK;
    case VR_OP_RECORD:
        do_records(m, r);
        return VR_OK;
    case VR_OP_PROGRESS:
        need_progress(r);
        return VR_OK;
    case VR_OP_NEXT_DATA:
        next_data(m, r);
        return VR_OK;
    default:
        return VR_OK;
    }
}

static enum vr_status post(struct vr_carrier *c, uint32_t id, const struct vr_request *r)
{
    struct memory_image *m = (struct memory_image *)c;

    bool late = r->op == VR_OP_READ;

    m->late[m->ndone] = late ? *r : (struct vr_request){0};
    m->done[m->ndone++] = (struct vr_cqe){.id = id, .status = late ? VR_OK : perform(m, r)};
    return VR_OK;
}

static void kick(struct vr_carrier *c)
{
    (void)c;
}

static struct vr_cqe next(struct vr_carrier *c)
{
    struct memory_image *m = (struct memory_image *)c;

    unsigned i = m->oldest_first ? 0 : m->ndone - 1;
    struct vr_request r = m->late[i];
    struct vr_cqe cqe = m->done[i];
    const uint8_t *buf = r.buf;

    m->ndone--;
    memmove(&m->late[i], &m->late[i + 1], (m->ndone - i) * sizeof(m->late[0]));
    memmove(&m->done[i], &m->done[i + 1], (m->ndone - i) * sizeof(m->done[0]));
    if (r.op == VR_OP_READ) {
        rule(!m->arena || (buf >= m->arena->base && buf + r.len <= m->arena->base + m->arena->used), "a read into memory that was given back");
        cqe.status = perform(m, &r);
    }
    return cqe;
}

void memory_image_open(struct memory_image *m, const void *bytes, uint64_t size)
{
    *m = (struct memory_image){.carrier = {post, kick, next}, .size = size, .view_size = size, .fail_read_at = UINT64_MAX};
    m->disk = malloc(size + 1);
    m->view = malloc(size + 1);
    m->epochs = calloc(size / SECTOR + 2, 1);
    if (!m->disk || !m->view || !m->epochs)
        abort();
    memcpy(m->disk, bytes, size);
    memcpy(m->view, bytes, size);
}

void memory_image_close(struct memory_image *m)
{
    free(m->disk);
    free(m->view);
    free(m->epochs);
}

void memory_session(struct memory_image *m, enum vr_mode mode, uint64_t heap, struct vr_summary *sum)
{
    struct vr_record batch[VR_RECORDS_MAX];
    struct vr_ctx ctx = {.io.carrier = &m->carrier, .mode = mode, .file_size = m->size, .examples = 64,
                         .sum = sum, .batch = batch, .flags = m->flags};

    m->checks = mode == VR_MODE_CHECK;
    m->writes = m->commits = 0;
    memset(m->epochs, 0, m->view_size / SECTOR + 1);
    memset(sum, 0, sizeof(*sum));
    ctx.arena.size = heap;
    ctx.arena.base = mmap(NULL, heap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ctx.arena.base == MAP_FAILED)
        abort();
    m->arena = &ctx.arena;
    vr_session(&ctx);
    m->arena = NULL;
    for (unsigned i = 0; i < m->ndone; i++)
        rule(m->late[i].op != VR_OP_READ, "reads in flight when the session ended");
    m->ndone = 0;
    munmap(ctx.arena.base, heap);
}
