/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * fuzz_engine.c: the engine over images of any content, in every mode.
 *
 * Input: one byte (mode, flags, memory), then the image. The mutator damages what the image itself says are its tables, with
 * the values that damage is made of: other clusters' offsets, flipped bits, the end of the file, the largest number.
 */
#include <string.h>

#include "disk.h"
#include "fuzz.h"
#include "memory_carrier.h"

#ifndef IMAGE_MAX /* ./run coverage takes every image */
#define IMAGE_MAX (4u << 20)
#endif
#define HEAP (24u << 20)

/* By the two highest bits of the first byte: with little memory a run ends with less, but well. */
static const uint32_t heaps[] = {HEAP, HEAP, 600 << 10, 200 << 10};

static uint64_t findings(const uint64_t found[VR_ROWS_MAX])
{
    uint64_t n = 0;

    for (unsigned p = 0; p < VR_P_COUNT; p++)
        n += vr_rows[p].severity == VR_SEV_CORRUPT || vr_rows[p].severity == VR_SEV_LEAK ? found[p] : 0;
    return n;
}

/* What the front believes of a summary (frames.c). */
static bool sane(const struct vr_summary *sum)
{
    for (unsigned row = 0; row < VR_ROWS_MAX; row++) {
        uint64_t any = sum->fixed[row] | sum->kept[row] | sum->would[0].mended[row] | sum->would[1].mended[row];

        for (unsigned w = 0; w < VR_WALK_COUNT; w++)
            any |= sum->found[w][row];
        if ((row >= VR_P_COUNT && any) || sum->fixed[row] > sum->found[VR_WALK_CHECK][row])
            return false;
    }
    for (unsigned i = 0; i < 2; i++)
        if (sum->would[i].status > VR_OK || sum->would[i].status < VR_EREFUSED)
            return false;
    if (sum->qcow2_version == 0)
        return sum->cluster_bits == 0 && sum->refcount_bits == 0;
    return sum->cluster_bits >= 9 && sum->cluster_bits <= 21 && sum->refcount_bits >= 1 && sum->refcount_bits <= 64;
}

struct outcome {
    enum vr_mode mode;
    uint32_t heap;
    struct vr_summary sum;
};

static void check_rules(struct memory_image *m, const uint8_t *before, uint64_t size, const struct outcome *o)
{
    const struct vr_summary *sum = &o->sum;
    struct vr_summary again;

    HOLD(sum->status <= VR_OK && sum->status >= VR_EREFUSED && sane(sum), "the front believes the summary");
    HOLD(sum->committed == m->commits, "the summary says whether there was a commit");
    if (o->mode == VR_MODE_CHECK)
        HOLD(m->writes == 0 && m->commits == 0, "a check writes nothing");
    HOLD(m->commits <= 1, "one commit a run");
    if (m->commits == 0) {
        HOLD(m->size == size && memcmp(m->disk, before, size) == 0, "without a commit the image stays as it is");
        return;
    }
    HOLD(sum->status == VR_OK, "after a commit the run ends well");
    HOLD(findings(sum->found[VR_WALK_FINAL]) <= findings(sum->found[VR_WALK_CHECK]), "a repair makes nothing worse");
    memory_session(m, o->mode, o->heap, &again);
    HOLD(again.status == VR_OK || again.status == VR_EREFUSED, "a second repair runs");
    HOLD(m->commits == 0, "a second repair has nothing left to do");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t all_flags = VR_BOOT_DEVICE | VR_BOOT_FORCE_LEAKS | VR_BOOT_WOULD | VR_BOOT_WIDE;
    struct memory_image m;
    struct outcome o;

    if (size < 1 || size > IMAGE_MAX)
        return 0;
    o.mode = (enum vr_mode)(VR_MODE_CHECK + data[0] % 3);
    o.heap = heaps[data[0] >> 6];
    memory_image_open(&m, data + 1, size - 1);
    m.flags = (uint32_t)(data[0] >> 2) & all_flags;
    if (o.mode != VR_MODE_CHECK)
        m.flags &= ~(uint32_t)VR_BOOT_WOULD;
    memory_session(&m, o.mode, o.heap, &o.sum);
    check_rules(&m, data + 1, size - 1, &o);
    memory_image_close(&m);
    return 0;
}

/* ---- damage -------------------------------------------------------------------------------------------------------- */

struct target {
    uint8_t *image;
    uint64_t size, cluster;
    uint32_t seed;
};

static uint32_t roll(struct target *t, uint32_t sides)
{
    return fuzz_random(&t->seed) % sides;
}

static uint64_t field64(const struct target *t, uint64_t at)
{
    return at <= t->size && t->size - at >= 8 ? vr_load64(t->image + at) : 0;
}

static uint32_t field32(const struct target *t, uint64_t at)
{
    return at <= t->size && t->size - at >= 4 ? vr_load32(t->image + at) : 0;
}

/* A place in a table that begins at `table`, or the table's own beginning. */
static uint64_t entry_of(struct target *t, uint64_t table, uint64_t bytes)
{
    return (table & VR_OFFSET_MASK) + 8 * (uint64_t)roll(t, (uint32_t)(vr_min(bytes, t->cluster) / 8 + (bytes < 8)));
}

static uint64_t l2_table(struct target *t)
{
    return field64(t, entry_of(t, field64(t, 40), (uint64_t)field32(t, 36) * 8)) & VR_OFFSET_MASK;
}

/* Where something is to be damaged. */
static uint64_t place(struct target *t)
{
    static const uint8_t header[] = {0, 4, 8, 16, 20, 24, 32, 36, 40, 48, 56, 60, 64, 72, 76, 80, 88, 96, 100, 104, 112};
    uint64_t snapshots = field64(t, 64), reftable = field64(t, 48);

    switch (roll(t, 8)) {
    case 0:
        return header[roll(t, sizeof(header))];
    case 1:
        return entry_of(t, field64(t, 40), (uint64_t)field32(t, 36) * 8);
    case 2:
    case 3:
        return entry_of(t, l2_table(t), t->cluster);
    case 4:
        return entry_of(t, reftable, 64);
    case 5:
        return (field64(t, entry_of(t, reftable, 16)) & VR_OFFSET_MASK) + roll(t, 64);
    case 6:
        return snapshots + roll(t, 128);
    default:
        return 104 + roll(t, 256); /* header extensions */
    }
}

static uint64_t value(struct target *t, uint64_t old)
{
    uint64_t clusters = t->size / t->cluster + 1;

    switch (roll(t, 10)) {
    case 0:
    case 1:
        return old ^ UINT64_C(1) << roll(t, 64);
    case 2:
        return roll(t, (uint32_t)clusters) * t->cluster | VR_COPIED;
    case 3:
        return roll(t, (uint32_t)clusters) * t->cluster;
    case 4:
        return t->size / t->cluster * t->cluster + roll(t, 3) * t->cluster;
    case 5:
        return 0;
    case 6:
        return UINT64_MAX >> roll(t, 64);
    case 7:
        return field64(t, place(t));
    case 8:
        return VR_COMPRESSED | ((uint64_t)roll(t, 8) << 54) | roll(t, (uint32_t)clusters) * t->cluster | roll(t, 512);
    default:
        return old + roll(t, 5) - 2;
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    struct target t = {.image = data + 1, .size = size ? size - 1 : 0, .seed = seed};

    (void)max; /* images of another length: by truncation in the corpus; growing one says nothing new */
    if (roll(&t, 8) == 0 && size > 0)
        data[0] = (uint8_t)roll(&t, 256);
    t.cluster = UINT64_C(1) << (field32(&t, 20) % 22);
    if (size < 512 || t.cluster < 512 || roll(&t, 10) == 0)
        return LLVMFuzzerMutate(data, size, size);
    for (uint32_t n = 1 + roll(&t, 4); n > 0; n--) {
        uint64_t at = place(&t);
        if (at <= t.size && t.size - at >= 8)
            vr_store64(t.image + at, value(&t, field64(&t, at)));
        else if (at < t.size)
            t.image[at] = (uint8_t)roll(&t, 256);
    }
    return size;
}
