/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_overlay.c: the overlay against a plain model: arrays of sectors, one for each epoch. */
#include "unit.h"

#include <errno.h>

#define SIZE    (50000u + 300u) /* of the image: 12 pages and a bit, the last sector partial */
#define SECTORS ((SIZE + VMM_SECTOR - 1) / VMM_SECTOR)
#define PAGE_SECTORS (OVERLAY_PAGE / VMM_SECTOR)

struct model {
    uint8_t now[SECTORS * VMM_SECTOR];                       /* as it reads; behind the end zeros */
    uint8_t versions[VR_EPOCH_COUNT][SECTORS][VMM_SECTOR];
    bool have[VR_EPOCH_COUNT][SECTORS];
};

struct pair {
    struct model *m;
    struct overlay ov;
    int image_fd;
    uint64_t seed;
};

static void open_pair(struct pair *p, uint64_t seed, uint64_t memory)
{
    *p = (struct pair){.m = calloc(1, sizeof(*p->m)), .seed = seed};
    assert_non_null(p->m);
    unit_fill(&p->seed, p->m->now, SIZE);
    /* Long runs of equal sectors: many writes then change only a part of what they touch. */
    memset(p->m->now + 8192, 0x55, 16384);
    p->image_fd = unit_file(p->m->now, SIZE);
    overlay_init(&p->ov, unit_file(NULL, 0), p->image_fd, SIZE, memory);
}

static void close_pair(struct pair *p)
{
    close(p->ov.fd);
    close(p->image_fd);
    overlay_drop(&p->ov);
    free(p->m);
}

static uint32_t below(struct pair *p, uint32_t limit)
{
    return (uint32_t)(unit_random(&p->seed) % limit);
}

static void check_read(struct pair *p, uint64_t offset, uint32_t len)
{
    static const uint8_t zeros[3 * OVERLAY_PAGE];
    uint8_t *buf = malloc(len);
    uint64_t have = offset < SIZE ? SIZE - offset : 0;

    assert_non_null(buf);
    have = have < len ? have : len;
    assert_int_equal(overlay_read(&p->ov, buf, len, offset), 0);
    assert_memory_equal(buf, p->m->now + (have ? offset : 0), have);
    assert_memory_equal(buf + have, zeros, len - have);
    free(buf);
}

/* The part of a write that lies in one page. False where a later epoch has a version of a changed sector. */
static bool model_page(struct model *m, unsigned epoch, const uint8_t *buf, uint32_t len, uint64_t offset)
{
    uint32_t first = (uint32_t)(offset / VMM_SECTOR), last = (uint32_t)((offset + len - 1) / VMM_SECTOR);
    uint8_t then[OVERLAY_PAGE];
    uint8_t *base = m->now + (size_t)first * VMM_SECTOR;

    memcpy(then, base, (size_t)(last - first + 1) * VMM_SECTOR);
    memcpy(then + offset % VMM_SECTOR, buf, len);
    for (uint32_t s = first; s <= last; s++)
        for (unsigned e = epoch + 1; e < VR_EPOCH_COUNT; e++)
            if (m->have[e][s] && memcmp(then + (s - first) * VMM_SECTOR, m->now + s * VMM_SECTOR, VMM_SECTOR) != 0)
                return false;
    for (uint32_t s = first; s <= last; s++) {
        const uint8_t *sector = then + (s - first) * VMM_SECTOR;
        if (memcmp(sector, m->now + s * VMM_SECTOR, VMM_SECTOR) == 0)
            continue;
        m->have[epoch][s] = true;
        memcpy(m->versions[epoch][s], sector, VMM_SECTOR);
        memcpy(m->now + s * VMM_SECTOR, sector, VMM_SECTOR);
    }
    return true;
}

static int model_write(struct model *m, unsigned epoch, const uint8_t *buf, uint32_t len, uint64_t offset)
{
    while (len > 0) {
        uint32_t n = OVERLAY_PAGE - offset % OVERLAY_PAGE < len ? OVERLAY_PAGE - offset % OVERLAY_PAGE : len;
        if (!model_page(m, epoch, buf, n, offset))
            return -EPROTO;
        buf += n;
        offset += n;
        len -= n;
    }
    return 0;
}

static unsigned refusals, writes;

static void random_write(struct pair *p)
{
    uint32_t len = below(p, 4) ? below(p, 600) + 1 : below(p, 2 * OVERLAY_PAGE) + 1;
    uint64_t offset = below(p, SIZE - len + 1);
    unsigned epoch = below(p, VR_EPOCH_COUNT);
    uint8_t *buf = malloc(len);

    assert_non_null(buf);
    if (below(p, 3) == 0)
        memset(buf, 0x55, len);
    else if (below(p, 4) == 0)
        memcpy(buf, p->m->now + offset, len);
    else
        unit_fill(&p->seed, buf, len);
    int expected = model_write(p->m, epoch, buf, len, offset);
    assert_int_equal(overlay_write(&p->ov, epoch, buf, len, offset), expected);
    refusals += expected != 0;
    writes++;
    free(buf);
}

/* Every version is the model's and the other way round; sorted by epoch and page. */
static void check_versions(struct pair *p)
{
    uint64_t kept = 0, expected = 0;
    uint8_t page[OVERLAY_PAGE];

    overlay_sort(&p->ov);
    for (uint64_t i = 0; i < p->ov.count; i++) {
        const struct overlay_version *v = &p->ov.versions[i];
        const struct overlay_version *before = v - (i > 0);
        assert_true(i == 0 || before->epoch < v->epoch || (before->epoch == v->epoch && before->page < v->page));
        assert_int_equal(overlay_page(&p->ov, v, page), 0);
        for (unsigned s = 0; s < PAGE_SECTORS; s++) {
            uint64_t sector = v->page * PAGE_SECTORS + s;
            if (!(v->dirty >> s & 1))
                continue;
            assert_true(sector < SECTORS && p->m->have[v->epoch][sector]);
            assert_memory_equal(page + s * VMM_SECTOR, p->m->versions[v->epoch][sector], VMM_SECTOR);
            kept++;
        }
    }
    for (unsigned e = 0; e < VR_EPOCH_COUNT; e++)
        for (unsigned s = 0; s < SECTORS; s++)
            expected += p->m->have[e][s];
    assert_int_equal(kept, expected);
}

static void random_writes_against_the_model(void **state)
{
    (void)state;
    refusals = writes = 0;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct pair p;
        open_pair(&p, seed, 64 << 20);
        for (unsigned i = 0; i < 100; i++) {
            random_write(&p);
            check_read(&p, below(&p, SIZE + 1000), below(&p, 3 * OVERLAY_PAGE) + 1);
        }
        check_read(&p, 0, 3 * OVERLAY_PAGE);
        check_versions(&p);
        close_pair(&p);
    }
    /* Both ways were gone. */
    assert_in_range(refusals, writes / 50, writes - writes / 50);
}

static void what_is_there_already_is_not_kept(void **state)
{
    struct pair p;

    (void)state;
    open_pair(&p, 3, 64 << 20);
    assert_int_equal(overlay_write(&p.ov, VR_EPOCH_POINTER, p.m->now + 100, SIZE - 100, 100), 0);
    assert_int_equal(p.ov.count, 0);
    assert_true(atomic_load(&p.ov.empty));
    close_pair(&p);
}

/* A page with a sector in an early and a late epoch, and then another sector of it in the early one. */
static void an_earlier_version_stays(void **state)
{
    struct pair p;
    uint8_t a[VMM_SECTOR], b[VMM_SECTOR], page[OVERLAY_PAGE];

    (void)state;
    open_pair(&p, 4, 64 << 20);
    memset(a, 'a', sizeof(a));
    memset(b, 'b', sizeof(b));
    assert_int_equal(overlay_write(&p.ov, 1, a, sizeof(a), 0), 0);
    assert_int_equal(overlay_write(&p.ov, 5, b, sizeof(b), 0), 0);
    assert_int_equal(overlay_write(&p.ov, 1, a, sizeof(a), VMM_SECTOR), 0);
    /* An epoch that came too late for a sector that another has. */
    assert_int_equal(overlay_write(&p.ov, 4, a, sizeof(a), 0), -EPROTO);
    overlay_sort(&p.ov);
    assert_int_equal(p.ov.count, 2);
    assert_int_equal(p.ov.versions[0].epoch, 1);
    assert_int_equal(p.ov.versions[0].dirty, 3);
    assert_int_equal(overlay_page(&p.ov, &p.ov.versions[0], page), 0);
    assert_memory_equal(page, a, sizeof(a));
    assert_memory_equal(page + VMM_SECTOR, a, sizeof(a));
    assert_int_equal(p.ov.versions[1].dirty, 1);
    close_pair(&p);
}

static void the_limit(void **state)
{
    struct pair p;
    uint8_t byte = 0;

    (void)state;
    open_pair(&p, 6, 3 * 3 * sizeof(struct overlay_version)); /* three versions */
    for (unsigned page = 0; page < 3; page++) {
        byte = (uint8_t)~p.m->now[page * OVERLAY_PAGE];
        assert_int_equal(overlay_write(&p.ov, 2, &byte, 1, page * OVERLAY_PAGE), 0);
    }
    byte = (uint8_t)~p.m->now[3 * OVERLAY_PAGE];
    assert_int_equal(overlay_write(&p.ov, 2, &byte, 1, 3 * OVERLAY_PAGE), -ENOSPC);
    /* What has a version already needs no new one. */
    byte = (uint8_t)~p.m->now[600];
    assert_int_equal(overlay_write(&p.ov, 2, &byte, 1, 600), 0);
    byte = (uint8_t)~p.m->now[700];
    assert_int_equal(overlay_write(&p.ov, 3, &byte, 1, 700), -ENOSPC);
    close_pair(&p);
}

/* The index grows: thousands of pages, far apart, each found again. */
static void many_pages(void **state)
{
    struct pair p;
    uint64_t step = UINT64_C(1) << 33;

    (void)state;
    open_pair(&p, 7, 64 << 20);
    p.ov.size = step * 6000;
    for (uint64_t i = 0; i < 5000; i++)
        assert_int_equal(overlay_write(&p.ov, i % VR_EPOCH_COUNT, &i, sizeof(i), i * step + SIZE), 0);
    for (uint64_t i = 1; i < 5000; i++) {
        uint64_t found = 0;
        assert_int_equal(overlay_read(&p.ov, &found, sizeof(found), i * step + SIZE), 0);
        assert_int_equal(found, i);
    }
    close_pair(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_writes_against_the_model),
        cmocka_unit_test(what_is_there_already_is_not_kept),
        cmocka_unit_test(an_earlier_version_stays),
        cmocka_unit_test(the_limit),
        cmocka_unit_test(many_pages),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
