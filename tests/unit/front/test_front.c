/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_front.c: the front against a child that tells the truth, lies, stammers or dies. */
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "fake_child.h"
#include "unit.h"

struct outcome {
    struct options opt;
    struct result res;
    struct progress progress;
    bool ok;
    char *error;
};

static void run(struct outcome *out, enum front_mode mode, int (*script)(const struct vmm_config *cfg))
{
    struct image img = {.fd = dup(STDIN_FILENO), .size = 1 << 20, .real_path = (char *)"/disk.qcow2",
                        .identity = (char *)"file:0:1"};
    struct undofile uf = {.path = (char *)"/tmp/journal", .fd = dup(STDIN_FILENO)};
    g_autoptr(GError) error = NULL;

    memset(out, 0, sizeof(*out));
    out->opt = options_of(mode);
    out->opt.quiet = true;
    result_init(&out->res, &out->opt);
    progress_init(&out->progress, &out->opt);
    fake_script = script;
    out->ok = supervise_run(&out->res, &img, mode == FRONT_CHECK ? NULL : &uf, &out->progress, &error);
    out->error = error ? g_strdup(error->message) : NULL;
    assert_true(out->ok == !out->error);
    close(img.fd);
    close(uf.fd);
}

static void clear(struct outcome *out)
{
    result_clear(&out->res);
    g_free(out->error);
}

/* The script must make the front fail with this sentence. */
static void expect_error(enum front_mode mode, int (*script)(const struct vmm_config *cfg), const char *message)
{
    struct outcome out;

    run(&out, mode, script);
    assert_false(out.ok);
    assert_string_equal(out.error, message);
    clear(&out);
}

/* ---- a child that does what it should -------------------------------------------------------------- */

static int say_clean(const struct vmm_config *cfg)
{
    struct vmm_progress progress = {.walk = VR_WALK_CHECK, .pass = VR_PASS_MAP, .done = 1, .total = 2};
    struct vr_summary sum = fake_summary();
    struct vmm_stats stats = {.bytes_read = 4096};

    fake_send(cfg, VMM_MSG_PROGRESS, &progress, sizeof(progress));
    fake_send(cfg, VMM_MSG_SUMMARY, &sum, sizeof(sum));
    fake_send(cfg, VMM_MSG_STATS, &stats, sizeof(stats));
    return 0;
}

static void clean(void **state)
{
    struct outcome out;

    (void)state;
    run(&out, FRONT_CHECK, say_clean);
    assert_true(out.ok);
    assert_true(out.res.have_summary);
    assert_int_equal(out.res.stats.bytes_read, 4096);
    assert_in_range(out.progress.percent, 1, 99);
    clear(&out);
}

static int say_repaired(const struct vmm_config *cfg)
{
    struct vmm_commit begins = {.state = 0}, done = {.state = 1, .bytes_changed = 512, .bytes_journal = 1024};
    struct vr_record rec = {.code = row_words[VR_P_LEAK].code, .flags = VR_REC_FIXED, .host = 65536, .guest = VR_NONE,
                            .index = 1, .got = 1, .count = 1};
    struct vr_summary sum = fake_summary();

    if (cfg->journal_fd < 0 || cfg->overlay_fd < 0)
        return 71;
    sum.walks = 7;
    sum.committed = 1;
    sum.found[VR_WALK_CHECK][VR_P_LEAK] = sum.fixed[VR_P_LEAK] = 1;
    fake_send(cfg, VMM_MSG_RECORDS, &rec, sizeof(rec));
    fake_send(cfg, VMM_MSG_COMMIT, &begins, sizeof(begins));
    fake_send(cfg, VMM_MSG_COMMIT, &done, sizeof(done));
    fake_send(cfg, VMM_MSG_SUMMARY, &sum, sizeof(sum));
    return 0;
}

static void repaired(void **state)
{
    struct outcome out;

    (void)state;
    run(&out, FRONT_LEAKS, say_repaired);
    assert_true(out.ok);
    assert_true(result_committed(&out.res));
    result_conclude(&out.res);
    assert_int_equal(out.res.verdict, VERDICT_REPAIRED);
    assert_true(out.res.image_changed);
    clear(&out);
}

/* Frames that come in single bytes, and many at once. */
static int say_slowly(const struct vmm_config *cfg)
{
    struct {
        struct vmm_msg msg;
        struct vr_record rec[200];
    } frame = {.msg = {.type = VMM_MSG_RECORDS, .len = sizeof(frame.rec)}};
    struct vr_summary sum = fake_summary();

    for (size_t i = 0; i < G_N_ELEMENTS(frame.rec); i++)
        frame.rec[i] = (struct vr_record){.code = row_words[VR_P_LEAK].code, .count = 1, .index = i};
    for (size_t i = 0; i < sizeof(frame); i++) {
        if (write(cfg->msg_fd, (const char *)&frame + i, 1) != 1)
            return 70;
    }
    for (int i = 0; i < 100; i++)
        fake_send(cfg, VMM_MSG_RECORDS, frame.rec, sizeof(frame.rec));
    fake_send(cfg, VMM_MSG_SUMMARY, &sum, sizeof(sum));
    return 0;
}

static void slow_and_many(void **state)
{
    struct outcome out;

    (void)state;
    run(&out, FRONT_CHECK, say_slowly);
    assert_true(out.ok);
    /* 20200 came; --max-messages of them are kept. */
    assert_int_equal(out.res.records->len, out.opt.examples);
    assert_int_equal(g_array_index(out.res.records, struct vr_record, 99).index, 99);
    clear(&out);
}

static int say_failed(const struct vmm_config *cfg)
{
    struct vmm_fail fail = {.kind = VMM_FAIL_GUEST_CRASH, .text = "at\x1b[31m 0x1"};
    struct vmm_stats stats = {0};

    fake_send(cfg, VMM_MSG_FAIL, &fail, sizeof(fail));
    fake_send(cfg, VMM_MSG_STATS, &stats, sizeof(stats));
    return 1;
}

static void failure_is_told(void **state)
{
    struct outcome out;

    (void)state;
    run(&out, FRONT_CHECK, say_failed);
    assert_true(out.ok);
    result_conclude(&out.res);
    assert_string_equal(out.res.error, "The repairer crashed inside its guest: at?[31m 0x1");
    clear(&out);
}

/* As the child does: nothing is written before the answer. */
static int say_ready(const struct vmm_config *cfg)
{
    char answer = 0;

    alarm(20);
    fake_send(cfg, VMM_MSG_READY, NULL, 0);
    if (read(cfg->ctl_fd, &answer, 1) != 1 || answer != VMM_CTL_COMMIT)
        return 73;
    return say_repaired(cfg);
}

static void question_is_answered(void **state)
{
    struct outcome out;

    (void)state;
    run(&out, FRONT_LEAKS, say_ready);
    assert_true(out.ok);
    assert_true(result_committed(&out.res));
    clear(&out);
}

static int ask_twice(const struct vmm_config *cfg)
{
    fake_send(cfg, VMM_MSG_READY, NULL, 0);
    fake_send(cfg, VMM_MSG_READY, NULL, 0);
    return 1;
}

static int ask_afterwards(const struct vmm_config *cfg)
{
    struct vmm_commit begins = {.state = 0};

    fake_send(cfg, VMM_MSG_COMMIT, &begins, sizeof(begins));
    fake_send(cfg, VMM_MSG_READY, NULL, 0);
    return 1;
}

static void question_out_of_order(void **state)
{
    (void)state;
    expect_error(FRONT_CHECK, ask_twice, "The repairer broke its protocol (question out of order)");
    expect_error(FRONT_LEAKS, ask_twice, "The repairer broke its protocol (question out of order)");
    expect_error(FRONT_LEAKS, ask_afterwards, "The repairer broke its protocol (question out of order)");
}

/* Waits for the wish to stop; an alarm ends it if none comes. */
static int say_aborted(const struct vmm_config *cfg)
{
    struct vmm_fail fail = {.kind = VMM_FAIL_ABORTED};
    char byte;

    alarm(20);
    if (read(cfg->ctl_fd, &byte, 1) != 1)
        return 72;
    fake_send(cfg, VMM_MSG_FAIL, &fail, sizeof(fail));
    return 1;
}

static void signal_stops(void **state)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP};

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(signals); i++) {
        struct outcome out;

        signals_block();
        raise(signals[i]);
        run(&out, FRONT_CHECK, say_aborted);
        assert_true(out.ok);
        result_conclude(&out.res);
        assert_string_equal(out.res.error, "aborted");
        clear(&out);
    }
}

/* ---- a child that does not ---------------------------------------------------------------------------- */

static int die_by_signal(const struct vmm_config *cfg)
{
    (void)cfg;
    raise(SIGKILL);
    return 0;
}

static int die_silent(const struct vmm_config *cfg)
{
    (void)cfg;
    return 0;
}

static int die_after_summary(const struct vmm_config *cfg)
{
    say_clean(cfg);
    return 9;
}

static int die_in_frame(const struct vmm_config *cfg)
{
    fake_send_header(cfg, VMM_MSG_RECORDS, 640);
    return 0;
}

static int die_in_header(const struct vmm_config *cfg)
{
    return write(cfg->msg_fd, "\1\0\0", 3) == 3 ? 0 : 70;
}

static void deaths(void **state)
{
    (void)state;
    expect_error(FRONT_CHECK, die_by_signal, "The VMM died (signal 9)");
    expect_error(FRONT_CHECK, die_silent, "The VMM died (exit status 0)");
    expect_error(FRONT_CHECK, die_after_summary, "The VMM died (exit status 9)");
    expect_error(FRONT_CHECK, die_in_frame, "The repairer broke its protocol (half a frame)");
    expect_error(FRONT_CHECK, die_in_header, "The repairer broke its protocol (half a frame)");
}

/* A frame to be refused; the child then sleeps, so that only the front's kill ends it. */
static struct {
    uint32_t type, len;
    const void *body;
    bool no_body;
} lie;

static int tell_lie(const struct vmm_config *cfg)
{
    if (lie.no_body)
        fake_send_header(cfg, lie.type, lie.len);
    else
        fake_send(cfg, lie.type, lie.body, lie.len);
    sleep(60);
    return 0;
}

static void expect_lie(uint32_t type, const void *body, uint32_t len, const char *what)
{
    g_autofree char *message = g_strdup_printf("The repairer broke its protocol (%s)", what);

    lie.type = type;
    lie.body = body;
    lie.len = len;
    lie.no_body = !body && len;
    expect_error(FRONT_CHECK, tell_lie, message);
}

static void hostile_frames(void **state)
{
    static const uint8_t zeros[sizeof(struct vr_record)];
    struct vmm_progress progress = {.walk = VR_WALK_COUNT, .pass = VR_PASS_MAP};
    struct vmm_commit commit = {0};
    struct vmm_fail fail = {.kind = 99};

    (void)state;
    expect_lie(VMM_MSG_RECORDS, NULL, VMM_MSG_MAX + 1, "frame too long");
    expect_lie(VMM_MSG_RECORDS, NULL, UINT32_MAX, "frame too long");
    expect_lie(77, zeros, 8, "unknown frame");
    expect_lie(0, NULL, 0, "unknown frame");
    expect_lie(VMM_MSG_SUMMARY, zeros, 64, "frame of a wrong size");
    expect_lie(VMM_MSG_RECORDS, zeros, sizeof(zeros) - 1, "records of a wrong size");
    expect_lie(VMM_MSG_RECORDS, NULL, 0, "records of a wrong size");
    expect_lie(VMM_MSG_RECORDS, zeros, sizeof(zeros), "unknown problem code");
    expect_lie(VMM_MSG_PROGRESS, &progress, sizeof(progress), "progress of an unknown pass");
    progress = (struct vmm_progress){.pass = VR_PASS_MAP, .done = 2, .total = 1};
    expect_lie(VMM_MSG_PROGRESS, &progress, sizeof(progress), "progress beyond its end");
    expect_lie(VMM_MSG_COMMIT, &commit, sizeof(commit), "commit out of order"); /* in a check */
    expect_lie(VMM_MSG_FAIL, &fail, sizeof(fail), "malformed failure");
    fail.kind = VMM_FAIL_KVM;
    memset(fail.text, 'x', sizeof(fail.text));
    expect_lie(VMM_MSG_FAIL, &fail, sizeof(fail), "malformed failure");
    expect_lie(VMM_MSG_STATS, &(struct vmm_stats){0}, sizeof(struct vmm_stats), "statistics before the last word");
}

/* A child may say that KVM made no VM: once, first of all, and where it was left to it. */
static void choice_of_accelerator(void **state)
{
    struct vmm_no_kvm why = {.error = EBUSY, .text = "KVM_CREATE_VM"};
    struct vmm_msg msg = {.type = VMM_MSG_ACCEL, .len = sizeof(why)};
    struct options opt = options_of(FRONT_CHECK);
    struct result res;
    struct frames fr = {.res = &res, .first = true};

    (void)state;
    opt.quiet = true;
    result_init(&res, &opt);
    res.ran = true;
    opt.accel = VMM_ACCEL_KVM;
    assert_false(frames_take(&fr, &msg, &why, NULL));
    opt.accel = VMM_ACCEL_AUTO;
    assert_false(frames_take(&fr, &msg, &why, NULL)); /* no longer the first */
    assert_string_equal(accel_name(&res), "kvm");
    fr.first = true;
    assert_true(frames_take(&fr, &msg, &why, NULL));
    assert_string_equal(accel_name(&res), "process");
    assert_string_equal(res.accel_reason, "KVM_CREATE_VM: Device or resource busy");
    fr.first = true;
    assert_false(frames_take(&fr, &msg, &why, NULL)); /* said already */
    g_clear_pointer(&res.accel_reason, g_free);
    memset(why.text, 'x', sizeof(why.text));
    fr.first = true;
    assert_false(frames_take(&fr, &msg, &why, NULL));
    result_clear(&res);
}

static void hostile_records(void **state)
{
    const struct vr_record good = record_of(VR_P_LEAK);
    struct vr_record rec = good;

    (void)state;
    rec.walk = VR_WALK_COUNT;
    expect_lie(VMM_MSG_RECORDS, &rec, sizeof(rec), "malformed record");
    rec = good;
    rec.kept = VR_KEPT_NO_ROOM + 1;
    expect_lie(VMM_MSG_RECORDS, &rec, sizeof(rec), "malformed record");
    rec = good;
    rec.flags = 0x80;
    expect_lie(VMM_MSG_RECORDS, &rec, sizeof(rec), "malformed record");
    rec = good;
    rec.reserved = 1;
    expect_lie(VMM_MSG_RECORDS, &rec, sizeof(rec), "malformed record");
    rec = good;
    rec.count = 0;
    expect_lie(VMM_MSG_RECORDS, &rec, sizeof(rec), "contradictory record");
    rec = good;
    rec.flags = VR_REC_FIXED; /* in a check */
    expect_lie(VMM_MSG_RECORDS, &rec, sizeof(rec), "contradictory record");
}

static void hostile_summaries(void **state)
{
    struct vr_summary sum = fake_summary();

    (void)state;
    sum.status = 1;
    expect_lie(VMM_MSG_SUMMARY, &sum, sizeof(sum), "summary with an unknown status");
    sum = fake_summary();
    sum.cluster_bits = 64;
    expect_lie(VMM_MSG_SUMMARY, &sum, sizeof(sum), "summary with impossible values");
    sum = fake_summary();
    sum.reserved[2] = 1;
    expect_lie(VMM_MSG_SUMMARY, &sum, sizeof(sum), "summary with reserved fields set");
    sum = fake_summary();
    sum.found[VR_WALK_FINAL][VR_P_COUNT] = 1;
    expect_lie(VMM_MSG_SUMMARY, &sum, sizeof(sum), "summary with impossible counters");
    sum = fake_summary();
    sum.fixed[VR_P_LEAK] = 1;
    expect_lie(VMM_MSG_SUMMARY, &sum, sizeof(sum), "summary with impossible counters");
    sum = fake_summary();
    sum.committed = 1;
    expect_lie(VMM_MSG_SUMMARY, &sum, sizeof(sum), "summary and commit disagree");
    sum = fake_summary();
    sum.walks = 0;
    expect_lie(VMM_MSG_SUMMARY, &sum, sizeof(sum), "summary without a walk");
}

static int say_commit_twice(const struct vmm_config *cfg)
{
    struct vmm_commit begins = {.state = 0};

    fake_send(cfg, VMM_MSG_COMMIT, &begins, sizeof(begins));
    fake_send(cfg, VMM_MSG_COMMIT, &begins, sizeof(begins));
    return 0;
}

static int say_commit_end_first(const struct vmm_config *cfg)
{
    struct vmm_commit done = {.state = 1};

    fake_send(cfg, VMM_MSG_COMMIT, &done, sizeof(done));
    return 0;
}

static int say_two_summaries(const struct vmm_config *cfg)
{
    struct vr_summary sum = fake_summary();

    fake_send(cfg, VMM_MSG_SUMMARY, &sum, sizeof(sum));
    fake_send(cfg, VMM_MSG_SUMMARY, &sum, sizeof(sum));
    return 0;
}

static void out_of_order(void **state)
{
    (void)state;
    expect_error(FRONT_ALL, say_commit_twice, "The repairer broke its protocol (commit out of order)");
    expect_error(FRONT_ALL, say_commit_end_first, "The repairer broke its protocol (commit out of order)");
    expect_error(FRONT_CHECK, say_two_summaries, "The repairer broke its protocol (frame after the last one)");
}

static void progress_never_falls(void **state)
{
    struct options opt = options_of(FRONT_ALL);
    struct progress pr;
    unsigned last = 0;
    static const char *const phases[] = {"check", "verify", "commit", "final", "check"};

    (void)state;
    opt.quiet = true;
    progress_init(&pr, &opt);
    for (size_t i = 0; i < G_N_ELEMENTS(phases); i++) {
        for (int part = 10; part >= -1; part--) {
            progress_update(&pr, phases[i], NULL, part / 10.0);
            assert_in_range(pr.percent, last, 100);
            last = pr.percent;
        }
    }
    assert_int_equal(last, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clean),          cmocka_unit_test(repaired),        cmocka_unit_test(slow_and_many),
        cmocka_unit_test(failure_is_told), cmocka_unit_test(question_is_answered), cmocka_unit_test(question_out_of_order),
        cmocka_unit_test(signal_stops),   cmocka_unit_test(deaths),
        cmocka_unit_test(choice_of_accelerator), cmocka_unit_test(hostile_frames), cmocka_unit_test(hostile_records), cmocka_unit_test(hostile_summaries),
        cmocka_unit_test(out_of_order),   cmocka_unit_test(progress_never_falls),
    };

    return cmocka_run_group_tests_name("front-child", tests, NULL, NULL);
}
