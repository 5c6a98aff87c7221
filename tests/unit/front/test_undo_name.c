/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_undo_name.c: an image is known by what a rename and a reboot leave the same, and its journals are its alone. */
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common.h"
#include "unit.h"

static char dir[] = "/tmp/front-name-XXXXXX";

/* ---- files ------------------------------------------------------------------------------------------------------ */

static char *identity_of(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *identity = undo_identity(fd, path);

    close(fd);
    return identity;
}

static void files(void **state)
{
    g_autofree char *one = g_build_filename(dir, "one", NULL), *two = g_build_filename(dir, "two", NULL);
    g_autofree char *first = NULL, *second = NULL, *moved = NULL;

    (void)state;
    assert_true(g_file_set_contents(one, "x", 1, NULL) && g_file_set_contents(two, "x", 1, NULL));
    first = identity_of(one);
    second = identity_of(two);
    assert_string_not_equal(first, second);
    assert_return_code(rename(one, two), 0);
    moved = identity_of(two);
    if (g_str_has_prefix(first, "file:"))
        assert_string_equal(first, moved);
    else
        print_message("this file system says nothing of itself: %s\n", first);
    unlink(two);
}

/* A file that gets the number of one that is gone is another file, where the file system can tell. */
static void no_inode_comes_back(void **state)
{
    g_autofree char *path = g_build_filename(dir, "again", NULL), *before = NULL, *after = NULL;
    struct stat st[2];

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        assert_return_code(fstat(fd, &st[i]), 0);
        *(i ? &after : &before) = undo_identity(fd, path);
        close(fd);
        unlink(path);
    }
    if (st[0].st_ino != st[1].st_ino || g_str_has_suffix(before, ":0"))
        print_message("no inode came back, or it has no generation: %s, %s\n", before, after);
    else
        assert_string_not_equal(before, after);
}

/* ---- devices, from a sysfs of ours ------------------------------------------------------------------------------ */

struct attribute {
    const char *path, *text; /* below sys/dev/block/ */
};

static const struct device {
    const char *expected; /* NULL: nothing is known */
    struct attribute attributes[4];
} devices[] = {
    {"dm:LVM-abc", {{"dm/uuid", "LVM-abc\n"}, {"dm/name", "vg1-lv1\n"}}},
    {"dm-name:plain", {{"dm/uuid", "\n"}, {"dm/name", "plain\n"}}},
    {"part:0b1c", {{"partition", "2\n"}, {"uevent", "MAJOR=8\nPARTN=2\nPARTUUID=0b1c\n"}}},
    {"disk:naa.5000:2", {{"partition", "2\n"}, {"uevent", "PARTN=2\n"}, {"../wwid", "naa.5000\n"}}},
    {"disk:eui.1", {{"wwid", "eui.1\n"}, {"device/serial", "S1\n"}}},
    {"disk:naa.6", {{"device/wwid", "naa.6   \n"}}},
    {"disk:vdisk7", {{"serial", "vdisk7\n"}}},
    {"loop:512:/srv/a b", {{"loop/backing_file", "/srv/a b\n"}, {"loop/offset", "512\n"}}},
    {NULL, {{"uevent", "MAJOR=43\n"}}},
    {NULL, {{"serial", "\xff\xfe\n"}}},
};

static void put(const char *at, const struct attribute *a)
{
    g_autofree char *path = g_build_filename(at, a->path, NULL), *parent = g_path_get_dirname(path);

    assert_return_code(g_mkdir_with_parents(parent, 0700), 0);
    assert_true(g_file_set_contents(path, a->text, -1, NULL));
}

static void block_devices(void **state)
{
    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(devices); i++) {
        g_autofree char *sys = g_strdup_printf("%s/sys%zu", dir, i), *at = g_build_filename(sys, "dev/block/253:3", NULL);
        g_autofree char *identity = NULL;

        for (unsigned k = 0; k < 4 && devices[i].attributes[k].path; k++)
            put(at, &devices[i].attributes[k]);
        identity = undo_device_identity(sys, dir, makedev(253, 3));
        if (g_strcmp0(identity, devices[i].expected) != 0)
            fail_msg("%zu: %s instead of %s", i, identity, devices[i].expected);
    }
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

static void long_identities_fit(void **state)
{
    g_autofree char *path = g_strnfill(3000, 'x'), *identity = undo_identity(-1, path), *other = NULL;

    (void)state;
    assert_true(strlen(identity) < UNDO_IDENTITY_MAX);
    path[2999] = 'y';
    other = undo_identity(-1, path);
    assert_string_not_equal(identity, other);
}

static void expect_name(const char *real_path, const char *given, const char *expected)
{
    g_autofree char *name = undo_file_name(-1, real_path, given);

    assert_string_equal(name, expected);
}

/* What a caller names is never what another image's journal can be called. */
static void names_of_callers(void **state)
{
    g_autofree char *identity = undo_identity(-1, "/pool/bob"), *prefix = undo_prefix(identity);
    g_autofree char *whole = undo_name(identity, "/pool/bob"), *old = undo_old_name("/pool/bob");
    g_autofree char *simple = g_strconcat(whole, ".x", NULL), *own = g_strconcat(prefix, "bob.undo.2", NULL);
    g_autofree char *old_own = g_strconcat(old, ".undo", NULL), *old_older = g_strconcat(old, ".undo.1", NULL);
    g_autofree char *theirs = g_strconcat(old, ".x-0123456789abcdef.undo", NULL);
    g_autofree char *not_theirs = g_strconcat(whole, ".", theirs, NULL);
    g_autofree char *foreign = g_strconcat(whole, ".0123456789abcdef-alice.undo", NULL);

    (void)state;
    assert_true(g_str_has_prefix(whole, prefix) && g_str_has_suffix(whole, "-bob"));
    expect_name("/pool/bob", "x", simple);
    expect_name("/pool/bob", own, own);
    expect_name("/pool/bob", old_own, old_own);
    expect_name("/pool/bob", old_older, old_older);
    /* Of an image that is called as bob's journals were. */
    expect_name("/pool/bob", theirs, not_theirs);
    expect_name("/pool/bob", "0123456789abcdef-alice.undo", foreign);
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", dir);

    (void)state;
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files),         cmocka_unit_test(no_inode_comes_back), cmocka_unit_test(block_devices),
        cmocka_unit_test(long_identities_fit), cmocka_unit_test(names_of_callers),
    };

    return cmocka_run_group_tests_name("front-undo_name", tests, setup, teardown);
}
