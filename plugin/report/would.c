/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* would.c: what a person wants to know before a repair: what each mode would do, and which snapshots are hit. */
#include <stdio.h>
#include <string.h>

#include "report.h"

static const enum front_mode modes[] = {FRONT_LEAKS, FRONT_ALL};

/* Rows whose mending gives something up that a tool could still have read. */
static bool loses_something(int row)
{
    return row_words[row].flags & VR_LOSSY;
}

static bool told(const struct result *res)
{
    bool any = false;

    for (int row = 0; row < VR_P_COUNT; row++)
        any |= res->summary.found[VR_WALK_CHECK][row] != 0;
    return any && !result_is_interrupted(res) && res->opt->mode == FRONT_CHECK && res->have_summary && options_wants_report(res->opt);
}

static const struct vr_would *would_of(const struct result *res, enum front_mode mode)
{
    return &res->summary.would[mode == FRONT_ALL];
}

bool result_would_mend(const struct result *res, enum front_mode mode)
{
    const struct vr_would *would = would_of(res, mode);
    bool any = false;

    for (int row = 0; row < VR_P_COUNT; row++)
        any |= would->mended[row] != 0;
    return told(res) && would->status == VR_OK && any;
}

bool result_would_mend_more(const struct result *res)
{
    return memcmp(would_of(res, FRONT_LEAKS)->mended, would_of(res, FRONT_ALL)->mended,
                  sizeof(would_of(res, FRONT_ALL)->mended)) != 0;
}

/* Why a mode would refuse: one word, for text and JSON. */
static const char *why_refused(const struct vr_would *would)
{
    int row = would->row ? row_find(would->row) : -1;

    if (would->status == VR_ENOMEM)
        return "memory";
    return row >= 0 ? row_words[row].slug : "unknown";
}

/* ---- JSON ----------------------------------------------------------------------------------------------- */

static void add_rows(struct json *b, const char *name, const struct vr_would *would, bool only_lossy)
{
    json_begin_array(b, name);
    for (int row = 0; row < VR_P_COUNT; row++) {
        if (!would->mended[row] || (only_lossy && !loses_something(row)))
            continue;
        json_begin(b, '{');
        json_add_string(b, "id", row_words[row].slug);
        json_add_uint(b, "count", would->mended[row]);
        json_end(b, '}');
    }
    json_end(b, ']');
}

static void add_mode(struct json *b, const struct result *res, unsigned which)
{
    const struct vr_would *would = &res->summary.would[which];

    json_begin_object(b, options_mode_name(modes[which]));
    if (would->status != VR_OK) {
        json_add_string(b, "refused", why_refused(would));
        json_end(b, '}');
        return;
    }
    add_rows(b, "mends", would, false);
    add_rows(b, "gives-up", would, true);
    json_add_uint(b, "clusters-freed", would->clusters_freed);
    json_add_uint(b, "bytes-written", would->bytes);
    json_end(b, '}');
}

void json_add_would(struct json *b, const struct result *res)
{
    if (!told(res))
        return;
    json_begin_object(b, "would-do");
    for (unsigned i = 0; i < G_N_ELEMENTS(modes); i++)
        add_mode(b, res, i);
    json_end(b, '}');
}

static void add_snapshot(struct json *b, const struct result *res, uint32_t root)
{
    uint64_t problems = 0;

    for (unsigned i = 0; i < res->records->len; i++) {
        const struct vr_record *rec = &g_array_index(res->records, struct vr_record, i);

        if (rec->walk == VR_WALK_CHECK && rec->root == root && problems <= G_MAXINT64 - MIN(rec->count, G_MAXINT64))
            problems += MIN(rec->count, G_MAXINT64);
    }
    json_begin(b, '{');
    json_add_uint(b, "index", root - 1);
    json_add_string(b, "id", names_get(res->names, root, true));
    json_add_string(b, "name", names_get(res->names, root, false));
    json_add_uint(b, "problems", problems);
    json_add_ranges(b, res, root);
    json_end(b, '}');
}

void json_add_snapshots(struct json *b, const struct result *res)
{
    g_autoptr(GArray) roots = result_snapshots(res);

    if (!roots->len)
        return;
    json_begin_array(b, "snapshots-affected");
    for (unsigned i = 0; i < MIN(roots->len, RESULT_RANGES_MAX); i++)
        add_snapshot(b, res, g_array_index(roots, uint32_t, i));
    json_end(b, ']');
}

/* ---- text ------------------------------------------------------------------------------------------------- */

void text_print_snapshots(const struct result *res)
{
    g_autoptr(GArray) roots = result_snapshots(res);

    for (unsigned i = 0; i < MIN(roots->len, TEXT_RANGES_MAX); i++) {
        uint32_t root = g_array_index(roots, uint32_t, i);
        g_autoptr(GArray) ranges = result_guest_ranges(res, root);

        printf("Snapshot: '%s' (id %s) is hit", names_get(res->names, root, false), names_get(res->names, root, true));
        if (ranges->len)
            printf(", %" G_GUINT64_FORMAT " bytes of its data", result_ranges_sum(ranges));
        printf(".\n");
    }
    if (roots->len > TEXT_RANGES_MAX)
        printf("          and %u more snapshots (--report=FILE lists them)\n", roots->len - TEXT_RANGES_MAX);
}

static void print_mode(const struct result *res, unsigned which)
{
    const struct vr_would *would = &res->summary.would[which];
    uint64_t mended = 0;

    printf("Would do: --mode=%s ", options_mode_name(modes[which]));
    if (would->status != VR_OK) {
        printf("would refuse (%s), and change nothing.\n", why_refused(would));
        return;
    }
    for (int i = 0; i < VR_P_COUNT; i++)
        mended += row_words[i].severity == VR_SEV_NOTE ? 0 : MIN(would->mended[i], G_MAXINT64 / VR_P_COUNT);
    printf("would mend %" G_GUINT64_FORMAT " problems, free %" G_GUINT64_FORMAT " clusters and write %" G_GUINT64_FORMAT
           " bytes.\n", mended, would->clusters_freed, would->bytes);
    for (int i = 0; i < VR_P_COUNT; i++) {
        if (would->mended[i] && loses_something(i))
            printf("          It gives something up: %s, %" G_GUINT64_FORMAT " times.\n", row_words[i].slug,
                   would->mended[i]);
    }
}

void text_print_would(const struct result *res)
{
    if (!told(res))
        return;
    for (unsigned i = 0; i < G_N_ELEMENTS(modes); i++)
        print_mode(res, i);
}
