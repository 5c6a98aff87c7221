/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_messages.c: templates of the problem table become sentences. */
#include "unit.h"

static char *render(const char *tmpl, const struct vr_record *rec, bool fixed)
{
    GString *out = g_string_new(NULL);

    message_render(out, tmpl, NULL, rec, fixed);
    return g_string_free(out, FALSE);
}

static void formats(void **state)
{
    struct vr_record rec = {
        .host = 0x10000, .guest = 513, .guest_len = 7, .index = 4, .got = 255, .want = 1, .count = 3};
    g_autofree char *all = render("{host:#x} {guest} {guest_len:d} {index} {got:x} {want} {count}", &rec, false);
    g_autofree char *big = NULL;

    (void)state;
    assert_string_equal(all, "0x10000 513 7 4 ff 1 3");
    rec.got = UINT64_MAX;
    big = render("{got}|{got:x}|{got:#x}", &rec, false);
    assert_string_equal(big, "18446744073709551615|ffffffffffffffff|0xffffffffffffffff");
}

static void operations(void **state)
{
    struct vr_record rec = record_of(VR_P_LEAK);
    g_autofree char *found = render("{op} {leak}", &rec, false);
    g_autofree char *fixed = render("{op} {leak}", &rec, true);

    (void)state;
    assert_string_equal(found, "ERROR Leaked");
    assert_string_equal(fixed, "Repairing Repairing");
}

static void missing_values(void **state)
{
    struct vr_record rec = record_of(VR_P_LEAK);
    g_autofree char *text = render("{host:#x} {guest} {index} {got}", &rec, false);

    (void)state;
    assert_string_equal(text, "? ? ? 0");
}

static void odd_templates(void **state)
{
    struct vr_record rec = record_of(VR_P_LEAK);
    g_autofree char *open = render("a {host", &rec, false);
    g_autofree char *plain = render("no field", &rec, false);
    g_autofree char *empty = render("", &rec, false);
    g_autofree char *unknown = render("{nothing}", &rec, false);

    (void)state;
    assert_string_equal(open, "a {host");
    assert_string_equal(plain, "no field");
    assert_string_equal(empty, "");
    assert_string_equal(unknown, "{nothing}");
}

/* qemu-img's own words, as QEMU 7.2 prints them. */
static void known_lines(void **state)
{
    static const struct {
        enum vr_problem row;
        bool fixed;
        const char *line;
    } lines[] = {
        {VR_P_LEAK, false, "Leaked cluster 5 refcount=2 reference=1"},
        {VR_P_LEAK, true, "Repairing cluster 5 refcount=2 reference=1"},
        {VR_P_REF_LOW, false, "ERROR cluster 5 refcount=2 reference=1"},
        {VR_P_REF_ZERO, true, "Repairing cluster 5 refcount=0 reference=1"},
        {VR_P_COPIED_L1, false, "ERROR OFLAG_COPIED L2 cluster: l1_index=5 l1_entry=2 refcount=1"},
        {VR_P_NEED_REBUILD, false, "ERROR need to rebuild refcount structures"},
    };

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(lines); i++) {
        struct vr_record rec = record_of(lines[i].row);
        g_autofree char *text = NULL;

        rec.index = 5;
        rec.got = 2;
        rec.want = 1;
        text = render(row_words[lines[i].row].qemu, &rec, lines[i].fixed);
        assert_string_equal(text, lines[i].line);
    }
}

/* Every field that a row names is one that the renderer knows: nothing in braces is left. */
static void all_rows_render(void **state)
{
    (void)state;
    for (int row = 0; row < VR_P_COUNT; row++) {
        struct vr_record rec = record_of(row);
        g_autofree char *qemu = render(row_words[row].qemu, &rec, false);
        g_autofree char *message = message_of(NULL, &rec);

        assert_null(strpbrk(qemu, "{}"));
        assert_null(strpbrk(message, "{}"));
        assert_int_not_equal(strlen(message), 0);
        assert_int_equal(row_find(row_words[row].code), row);
    }
    assert_int_equal(row_find(0), -1);
    assert_int_equal(row_find(0xffffffff), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats),       cmocka_unit_test(operations),  cmocka_unit_test(missing_values),
        cmocka_unit_test(odd_templates), cmocka_unit_test(known_lines), cmocka_unit_test(all_rows_render),
    };

    return cmocka_run_group_tests_name("front-messages", tests, NULL, NULL);
}
