/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* document.c: the report as JSON (docs/report.md). */
#include <string.h>

#include "report.h"

static void add_unless_zero(struct json *b, const char *name, uint64_t value)
{
    if (value)
        json_add_uint(b, name, value);
}

/* ---- qemu-img's keys, in qemu-img's order ----------------------------------------------------------- */

static void add_qemu_keys(struct json *b, const struct result *res)
{
    const struct vr_summary *sum = &res->summary;
    const struct counters *c = &res->counters;

    if (!res->qemu_document) {
        json_add_string(b, "filename", options_shown_name(res->opt));
        return;
    }
    add_unless_zero(b, "image-end-offset", sum->image_end_offset);
    add_unless_zero(b, "compressed-clusters", sum->compressed_clusters);
    add_unless_zero(b, "total-clusters", sum->total_clusters);
    add_unless_zero(b, "corruptions", c->corruptions);
    add_unless_zero(b, "corruptions-fixed", c->corruptions_fixed);
    json_add_uint(b, "check-errors", c->check_errors);
    add_unless_zero(b, "leaks", c->leaks);
    add_unless_zero(b, "leaks-fixed", c->leaks_fixed);
    add_unless_zero(b, "allocated-clusters", sum->allocated_clusters);
    json_add_string(b, "filename", options_shown_name(res->opt));
    json_add_string(b, "format", "qcow2");
    add_unless_zero(b, "fragmented-clusters", sum->fragmented_clusters);
}

/* ---- problems ----------------------------------------------------------------------------------------- */

static void add_example(struct json *b, const struct result *res, const struct vr_record *rec)
{
    g_autofree char *message = message_of(res->names, rec);

    json_begin(b, '{');
    json_add_string(b, "message", message);
    if (rec->host != VR_NONE)
        json_add_uint(b, "host-offset", rec->host);
    if (rec->guest != VR_NONE) {
        json_add_uint(b, "guest-offset", rec->guest);
        json_add_uint(b, "guest-length", rec->guest_len);
    }
    json_add_uint(b, "count", rec->count);
    json_add_bool(b, "fixed", result_record_fixed(res, rec));
    json_end(b, '}');
}

/* Records of a row: of the first walk, else (damage that only a later walk met) of the last. */
static enum vr_walk example_walk(const struct result *res, int row)
{
    return res->summary.found[VR_WALK_CHECK][row] || !res->have_summary ? VR_WALK_CHECK : result_last_walk(res);
}

static void add_examples(struct json *b, const struct result *res, int row)
{
    enum vr_walk walk = example_walk(res, row);
    uint8_t kept = VR_KEPT_NO;
    bool first = true;

    for (unsigned i = 0; i < res->records->len; i++) {
        const struct vr_record *rec = &g_array_index(res->records, struct vr_record, i);

        if (rec->code != row_words[row].code || rec->walk != walk)
            continue;
        if (first) {
            g_autofree char *message = message_of(res->names, rec);

            json_add_string(b, "message", message);
            json_begin_array(b, "examples");
            first = false;
        }
        kept = kept ? kept : rec->kept;
        add_example(b, res, rec);
    }
    if (!first)
        json_end(b, ']');
    if (kept && res->summary.fixed[row] < res->summary.found[VR_WALK_CHECK][row])
        json_add_string(b, "refused-because", kept_name(kept));
}

struct row_counts {
    uint64_t found, fixed, remaining;
};

/* Without a summary (a run that failed, or was aborted) the records that arrived are all there is. */
static struct row_counts count_records(const struct result *res, int row)
{
    struct row_counts n = {0};

    for (unsigned i = 0; i < res->records->len; i++) {
        const struct vr_record *rec = &g_array_index(res->records, struct vr_record, i);

        if (rec->code != row_words[row].code || rec->walk != VR_WALK_CHECK)
            continue;
        n.found++;
        n.fixed += result_record_fixed(res, rec);
    }
    n.remaining = n.found - n.fixed;
    return n;
}

static struct row_counts count_row(const struct result *res, int row)
{
    const struct vr_summary *sum = &res->summary;

    if (!res->have_summary)
        return count_records(res, row);
    return (struct row_counts){.found = sum->found[VR_WALK_CHECK][row],
                               .fixed = result_committed(res) ? sum->fixed[row] : 0,
                               .remaining = sum->found[result_last_walk(res)][row]};
}

static void add_problem(struct json *b, const struct result *res, int row)
{
    const struct row_words *words = &row_words[row];
    g_autofree char *code = g_strdup_printf("0x%04x", words->code);
    struct row_counts n = count_row(res, row);

    if (!n.found && !n.remaining)
        return;
    json_begin(b, '{');
    json_add_string(b, "id", words->slug);
    json_add_string(b, "code", code);
    json_add_string(b, "severity", severity_name(words->severity));
    json_add_string(b, "policy", policy_name(words->policy));
    json_add_uint(b, "count", n.found);
    json_add_uint(b, "fixed", n.fixed);
    json_add_uint(b, "remaining", n.remaining);
    add_examples(b, res, row);
    json_end(b, '}');
}

static void add_problems(struct json *b, const struct result *res)
{
    json_begin_array(b, "problems");
    for (int row = 0; row < VR_P_COUNT; row++)
        add_problem(b, res, row);
    json_end(b, ']');
}

void json_add_ranges(struct json *b, const struct result *res, uint32_t root)
{
    g_autoptr(GArray) ranges = result_guest_ranges(res, root);
    uint64_t sum = result_ranges_sum(ranges);

    json_begin_array(b, "guest-ranges-affected");
    for (unsigned i = 0; i < MIN(ranges->len, RESULT_RANGES_MAX); i++) {
        const struct guest_range *r = &g_array_index(ranges, struct guest_range, i);

        json_begin(b, '{');
        json_add_uint(b, "offset", r->offset);
        json_add_uint(b, "length", r->length);
        json_end(b, '}');
    }
    json_end(b, ']');
    /* The guest counts also what it sent no record of. */
    json_add_uint(b, "guest-bytes-affected", root == VR_ROOT_ACTIVE ? MAX(sum, res->summary.guest_bytes_hit) : sum);
}

/* ---- the rest ------------------------------------------------------------------------------------------ */

static void add_image(struct json *b, const struct result *res)
{
    const struct vr_summary *sum = &res->summary;

    json_begin_object(b, "image");
    if (res->have_summary && sum->qcow2_version) {
        json_add_uint(b, "version", sum->qcow2_version);
        json_add_uint(b, "cluster-size", UINT64_C(1) << sum->cluster_bits);
        json_add_uint(b, "refcount-bits", sum->refcount_bits);
        json_add_uint(b, "virtual-size", sum->virtual_size);
        json_add_bool(b, "dirty", sum->incompatible & 1);
        json_add_bool(b, "corrupt", sum->incompatible & 2);
    }
    json_add_uint(b, "file-size", res->file_size);
    json_end(b, '}');
}

/* Milliseconds of a walk; of one pass of it, where pass is not VR_PASS_COUNT. */
static uint64_t walk_ms(const struct vmm_stats *s, enum vr_walk walk, enum vr_pass pass)
{
    uint64_t us = 0;

    for (unsigned p = 0; p < VR_PASS_COUNT; p++)
        if (pass == VR_PASS_COUNT || pass == p)
            us += s->us_pass[walk][p];
    return us / 1000;
}

static void add_walks(struct json *b, const struct vmm_stats *s, bool repair)
{
    json_add_uint(b, "boot", s->us_boot / 1000);
    json_add_uint(b, "check", walk_ms(s, VR_WALK_CHECK, VR_PASS_COUNT));
    for (int p = 1; p < VR_PASS_COUNT; p++) {
        g_autofree char *name = g_strconcat("check-", pass_words[p].name, NULL);

        if (pass_words[p].flags & VR_PASS_TIMED)
            json_add_uint(b, name, walk_ms(s, VR_WALK_CHECK, (enum vr_pass)p));
    }
    if (repair) {
        json_add_uint(b, "verify", walk_ms(s, VR_WALK_VERIFY, VR_PASS_COUNT));
        json_add_uint(b, "commit", s->us_commit / 1000);
        json_add_uint(b, "final", walk_ms(s, VR_WALK_FINAL, VR_PASS_COUNT));
    }
    json_add_uint(b, "read", s->us_read / 1000);
}

static void add_timings(struct json *b, const struct result *res)
{
    json_begin_object(b, "timings");
    json_add_uint(b, "total", res->us_total / 1000);
    if (res->have_stats) {
        json_add_uint(b, "start", res->stats.us_start / 1000);
        json_add_uint(b, "guest", res->stats.us_guest / 1000);
        add_walks(b, &res->stats, options_is_repair(res->opt));
    }
    json_end(b, '}');
    if (!res->have_stats)
        return;
    json_begin_object(b, "io");
    json_add_uint(b, "bytes-read", res->stats.bytes_read);
    json_add_uint(b, "bytes-written", res->stats.bytes_written);
    json_add_uint(b, "requests", res->stats.requests);
    json_add_uint(b, "exits", res->stats.exits);
    json_end(b, '}');
}

static void add_outcome(struct json *b, const struct result *res)
{
    json_add_uint(b, "report-version", 1);
    json_add_string(b, "mode", options_mode_name(res->opt->mode));
    json_add_string(b, "verdict", verdict_name(res->verdict));
    json_add_uint(b, "exit-code", (uint64_t)res->exit_code);
    if (res->error) {
        g_auto(GStrv) lines = g_strsplit(res->error, "\n", -1);
        g_autofree char *line = g_strjoinv(". ", lines); /* qemu-img's message on locks has two lines */

        json_add_string(b, "error", line);
    }
    if (res->have_stats && res->stats.read_error > 0) {
        json_begin_object(b, "read-error");
        json_add_uint(b, "offset", res->stats.read_offset);
        json_add_uint(b, "length", res->stats.read_len);
        json_add_uint(b, "errno", (uint64_t)res->stats.read_error);
        json_end(b, '}');
    }
    json_add_string(b, "accel", accel_name(res));
    if (res->ran && res->accel_reason)
        json_add_string(b, "accel-reason", res->accel_reason);
    json_add_bool(b, "image-changed", res->image_changed);
}

static void add_interrupted(struct json *b, const struct interrupted *in)
{
    if (!in->journal)
        return;
    json_begin_object(b, "interrupted-repair");
    json_add_string(b, "state", in->rolled_back ? "rolled-back" : "pending");
    json_add_string(b, "journal", in->journal);
    json_add_uint(b, "bytes", in->bytes);
    if (in->of)
        json_add_string(b, "image", in->of);
    json_end(b, '}');
}

static void add_undo(struct json *b, const struct result *res)
{
    if (!res->undo_path)
        return;
    json_begin_object(b, "undo");
    json_add_string(b, "journal", res->undo_path);
    json_add_uint(b, "bytes", res->undo_bytes);
    json_end(b, '}');
}

/* What the daemon takes from a report comes before all that can be long. */
void report_add(struct json *b, const struct result *res)
{
    json_begin(b, '{');
    add_qemu_keys(b, res);
    add_outcome(b, res);
    add_undo(b, res);
    add_interrupted(b, &res->interrupted);
    json_add_notes(b, res->opt);
    add_unless_zero(b, "needed-bytes", result_room_needed(res));
    if (result_data_may_be_lost(res))
        json_add_bool(b, "data-may-be-lost", true);
    add_problems(b, res);
    json_add_ranges(b, res, VR_ROOT_ACTIVE);
    json_add_snapshots(b, res);
    json_add_would(b, res);
    add_image(b, res);
    if (options_is_repair(res->opt)) {
        json_begin_object(b, "repair");
        json_add_uint(b, "bytes-changed", res->commit_ended ? res->commit.bytes_changed : 0);
        json_add_uint(b, "clusters-freed", result_committed(res) ? res->summary.clusters_freed : 0);
        json_end(b, '}');
    }
    add_timings(b, res);
    json_begin_object(b, "versions");
    json_add_string(b, "vol-repair", VR_VERSION);
    json_add_uint(b, "abi", VR_ABI_VERSION);
    json_end(b, '}');
    json_end(b, '}');
}

char *report_text(const struct result *res)
{
    struct json *b = json_new(true);

    report_add(b, res);
    return json_free(b);
}
