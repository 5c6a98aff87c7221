/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_replies.c: the XML of the control entry point. */
#include <string.h>

#include "client.h"
#include "unit.h"

#define CAPS                                                                                                           \
    "<vol-repair version='0.1.0'>\n  <modes><mode name='check'/><mode name='all'/></modes>\n"                          \
    "  <pools><type name='dir'/></pools><formats><format name='qcow2'/></formats>"                                     \
    "<doors><door name='stream'/><door name='control'/></doors><helper path='/a &amp; b' "                             \
    "usable='yes'/></vol-repair>\n"
#define JOBS(attributes) ("<vol-repair-jobs><job pool='p' volume='v' started='1' " attributes "/></vol-repair-jobs>")
#define JOB(more) JOBS("id='7' mode='all' percent='41' " more)

static void capabilities(void **state)
{
    struct vol_repair_capabilities *caps = client_parse_capabilities(CAPS, NULL);

    (void)state;
    assert_non_null(caps);
    assert_string_equal(caps->version, "0.1.0");
    assert_int_equal(g_strv_length(caps->modes), 2);
    assert_string_equal(caps->modes[1], "all");
    assert_string_equal(caps->pools[0], "dir");
    assert_string_equal(caps->formats[0], "qcow2");
    assert_int_equal(g_strv_length(caps->doors), 2);
    assert_string_equal(caps->helper, "/a & b");
    assert_true(caps->helper_usable);
    assert_null(caps->helper_trouble);
    vol_repair_capabilities_free(caps);
}

static void a_helper_that_is_no_use(void **state)
{
    struct vol_repair_capabilities *caps =
        client_parse_capabilities("<vol-repair version='1'><modes><mode name='check'/></modes>"
                                  "<helper path='/h' usable='no' reason='Permission denied; &apos;x&apos;'/></vol-repair>",
                                  NULL);

    (void)state;
    assert_non_null(caps);
    assert_false(caps->helper_usable);
    assert_string_equal(caps->helper_trouble, "Permission denied; 'x'");
    vol_repair_capabilities_free(caps);
}

/* A later version may say more. */
static void capabilities_of_a_later_version(void **state)
{
    struct vol_repair_capabilities *caps =
        client_parse_capabilities("<vol-repair version='9' x='y'><modes><mode "
                                  "name='check'/><new/></modes><more/><helper path='/h'/></vol-repair>",
                                  NULL);

    (void)state;
    assert_non_null(caps);
    assert_int_equal(g_strv_length(caps->modes), 1);
    assert_null(caps->doors[0]);
    assert_false(caps->helper_usable);
    vol_repair_capabilities_free(caps);
}

static void bad_capabilities(void **state)
{
    static const char *const bad[] = {
        "",
        "x",
        "<",
        "<sources/>",
        "<vol-repair/>",
        "<vol-repair version='1'/>",
        "<vol-repair version='1'><helper path='/h'/></vol-repair>",
        "<vol-repair version='1'><modes><mode name='all'/></modes></vol-repair>",
        "<!DOCTYPE x [<!ENTITY e 'x'>]><vol-repair version='&e;'/>",
        "<vol-repair version='1'><modes>",
    };
    g_autofree char *pad = g_strnfill(CLIENT_ANSWER_MAX, ' ');
    g_autofree char *huge = g_strconcat(CAPS, pad, NULL);

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        assert_null(client_parse_capabilities(bad[i], &error));
        assert_true(g_error_matches(error, VOL_REPAIR_ERROR, VOL_REPAIR_ERROR_PROTOCOL));
    }
    assert_null(client_parse_capabilities(huge, NULL));
}

static void job_list(void **state)
{
    g_autoptr(GPtrArray) none = client_parse_jobs("<vol-repair-jobs>\n</vol-repair-jobs>\n", NULL);
    g_autoptr(GPtrArray) one = client_parse_jobs(JOB("state='running' phase='check'"), NULL);
    g_autoptr(GPtrArray) done = client_parse_jobs(JOB("state='done' verdict='repaired' exit-code='0'"), NULL);
    const struct vol_repair_job *job;

    (void)state;
    assert_int_equal(none->len, 0);
    job = g_ptr_array_index(one, 0);
    assert_int_equal(job->id, 7);
    assert_int_equal(job->mode, VOL_REPAIR_ALL);
    assert_true(job->running);
    assert_string_equal(job->phase, "check");
    assert_int_equal(job->percent, 41);
    assert_int_equal(job->exit_code, -1);
    job = g_ptr_array_index(done, 0);
    assert_false(job->running);
    assert_string_equal(job->verdict, "repaired");
    assert_int_equal(job->exit_code, 0);
}

/* A report in another pool than the volume's: the daemon does not know the latter, and one job must not hide the rest.
 */
static void job_without_a_pool(void **state)
{
    g_autoptr(GPtrArray) jobs = client_parse_jobs("<vol-repair-jobs><job id='2' mode='all' volume='v' started='1' "
                                                  "percent='0' state='running'/>"
                                                  "<job id='1' mode='all' pool='p' volume='v' started='1' "
                                                  "percent='0' state='running'/></vol-repair-jobs>",
                                                  NULL);

    (void)state;
    assert_non_null(jobs);
    assert_int_equal(jobs->len, 2);
    assert_null(((struct vol_repair_job *)g_ptr_array_index(jobs, 0))->pool);
    assert_string_equal(((struct vol_repair_job *)g_ptr_array_index(jobs, 1))->pool, "p");
}

static void bad_job_lists(void **state)
{
    static const char *const bad[] = {
        "<vol-repair-jobs><weather/></vol-repair-jobs>",
        "<vol-repair-jobs><job/></vol-repair-jobs>",
        JOB("state='asleep'"),
        JOB("state='done' verdict='splendid' exit-code='0'"),
        JOB("state='done' verdict='clean'"),
        JOB("state='done' verdict='clean' exit-code='-1'"),
        JOBS("id='99999999999' mode='all' percent='1' state='running'"),
        JOBS("id='1' mode='all' percent='101' state='running'"),
        JOBS("id='1' mode='odd' percent='1' state='running'"),
        JOBS("mode='all' percent='1' state='running'"),
    };

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        assert_null(client_parse_jobs(bad[i], &error));
        assert_true(g_error_matches(error, VOL_REPAIR_ERROR, VOL_REPAIR_ERROR_PROTOCOL));
    }
}

static void tokens(void **state)
{
    static const char *const bad[] = {
        "<vol-repair-options/>", "<vol-repair-options token='0'/>", "<vol-repair-options token='-1'/>",
        "<vol-repair-options token='18446744073709551616'/>", "<vol-repair-options token='1x'/>"};

    (void)state;
    assert_int_equal(client_parse_token("<vol-repair-options token='123'/>", NULL), 123);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        assert_int_equal(client_parse_token(bad[i], &error), 0);
        assert_non_null(error);
    }
}

static void abort_answers(void **state)
{
    g_autoptr(GError) error = NULL;
    gboolean sent = FALSE;

    (void)state;
    assert_true(client_parse_abort("<vol-repair-abort job='7' result='sent'/>", 7, &sent, NULL));
    assert_true(sent);
    assert_true(client_parse_abort("<vol-repair-abort job='7' result='done'/>", 7, &sent, NULL));
    assert_false(sent);
    assert_false(client_parse_abort("<vol-repair-abort job='8' result='sent'/>", 7, &sent, &error));
    assert_non_null(error);
}

static void options_are_escaped(void **state)
{
    struct vol_repair_options opts = VOL_REPAIR_OPTIONS_INIT;
    g_autofree char *empty = client_options_xml(&opts), *full = NULL;

    (void)state;
    assert_string_equal(empty, "<vol-repair request='options'></vol-repair>");
    opts.format = "</format><undo>x";
    opts.memory = 1 << 20;
    opts.timeout = 0;
    opts.max_messages = 5;
    full = client_options_xml(&opts);
    assert_string_equal(
        full, "<vol-repair request='options'><format>&lt;/format&gt;&lt;undo&gt;x</format>"
              "<memory unit='bytes'>1048576</memory><timeout>0</timeout><max-messages>5</max-messages></vol-repair>");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(capabilities), cmocka_unit_test(a_helper_that_is_no_use),
        cmocka_unit_test(capabilities_of_a_later_version),
        cmocka_unit_test(bad_capabilities),
        cmocka_unit_test(job_list),
        cmocka_unit_test(job_without_a_pool),
        cmocka_unit_test(bad_job_lists),
        cmocka_unit_test(tokens),
        cmocka_unit_test(abort_answers),
        cmocka_unit_test(options_are_escaped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
