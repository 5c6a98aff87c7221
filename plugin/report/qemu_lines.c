/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qemu_lines.c: standard error: a line a finding, as often and in the order in which qemu-img prints it. */
#include <stdio.h>
#include <string.h>

#include "report.h"

/* Places in vr_problems.def's column "order". */
#define ORDER_WARNING 0
#define ORDER_SNAPSHOT_TABLE 1
#define ORDER_SNAPSHOTS 40
#define ORDER_REFTABLE 60
#define ORDER_REFCOUNTS 70
#define ORDER_REBUILD 80

/* One pass over the lines of a walk: those with first <= order <= last. */
struct part {
    enum vr_walk walk;
    int first, last;
    bool repaired; /* what was mended is said to be repaired; else all is said as it was found */
};

struct lines {
    const struct result *res;
    GPtrArray *records; /* of both walks, in qemu-img's order */
};

/* Place of a line in qemu-img's output: what is in a snapshot's map comes with the snapshots. */
static int order_of(const struct vr_record *rec)
{
    bool snapshot = rec->root != VR_ROOT_ACTIVE && rec->root != VR_ROOT_NONE;
    const struct row_words *row = &row_words[row_find(rec->code)];
    bool of_maps = pass_words[VR_ROW_PASS(row)].flags & VR_PASS_OF_MAPS;

    return snapshot && of_maps ? ORDER_SNAPSHOTS : row->order;
}

static int compare_numbers(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

/* An L1 entry comes before the entries of its L2 table, which come before the next L1 entry; then as they arrived. */
static gint compare_lines(gconstpointer a, gconstpointer b)
{
    const struct vr_record *x = *(const struct vr_record *const *)a, *y = *(const struct vr_record *const *)b;
    int order = order_of(x) - order_of(y);

    order = order ? order : compare_numbers(x->root, y->root);
    order = order ? order : compare_numbers(x->guest == VR_NONE ? 0 : x->guest, y->guest == VR_NONE ? 0 : y->guest);
    if (!order && order_of(x) >= ORDER_REFTABLE && order_of(x) <= ORDER_REBUILD + 1)
        order = compare_numbers(x->index, y->index);
    return order ? order : (x > y) - (x < y);
}

static GPtrArray *sorted_records(const struct result *res)
{
    GPtrArray *records = g_ptr_array_new();

    for (unsigned i = 0; i < res->records->len; i++) {
        struct vr_record *rec = &g_array_index(res->records, struct vr_record, i);
        const struct row_words *words = &row_words[row_find(rec->code)];

        if (words->qemu[0] && words->severity < VR_SEV_REFUSE)
            g_ptr_array_add(records, rec);
    }
    g_ptr_array_sort(records, compare_lines);
    return records;
}

/* qemu-img warns in its own name, and lists what it found in nobody's. */
static void print_line(int row, const char *line)
{
    if (row_words[row].order == ORDER_WARNING)
        fprintf(stderr, "%s: ", g_get_prgname());
    fprintf(stderr, "%s\n", line);
}

/* Where a table has several parents, qemu-img comes by several times. One line may stand for many by itself. */
static void print_record(const struct result *res, const struct vr_record *rec, bool repaired, uint64_t *printed)
{
    int row = row_find(rec->code);
    bool counts_itself = strstr(row_words[row].qemu, "{count}") != NULL;
    g_autoptr(GString) line = g_string_new(NULL);

    message_render(line, row_words[row].qemu, res->names, rec, repaired && result_record_fixed(res, rec));
    for (uint64_t n = 0; n < (counts_itself ? 1 : rec->count) && printed[row] < MAX(res->opt->examples, 1); n++) {
        print_line(row, line->str);
        printed[row] += counts_itself ? rec->count : 1;
    }
}

static void print_part(const struct lines *lines, const struct part *part)
{
    uint64_t printed[VR_P_COUNT] = {0};

    for (unsigned i = 0; i < lines->records->len; i++) {
        const struct vr_record *rec = g_ptr_array_index(lines->records, i);
        int order = order_of(rec);

        if (rec->walk == part->walk && part->first <= order && order <= part->last)
            print_record(lines->res, rec, part->repaired, printed);
    }
}

/* ---- what is said more than once ------------------------------------------------------------------------ */

static void print_check(const struct lines *lines)
{
    print_part(lines, &(struct part){VR_WALK_CHECK, ORDER_WARNING, G_MAXINT, false});
}

/* qemu-img compares refcounts once to know, and once more to mend them, where anything at all is wrong so far. */
static bool compares_again(const struct result *res)
{
    const uint64_t *found = res->summary.found[VR_WALK_CHECK];

    if (row_found(found, VR_COUNTS_ANEW) >= 0)
        return false;
    for (int row = 0; row < VR_P_COUNT; row++) {
        bool counts = row_words[row].severity == VR_SEV_LEAK || row_words[row].severity == VR_SEV_CORRUPT;

        if (counts && found[row] && row_words[row].order <= ORDER_REFCOUNTS && row_words[row].order > ORDER_SNAPSHOT_TABLE)
            return true;
    }
    return false;
}

static void print_repair(const struct lines *lines)
{
    const struct result *res = lines->res;

    print_part(lines, &(struct part){VR_WALK_CHECK, ORDER_WARNING, ORDER_REFCOUNTS - 1, true});
    print_part(lines, &(struct part){VR_WALK_CHECK, ORDER_REFCOUNTS, ORDER_REFCOUNTS, false});
    if (compares_again(res))
        print_part(lines, &(struct part){VR_WALK_CHECK, ORDER_REFCOUNTS, ORDER_REFCOUNTS, true});
    print_part(lines, &(struct part){VR_WALK_CHECK, ORDER_REBUILD, ORDER_REBUILD, true});
    if (row_found(res->summary.fixed, VR_COUNTS_ANEW) >= 0) /* references are counted anew */
        print_part(lines, &(struct part){VR_WALK_CHECK, ORDER_SNAPSHOT_TABLE + 1, ORDER_REFTABLE - 1, true});
    print_part(lines, &(struct part){VR_WALK_CHECK, ORDER_REBUILD + 1, G_MAXINT, true});
    if (res->counters.leaks_fixed || res->counters.corruptions_fixed)
        print_part(lines, &(struct part){VR_WALK_FINAL, ORDER_WARNING + 1, G_MAXINT, false});
}

static void print_omitted(const struct result *res)
{
    uint64_t most = MAX(res->opt->examples, 1);

    for (int row = 0; row < VR_P_COUNT; row++) {
        uint64_t found = res->summary.found[VR_WALK_CHECK][row];

        if (row_words[row].qemu[0] && row_words[row].severity < VR_SEV_REFUSE && found > most)
            fprintf(stderr, "%" G_GUINT64_FORMAT " more findings of '%s' are counted and not shown (--max-messages)\n",
                    found - most, row_words[row].slug);
    }
}

void text_print_findings(const struct result *res)
{
    g_autoptr(GPtrArray) records = sorted_records(res);
    struct lines lines = {.res = res, .records = records};

    if (options_is_repair(res->opt))
        print_repair(&lines);
    else
        print_check(&lines);
    print_omitted(res);
}
