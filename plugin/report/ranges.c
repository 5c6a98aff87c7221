/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ranges.c: where damage reaches the data of the guest, and which snapshots it hits, from the records. */
#include "report.h"

static gint compare_ranges(gconstpointer a, gconstpointer b)
{
    const struct guest_range *x = a, *y = b;

    return (x->offset > y->offset) - (x->offset < y->offset);
}

static void merge_sorted(GArray *ranges)
{
    unsigned out = 0;

    for (unsigned i = 0; i < ranges->len; i++) {
        struct guest_range r = g_array_index(ranges, struct guest_range, i);
        struct guest_range *last = out ? &g_array_index(ranges, struct guest_range, out - 1) : NULL;

        if (last && r.offset - last->offset <= last->length)
            last->length = MAX(last->length, r.offset - last->offset + r.length);
        else
            g_array_index(ranges, struct guest_range, out++) = r;
    }
    g_array_set_size(ranges, out);
}

/* A record of no map in particular speaks of the active one. */
static uint32_t root_of(const struct vr_record *rec)
{
    return rec->root == VR_ROOT_NONE ? VR_ROOT_ACTIVE : rec->root;
}

static bool is_snapshot(uint32_t root)
{
    return root != VR_ROOT_ACTIVE && root < VR_ROOT_BITMAPS;
}

static gint compare_roots(gconstpointer a, gconstpointer b)
{
    const uint32_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

GArray *result_snapshots(const struct result *res)
{
    GArray *roots = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    unsigned out = 0;

    for (unsigned i = 0; i < res->records->len; i++) {
        const struct vr_record *rec = &g_array_index(res->records, struct vr_record, i);

        if (rec->walk == VR_WALK_CHECK && is_snapshot(root_of(rec)))
            g_array_append_val(roots, rec->root);
    }
    g_array_sort(roots, compare_roots);
    for (unsigned i = 0; i < roots->len; i++) {
        uint32_t root = g_array_index(roots, uint32_t, i);

        if (!out || root != g_array_index(roots, uint32_t, out - 1))
            g_array_index(roots, uint32_t, out++) = root;
    }
    g_array_set_size(roots, out);
    return roots;
}

uint64_t result_ranges_sum(const GArray *ranges)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < ranges->len; i++)
        result_add(&sum, g_array_index(ranges, struct guest_range, i).length);
    return sum;
}

GArray *result_guest_ranges(const struct result *res, uint32_t root)
{
    GArray *ranges = g_array_new(FALSE, FALSE, sizeof(struct guest_range));

    for (unsigned i = 0; i < res->records->len; i++) {
        const struct vr_record *rec = &g_array_index(res->records, struct vr_record, i);
        struct guest_range r = {.offset = rec->guest, .length = rec->guest_len};

        if (rec->walk != VR_WALK_CHECK || root_of(rec) != root || rec->guest >= VR_OFFSET_MAX || !rec->guest_len)
            continue;
        r.length = MIN(r.length, VR_OFFSET_MAX - r.offset);
        g_array_append_val(ranges, r);
    }
    g_array_sort(ranges, compare_ranges);
    merge_sorted(ranges);
    return ranges;
}
