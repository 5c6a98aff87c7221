/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* text.c: standard output: qemu-img's summary, then (with --mode) what it means for a person. */
#include <stdio.h>
#include <string.h>

#include "report.h"

void text_print_raw_warning(const struct result *res)
{
    if (res->exit_code != EXIT_NO_CHECKS || res->opt->format || !options_is_repair(res->opt))
        return;
    fprintf(stderr,
            "WARNING: Image format was not specified for '%s' and probing guessed raw.\n"
            "         Automatically detecting the format is dangerous for raw images, write operations on block 0 will "
            "be restricted.\n"
            "         Specify the 'raw' format explicitly to remove the restrictions.\n",
            options_shown_name(res->opt));
}

/* ---- standard output: qemu-img's summary -------------------------------------------------------------- */

static void print_fixed(const struct counters *c)
{
    if (!c->leaks_fixed && !c->corruptions_fixed)
        return;
    printf("The following inconsistencies were found and repaired:\n\n"
           "    %" G_GUINT64_FORMAT " leaked clusters\n"
           "    %" G_GUINT64_FORMAT " corruptions\n\n"
           "Double checking the fixed image now...\n",
           c->leaks_fixed, c->corruptions_fixed);
}

static void print_remaining(const struct counters *c)
{
    if (!c->corruptions && !c->leaks && !c->check_errors)
        printf("No errors were found on the image.\n");
    if (c->corruptions)
        printf("\n%" G_GUINT64_FORMAT " errors were found on the image.\n"
               "Data may be corrupted, or further writes to the image may corrupt it.\n",
               c->corruptions);
    if (c->leaks)
        printf("\n%" G_GUINT64_FORMAT " leaked clusters were found on the image.\n"
               "This means waste of disk space, but no harm to data.\n",
               c->leaks);
    if (c->check_errors)
        printf("\n%" G_GUINT64_FORMAT " internal errors have occurred during the check.\n", c->check_errors);
}

void text_print_summary(const struct result *res)
{
    const struct vr_summary *sum = &res->summary;

    print_fixed(&res->counters);
    print_remaining(&res->counters);
    if (sum->total_clusters && sum->allocated_clusters)
        printf("%" G_GUINT64_FORMAT "/%" G_GUINT64_FORMAT
               " = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed clusters\n",
               sum->allocated_clusters, sum->total_clusters, sum->allocated_clusters * 100.0 / sum->total_clusters,
               sum->fragmented_clusters * 100.0 / sum->allocated_clusters,
               sum->compressed_clusters * 100.0 / sum->allocated_clusters);
    if (sum->image_end_offset)
        printf("Image end offset: %" G_GUINT64_FORMAT "\n", sum->image_end_offset);
}

/* ---- standard output: what it means --------------------------------------------------------------------- */

static void print_data(const struct result *res)
{
    g_autoptr(GArray) ranges = result_guest_ranges(res, VR_ROOT_ACTIVE);

    if (!ranges->len && !res->summary.guest_bytes_hit && result_data_may_be_lost(res)) {
        printf("Data:     something that names data of the guest, of a snapshot or of a bitmap may be lost: see below.\n");
        return;
    }
    if (!ranges->len && !res->summary.guest_bytes_hit) {
        printf("Data:     no damage reaches the data of the guest.\n");
        return;
    }
    printf("Data:     damage reaches the data of the guest at these addresses:\n");
    for (unsigned i = 0; i < MIN(ranges->len, TEXT_RANGES_MAX); i++) {
        const struct guest_range *r = &g_array_index(ranges, struct guest_range, i);

        printf("            0x%" G_GINT64_MODIFIER "x, %" G_GUINT64_FORMAT " bytes\n", r->offset, r->length);
    }
    if (ranges->len > TEXT_RANGES_MAX)
        printf("            and %u more ranges (--report=FILE lists them)\n", ranges->len - TEXT_RANGES_MAX);
}

/* A record of the row that says why something was left alone. */
static const char *why_kept(const struct result *res, int row)
{
    static const char *const reasons[] = {
        [VR_KEPT_NO] = NULL,
        [VR_KEPT_INCOMPLETE] = "part of the metadata cannot be read, so what looks unused may be its data",
        [VR_KEPT_DOUBTFUL] = "only damaged pointers speak for a change",
        [VR_KEPT_MODE] = "this mode does not mend it",
        [VR_KEPT_VERSION] = "mending it needs qcow2 version 3",
        [VR_KEPT_NO_ROOM] = "there is no place for a new structure where nothing points",
    };

    for (unsigned i = 0; i < res->records->len; i++) {
        const struct vr_record *rec = &g_array_index(res->records, struct vr_record, i);

        if (rec->code == row_words[row].code && rec->kept)
            return reasons[rec->kept];
    }
    return NULL;
}

static void print_example(const struct result *res, int row)
{
    for (unsigned i = 0; i < res->records->len; i++) {
        const struct vr_record *rec = &g_array_index(res->records, struct vr_record, i);

        if (rec->code == row_words[row].code && rec->walk == VR_WALK_CHECK) {
            g_autofree char *message = message_of(res->names, rec);

            printf("          %s%s\n", res->summary.found[VR_WALK_CHECK][row] > 1 ? "for example: " : "", message);
            return;
        }
    }
}

static void print_problems(const struct result *res)
{
    bool repair = options_is_repair(res->opt);

    for (int row = 0; row < VR_P_COUNT; row++) {
        uint64_t found = res->summary.found[VR_WALK_CHECK][row];
        uint64_t fixed = result_committed(res) ? res->summary.fixed[row] : 0;
        const char *why = repair && fixed < found ? why_kept(res, row) : NULL;

        if (!found)
            continue;
        printf("Problem:  %s (0x%04x): %" G_GUINT64_FORMAT " found", row_words[row].slug, row_words[row].code, found);
        if (repair)
            printf(", %" G_GUINT64_FORMAT " mended", fixed);
        printf(why ? "; left alone: %s\n" : "\n", why);
        print_example(res, row);
    }
}

/* What keeps the image from being used, whatever the walk has found. */
static void print_state(const struct result *res)
{
    const struct interrupted *in = &res->interrupted;

    if (result_is_interrupted(res))
        printf("State:    a repair or an undo was interrupted while it wrote: the image is half of what it was and half of\n"
               "          what it was to be, whatever else is said here.\n"
               "          Journal: %s\n", in->journal);
    else if (in->rolled_back)
        printf("State:    an interrupted repair or undo was rolled back first, from %s\n", in->journal);
    if (result_is_corrupt(res))
        printf("State:    the image is marked corrupt: QEMU does not open it for writing.\n");
}

static void print_done(const struct result *res)
{
    if (!options_is_repair(res->opt))
        printf("Done:     checked only; nothing was written.\n");
    else if (!result_repair_changed(res) && res->interrupted.rolled_back)
        printf("Done:     what the interrupted repair had overwritten was put back; nothing else was written.\n");
    else if (!res->image_changed)
        printf("Done:     nothing was written.\n");
    else
        printf("Done:     %" G_GUINT64_FORMAT " bytes of metadata were changed; the image was read again afterwards.\n",
               res->commit.bytes_changed);
    if (res->undo_path)
        printf("Journal:  %s\n", res->undo_path);
}

static bool can_mend(const struct result *res, enum vr_policy policy)
{
    for (int row = 0; row < VR_P_COUNT; row++) {
        if (row_words[row].policy == policy && res->summary.found[VR_WALK_CHECK][row])
            return true;
    }
    return false;
}

/* A block device that is full: what there is too little of can be had. */
static void print_room(const struct result *res)
{
    g_autofree char *path = g_shell_quote(options_shown_name(res->opt));

    printf("Next:     the device is too small for what has to be rebuilt: make it larger by %" G_GUINT64_FORMAT " bytes, then\n"
           "          --mode=all mends what can be mended. A logical volume: lvextend -L +%" G_GUINT64_FORMAT "k %s\n",
           result_room_needed(res), (result_room_needed(res) + 1023) / 1024, path);
}

/* Whether what the guest reads, now or in a snapshot, may not be what it wrote. */
static bool hits_data(const struct result *res)
{
    g_autoptr(GArray) ranges = result_guest_ranges(res, VR_ROOT_ACTIVE);
    g_autoptr(GArray) snapshots = result_snapshots(res);

    return ranges->len || res->summary.guest_bytes_hit || snapshots->len;
}

static void print_next(const struct result *res)
{
    enum front_mode mode = res->opt->mode;
    bool leaks = result_would_mend(res, FRONT_LEAKS), all = result_would_mend(res, FRONT_ALL);

    if (result_is_interrupted(res) && res->interrupted.of)
        printf("Next:     --mode=undo --undo=JOURNAL rolls the interrupted repair back.\n");
    else if (result_is_interrupted(res))
        printf("Next:     --mode=undo rolls the interrupted repair back; --mode=all does that first, and then mends what can\n"
               "          be mended.\n");
    else if (result_room_needed(res))
        print_room(res);
    else if (mode == FRONT_CHECK && leaks && !result_would_mend_more(res))
        printf("Next:     --mode=leaks mends it.\n");
    else if ((mode == FRONT_CHECK && all) || (mode == FRONT_LEAKS && can_mend(res, VR_POL_ALL)))
        printf("Next:     --mode=all mends what can be mended.\n");
    else if (res->verdict == VERDICT_CORRUPTIONS_REMAIN || res->verdict == VERDICT_LEAKS_REMAIN)
        printf("Next:     what remains can be mended in more than one way, so it is left alone: copy what can be\n"
               "          read (qemu-img convert), or take a backup of the image.\n");
    else if (hits_data(res))
        printf("Next:     what the guest reads at the addresses above, or in the snapshots, may not be what it wrote: restore\n"
               "          that from a backup.\n");
    else if (result_data_may_be_lost(res))
        printf("Next:     compare what the guest reads with what it should, before anything writes to the image: what looks\n"
               "          unused may be its data.\n");
    else
        printf("Next:     nothing needs to be done.\n");
    if (res->undo_path)
        printf("          --mode=undo makes the image what it was before.\n");
}

void text_print_ours(const struct result *res)
{
    if (res->opt->mode == FRONT_UNDO && !res->image_changed) {
        printf("The image is already what it was before the repair; nothing was written.\n");
        return;
    }
    if (res->opt->mode == FRONT_UNDO) {
        printf("The image is again what it was before the repair, byte for byte (%" G_GUINT64_FORMAT
               " bytes put back from '%s').\n",
               res->undo_bytes, res->undo_path);
        return;
    }
    printf("\n");
    print_state(res);
    print_data(res);
    text_print_snapshots(res);
    print_problems(res);
    print_done(res);
    text_print_would(res);
    print_next(res);
}
