/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_stream_parser.c: the stream of a job, from daemons that keep to the contract and from others. */
#include <string.h>

#include "client.h"
#include "unit.h"

#define START "{\"event\":\"start\",\"mode\":\"all\",\"filename\":\"/a\",\"pid\":12}\n"
#define PROGRESS(n) "{\"event\":\"progress\",\"phase\":\"check\",\"pass\":\"map\",\"percent\":" #n "}\n"
#define BODY "\"mode\":\"all\",\"verdict\":\"repaired\",\"exit-code\":0,\"image-changed\":true"
#define REPORT "{\"event\":\"report\",\"report\":{" BODY "}}\n"
#define REPORT_WITH(more) "{\"event\":\"report\",\"report\":{" BODY "," more "}}\n"

struct heard {
    unsigned count, last;
    char phase[16], pass[16];
};

static void hear(const struct vol_repair_progress *progress, void *opaque)
{
    struct heard *heard = opaque;

    heard->count++;
    heard->last = progress->percent;
    g_strlcpy(heard->phase, progress->phase, sizeof(heard->phase));
    g_strlcpy(heard->pass, progress->pass ? progress->pass : "", sizeof(heard->pass));
}

/* Pushes the text in pieces of this size. NULL: *error says why. */
static struct vol_repair_report *feed(const char *text, size_t len, size_t piece, struct heard *heard, GError **error)
{
    struct vol_repair_report *report = NULL;
    struct client_lines lines;
    bool ok = true;

    client_lines_init(&lines, VOL_REPAIR_ALL, heard ? hear : NULL, heard);
    for (size_t i = 0; ok && i < len; i += piece)
        ok = client_lines_push(&lines, text + i, MIN(piece, len - i), error);
    if (ok)
        report = client_lines_end(&lines, error);
    client_lines_clear(&lines);
    return report;
}

static void job_in_pieces_of_any_size(void **state)
{
    static const char text[] = START PROGRESS(0) PROGRESS(41) PROGRESS(41) REPORT;

    (void)state;
    for (size_t piece = 1; piece <= sizeof(text); piece++) {
        struct heard heard = {0};
        g_autoptr(GError) error = NULL;
        g_autoptr(VolRepairReport) report = feed(text, strlen(text), piece, &heard, &error);

        assert_non_null(report);
        assert_int_equal(heard.count, 3);
        assert_int_equal(heard.last, 41);
        assert_string_equal(heard.phase, "check");
        assert_string_equal(heard.pass, "map");
        assert_int_equal(report->verdict, VOL_REPAIR_REPAIRED);
    }
}

/* What a start line with these members and this progress leaves to be said when the connection breaks. */
static char *fate(enum vol_repair_mode mode, const char *text)
{
    struct client_lines lines;
    char *said;

    client_lines_init(&lines, mode, NULL, NULL);
    assert_true(client_lines_push(&lines, text, strlen(text), NULL));
    said = client_lines_fate(&lines);
    client_lines_clear(&lines);
    return said;
}

#define START_OF(more) "{\"event\":\"start\",\"mode\":\"all\"" more "}\n"
#define IN_PHASE(phase) "{\"event\":\"progress\",\"phase\":\"" phase "\",\"percent\":60}\n"

static void broken_connection_says_what_is_known(void **state)
{
    g_autofree char *nothing = fate(VOL_REPAIR_ALL, ""),
                    *early = fate(VOL_REPAIR_ALL, START_OF(",\"job\":7") PROGRESS(3));
    g_autofree char *verify = fate(VOL_REPAIR_ALL, START_OF("") IN_PHASE("verify"));
    g_autofree char *commit =
        fate(VOL_REPAIR_ALL, START_OF(",\"job\":7,\"report\":\"job-7-x.json\"") IN_PHASE("commit") IN_PHASE("final"));

    (void)state;
    assert_non_null(strstr(nothing, "had written nothing"));
    assert_non_null(strstr(early, "had written nothing"));
    assert_non_null(strstr(early, "; it was job 7"));
    assert_non_null(strstr(verify, "had written nothing"));
    assert_non_null(strstr(commit, "had begun to write"));
    assert_non_null(strstr(commit, "'job-7-x.json'"));
}

static void unknown_events_are_passed_over(void **state)
{
    static const char text[] = START "{\"event\":\"weather\",\"percent\":-7}\n" REPORT;
    g_autoptr(VolRepairReport) report = feed(text, strlen(text), 7, NULL, NULL);

    (void)state;
    assert_non_null(report);
}

struct bad {
    const char *text;
    int code;
    const char *message; /* part of it */
};

/* What no daemon of ours sends. */
static const struct bad bad[] = {
    {"", VOL_REPAIR_ERROR_NO_REPORT, "did not start"},
    {START, VOL_REPAIR_ERROR_NO_REPORT, "without a report"},
    {START_OF(",\"job\":-1"), VOL_REPAIR_ERROR_PROTOCOL, "start line"},
    {START_OF(",\"job\":4294967296"), VOL_REPAIR_ERROR_PROTOCOL, "start line"},
    {START_OF(",\"report\":7"), VOL_REPAIR_ERROR_PROTOCOL, "start line"},
    {START PROGRESS(3), VOL_REPAIR_ERROR_NO_REPORT, "without a report"},
    {START "{\"event\":\"report\"", VOL_REPAIR_ERROR_PROTOCOL, "not complete"},
    {START START, VOL_REPAIR_ERROR_PROTOCOL, "twice"},
    {"{\"event\":\"start\",\"mode\":\"check\"}\n", VOL_REPAIR_ERROR_PROTOCOL, "another mode"},
    {"{\"event\":\"start\"}\n", VOL_REPAIR_ERROR_PROTOCOL, "another mode"},
    {"{\"event\":\"start\",\"mode\":7}\n", VOL_REPAIR_ERROR_PROTOCOL, "another mode"},
    {PROGRESS(1), VOL_REPAIR_ERROR_PROTOCOL, "before the start"},
    {REPORT, VOL_REPAIR_ERROR_PROTOCOL, "before the start"},
    {START REPORT PROGRESS(100), VOL_REPAIR_ERROR_PROTOCOL, "after the report"},
    {START REPORT REPORT, VOL_REPAIR_ERROR_PROTOCOL, "after the report"},
    {START PROGRESS(9) PROGRESS(8), VOL_REPAIR_ERROR_PROTOCOL, "progress"},
    {START PROGRESS(101), VOL_REPAIR_ERROR_PROTOCOL, "progress"},
    {START PROGRESS(-1), VOL_REPAIR_ERROR_PROTOCOL, "progress"},
    {START PROGRESS(4294967297), VOL_REPAIR_ERROR_PROTOCOL, "progress"},
    {START PROGRESS(1.5), VOL_REPAIR_ERROR_PROTOCOL, "progress"},
    {START PROGRESS("1"), VOL_REPAIR_ERROR_PROTOCOL, "progress"},
    {START "{\"event\":\"progress\",\"percent\":1}\n", VOL_REPAIR_ERROR_PROTOCOL, "progress"},
    {START "{\"event\":\"progress\",\"phase\":\"\\u001b[2J\",\"percent\":1}\n", VOL_REPAIR_ERROR_PROTOCOL, "progress"},
    {START "{\"event\":\"progress\",\"phase\":null,\"percent\":1}\n", VOL_REPAIR_ERROR_PROTOCOL, "progress"},
    {START "{\"event\":\"report\"}\n", VOL_REPAIR_ERROR_PROTOCOL, "without a report"},
    {START "{\"event\":\"report\",\"report\":[]}\n", VOL_REPAIR_ERROR_PROTOCOL, "no sense"},
    {START "{\"event\":\"report\",\"report\":{}}\n", VOL_REPAIR_ERROR_PROTOCOL, "no sense"},
    {"\n", VOL_REPAIR_ERROR_PROTOCOL, "not a JSON object"},
    {"null\n", VOL_REPAIR_ERROR_PROTOCOL, "not a JSON object"},
    {"[]\n", VOL_REPAIR_ERROR_PROTOCOL, "not a JSON object"},
    {"{}\n", VOL_REPAIR_ERROR_PROTOCOL, "no event"},
    {"{\"event\":{}}\n", VOL_REPAIR_ERROR_PROTOCOL, "no event"},
    {"{\"event\":\"start\"} {\n", VOL_REPAIR_ERROR_PROTOCOL, "not a JSON object"},
    {"{\"event\":\"\xff\"}\n", VOL_REPAIR_ERROR_PROTOCOL, "not a JSON object"},
    /* What a lenient parser would take. */
    {"{\"event\":\"start\",\"mode\":\"all\"}{\"event\":\"start\",\"mode\":\"all\"}\n", VOL_REPAIR_ERROR_PROTOCOL,
     "not a JSON object"},
    {"0{\"event\":\"start\",\"mode\":\"all\"}\n", VOL_REPAIR_ERROR_PROTOCOL, "not a JSON object"},
    {"{\"event\":\"start\",\"mode\":\"all\"} 0\n", VOL_REPAIR_ERROR_PROTOCOL, "not a JSON object"},
    {"{'event':'start','mode':'all'}\n", VOL_REPAIR_ERROR_PROTOCOL, "not a JSON object"},
    {"{\"event\":\"start\",/**/\"mode\":\"all\"}\n", VOL_REPAIR_ERROR_PROTOCOL, "not a JSON object"},
    {"{\"event\":\"start\",\"mode\":\"all\",\"x\":0x7}\n", VOL_REPAIR_ERROR_PROTOCOL, "not a JSON object"},
    {"\x7f"
     "ELF\n",
     VOL_REPAIR_ERROR_PROTOCOL, "not a JSON object"},
};

static void bad_streams_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        for (size_t piece = 1; piece <= 1 + strlen(bad[i].text); piece += 1 + strlen(bad[i].text) / 4) {
            g_autoptr(GError) error = NULL;

            assert_null(feed(bad[i].text, strlen(bad[i].text), piece, NULL, &error));
            assert_non_null(error);
            if (error->code != bad[i].code || !strstr(error->message, bad[i].message))
                fail_msg("%s: %s", bad[i].text, error->message);
        }
    }
}

static void nul_bytes_are_refused(void **state)
{
    static const char text[] = "{\"event\":\"start\",\"mode\":\"all\"}\0\n";
    g_autoptr(GError) error = NULL;

    (void)state;
    assert_null(feed(text, sizeof(text) - 1, 5, NULL, &error));
    assert_non_null(strstr(error->message, "not a JSON object"));
}

/* A report that has the wrong type, sign or word somewhere. */
static void bad_reports_are_refused(void **state)
{
    static const char *const bodies[] = {
        "\"mode\":\"check\",\"verdict\":\"clean\",\"exit-code\":0",
        "\"verdict\":\"clean\",\"exit-code\":0",
        "\"mode\":\"all\",\"exit-code\":0",
        "\"mode\":\"all\",\"verdict\":\"splendid\",\"exit-code\":0",
        "\"mode\":\"all\",\"verdict\":[\"clean\"],\"exit-code\":0",
        "\"mode\":\"all\",\"verdict\":\"clean\"",
        "\"mode\":\"all\",\"verdict\":\"clean\",\"exit-code\":2",
        "\"mode\":\"all\",\"verdict\":\"corruptions-remain\",\"exit-code\":0",
        "\"mode\":\"all\",\"verdict\":\"leaks-remain\",\"exit-code\":2",
        "\"mode\":\"all\",\"verdict\":\"failed\",\"exit-code\":0",
        BODY ",\"error\":1",
        BODY ",\"image-changed\":1",
        BODY ",\"leaks\":-1",
        BODY ",\"leaks\":\"many\"",
        BODY ",\"corruptions\":1e300",
        BODY ",\"undo\":\"/path\"",
        BODY ",\"undo\":{\"journal\":7}",
        BODY ",\"interrupted-repair\":7",
        BODY ",\"interrupted-repair\":{\"journal\":\"/j\"}",
        BODY ",\"interrupted-repair\":{\"state\":\"pending\"}",
        BODY ",\"interrupted-repair\":{\"state\":\"over\",\"journal\":\"/j\"}",
        BODY ",\"image\":{\"corrupt\":7}",
        BODY ",\"problems\":{}",
        BODY ",\"problems\":[7]",
        BODY ",\"problems\":[{}]",
        BODY ",\"problems\":[{\"id\":\"a\",\"severity\":\"awful\"}]",
        BODY ",\"problems\":[{\"id\":\"a\",\"severity\":\"leak\",\"count\":-4}]",
        BODY ",\"problems\":[{\"id\":\"a\",\"severity\":\"leak\",\"examples\":[{}]}]",
        BODY ",\"guest-ranges-affected\":[{}]",
        BODY ",\"guest-ranges-affected\":[{\"offset\":-1,\"length\":1}]",
    };

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(bodies); i++) {
        g_autofree char *text = g_strconcat(START "{\"event\":\"report\",\"report\":{", bodies[i], "}}\n", NULL);
        g_autoptr(GError) error = NULL;
        g_autoptr(VolRepairReport) report = feed(text, strlen(text), 4096, NULL, &error);

        if (report)
            fail_msg("taken for good: %s", bodies[i]);
        assert_int_equal(error->code, VOL_REPAIR_ERROR_PROTOCOL);
    }
}

static void report_is_read(void **state)
{
    static const char text[] = START REPORT_WITH(
        "\"corruptions-fixed\":9,\"filename\":\"/pool/disk\",\"undo\":{\"journal\":\"/u/j\",\"bytes\":1},"
        "\"repair\":{\"bytes-changed\":24,\"clusters-freed\":5},\"timings\":{\"total\":17},\"needed-bytes\":4096,\"guest-bytes-affected\":"
        "512,"
        "\"guest-ranges-affected\":[{\"offset\":4096,\"length\":512}],"
        "\"problems\":[{\"id\":\"a-b\",\"code\":\"0x6003\",\"severity\":\"leak\",\"count\":3,\"fixed\":2,\"remaining\":"
        "1,"
        "\"refused-because\":\"mode\",\"examples\":[{\"message\":\"m\",\"host-offset\":65536,\"count\":1,\"fixed\":"
        "true}]}]");
    g_autoptr(VolRepairReport) r = feed(text, strlen(text), 100, NULL, NULL);
    const struct vol_repair_problem *p;
    const struct vol_repair_example *ex;

    (void)state;
    assert_non_null(r);
    assert_int_equal(r->corruptions_fixed, 9);
    assert_int_equal(r->corruptions, 0);
    assert_true(r->image_changed);
    assert_string_equal(r->filename, "/pool/disk");
    assert_string_equal(r->undo_journal, "/u/j");
    assert_int_equal(r->bytes_changed, 24);
    assert_int_equal(r->clusters_freed, 5);
    assert_int_equal(r->milliseconds, 17);
    assert_int_equal(r->needed_bytes, 4096);
    assert_int_equal(r->ranges->len, 1);
    assert_int_equal(g_array_index(r->ranges, struct vol_repair_range, 0).offset, 4096);
    p = &g_array_index(r->problems, struct vol_repair_problem, 0);
    assert_string_equal(p->id, "a-b");
    assert_string_equal(p->kept, "mode");
    assert_int_equal(p->count * 100 + p->fixed * 10 + p->remaining, 321);
    ex = &g_array_index(p->examples, struct vol_repair_example, 0);
    assert_int_equal(ex->host_offset, 65536);
    assert_int_equal(ex->guest_offset, -1);
    assert_true(ex->fixed);
    assert_non_null(strstr(r->json, "\"clusters-freed\""));
    assert_null(r->interrupted_journal);
}

static void interruption_is_read(void **state)
{
    (void)state;
    for (unsigned undone = 0; undone < 2; undone++) {
        g_autofree char *text = g_strdup_printf(START REPORT_WITH("\"interrupted-repair\":{\"state\":\"%s\",\"journal\":"
                                                                  "\"/u/j\",\"bytes\":512},\"image\":{\"corrupt\":true}"),
                                                undone ? "rolled-back" : "pending");
        g_autoptr(VolRepairReport) r = feed(text, strlen(text), 100, NULL, NULL);

        assert_non_null(r);
        assert_string_equal(r->interrupted_journal, "/u/j");
        assert_int_equal(r->interrupted_undone, undone);
        assert_true(r->corrupt);
    }
}

/* A line of `size` bytes and its newline. */
static char *line_of(const char *begin, const char *end, size_t size)
{
    size_t pad = size - strlen(begin) - strlen(end);
    g_autofree char *fill = g_strnfill(pad, 'x');

    return g_strconcat(START, begin, fill, end, "\n", NULL);
}

static void long_lines(void **state)
{
    static const struct {
        const char *begin, *end;
        size_t size;
        bool good;
    } rows[] = {
        {"{\"event\":\"report\",\"report\":{" BODY ",\"x\":\"", "\"}}", CLIENT_LINE_MAX + 1, true},
        {"{\"event\":\"report\",\"report\":{" BODY ",\"x\":\"", "\"}}", 3 * 1024 * 1024, true},
        {"{\"event\":\"report\",\"report\":{" BODY ",\"x\":\"", "\"}}", CLIENT_REPORT_MAX, true},
        {"{\"event\":\"report\",\"report\":{" BODY ",\"x\":\"", "\"}}", CLIENT_REPORT_MAX + 1, false},
        {"{\"x\":\"", "\",\"event\":\"report\"}", CLIENT_LINE_MAX + 1, false},
        {"{\"event\":\"weather\",\"x\":\"", "\"}", CLIENT_LINE_MAX + 1, false},
    };

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *text = line_of(rows[i].begin, rows[i].end, rows[i].size);
        g_autoptr(GError) error = NULL;
        g_autoptr(VolRepairReport) report = feed(text, strlen(text), 65536, NULL, &error);

        assert_int_equal(report != NULL, rows[i].good);
        if (!rows[i].good)
            assert_non_null(strstr(error->message, "too long"));
    }
}

/* Without an end the memory must not grow for ever. */
static void line_without_end(void **state)
{
    g_autofree char *chunk = g_strnfill(65536, '{');
    g_autoptr(GError) error = NULL;
    struct client_lines lines;

    (void)state;
    client_lines_init(&lines, VOL_REPAIR_ALL, NULL, NULL);
    assert_true(client_lines_push(&lines, chunk, 65536, &error));
    assert_false(client_lines_push(&lines, chunk, 1, &error));
    assert_non_null(strstr(error->message, "too long"));
    client_lines_clear(&lines);
}

static void deep_nesting_is_refused_before_it_is_parsed(void **state)
{
    /* A quote that is none must not hide the brackets. */
    static const char *const before[] = {"", "['\"',", "[/*\"*/", "[//\"", "[\"\\\\\","};
    g_autofree char *deep = g_strnfill(1000000, '[');

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(before); i++) {
        g_autofree char *text =
            g_strconcat(START "{\"event\":\"report\",\"report\":{" BODY ",\"x\":", before[i], deep, "\n", NULL);
        g_autoptr(GError) error = NULL;

        assert_null(feed(text, strlen(text), 65536, NULL, &error));
        assert_non_null(strstr(error->message, "not a JSON object"));
    }
}

/* Sixty megabytes of "0," would be gigabytes of parsed values. */
static void too_many_values_are_refused_before_they_are_parsed(void **state)
{
    static const char begin[] = START "{\"event\":\"report\",\"report\":{" BODY ",\"x\":[0";
    GString *text = g_string_new(begin);
    g_autoptr(GError) error = NULL;

    (void)state;
    for (unsigned i = 0; i < CLIENT_VALUES_MAX; i++)
        g_string_append(text, ",0");
    g_string_append(text, "]}}\n");
    assert_null(feed(text->str, text->len, 65536, NULL, &error));
    assert_non_null(strstr(error->message, "not a JSON object"));
    g_string_free(text, TRUE);
}

static void brackets_in_strings_do_not_nest(void **state)
{
    g_autofree char *many = g_strnfill(500, '[');
    g_autofree char *text =
        g_strconcat(START "{\"event\":\"report\",\"report\":{" BODY ",\"x\":\"\\\"", many, "\"}}\n", NULL);
    g_autoptr(VolRepairReport) report = feed(text, strlen(text), 65536, NULL, NULL);

    (void)state;
    assert_non_null(report);
}

/* Any byte of a good stream may be another: nothing worse than a refusal comes of it. */
static void flipped_bytes(void **state)
{
    static const char good[] =
        START PROGRESS(5) REPORT_WITH("\"problems\":[{\"id\":\"a\",\"severity\":\"leak\",\"count\":1}]");
    unsigned refused = 0;

    (void)state;
    for (size_t i = 0; i < strlen(good); i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            g_autofree char *text = g_strdup(good);
            g_autoptr(GError) error = NULL;
            g_autoptr(VolRepairReport) report = NULL;

            text[i] ^= 1 << bit;
            report = feed(text, sizeof(good) - 1, 64, NULL, &error);
            assert_true(!report == !!error);
            refused += !report;
        }
    }
    assert_true(refused > strlen(good));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(job_in_pieces_of_any_size),
        cmocka_unit_test(broken_connection_says_what_is_known),
        cmocka_unit_test(unknown_events_are_passed_over),
        cmocka_unit_test(bad_streams_are_refused),
        cmocka_unit_test(nul_bytes_are_refused),
        cmocka_unit_test(bad_reports_are_refused),
        cmocka_unit_test(report_is_read),
        cmocka_unit_test(interruption_is_read),
        cmocka_unit_test(long_lines),
        cmocka_unit_test(line_without_end),
        cmocka_unit_test(deep_nesting_is_refused_before_it_is_parsed),
        cmocka_unit_test(too_many_values_are_refused_before_they_are_parsed),
        cmocka_unit_test(brackets_in_strings_do_not_nest),
        cmocka_unit_test(flipped_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
