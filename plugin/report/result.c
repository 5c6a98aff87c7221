/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* result.c: verdict, exit code and counters of a run, folded from what the child said. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"

void result_init(struct result *res, const struct options *opt)
{
    memset(res, 0, sizeof(*res));
    res->opt = opt;
    res->records = g_array_new(FALSE, FALSE, sizeof(struct vr_record));
    res->names = names_new();
    res->verdict = VERDICT_FAILED;
    res->exit_code = EXIT_FAILURE;
}

void result_clear(struct result *res)
{
    g_array_unref(res->records);
    g_hash_table_unref(res->names);
    g_free(res->error);
    g_free(res->cli_error);
    g_free(res->accel_reason);
    g_free(res->undo_path);
    g_free(res->interrupted.journal);
    g_free(res->interrupted.of);
    g_free(res->in_use);
    memset(res, 0, sizeof(*res));
}

const char *verdict_name(enum verdict verdict)
{
    static const char *const names[] = {
        [VERDICT_CLEAN] = "clean",
        [VERDICT_REPAIRED] = "repaired",
        [VERDICT_LEAKS_REMAIN] = "leaks-remain",
        [VERDICT_CORRUPTIONS_REMAIN] = "corruptions-remain",
        [VERDICT_REFUSED] = "refused",
        [VERDICT_FAILED] = "failed",
        [VERDICT_UNDONE] = "undone",
        [VERDICT_BLOCKED] = "blocked",
    };

    return names[verdict];
}

const char *accel_name(const struct result *res)
{
    if (!res->ran)
        return "none";
    return res->accel_reason ? "process" : "kvm";
}

static void conclude_as(struct result *res, enum verdict verdict, int exit_code, char *error)
{
    res->verdict = verdict;
    res->exit_code = exit_code;
    g_free(res->error);
    res->error = error;
}

void result_fail(struct result *res, const GError *error)
{
    bool no_checks = error->code == VR_ERROR_NO_CHECKS;
    bool refused = no_checks || error->code == VR_ERROR_IN_USE;

    conclude_as(res, refused ? VERDICT_REFUSED : VERDICT_FAILED, no_checks ? EXIT_NO_CHECKS : EXIT_FAILURE,
                g_strdup(error->message));
    res->qemu_document = false;
}

void result_refuse(struct result *res, char *error)
{
    conclude_as(res, VERDICT_REFUSED, EXIT_FAILURE, error);
}

bool result_committed(const struct result *res)
{
    return res->commit_ended && res->commit.state == 1;
}

enum vr_walk result_last_walk(const struct result *res)
{
    return result_committed(res) && res->summary.walks & 1u << VR_WALK_FINAL ? VR_WALK_FINAL : VR_WALK_CHECK;
}

bool result_record_fixed(const struct result *res, const struct vr_record *rec)
{
    int row = row_find(rec->code);

    if (row < 0 || rec->walk != VR_WALK_CHECK || !result_committed(res))
        return false;
    /* A row of which all is mended needs no flag on each record. */
    return rec->flags & VR_REC_FIXED ||
           (res->summary.fixed[row] && res->summary.fixed[row] == res->summary.found[VR_WALK_CHECK][row]);
}

/* Row whose finding ended the run (severity OPEN or REFUSE), as its first record; NULL if none. */
static const struct vr_record *refusal_of(const struct result *res)
{
    for (unsigned i = 0; i < res->records->len; i++) {
        const struct vr_record *rec = &g_array_index(res->records, struct vr_record, i);

        if (row_words[row_find(rec->code)].severity >= VR_SEV_REFUSE)
            return rec;
    }
    return NULL;
}

/* ---- counters ------------------------------------------------------------------------------------ */

void result_add(uint64_t *sum, uint64_t n)
{
    *sum = n > G_MAXINT64 - MIN(*sum, G_MAXINT64) ? G_MAXINT64 : *sum + n;
}

static void count(struct result *res)
{
    enum vr_walk last = result_last_walk(res);
    const struct vr_summary *sum = &res->summary;
    struct counters *c = &res->counters;

    memset(c, 0, sizeof(*c));
    for (int row = 0; row < VR_P_COUNT; row++) {
        uint64_t found = sum->found[last][row];
        uint64_t fixed = result_committed(res) ? sum->fixed[row] : 0;

        switch (row_words[row].severity) {
        case VR_SEV_LEAK:
            result_add(&c->leaks, found);
            result_add(&c->leaks_fixed, fixed);
            break;
        case VR_SEV_CORRUPT:
            result_add(&c->corruptions, found);
            result_add(&c->corruptions_fixed, fixed);
            break;
        case VR_SEV_ERROR:
            result_add(&c->check_errors, found);
            break;
        default:
            break;
        }
    }
}

/* ---- verdicts ------------------------------------------------------------------------------------- */

static const char *const fail_sentences[] = {
    [VMM_FAIL_GUEST_CRASH] = "The repairer crashed inside its guest",
    [VMM_FAIL_GUEST_HANG] = "The repairer made no progress and was stopped",
    [VMM_FAIL_GUEST_PROTOCOL] = "The repairer broke the rules of its ring and was stopped",
    [VMM_FAIL_GUEST_PANIC] = "The repairer gave up",
    [VMM_FAIL_GUEST_IMAGE] = "The guest that is built into this program is damaged",
    [VMM_FAIL_KVM] = "KVM refused to run the guest",
    [VMM_FAIL_MEMORY] = "The memory budget is too small; raise --memory",
    [VMM_FAIL_READ] = "The image could not be read",
    [VMM_FAIL_JOURNAL] = "The undo journal could not be written",
    [VMM_FAIL_WRITE] = "The image could not be written",
    [VMM_FAIL_OVERLAY] = "There is no space for the planned changes",
    [VMM_FAIL_SANDBOX] = "The sandbox could not be set up",
    [VMM_FAIL_INTERNAL] = "The VMM failed",
};

/* A read that failed, with where and why, which only the VMM knows; NULL: there was none. Caller frees. */
static char *read_error(const struct result *res)
{
    const struct vmm_stats *s = &res->stats;

    if (!res->have_stats || s->read_error <= 0)
        return NULL;
    return g_strdup_printf("The image could not be read: %u bytes at offset %" G_GUINT64_FORMAT ": %s", s->read_len, s->read_offset,
                           g_strerror(s->read_error));
}

static const char *status_sentence(int32_t status)
{
    switch (status) {
    case VR_EIO:
        return "The image could not be read or written";
    case VR_ENOMEM:
        return "The memory budget is used up; raise --memory";
    case VR_ELIMIT:
        return "The image is larger than this program can check";
    case VR_ECANCELED:
        return "aborted";
    case VR_EREFUSED:
        return "The repair was refused: the plan did not prove clean";
    default:
        return "The repairer broke its protocol";
    }
}

bool result_repair_changed(const struct result *res)
{
    /* Begun and never ended, or not rolled back, means changed. */
    return res->commit_begun && !(res->commit_ended && res->commit.state == 2) && !res->rolled_back;
}

void result_conclude_image(struct result *res)
{
    res->image_changed = res->interrupted.rolled_back || result_repair_changed(res);
}

uint64_t result_room_needed(const struct result *res)
{
    uint64_t needed = res->have_summary ? res->summary.room_needed : 0;

    return needed <= VR_OFFSET_MAX ? needed : 0;
}

bool result_is_interrupted(const struct result *res)
{
    return res->interrupted.journal && !res->interrupted.rolled_back;
}

bool result_data_may_be_lost(const struct result *res)
{
    const uint64_t *first = res->summary.found[VR_WALK_CHECK];
    bool may_be = false;

    /* No repair makes them untrue: a refcount that was too low is right now, and why it was is still not known. */
    for (int row = 0; res->have_summary && row < VR_P_COUNT; row++)
        may_be |= first[row] && (row_words[row].flags & (VR_KEEPS_LEAKS | VR_SUSPECT | VR_BEHIND));
    return may_be;
}

bool result_is_corrupt(const struct result *res)
{
    return res->have_summary && row_found(res->summary.found[result_last_walk(res)], VR_READ_ONLY) >= 0;
}

const char *result_image_state(const struct result *res)
{
    if (!options_is_repair(res->opt))
        return "";
    if (res->rolled_back || (res->commit_ended && res->commit.state == 2 && res->commit.bytes_changed))
        return "; the image was rolled back";
    if (!result_repair_changed(res))
        return res->interrupted.rolled_back ? "; the image was not changed but for what an earlier repair had left half done"
                                            : "; the image was not changed";
    if (!result_committed(res))
        return "; the image is partly written: the next repair, or --mode=undo, rolls it back";
    return "; the repair itself was written";
}

/* Who aborts is told what became of the image where it is not as it was. */
static void conclude_abort(struct result *res)
{
    if (res->in_use && !res->commit_begun) {
        result_refuse(res, g_strdup(res->in_use));
        return;
    }
    conclude_as(res, VERDICT_FAILED, EXIT_FAILURE,
                g_strconcat("aborted", res->commit_begun ? result_image_state(res) : "", NULL));
}

static void conclude_fail(struct result *res)
{
    const struct vmm_fail *fail = &res->fail;

    if (fail->kind == VMM_FAIL_ABORTED) {
        conclude_abort(res);
        return;
    }
    GString *text = g_string_new(fail_sentences[fail->kind]);
    if (fail->text[0])
        g_string_append_printf(text, ": %s", fail->text);
    if (fail->error > 0)
        g_string_append_printf(text, ": %s", g_strerror(fail->error));
    g_string_append(text, result_image_state(res));
    conclude_as(res, VERDICT_FAILED, EXIT_FAILURE, g_string_free(text, FALSE));
}

/* What qemu-img prints where it gives up a check after it opened the image; NULL where it does not. */
static char *aborted_line(const struct result *res, const struct vr_record *rec)
{
    int row = row_find(rec->code);
    int error = row_words[row].flags & VR_QEMU_EINVAL ? EINVAL : row_words[row].flags & VR_QEMU_EFBIG ? EFBIG : 0;
    g_autoptr(GString) line = g_string_new(NULL);

    if (!error)
        return NULL;
    message_render(line, row_words[row].qemu, res->names, rec, false);
    if (line->len)
        g_string_append_printf(line, "\n%s: ", g_get_prgname());
    g_string_append_printf(line, "Check failed: %s", g_strerror(error));
    return g_strdup(line->str);
}

static void conclude_refusal(struct result *res, const struct vr_record *rec)
{
    int row = row_find(rec->code);
    const char *shown = options_shown_name(res->opt);
    g_autoptr(GString) line = g_string_new(NULL);

    if ((row_words[row].flags & VR_NOT_FORMAT) && !res->opt->format) {
        conclude_as(res, VERDICT_REFUSED, EXIT_NO_CHECKS, g_strdup("This image format does not support checks"));
        return;
    }
    if (row_words[row].severity == VR_SEV_OPEN) {
        message_render(line, row_words[row].qemu, res->names, rec, false);
        conclude_as(res, VERDICT_REFUSED, EXIT_FAILURE, g_strdup_printf("Could not open '%s': %s", shown, line->str));
    } else {
        message_render(line, row_words[row].message, res->names, rec, false);
        if (result_room_needed(res))
            g_string_append_printf(line, "; make the device larger by %" G_GUINT64_FORMAT " bytes (lvextend -L +%" G_GUINT64_FORMAT
                                   "k), and do the same again",
                                   result_room_needed(res), (result_room_needed(res) + 1023) / 1024);
        conclude_as(res, VERDICT_REFUSED, EXIT_FAILURE, g_strdup_printf("Could not check '%s': %s", shown, line->str));
        res->cli_error = aborted_line(res, rec);
    }
}

static void conclude_status(struct result *res)
{
    const struct vr_record *refusal = refusal_of(res);
    int32_t status = res->summary.status;
    int stopped = row_found(res->summary.found[VR_WALK_CHECK], VR_STOPS);

    if (status == VR_EREFUSED && refusal) {
        conclude_refusal(res, refusal);
    } else if (status == VR_EREFUSED && stopped >= 0) {
        conclude_as(res, VERDICT_REFUSED, EXIT_FAILURE, g_strdup(row_words[stopped].message));
        res->cli_error = g_strdup("Check failed: Input/output error");
    } else if (status == VR_ECANCELED) {
        conclude_abort(res);
    } else {
        g_autofree char *where = status == VR_EIO ? read_error(res) : NULL;

        conclude_as(res, status == VR_EREFUSED ? VERDICT_REFUSED : VERDICT_FAILED, EXIT_FAILURE,
                    g_strconcat(where ? where : status_sentence(status), result_image_state(res), NULL));
    }
}

static bool anything_fixed(const struct result *res)
{
    for (int row = 0; row < VR_P_COUNT; row++) {
        if (res->summary.fixed[row])
            return result_committed(res);
    }
    return false;
}

static void conclude_walk(struct result *res)
{
    const struct counters *c = &res->counters;

    res->qemu_document = true;
    if (c->check_errors) {
        conclude_as(res, VERDICT_FAILED, EXIT_FAILURE,
                    g_strdup_printf("%" G_GUINT64_FORMAT " internal errors have occurred during the check",
                                    c->check_errors));
        res->cli_error = g_strdup("Check failed");
    } else if (c->corruptions) {
        conclude_as(res, VERDICT_CORRUPTIONS_REMAIN, EXIT_CORRUPTIONS, NULL);
    } else if (c->leaks) {
        conclude_as(res, VERDICT_LEAKS_REMAIN, EXIT_LEAKS, NULL);
    } else if (result_is_interrupted(res) || result_is_corrupt(res)) {
        conclude_as(res, VERDICT_BLOCKED, EXIT_SUCCESS, NULL);
    } else {
        conclude_as(res, anything_fixed(res) ? VERDICT_REPAIRED : VERDICT_CLEAN, EXIT_SUCCESS, NULL);
    }
}

void result_conclude(struct result *res)
{
    result_conclude_image(res);
    if (res->have_fail) {
        conclude_fail(res);
        return;
    }
    if (res->summary.status != VR_OK) {
        conclude_status(res);
        return;
    }
    if (result_committed(res) && !(res->summary.walks & 1u << VR_WALK_FINAL)) {
        conclude_as(res, VERDICT_FAILED, EXIT_FAILURE,
                    g_strdup("The repair was written, but the image was not walked again afterwards"));
        return;
    }
    count(res);
    conclude_walk(res);
}
