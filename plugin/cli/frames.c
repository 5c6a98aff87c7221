/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* frames.c: checks every frame of the child before a word of it is believed, and files it in the result. */
#include <string.h>

#include "cli.h"

#define RECORDS_MAX (1u << 20)

static bool bad(GError **error, const char *what)
{
    g_set_error(error, VR_ERROR, VR_ERROR_FAILED, "The repairer broke its protocol (%s)", what);
    return false;
}

/* ---- records -------------------------------------------------------------------------------------- */

static bool take_record(struct frames *fr, const struct vr_record *rec, GError **error)
{
    int row = row_find(rec->code);

    if (rec->flags == VR_REC_NAME)
        return names_take(fr->res->names, rec) || bad(error, "malformed name");
    if (row < 0)
        return bad(error, "unknown problem code");
    if (rec->walk >= VR_WALK_COUNT || rec->kept > VR_KEPT_NO_ROOM || rec->flags & ~VR_REC_FIXED || rec->reserved ||
        rec->reserved2)
        return bad(error, "malformed record");
    if (rec->count == 0 || (rec->flags & VR_REC_FIXED && (!fr->repair || rec->kept)))
        return bad(error, "contradictory record");
    /* A record that ends the run is kept whatever --max-messages says: it is the error. */
    if (fr->kept[rec->walk][row] >= fr->res->opt->examples &&
        (row_words[row].severity < VR_SEV_REFUSE || fr->kept[rec->walk][row] > 0))
        return true;
    if (fr->res->records->len >= RECORDS_MAX)
        return true;
    fr->kept[rec->walk][row]++;
    g_array_append_val(fr->res->records, *rec);
    return true;
}

static bool take_records(struct frames *fr, const void *body, uint32_t len, GError **error)
{
    if (len == 0 || len % sizeof(struct vr_record))
        return bad(error, "records of a wrong size");
    for (uint32_t at = 0; at < len; at += sizeof(struct vr_record)) {
        struct vr_record rec;

        memcpy(&rec, (const char *)body + at, sizeof(rec));
        if (!take_record(fr, &rec, error))
            return false;
    }
    return true;
}

/* ---- progress and commit -------------------------------------------------------------------------- */

static bool take_progress(struct frames *fr, const struct vmm_progress *msg, GError **error)
{
    if (msg->walk >= VR_WALK_COUNT || msg->pass == 0 || msg->pass >= VR_PASS_COUNT)
        return bad(error, "progress of an unknown pass");
    if (msg->done > msg->total)
        return bad(error, "progress beyond its end");
    fr->progress(fr->opaque, msg->walk, msg->pass, msg->total ? (double)msg->done / msg->total : 1.0);
    return true;
}

static bool take_commit(struct frames *fr, const struct vmm_commit *msg, GError **error)
{
    struct result *res = fr->res;

    if (!fr->repair || msg->state > 3 || res->commit_ended || (msg->state == 0) == res->commit_begun)
        return bad(error, "commit out of order");
    res->commit = *msg;
    res->commit_begun = true;
    res->commit_ended = msg->state != 0;
    fr->commit(fr->opaque, res->commit_ended);
    return true;
}

/* It waits for an answer, which is the front's to give. */
static bool take_ready(struct frames *fr, uint32_t len, GError **error)
{
    if (!fr->repair || len || fr->res->commit_asked || fr->res->commit_begun)
        return bad(error, "question out of order");
    fr->res->commit_asked = true;
    fr->ready(fr->opaque);
    return true;
}

/* ---- last words ----------------------------------------------------------------------------------- */

static bool counters_sane(const struct vr_summary *sum)
{
    for (unsigned row = 0; row < VR_ROWS_MAX; row++) {
        uint64_t any = sum->fixed[row] | sum->kept[row];

        for (unsigned walk = 0; walk < VR_WALK_COUNT; walk++)
            any |= sum->found[walk][row];
        if (row >= VR_P_COUNT && any)
            return false;
        if (sum->fixed[row] > sum->found[VR_WALK_CHECK][row])
            return false;
    }
    return true;
}

static bool would_sane(const struct vr_would *would)
{
    for (unsigned row = VR_P_COUNT; row < VR_ROWS_MAX; row++) {
        if (would->mended[row])
            return false;
    }
    return would->status <= VR_OK && would->status >= VR_EREFUSED && (would->row == 0 || row_find(would->row) >= 0);
}

/* The header's values are filled in once they were judged: all of them or none. */
static bool header_sane(const struct vr_summary *sum)
{
    if (sum->qcow2_version == 0)
        return sum->cluster_bits == 0 && sum->refcount_bits == 0;
    return (sum->qcow2_version == 2 || sum->qcow2_version == 3) && sum->cluster_bits >= 9 && sum->cluster_bits <= 21 &&
           sum->refcount_bits >= 1 && sum->refcount_bits <= 64;
}

static bool take_summary(struct frames *fr, const struct vr_summary *sum, GError **error)
{
    struct result *res = fr->res;
    bool committed = res->commit_ended && res->commit.state == 1;

    if (sum->status > VR_OK || sum->status < VR_EREFUSED)
        return bad(error, "summary with an unknown status");
    if (sum->walks >= 1u << VR_WALK_COUNT || !header_sane(sum))
        return bad(error, "summary with impossible values");
    for (size_t i = 0; i < G_N_ELEMENTS(sum->reserved); i++) {
        if (sum->reserved[i])
            return bad(error, "summary with reserved fields set");
    }
    if (!counters_sane(sum) || !would_sane(&sum->would[0]) || !would_sane(&sum->would[1]))
        return bad(error, "summary with impossible counters");
    /* What was written is known from the VMM; the guest must agree. */
    if (sum->committed > 1 || (sum->committed == 1) != committed)
        return bad(error, "summary and commit disagree");
    if (sum->status == VR_OK && !(sum->walks & 1u << VR_WALK_CHECK))
        return bad(error, "summary without a walk");
    res->summary = *sum;
    res->have_summary = true;
    return true;
}

static bool take_fail(struct frames *fr, const struct vmm_fail *msg, GError **error)
{
    struct result *res = fr->res;

    if (msg->kind < VMM_FAIL_GUEST_CRASH || msg->kind > VMM_FAIL_INTERNAL || !memchr(msg->text, 0, sizeof(msg->text)))
        return bad(error, "malformed failure");
    res->fail = *msg;
    for (char *p = res->fail.text; *p; p++) {
        if (!g_ascii_isprint(*p))
            *p = '?';
    }
    res->have_fail = true;
    return true;
}

/* Only as the first word of a child that was left to choose. */
static bool take_no_kvm(struct frames *fr, const struct vmm_no_kvm *msg, GError **error)
{
    g_autofree char *text = NULL;

    if (!fr->first || fr->res->opt->accel != VMM_ACCEL_AUTO || fr->res->accel_reason || msg->error < 0 ||
        !memchr(msg->text, 0, sizeof(msg->text)))
        return bad(error, "malformed choice of an accelerator");
    text = g_strdup(msg->text);
    for (char *p = text; *p; p++) {
        if (!g_ascii_isprint(*p))
            *p = '?';
    }
    accel_fell_back(fr->res, msg->error ? g_strdup_printf("%s: %s", text, g_strerror(msg->error))
                                        : g_strdup_printf("%s is not what is needed", text));
    return true;
}

/* Size of a frame that has one size, else 0. */
static uint32_t fixed_size(uint32_t type)
{
    switch (type) {
    case VMM_MSG_PROGRESS:
        return sizeof(struct vmm_progress);
    case VMM_MSG_COMMIT:
        return sizeof(struct vmm_commit);
    case VMM_MSG_SUMMARY:
        return sizeof(struct vr_summary);
    case VMM_MSG_STATS:
        return sizeof(struct vmm_stats);
    case VMM_MSG_FAIL:
        return sizeof(struct vmm_fail);
    case VMM_MSG_ACCEL:
        return sizeof(struct vmm_no_kvm);
    default:
        return 0;
    }
}

static bool take_one(struct frames *fr, const struct vmm_msg *msg, const void *body, GError **error)
{
    struct result *res = fr->res;
    uint32_t size = fixed_size(msg->type);

    if (size && msg->len != size)
        return bad(error, "frame of a wrong size");
    if (res->have_stats || ((res->have_summary || res->have_fail) && msg->type != VMM_MSG_STATS))
        return bad(error, "frame after the last one");
    switch (msg->type) {
    case VMM_MSG_RECORDS:
        return take_records(fr, body, msg->len, error);
    case VMM_MSG_PROGRESS:
        return take_progress(fr, body, error);
    case VMM_MSG_COMMIT:
        return take_commit(fr, body, error);
    case VMM_MSG_READY:
        return take_ready(fr, msg->len, error);
    case VMM_MSG_SUMMARY:
        return take_summary(fr, body, error);
    case VMM_MSG_FAIL:
        return take_fail(fr, body, error);
    case VMM_MSG_ACCEL:
        return take_no_kvm(fr, body, error);
    case VMM_MSG_STATS:
        if (!res->have_summary && !res->have_fail)
            return bad(error, "statistics before the last word");
        memcpy(&res->stats, body, sizeof(res->stats));
        res->have_stats = true;
        return true;
    default:
        return bad(error, "unknown frame");
    }
}

bool frames_take(struct frames *fr, const struct vmm_msg *msg, const void *body, GError **error)
{
    bool ok = take_one(fr, msg, body, error);

    fr->first = false;
    return ok;
}
