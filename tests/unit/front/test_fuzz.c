/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_fuzz.c: random and half-right frames, taken in by the front and made into every form of report. */
#include <fcntl.h>
#include <unistd.h>

#include <json-glib/json-glib.h>

#include "fake_child.h"
#include "unit.h"

#define RUNS 4000
#define FRAMES_MAX 12

static void ignore_progress(void *opaque, enum vr_walk walk, enum vr_pass pass, double part)
{
    (void)opaque;
    assert_in_range(walk, 0, VR_WALK_COUNT - 1);
    assert_in_range(pass, 0, VR_PASS_COUNT - 1);
    assert_true(part >= 0 && part <= 1);
}

static void ignore_ready(void *opaque)
{
    (void)opaque;
}

static void ignore_commit(void *opaque, bool ended)
{
    (void)opaque;
    (void)ended;
}

/* Extreme numbers and ordinary ones, in about equal parts. */
static uint64_t number(GRand *rand)
{
    static const uint64_t extremes[] = {0, 1, 511, UINT32_MAX, G_MAXINT64, (uint64_t)G_MAXINT64 + 1, UINT64_MAX};

    return g_rand_boolean(rand) ? extremes[g_rand_int_range(rand, 0, G_N_ELEMENTS(extremes))] : g_rand_int(rand);
}

static uint32_t fill_records(GRand *rand, struct vr_record *rec)
{
    uint32_t n = (uint32_t)g_rand_int_range(rand, 1, 20);

    for (uint32_t i = 0; i < n; i++)
        rec[i] = (struct vr_record){.code = row_words[g_rand_int_range(rand, 0, VR_P_COUNT)].code,
                                    .walk = (uint8_t)g_rand_int_range(rand, 0, VR_WALK_COUNT),
                                    .kept = (uint8_t)g_rand_int_range(rand, 0, VR_KEPT_NO_ROOM + 1),
                                    .host = number(rand), .guest = number(rand), .guest_len = number(rand),
                                    .index = number(rand), .got = number(rand), .want = number(rand),
                                    .count = number(rand)};
    return n * (uint32_t)sizeof(*rec);
}

static uint32_t fill_summary(GRand *rand, struct vr_summary *sum)
{
    *sum = fake_summary();
    sum->status = g_rand_int_range(rand, VR_EREFUSED, 2);
    sum->walks = (uint32_t)g_rand_int_range(rand, 0, 8);
    sum->committed = (uint32_t)g_rand_int_range(rand, 0, 2);
    for (int row = 0; row < VR_P_COUNT; row++) {
        if (g_rand_int_range(rand, 0, 4))
            continue;
        sum->found[VR_WALK_CHECK][row] = number(rand);
        sum->found[VR_WALK_FINAL][row] = number(rand);
        sum->fixed[row] = g_rand_boolean(rand) ? 0 : sum->found[VR_WALK_CHECK][row];
    }
    sum->total_clusters = number(rand);
    sum->allocated_clusters = number(rand);
    sum->fragmented_clusters = number(rand);
    sum->image_end_offset = number(rand);
    sum->guest_bytes_hit = number(rand);
    return sizeof(*sum);
}

/* A frame of a random kind: mostly of the right size and with values that are nearly right. */
static void make_frame(GRand *rand, struct vmm_msg *msg, uint8_t *body)
{
    msg->type = (uint32_t)g_rand_int_range(rand, 0, VMM_MSG_READY + 2);
    msg->len = (uint32_t)g_rand_int_range(rand, 0, 64);
    switch (msg->type) {
    case VMM_MSG_RECORDS:
        msg->len = fill_records(rand, (void *)body);
        break;
    case VMM_MSG_SUMMARY:
        msg->len = fill_summary(rand, (void *)body);
        break;
    case VMM_MSG_COMMIT:
        *(struct vmm_commit *)(void *)body = (struct vmm_commit){.state = (uint32_t)g_rand_int_range(rand, 0, 5)};
        msg->len = sizeof(struct vmm_commit);
        break;
    case VMM_MSG_READY:
        msg->len = (uint32_t)g_rand_int_range(rand, 0, 2);
        break;
    case VMM_MSG_FAIL:
        memset(body, 0, sizeof(struct vmm_fail));
        body[0] = (uint8_t)g_rand_int_range(rand, 0, VMM_FAIL_INTERNAL + 2);
        msg->len = sizeof(struct vmm_fail);
        break;
    default:
        for (uint32_t i = 0; i < msg->len; i++)
            body[i] = (uint8_t)g_rand_int(rand);
        break;
    }
}

static void report_every_way(struct result *res)
{
    g_autofree char *pretty = report_text(res);
    g_autoptr(JsonNode) again = json_from_string(pretty, NULL);

    assert_non_null(again);
    assert_true(res->exit_code >= 0 && res->exit_code <= 63);
    text_print_findings(res);
    if (res->qemu_document) {
        text_print_summary(res);
        text_print_ours(res);
    } else {
        assert_non_null(res->error);
    }
}

/* True if the frames made a whole run. */
static bool one_run(GRand *rand, uint64_t *buffer)
{
    static const enum front_mode modes[] = {FRONT_CHECK, FRONT_LEAKS, FRONT_ALL};
    struct options opt = options_of(modes[g_rand_int_range(rand, 0, 3)]);
    struct result res;
    struct frames fr = {.res = &res, .repair = options_is_repair(&opt), .progress = ignore_progress,
                        .commit = ignore_commit, .ready = ignore_ready};
    g_autoptr(GError) error = NULL;
    bool whole;

    result_init(&res, &opt);
    for (int i = 0; i < FRAMES_MAX && !error; i++) {
        struct vmm_msg msg;

        make_frame(rand, &msg, (uint8_t *)buffer);
        assert_true(frames_take(&fr, &msg, buffer, &error) == !error);
    }
    whole = res.have_summary || res.have_fail;
    if (whole)
        result_conclude(&res);
    else if (error)
        result_fail(&res, error);
    if (whole || error)
        report_every_way(&res);
    result_clear(&res);
    return whole;
}

static void random_frames(void **state)
{
    static uint64_t buffer[VMM_MSG_MAX / sizeof(uint64_t)];
    int out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY);
    unsigned whole = 0;

    (void)state;
    fflush(NULL);
    dup2(null, STDOUT_FILENO);
    dup2(null, STDERR_FILENO);
    for (guint32 seed = 0; seed < RUNS; seed++) {
        GRand *rand = g_rand_new_with_seed(seed);

        whole += one_run(rand, buffer);
        g_rand_free(rand);
    }
    fflush(NULL);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    close(out);
    close(err);
    close(null);
    /* Enough of them got all the way to a report with counters. */
    assert_in_range(whole, RUNS / 50, RUNS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_frames),
    };

    return cmocka_run_group_tests_name("front-fuzz", tests, NULL, NULL);
}
