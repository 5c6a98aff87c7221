/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_undofile.c: where journals lie, what becomes of older ones, and what never becomes one. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "journal_format.h"
#include "unit.h"

struct place {
    char dir[32];
    char *image, *journal, *older, *second, *aside; /* older: of two, the one before */
    struct undo_image img;
};

static void put(const char *path, const char *text)
{
    assert_true(g_file_set_contents(path, text, -1, NULL));
}

/* NULL: there is no such file. */
static void expect_file(const char *path, const char *text)
{
    g_autofree char *got = NULL;

    if (!text) {
        assert_int_not_equal(access(path, F_OK), 0);
        return;
    }
    assert_true(g_file_get_contents(path, &got, NULL, NULL));
    assert_string_equal(got, text);
}

static int setup(void **state)
{
    struct place *p = g_new0(struct place, 1);
    struct stat st;

    strcpy(p->dir, "/tmp/front-undo-XXXXXX");
    if (!mkdtemp(p->dir))
        return -1;
    p->image = g_build_filename(p->dir, "disk.qcow2", NULL);
    p->journal = g_build_filename(p->dir, "j.undo", NULL);
    p->older = g_build_filename(p->dir, "j.undo.1", NULL);
    p->second = g_build_filename(p->dir, "j.undo.2", NULL);
    p->aside = g_build_filename(p->dir, "j.undo.old", NULL);
    put(p->image, "image");
    assert_return_code(stat(p->image, &st), 0);
    p->img = (struct undo_image){.dev = st.st_dev, .ino = st.st_ino, .path = p->image,
                            .identity = (char *)"file:0:17"};
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct place *p = *state;

    unlink(p->image);
    unlink(p->journal);
    unlink(p->older);
    unlink(p->second);
    unlink(p->aside);
    rmdir(p->dir);
    g_free(p->image);
    g_free(p->journal);
    g_free(p->older);
    g_free(p->second);
    g_free(p->aside);
    g_free(p);
    return 0;
}

/* Text that begins as a journal does. */
#define JOURNAL(text) "VRUNDO\r\n" text

static void begin(struct place *p, struct undofile *uf)
{
    struct stat st;

    assert_true(undofile_create(uf, p->journal, &p->img, NULL));
    assert_return_code(fstat(uf->fd, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(st.st_size, 0);
    assert_int_equal(write(uf->fd, JOURNAL("new"), 11), 11);
}

static void kept(void **state)
{
    struct place *p = *state;
    struct undofile uf;

    put(p->journal, JOURNAL("first"));
    put(p->older, JOURNAL("zeroth"));
    begin(p, &uf);
    expect_file(p->aside, JOURNAL("first"));
    undofile_keep(&uf);
    expect_file(p->journal, JOURNAL("new"));
    expect_file(p->older, JOURNAL("zeroth"));
    expect_file(p->second, JOURNAL("first"));
    expect_file(p->aside, NULL);
}

static void discarded(void **state)
{
    struct place *p = *state;
    struct undofile uf;

    put(p->journal, JOURNAL("first"));
    put(p->older, JOURNAL("zeroth"));
    begin(p, &uf);
    undofile_discard(&uf);
    expect_file(p->journal, JOURNAL("first"));
    expect_file(p->older, JOURNAL("zeroth"));
    expect_file(p->aside, NULL);
}

static void discarded_alone(void **state)
{
    struct place *p = *state;
    struct undofile uf;

    begin(p, &uf);
    undofile_discard(&uf);
    expect_file(p->journal, NULL);
    expect_file(p->older, NULL);
}

/* A run was killed: its journal is there, the older one still aside. */
static void killed(void **state)
{
    struct place *p = *state;
    struct undofile uf;

    put(p->journal, JOURNAL("killed"));
    put(p->aside, JOURNAL("first"));
    begin(p, &uf);
    undofile_keep(&uf);
    expect_file(p->journal, JOURNAL("new"));
    expect_file(p->older, JOURNAL("first"));
    expect_file(p->second, JOURNAL("killed"));
}

static void killed_without_a_journal(void **state)
{
    struct place *p = *state;
    struct undofile uf;

    put(p->aside, JOURNAL("first"));
    begin(p, &uf);
    undofile_discard(&uf);
    expect_file(p->journal, JOURNAL("first"));
}

static void expect_refused(struct place *p, const char *text)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *want = g_strdup_printf("'%s' exists and is not an undo journal", p->journal);
    struct undofile uf;

    assert_false(undofile_create(&uf, p->journal, &p->img, &error));
    assert_string_equal(error->message, want);
    assert_int_equal(uf.fd, -1);
    expect_file(p->journal, text);
    expect_file(p->aside, NULL);
}

static void never_another_file(void **state)
{
    struct place *p = *state;

    put(p->journal, "my thesis");
    expect_refused(p, "my thesis");
}

static void never_the_image(void **state)
{
    struct place *p = *state;

    put(p->image, JOURNAL("looks like one"));
    unlink(p->journal);
    struct stat st;
    assert_return_code(stat(p->image, &st), 0);
    p->img.ino = st.st_ino;
    assert_return_code(link(p->image, p->journal), 0);
    expect_refused(p, JOURNAL("looks like one"));
}

/* The name comes from what stays the same: not from the path, but for a part that people know it by. */
static void default_place(void **state)
{
    struct place *p = *state;
    g_autofree char *path = undofile_default_path(&p->img, false, NULL), *moved = NULL, *other = NULL;
    g_autofree char *base = g_path_get_basename(path), *moved_base = NULL;
    struct undo_image img = p->img;

    assert_true(g_str_has_suffix(base, "-disk.qcow2.undo"));
    assert_int_equal(strlen(base), strlen("0123456789abcdef-disk.qcow2.undo"));
    img.path = (char *)"/elsewhere/dev\n/\xff$(x).undo.1";
    moved = undofile_default_path(&img, false, NULL);
    moved_base = g_path_get_basename(moved);
    assert_int_equal(strncmp(base, moved_base, 17), 0);
    assert_string_equal(moved_base + 17, "___x_.undo.1.undo");
    img = p->img;
    img.identity = (char *)"file:0:18";
    other = undofile_default_path(&img, false, NULL);
    assert_string_not_equal(path, other);
}

/* ---- whose it is ------------------------------------------------------------------------------------------------ */

static void put_header(const char *path, unsigned version, const char *name, const char *identity)
{
    struct vmm_journal_header h = {.magic = VMM_JOURNAL_MAGIC, .version = version, .size_before = 5, .size_after = 5};
    gsize len = version == 1 ? VMM_HEADER_1_SIZE : sizeof(h);

    g_strlcpy(h.image_name, name, sizeof(h.image_name));
    g_strlcpy(h.identity, identity, sizeof(h.identity));
    h.crc = crc32c(0, &h, len);
    assert_true(g_file_set_contents(path, (char *)&h, (gssize)len, NULL));
    assert_return_code(chmod(path, 0600), 0);
}

/* May a journal with this header make room for one of the image? */
static bool makes_room(struct place *p, unsigned version, const char *name, const char *identity)
{
    g_autoptr(GError) error = NULL;
    struct undofile uf;
    bool ok;

    put_header(p->journal, version, name, identity);
    ok = undofile_create(&uf, p->journal, &p->img, &error);
    if (ok)
        undofile_discard(&uf);
    else
        assert_non_null(strstr(error->message, "is the undo journal of another image"));
    expect_file(p->aside, NULL);
    assert_return_code(access(p->journal, F_OK), 0);
    assert_return_code(unlink(p->journal), 0);
    return ok;
}

static void never_that_of_another_image(void **state)
{
    struct place *p = *state;

    assert_true(makes_room(p, 2, "/elsewhere", "file:0:17"));
    assert_false(makes_room(p, 2, "/elsewhere", "file:0:18"));
    /* A file that took the place of another, say out of a backup. */
    assert_true(makes_room(p, 2, p->image, "file:0:18"));
    assert_true(makes_room(p, 1, p->image, ""));
    assert_false(makes_room(p, 1, "/elsewhere", ""));
    /* What was /dev/dm-0 once may be anything by now. */
    p->img.is_device = true;
    p->img.identity = (char *)"dm:LVM-new";
    assert_false(makes_room(p, 2, p->image, "dm:LVM-old"));
    assert_true(makes_room(p, 2, "/dev/dm-7", "dm:LVM-new"));
}

/* Whoever else could write to it could make a rollback write anything. */
static void never_one_that_others_can_write(void **state)
{
    struct place *p = *state;

    put_header(p->journal, 2, p->image, "file:0:17");
    assert_return_code(chmod(p->journal, 0620), 0);
    assert_int_equal(undofile_open(p->journal, false), -1);
    assert_int_equal(errno, EPERM);
    assert_return_code(chmod(p->journal, 0600), 0);
    if (geteuid() == 0) {
        assert_return_code(chown(p->journal, 65534, 0), 0);
        assert_int_equal(undofile_open(p->journal, false), -1);
        assert_int_equal(errno, EPERM);
    }
    assert_return_code(symlink(p->journal, p->older), 0);
    assert_int_equal(undofile_open(p->older, false), -1);
    assert_int_equal(errno, ELOOP);
}

/* On the disk of the journal, without a name, and nowhere else: what is in memory counts against --memory. */
static void overlay(void **state)
{
    struct place *p = *state;
    int fd = overlay_open(p->journal);
    struct stat st, beside;

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "x", 1, 0), 1);
    assert_return_code(fstat(fd, &st), 0);
    assert_return_code(stat(p->dir, &beside), 0);
    assert_int_equal(st.st_dev, beside.st_dev);
    assert_int_equal(st.st_nlink, 0);
    close(fd);
    assert_int_equal(overlay_open("/nonexistent/j"), -1);
}

/* Of another image's repair, say, which was told of the same journal. */
static void locked_by_another_run(void **state)
{
    struct place *p = *state;
    struct undofile uf, other;
    g_autoptr(GError) error = NULL;

    begin(p, &uf);
    assert_int_equal(undofile_open(p->journal, true), -1);
    assert_int_equal(undofile_open(p->journal, false), -1);
    assert_false(undofile_create(&other, p->journal, &p->img, &error));
    assert_non_null(strstr(error->message, "Could not use the undo journal"));
    expect_file(p->journal, JOURNAL("new"));
    undofile_keep(&uf);
    int fd = undofile_open(p->journal, true);
    assert_true(fd >= 0);
    close(fd);
}

/* Whoever ignores the locks may have put another in its place. */
static void another_is_not_removed(void **state)
{
    struct place *p = *state;
    struct undofile uf;

    begin(p, &uf);
    assert_return_code(unlink(p->journal), 0);
    put(p->journal, JOURNAL("another"));
    undofile_discard(&uf);
    expect_file(p->journal, JOURNAL("another"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(kept),   TEST(discarded),       TEST(discarded_alone), TEST(killed),  TEST(killed_without_a_journal),
        TEST(never_another_file), TEST(never_the_image), TEST(default_place),   TEST(overlay),
        TEST(never_that_of_another_image), TEST(never_one_that_others_can_write), TEST(locked_by_another_run), TEST(another_is_not_removed),
    };

    return cmocka_run_group_tests_name("front-undofile", tests, NULL, NULL);
}
