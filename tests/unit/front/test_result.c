/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_result.c: verdicts, exit codes and counters; merging of guest ranges. */
#include "fake_child.h"
#include "unit.h"

/* A result as after a run in this mode whose guest sent a plain summary. */
static void begin(struct result *res, struct options *opt, enum front_mode mode)
{
    *opt = options_of(mode);
    result_init(res, opt);
    res->have_summary = true;
    res->summary = fake_summary();
}

static void commit(struct result *res)
{
    res->commit_begun = res->commit_ended = true;
    res->commit.state = 1;
    res->summary.committed = 1;
    res->summary.walks = 7;
}

static void expect(struct result *res, enum verdict verdict, int exit_code)
{
    result_conclude(res);
    assert_string_equal(verdict_name(res->verdict), verdict_name(verdict));
    assert_int_equal(res->exit_code, exit_code);
}

static void check_walk(void **state)
{
    static const struct {
        enum vr_problem row;
        enum verdict verdict;
        int exit_code;
    } cases[] = {
        {VR_P_DIRTY, VERDICT_CLEAN, 0},
        {VR_P_LEAK, VERDICT_LEAKS_REMAIN, EXIT_LEAKS},
        {VR_P_REF_LOW, VERDICT_CORRUPTIONS_REMAIN, EXIT_CORRUPTIONS},
        {VR_P_REF_UNREADABLE, VERDICT_FAILED, EXIT_FAILURE},
    };
    struct options opt;
    struct result res;

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        begin(&res, &opt, FRONT_CHECK);
        res.summary.found[VR_WALK_CHECK][cases[i].row] = 2;
        expect(&res, cases[i].verdict, cases[i].exit_code);
        assert_true(res.qemu_document);
        assert_false(res.image_changed);
        result_clear(&res);
    }
}

static void precedence(void **state)
{
    struct options opt;
    struct result res;

    (void)state;
    begin(&res, &opt, FRONT_CHECK);
    res.summary.found[VR_WALK_CHECK][VR_P_LEAK] = 5;
    res.summary.found[VR_WALK_CHECK][VR_P_REF_LOW] = 2;
    expect(&res, VERDICT_CORRUPTIONS_REMAIN, EXIT_CORRUPTIONS);
    assert_int_equal(res.counters.leaks, 5);
    assert_int_equal(res.counters.corruptions, 2);
    result_clear(&res);
}

/* Nothing is counted, as by qemu-img; that is not "clean". */
static void blocked(void **state)
{
    struct options opt;
    struct result res;

    (void)state;
    begin(&res, &opt, FRONT_CHECK);
    res.summary.found[VR_WALK_CHECK][VR_P_CORRUPT] = 1;
    expect(&res, VERDICT_BLOCKED, 0);
    assert_true(res.qemu_document);
    result_clear(&res);
    begin(&res, &opt, FRONT_CHECK);
    res.interrupted.journal = g_strdup("/j");
    expect(&res, VERDICT_BLOCKED, 0);
    assert_false(res.image_changed);
    result_clear(&res);
    begin(&res, &opt, FRONT_LEAKS);
    res.interrupted = (struct interrupted){.repair = true, .journal = g_strdup("/j"), .rolled_back = true};
    expect(&res, VERDICT_CLEAN, 0);
    assert_true(res.image_changed);
    assert_false(result_repair_changed(&res));
    result_clear(&res);
    /* What all mends is not there any more; leaks leaves it. */
    for (unsigned left = 0; left < 2; left++) {
        begin(&res, &opt, left ? FRONT_LEAKS : FRONT_ALL);
        commit(&res);
        res.summary.found[VR_WALK_CHECK][VR_P_LEAK] = res.summary.fixed[VR_P_LEAK] = 3;
        res.summary.found[VR_WALK_CHECK][VR_P_CORRUPT] = 1;
        res.summary.found[VR_WALK_FINAL][VR_P_CORRUPT] = left;
        expect(&res, left ? VERDICT_BLOCKED : VERDICT_REPAIRED, 0);
        result_clear(&res);
    }
}

static void repaired(void **state)
{
    struct options opt;
    struct result res;

    (void)state;
    begin(&res, &opt, FRONT_ALL);
    commit(&res);
    res.summary.found[VR_WALK_CHECK][VR_P_LEAK] = res.summary.fixed[VR_P_LEAK] = 3;
    res.summary.found[VR_WALK_CHECK][VR_P_REF_LOW] = res.summary.fixed[VR_P_REF_LOW] = 1;
    expect(&res, VERDICT_REPAIRED, 0);
    assert_int_equal(res.counters.leaks, 0);
    assert_int_equal(res.counters.leaks_fixed, 3);
    assert_int_equal(res.counters.corruptions_fixed, 1);
    assert_true(res.image_changed);
    result_clear(&res);
}

/* What the final walk finds counts, not what the plan promised. */
static void final_walk_counts(void **state)
{
    struct options opt;
    struct result res;

    (void)state;
    begin(&res, &opt, FRONT_ALL);
    commit(&res);
    res.summary.found[VR_WALK_CHECK][VR_P_LEAK] = res.summary.fixed[VR_P_LEAK] = 3;
    res.summary.found[VR_WALK_FINAL][VR_P_LEAK] = 1;
    expect(&res, VERDICT_LEAKS_REMAIN, EXIT_LEAKS);
    assert_int_equal(res.counters.leaks, 1);
    result_clear(&res);
    begin(&res, &opt, FRONT_ALL);
    commit(&res);
    res.summary.walks = 3;
    expect(&res, VERDICT_FAILED, EXIT_FAILURE);
    assert_true(res.image_changed);
    result_clear(&res);
}

/* Fixed in the plan and never committed: nothing was mended. */
static void not_committed(void **state)
{
    struct options opt;
    struct result res;

    (void)state;
    begin(&res, &opt, FRONT_LEAKS);
    res.summary.found[VR_WALK_CHECK][VR_P_LEAK] = res.summary.fixed[VR_P_LEAK] = 3;
    expect(&res, VERDICT_LEAKS_REMAIN, EXIT_LEAKS);
    assert_int_equal(res.counters.leaks_fixed, 0);
    result_clear(&res);
}

static void refusals(void **state)
{
    static const struct {
        enum vr_problem row;
        const char *format;
        int exit_code;
        const char *error;
    } cases[] = {
        {VR_P_HDR_MAGIC, NULL, EXIT_NO_CHECKS, "This image format does not support checks"},
        {VR_P_HDR_TRUNCATED, NULL, EXIT_NO_CHECKS, "This image format does not support checks"},
        {VR_P_HDR_MAGIC, "qcow2", EXIT_FAILURE, "Could not open 'disk.qcow2': Image is not in qcow2 format"},
        {VR_P_HDR_VERSION, NULL, EXIT_FAILURE, "Could not open 'disk.qcow2': Unsupported qcow2 version 9"},
        {VR_P_REBUILD_UNSAFE, NULL, EXIT_FAILURE, NULL},
    };
    struct options opt;
    struct result res;

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct vr_record rec = record_of(cases[i].row);

        begin(&res, &opt, FRONT_ALL);
        opt.format = (char *)cases[i].format;
        rec.got = 9;
        g_array_append_val(res.records, rec);
        res.summary.status = VR_EREFUSED;
        expect(&res, VERDICT_REFUSED, cases[i].exit_code);
        assert_false(res.qemu_document);
        if (cases[i].error)
            assert_string_equal(res.error, cases[i].error);
        else
            assert_true(g_str_has_prefix(res.error, "Could not check 'disk.qcow2': "));
        result_clear(&res);
    }
}

static void need_rebuild(void **state)
{
    struct options opt;
    struct result res;

    (void)state;
    begin(&res, &opt, FRONT_LEAKS);
    res.summary.status = VR_EREFUSED;
    res.summary.found[VR_WALK_CHECK][VR_P_NEED_REBUILD] = 1;
    expect(&res, VERDICT_REFUSED, EXIT_FAILURE);
    assert_string_equal(res.cli_error, "Check failed: Input/output error");
    assert_false(res.qemu_document);
    result_clear(&res);
}

static void failures(void **state)
{
    struct options opt;
    struct result res;

    (void)state;
    for (uint32_t kind = VMM_FAIL_GUEST_CRASH; kind <= VMM_FAIL_INTERNAL; kind++) {
        begin(&res, &opt, FRONT_ALL);
        res.have_summary = false;
        res.have_fail = true;
        res.fail = (struct vmm_fail){.kind = kind, .error = 5, .text = "why"};
        expect(&res, VERDICT_FAILED, EXIT_FAILURE);
        if (kind == VMM_FAIL_ABORTED)
            assert_string_equal(res.error, "aborted");
        else
            assert_true(g_str_has_suffix(res.error, ": why: Input/output error; the image was not changed"));
        result_clear(&res);
    }
}

static void image_changed(void **state)
{
    /* commit states: begun only, done, rolled back, not rolled back */
    static const bool changed[] = {true, true, false, true};
    struct options opt;
    struct result res;

    (void)state;
    for (uint32_t s = 0; s < G_N_ELEMENTS(changed); s++) {
        begin(&res, &opt, FRONT_ALL);
        res.have_summary = false;
        res.have_fail = res.commit_begun = true;
        res.commit_ended = s > 0;
        res.commit.state = s;
        res.fail.kind = VMM_FAIL_WRITE;
        expect(&res, VERDICT_FAILED, EXIT_FAILURE);
        assert_int_equal(res.image_changed, changed[s]);
        result_clear(&res);
    }
}

static void hostile_numbers(void **state)
{
    struct options opt;
    struct result res;

    (void)state;
    begin(&res, &opt, FRONT_CHECK);
    res.summary.found[VR_WALK_CHECK][VR_P_REF_LOW] = UINT64_MAX;
    res.summary.found[VR_WALK_CHECK][VR_P_REF_ZERO] = UINT64_MAX;
    expect(&res, VERDICT_CORRUPTIONS_REMAIN, EXIT_CORRUPTIONS);
    assert_int_equal(res.counters.corruptions, G_MAXINT64);
    result_clear(&res);
}

static void add_range(struct result *res, uint64_t offset, uint64_t length)
{
    struct vr_record rec = record_of(VR_P_L2E_PAST_EOF);

    rec.guest = offset;
    rec.guest_len = length;
    g_array_append_val(res->records, rec);
}

static void ranges(void **state)
{
    static const struct guest_range want[] = {{0, 30}, {40, 10}, {100, 1}, {VR_OFFSET_MAX - 1, 1}};
    struct options opt;
    struct result res;
    g_autoptr(GArray) got = NULL;

    (void)state;
    begin(&res, &opt, FRONT_CHECK);
    add_range(&res, 40, 10);
    add_range(&res, 10, 20);
    add_range(&res, 0, 10);       /* touches */
    add_range(&res, 5, 2);        /* inside */
    add_range(&res, 100, 1);
    add_range(&res, 100, 1);      /* twice */
    add_range(&res, 7, 0);        /* empty */
    add_range(&res, VR_NONE, 5);  /* none */
    add_range(&res, VR_OFFSET_MAX - 1, UINT64_MAX); /* would wrap */
    got = result_guest_ranges(&res, VR_ROOT_ACTIVE);
    assert_int_equal(got->len, G_N_ELEMENTS(want));
    assert_memory_equal(got->data, want, sizeof(want));
    result_clear(&res);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(check_walk),    cmocka_unit_test(precedence),      cmocka_unit_test(blocked), cmocka_unit_test(repaired),
        cmocka_unit_test(final_walk_counts), cmocka_unit_test(not_committed), cmocka_unit_test(refusals),
        cmocka_unit_test(need_rebuild),  cmocka_unit_test(failures),        cmocka_unit_test(image_changed),
        cmocka_unit_test(hostile_numbers), cmocka_unit_test(ranges),
    };

    return cmocka_run_group_tests_name("front-result", tests, NULL, NULL);
}
