/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_report.c: the JSON document, byte for byte, and its printers. */
#include <json-glib/json-glib.h>

#include "fake_child.h"
#include "unit.h"

static const char golden[] =
    "{\n"
    "    \"image-end-offset\": 262144,\n"
    "    \"total-clusters\": 1024,\n"
    "    \"corruptions-fixed\": 1,\n"
    "    \"check-errors\": 0,\n"
    "    \"leaks\": 1,\n"
    "    \"filename\": \"disk.qcow2\",\n"
    "    \"format\": \"qcow2\",\n"
    "    \"report-version\": 1,\n"
    "    \"mode\": \"all\",\n"
    "    \"verdict\": \"leaks-remain\",\n"
    "    \"exit-code\": 3,\n"
    "    \"accel\": \"process\",\n"
    "    \"accel-reason\": \"asked for\",\n"
    "    \"image-changed\": true,\n"
    "    \"undo\": {\n"
    "        \"journal\": \"/j.undo\",\n"
    "        \"bytes\": 2048\n"
    "    },\n"
    "    \"problems\": [\n"
    "        {\n"
    "            \"id\": \"leaked-cluster\",\n"
    "            \"code\": \"0x6003\",\n"
    "            \"severity\": \"leak\",\n"
    "            \"policy\": \"leaks\",\n"
    "            \"count\": 1,\n"
    "            \"fixed\": 0,\n"
    "            \"remaining\": 1,\n"
    "            \"message\": \"Cluster 4 has refcount 1, and 0 references to it were found\",\n"
    "            \"examples\": [\n"
    "                {\n"
    "                    \"message\": \"Cluster 4 has refcount 1, and 0 references to it were found\",\n"
    "                    \"host-offset\": 262144,\n"
    "                    \"count\": 1,\n"
    "                    \"fixed\": false\n"
    "                }\n"
    "            ],\n"
    "            \"refused-because\": \"incomplete-walk\"\n"
    "        },\n"
    "        {\n"
    "            \"id\": \"copied-l2\",\n"
    "            \"code\": \"0x7002\",\n"
    "            \"severity\": \"corruption\",\n"
    "            \"policy\": \"leaks\",\n"
    "            \"count\": 1,\n"
    "            \"fixed\": 1,\n"
    "            \"remaining\": 0,\n"
    "            \"message\": \"The COPIED flag of the L2 entry at 0x30000 (0x50000) contradicts refcount 1 of its "
    "cluster\",\n"
    "            \"examples\": [\n"
    "                {\n"
    "                    \"message\": \"The COPIED flag of the L2 entry at 0x30000 (0x50000) contradicts refcount 1 of "
    "its cluster\",\n"
    "                    \"host-offset\": 196608,\n"
    "                    \"guest-offset\": 0,\n"
    "                    \"guest-length\": 65536,\n"
    "                    \"count\": 1,\n"
    "                    \"fixed\": true\n"
    "                }\n"
    "            ]\n"
    "        }\n"
    "    ],\n"
    "    \"guest-ranges-affected\": [\n"
    "        {\n"
    "            \"offset\": 0,\n"
    "            \"length\": 65536\n"
    "        }\n"
    "    ],\n"
    "    \"guest-bytes-affected\": 65536,\n"
    "    \"image\": {\n"
    "        \"version\": 3,\n"
    "        \"cluster-size\": 65536,\n"
    "        \"refcount-bits\": 16,\n"
    "        \"virtual-size\": 67108864,\n"
    "        \"dirty\": true,\n"
    "        \"corrupt\": false,\n"
    "        \"file-size\": 327680\n"
    "    },\n"
    "    \"repair\": {\n"
    "        \"bytes-changed\": 512,\n"
    "        \"clusters-freed\": 0\n"
    "    },\n"
    "    \"timings\": {\n"
    "        \"total\": 12,\n"
    "        \"start\": 1,\n"
    "        \"guest\": 2,\n"
    "        \"boot\": 0,\n"
    "        \"check\": 9,\n"
    "        \"check-map\": 4,\n"
    "        \"check-refcounts\": 5,\n"
    "        \"verify\": 6,\n"
    "        \"commit\": 3,\n"
    "        \"final\": 7,\n"
    "        \"read\": 8\n"
    "    },\n"
    "    \"io\": {\n"
    "        \"bytes-read\": 1,\n"
    "        \"bytes-written\": 2,\n"
    "        \"requests\": 3,\n"
    "        \"exits\": 4\n"
    "    },\n"
    "    \"versions\": {\n"
    "        \"vol-repair\": \"" VR_VERSION "\",\n"
    "        \"abi\": 5\n"
    "    }\n"
    "}\n";

static void fill(struct result *res)
{
    struct vr_record leak = record_of(VR_P_LEAK), copied = record_of(VR_P_COPIED_L2);

    leak.host = 262144;
    leak.index = 4;
    leak.got = 1;
    leak.kept = VR_KEPT_INCOMPLETE;
    copied.host = 196608;
    copied.guest = 0;
    copied.guest_len = 65536;
    copied.got = 0x50000;
    copied.want = 1;
    copied.flags = VR_REC_FIXED;
    g_array_append_val(res->records, leak);
    g_array_append_val(res->records, copied);
    res->have_summary = res->have_stats = res->ran = true;
    res->accel_reason = g_strdup("asked for");
    res->summary = fake_summary();
    res->summary.incompatible = 1;
    res->summary.walks = 7;
    res->summary.committed = 1;
    res->summary.found[VR_WALK_CHECK][VR_P_LEAK] = res->summary.found[VR_WALK_FINAL][VR_P_LEAK] = 1;
    res->summary.found[VR_WALK_CHECK][VR_P_COPIED_L2] = res->summary.fixed[VR_P_COPIED_L2] = 1;
    res->commit_begun = res->commit_ended = true;
    res->commit = (struct vmm_commit){.state = 1, .bytes_changed = 512, .bytes_journal = 2048};
    res->stats = (struct vmm_stats){.bytes_read = 1, .bytes_written = 2, .requests = 3, .exits = 4,
                                    .us_start = 1000, .us_guest = 2000, .us_commit = 3000, .us_read = 8000};
    res->stats.us_pass[VR_WALK_CHECK][VR_PASS_MAP] = 4000;
    res->stats.us_pass[VR_WALK_CHECK][VR_PASS_REFCOUNTS] = 5000;
    res->stats.us_pass[VR_WALK_VERIFY][0] = 6000;
    res->stats.us_pass[VR_WALK_FINAL][VR_PASS_COPIED] = 7000;
    res->file_size = 327680;
    res->us_total = 12000;
    result_conclude(res);
    res->undo_path = g_strdup("/j.undo");
    res->undo_bytes = 2048;
}

static void document(void **state)
{
    struct options opt = options_of(FRONT_ALL);
    g_autofree char *text = NULL;
    struct result res;

    (void)state;
    result_init(&res, &opt);
    fill(&res);
    text = report_text(&res);
    assert_string_equal(text, golden);
    result_clear(&res);
}

static JsonNode *parsed(const struct result *res)
{
    g_autofree char *text = report_text(res);

    return json_from_string(text, NULL);
}

/* Nothing ran: no counters of qemu-img, and the rest is there. */
static void without_a_run(void **state)
{
    struct options opt = options_of(FRONT_CHECK);
    g_autoptr(GError) error = g_error_new_literal(VR_ERROR, VR_ERROR_FAILED, "Could not open it");
    g_autoptr(JsonNode) node = NULL;
    JsonObject *object;
    struct result res;

    (void)state;
    result_init(&res, &opt);
    result_fail(&res, error);
    node = parsed(&res);
    object = json_node_get_object(node);
    assert_false(json_object_has_member(object, "check-errors"));
    assert_string_equal(json_object_get_string_member(object, "verdict"), "failed");
    assert_string_equal(json_object_get_string_member(object, "error"), "Could not open it");
    assert_string_equal(json_object_get_string_member(object, "accel"), "none");
    assert_int_equal(json_object_get_int_member(object, "exit-code"), 1);
    result_clear(&res);
}

/* File names are bytes; JSON is UTF-8 and has its escapes, which are qemu-img's. */
static void odd_names(void **state)
{
    struct options opt = options_of(FRONT_CHECK);
    g_autoptr(GError) error = g_error_new_literal(VR_ERROR, VR_ERROR_FAILED, "x");
    g_autoptr(JsonNode) node = NULL;
    g_autofree char *text = NULL;
    struct result res;

    (void)state;
    opt.filename = (char *)"a\"b\\c\n\xff\u00e9\U0001f600\x7f.qcow2";
    result_init(&res, &opt);
    result_fail(&res, error);
    text = report_text(&res);
    node = json_from_string(text, NULL);
    assert_non_null(node);
    assert_non_null(strstr(text, "\"filename\": \"a\\\"b\\\\c\\n\\uFFFD\\u00E9\\uD83D\\uDE00\\u007F.qcow2\""));
    result_clear(&res);
}

static void empty_containers(void **state)
{
    static const char *const want[] = {"{\n    \"a\": [],\n    \"b\": {},\n    \"c\": [\n        {},\n        {}\n    ]\n}\n",
                                       "{\"a\":[],\"b\":{},\"c\":[{},{}]}"};

    (void)state;
    for (int compact = 0; compact < 2; compact++) {
        struct json *j = json_new(!compact);
        g_autofree char *text = NULL;

        json_begin(j, '{');
        json_begin_array(j, "a");
        json_end(j, ']');
        json_begin_object(j, "b");
        json_end(j, '}');
        json_begin_array(j, "c");
        for (int i = 0; i < 2; i++) {
            json_begin(j, '{');
            json_end(j, '}');
        }
        json_end(j, ']');
        json_end(j, '}');
        text = json_free(j);
        assert_string_equal(text, want[compact]);
    }
}

static void would_do(void **state)
{
    struct options opt = options_of(FRONT_CHECK);
    g_autoptr(JsonNode) node = NULL;
    JsonObject *object, *would, *all;
    struct result res;

    (void)state;
    opt.own_mode = true;
    result_init(&res, &opt);
    res.have_summary = res.ran = true;
    res.summary = fake_summary();
    res.summary.walks = 1;
    res.summary.found[VR_WALK_CHECK][VR_P_SNAP_DROPPED] = 7;
    res.summary.would[0] = (struct vr_would){.status = VR_EREFUSED, .row = row_words[VR_P_NEED_REBUILD].code};
    res.summary.would[1] = (struct vr_would){.clusters_freed = 3, .bytes = 12, .mended[VR_P_SNAP_DROPPED] = 7};
    result_conclude(&res);
    node = parsed(&res);
    object = json_node_get_object(node);
    would = json_object_get_object_member(object, "would-do");
    assert_non_null(would);
    assert_string_equal(json_object_get_string_member(json_object_get_object_member(would, "leaks"), "refused"),
                        "need-rebuild");
    all = json_object_get_object_member(would, "all");
    assert_int_equal(json_object_get_int_member(all, "clusters-freed"), 3);
    assert_int_equal(json_object_get_int_member(all, "bytes-written"), 12);
    assert_int_equal(json_array_get_length(json_object_get_array_member(all, "gives-up")), 1);
    assert_false(json_object_has_member(object, "snapshots-affected"));
    assert_true(result_would_mend(&res, FRONT_ALL));
    assert_false(result_would_mend(&res, FRONT_LEAKS));
    assert_true(result_would_mend_more(&res));
    result_clear(&res);
}

static void add_hit(struct result *res, uint32_t root, uint64_t guest)
{
    struct vr_record rec = record_of(VR_P_L2E_PAST_EOF);

    rec.root = root;
    rec.guest = guest;
    rec.guest_len = 512;
    g_array_append_val(res->records, rec);
}

/* Each map has its own addresses; a bitmap's finding is of no snapshot. */
static void snapshots_hit(void **state)
{
    struct options opt = options_of(FRONT_CHECK);
    g_autoptr(JsonNode) node = NULL;
    JsonArray *array;
    JsonObject *first;
    struct result res;

    (void)state;
    result_init(&res, &opt);
    res.have_summary = res.ran = true;
    res.summary = fake_summary();
    res.summary.walks = 1;
    res.summary.found[VR_WALK_CHECK][VR_P_L2E_PAST_EOF] = 5;
    add_hit(&res, 9, 0);
    add_hit(&res, 2, 512);
    add_hit(&res, VR_ROOT_ACTIVE, 0);
    add_hit(&res, 2, 0);
    add_hit(&res, VR_ROOT_BITMAPS, 0);
    result_conclude(&res);
    node = parsed(&res);
    array = json_object_get_array_member(json_node_get_object(node), "snapshots-affected");
    assert_int_equal(json_array_get_length(array), 2);
    first = json_array_get_object_element(array, 0);
    assert_int_equal(json_object_get_int_member(first, "index"), 1);
    assert_string_equal(json_object_get_string_member(first, "name"), "?");
    assert_int_equal(json_object_get_int_member(first, "problems"), 2);
    assert_int_equal(json_object_get_int_member(first, "guest-bytes-affected"), 1024);
    assert_int_equal(json_object_get_int_member(json_node_get_object(node), "guest-bytes-affected"), 512);
    result_clear(&res);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(document),
        cmocka_unit_test(without_a_run),
        cmocka_unit_test(odd_names),
        cmocka_unit_test(empty_containers),
        cmocka_unit_test(would_do),
        cmocka_unit_test(snapshots_hit),
    };

    return cmocka_run_group_tests_name("front-report", tests, NULL, NULL);
}
