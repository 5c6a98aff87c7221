/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* show.c: a report for a person: is my data all right, what was done, what next. And error lines. */
#include <errno.h>
#include <inttypes.h>
#include <libvirt/virterror.h>
#include <string.h>

#include "command.h"

#define RANGES_SHOWN 10
#define PROBLEMS_SHOWN 100

/* ---- text of any origin ---- */

/* Control characters, which a hostile file name could send to the terminal, become question marks. */
static char *printable(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    GString *out = g_string_new(NULL);

    for (const char *p = valid; *p; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);

        g_string_append_unichar(out, g_unichar_iscntrl(c) || g_unichar_type(c) == G_UNICODE_FORMAT ? '?' : c);
    }
    return g_string_free(out, FALSE);
}

static void print_text(const char *text)
{
    g_autofree char *clean = printable(text);

    fputs(clean, stdout);
}

/* Outside of ASCII there is only text in JSON, where an escape means the same. */
void show_json(const char *json)
{
    for (const char *p = json; *p; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);

        if (c < 0x80)
            putchar((int)c);
        else if (!g_unichar_iscntrl(c) && g_unichar_type(c) != G_UNICODE_FORMAT)
            fwrite(p, 1, (size_t)(g_utf8_next_char(p) - p), stdout);
        else if (c < 0x10000)
            printf("\\u%04x", c);
        else
            printf("\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10), 0xdc00 + ((c - 0x10000) & 0x3ff));
    }
    putchar('\n');
}

void show_error(const char *format, ...)
{
    g_autofree char *text = NULL;
    g_autofree char *clean = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    clean = printable(text);
    fflush(stdout);
    fprintf(stderr, "error: %s\n", clean);
}

void show_libvirt_error(void)
{
    show_error("%s", virGetLastErrorMessage());
}

bool show_arrived(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return true;
    show_error("Failed to write to standard output: %s", g_strerror(errno));
    return false;
}

/* ---- the first line ---- */

static void print_left(const struct vol_repair_report *r)
{
    const char *what = r->mode == VOL_REPAIR_CHECK ? "found" : "left";

    if (r->verdict == VOL_REPAIR_LEAKS_REMAIN)
        printf("has leaked space: %" PRId64 " cluster%s that nothing uses%s.\n", r->leaks, r->leaks == 1 ? "" : "s",
               r->data_may_be_lost ? ", or that something did which is lost" : "; that does no harm to its data");
    else
        printf("is damaged: %" PRId64 " corruption%s %s.\n", r->corruptions, r->corruptions == 1 ? "" : "s", what);
}

static void print_verdict(const struct vol_repair_report *r, const struct shown *s)
{
    if (r->verdict == VOL_REPAIR_REFUSED || r->verdict == VOL_REPAIR_FAILED)
        return; /* the error lines have said it */
    printf("Volume '");
    print_text(s->volume);
    printf("' ");
    if (r->verdict == VOL_REPAIR_BLOCKED)
        printf("cannot be used yet: no damage is counted in its image, but see below.\n");
    else if (r->verdict == VOL_REPAIR_CLEAN)
        printf("is all right: its image has no damage.\n");
    else if (r->verdict == VOL_REPAIR_REPAIRED)
        printf("is repaired: its image has no damage any more.\n");
    else if (r->verdict == VOL_REPAIR_UNDONE)
        printf("is again what it was before the repair, byte for byte.\n");
    else
        print_left(r);
}

/* ---- what it means ---- */

static bool is_interrupted(const struct vol_repair_report *r)
{
    return r->interrupted_journal && !r->interrupted_undone;
}

/* Whether the corrupt bit is there still: a repair that takes it away says so of its problem. */
static bool is_corrupt(const struct vol_repair_report *r)
{
    for (unsigned i = 0; i < r->problems->len; i++) {
        const struct vol_repair_problem *p = &g_array_index(r->problems, struct vol_repair_problem, i);

        if (g_str_equal(p->id, "corrupt-bit"))
            return p->remaining != 0;
    }
    return r->corrupt && r->mode == VOL_REPAIR_CHECK;
}

static void print_state(const struct vol_repair_report *r)
{
    if (is_interrupted(r))
        printf("State:    a repair or an undo was interrupted while it wrote: the image is half of what it was and half of\n"
               "          what it was to be, whatever else is said here. Journal:\n            ");
    else if (r->interrupted_journal)
        printf("State:    an interrupted repair or undo was rolled back first, from:\n            ");
    if (r->interrupted_journal) {
        print_text(r->interrupted_journal);
        printf("\n");
    }
    if (is_corrupt(r))
        printf("State:    the image is marked corrupt: QEMU does not open it for writing.\n");
}

static void print_data(const struct vol_repair_report *r)
{
    if (r->verdict == VOL_REPAIR_REFUSED || r->verdict == VOL_REPAIR_FAILED || r->mode == VOL_REPAIR_UNDO)
        return;
    if (!r->ranges->len && !r->guest_bytes_affected && r->data_may_be_lost) {
        printf("Data:     something that names data of the guest, of a snapshot or of a bitmap may be lost: see below.\n");
        return;
    }
    if (!r->ranges->len && !r->guest_bytes_affected) {
        printf("Data:     no damage reaches the data of the guest.\n");
        return;
    }
    printf("Data:     damage reaches the data of the guest at these addresses:\n");
    for (unsigned i = 0; i < MIN(r->ranges->len, RANGES_SHOWN); i++) {
        const struct vol_repair_range *range = &g_array_index(r->ranges, struct vol_repair_range, i);

        printf("            0x%" PRIx64 ", %" PRId64 " bytes\n", range->offset, range->length);
    }
    if (r->ranges->len > RANGES_SHOWN)
        printf("            and %u more ranges (--json lists them)\n", r->ranges->len - RANGES_SHOWN);
}

static void print_snapshots(const struct vol_repair_report *r)
{
    for (unsigned i = 0; i < MIN(r->snapshots->len, RANGES_SHOWN); i++) {
        const struct vol_repair_snapshot *snapshot = &g_array_index(r->snapshots, struct vol_repair_snapshot, i);

        printf("Snapshot: '");
        print_text(snapshot->name);
        printf("' (id ");
        print_text(snapshot->id);
        printf(") is hit");
        if (snapshot->guest_bytes_affected)
            printf(", %" PRId64 " bytes of its data", snapshot->guest_bytes_affected);
        printf(".\n");
    }
    if (r->snapshots->len > RANGES_SHOWN)
        printf("          and %u more snapshots (--json lists them)\n", r->snapshots->len - RANGES_SHOWN);
}

static void print_would(const char *mode, const struct vol_repair_would *w)
{
    printf("Would do: --mode=%s ", mode);
    if (w->refused) {
        printf("would refuse (");
        print_text(w->refused);
        printf("), and change nothing.\n");
        return;
    }
    printf("would mend %" PRId64 " problems, free %" PRId64 " clusters and write %" PRId64 " bytes%s.\n", w->mends,
           w->clusters_freed, w->bytes_written, w->gives_up ? "; it gives something up (--json says what)" : "");
}

static const char *why_kept(const char *word)
{
    static const char *const reasons[][2] = {
        {"incomplete-walk", "part of the metadata cannot be read, so what looks unused may be its data"},
        {"doubtful-claims", "only damaged pointers speak for a change"},
        {"mode", "this mode does not mend it"},
        {"version", "mending it needs qcow2 version 3"},
        {"no-room", "there is no place for a new structure where nothing points"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(reasons); i++) {
        if (g_str_equal(reasons[i][0], word))
            return reasons[i][1];
    }
    return word;
}

static void print_examples(const struct vol_repair_problem *p)
{
    for (unsigned i = 0; i < p->examples->len; i++) {
        const struct vol_repair_example *ex = &g_array_index(p->examples, struct vol_repair_example, i);

        printf("            ");
        print_text(ex->message);
        printf(ex->fixed ? " (mended)\n" : "\n");
    }
    if (p->examples->len && (guint64)p->count > p->examples->len)
        printf("            and others of this kind\n");
}

static void print_problems(const struct vol_repair_report *r, bool verbose)
{
    bool repair = r->mode == VOL_REPAIR_LEAKS || r->mode == VOL_REPAIR_ALL;

    for (unsigned i = 0; i < MIN(r->problems->len, PROBLEMS_SHOWN); i++) {
        const struct vol_repair_problem *p = &g_array_index(r->problems, struct vol_repair_problem, i);

        printf("Problem:  ");
        print_text(p->id);
        printf(": %" PRId64 " found", p->count);
        if (repair)
            printf(", %" PRId64 " mended", p->fixed);
        if (repair && p->kept) {
            printf(": ");
            print_text(why_kept(p->kept));
        }
        printf("\n");
        if (verbose)
            print_examples(p);
    }
    if (r->problems->len > PROBLEMS_SHOWN)
        printf("Problem:  and %u more kinds (--json lists them)\n", r->problems->len - PROBLEMS_SHOWN);
}

static void print_notes(const struct vol_repair_report *r)
{
    for (unsigned i = 0; r->notes[i]; i++) {
        printf("Note:     ");
        print_text(r->notes[i]);
        printf("\n");
    }
}

static void print_done(const struct vol_repair_report *r)
{
    if (r->mode == VOL_REPAIR_CHECK)
        printf("Done:     checked only; nothing was written.\n");
    else if (r->mode == VOL_REPAIR_UNDO && r->image_changed)
        printf("Done:     what the repair had written was put back.\n");
    else if (r->interrupted_undone && !r->undo_journal)
        printf("Done:     what the interrupted repair had overwritten was put back; nothing else was written.\n");
    else if (!r->image_changed)
        printf("Done:     nothing was written.\n");
    else
        printf("Done:     %" PRId64 " bytes of metadata were changed; the image was read again afterwards.\n",
               r->bytes_changed);
    if (r->undo_journal) {
        printf("Journal:  ");
        print_text(r->undo_journal);
        printf(" (on the storage daemon's host)\n");
    }
}

/* ---- what next ---- */

static bool is_plain(const char *word)
{
    return word[0] && word[0] != '-' &&
           strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:@%+=,-") == strlen(word);
}

static void print_word(const char *word)
{
    g_autofree char *quoted = is_plain(word) ? NULL : g_shell_quote(word);

    putchar(' ');
    print_text(quoted ? quoted : word);
}

static void print_volume(const struct shown *s)
{
    if (s->pool)
        print_word(s->pool);
    print_word(s->pool ? s->volume : s->req->vol);
}

/* The command again, with another mode. */
static void print_command(const struct shown *s, enum vol_repair_mode mode)
{
    bool like_option = s->volume[0] == '-' || (s->pool && s->pool[0] == '-');

    fputs(s->again, stdout);
    if (!like_option)
        print_volume(s);
    printf(" --mode=%s", vol_repair_mode_name(mode));
    if (s->req->format && mode != VOL_REPAIR_UNDO) {
        printf(" --format");
        print_word(s->req->format);
    }
    if (s->req->undo) {
        printf(" --undo");
        print_word(s->req->undo);
    }
    if (like_option) {
        printf(" --");
        print_volume(s);
    }
    printf("\n");
}

/* What mode all would mend and this run has not. Mode leaks says so by what it kept. */
static bool all_would_mend(const struct vol_repair_report *r)
{
    if (r->mode == VOL_REPAIR_CHECK)
        return r->has_would && r->would_all.mends > r->would_leaks.mends;
    for (unsigned i = 0; i < r->problems->len && r->mode == VOL_REPAIR_LEAKS; i++) {
        const struct vol_repair_problem *p = &g_array_index(r->problems, struct vol_repair_problem, i);

        if (p->policy && g_str_equal(p->policy, "all") && p->remaining != 0)
            return true;
    }
    return false;
}

static void print_next(const struct vol_repair_report *r, const struct shown *s)
{
    if (is_interrupted(r) && r->mode == VOL_REPAIR_CHECK) {
        printf("Next:     roll it back, and mend what can be mended then; or only roll it back:\n            ");
        print_command(s, VOL_REPAIR_ALL);
        printf("            ");
        print_command(s, VOL_REPAIR_UNDO);
    } else if (r->needed_bytes) {
        printf("Next:     the volume's device is too small for what has to be rebuilt: make it larger by %" PRId64 " bytes,\n"
               "          a logical volume by `lvextend -L +%" PRId64 "k`, then mend what can be mended:\n            ",
               r->needed_bytes, r->needed_bytes / 1024 + 1);
        print_command(s, VOL_REPAIR_ALL);
    } else if (r->verdict != VOL_REPAIR_FAILED && all_would_mend(r)) {
        printf("Next:     mend what can be mended:\n            ");
        print_command(s, VOL_REPAIR_ALL);
    } else if (r->verdict == VOL_REPAIR_REFUSED || r->verdict == VOL_REPAIR_FAILED) {
        printf("Next:     the reason above has to go first; then run the command again.\n");
    } else if (r->mode == VOL_REPAIR_CHECK && r->would_leaks.mends != 0) {
        printf("Next:     %s:\n            ",
               r->verdict == VOL_REPAIR_LEAKS_REMAIN ? "give the space back" : "mend what can be mended");
        print_command(s, VOL_REPAIR_LEAKS);
    } else if (r->verdict == VOL_REPAIR_CORRUPTIONS_REMAIN || r->verdict == VOL_REPAIR_LEAKS_REMAIN) {
        printf("Next:     what is left can be mended in more than one way, so it was left alone:\n"
               "          copy what can be read (qemu-img convert), or take a backup of the volume.\n");
    } else if (r->mode != VOL_REPAIR_UNDO && (r->ranges->len || r->guest_bytes_affected || r->snapshots->len)) {
        printf("Next:     what the guest reads at the addresses above, or in the snapshots, may not be what it wrote:\n"
               "          restore that from a backup.\n");
    } else if (r->data_may_be_lost) {
        printf("Next:     compare what the guest reads with what it should, before anything writes to the volume: what looks\n"
               "          unused may be its data.\n");
    } else {
        printf("Next:     nothing needs to be done.\n");
    }
    if (r->undo_journal && r->image_changed && r->mode != VOL_REPAIR_UNDO) {
        printf("Undo:     takes the repair back, as long as nothing else has written to the volume:\n            ");
        print_command(s, VOL_REPAIR_UNDO);
    }
}

void show_report(const struct vol_repair_report *report, const struct shown *shown)
{
    print_verdict(report, shown);
    print_state(report);
    print_notes(report);
    print_data(report);
    print_snapshots(report);
    print_problems(report, shown->req->verbose);
    print_done(report);
    if (report->has_would) {
        print_would("leaks", &report->would_leaks);
        print_would("all", &report->would_all);
    }
    print_next(report, shown);
}
