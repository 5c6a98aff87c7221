/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_locks.c: our lock sets against each other and against the sets that QEMU's tools hold. */
#include <fcntl.h>
#include <unistd.h>

#include "unit.h"

static char path[] = "/tmp/front-locks-XXXXXX";

static int setup(void **state)
{
    int fd = mkstemp(path);

    (void)state;
    return fd < 0 || close(fd);
}

static int teardown(void **state)
{
    (void)state;
    return unlink(path);
}

/* A descriptor with its own open file description: locks of two of them conflict, even in one process. */
static int open_again(void)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static void hold_byte(int fd, short type, off_t byte)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    assert_return_code(fcntl(fd, F_OFD_SETLK, &lock), 0);
}

/* NULL: it must be had. */
static void expect(enum lock_kind kind, const char *missing)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *want = NULL;
    int fd = open_again();
    bool ok = lock_take(fd, kind, "img", &error);

    close(fd);
    if (!missing) {
        assert_true(ok);
        return;
    }
    assert_false(ok);
    want = g_strdup_printf("Could not open 'img': Failed to get %s lock\nIs another process using the image [img]?",
                           missing);
    assert_string_equal(error->message, want);
}

static void alone(void **state)
{
    (void)state;
    expect(LOCK_CHECK, NULL);
    expect(LOCK_REPAIR, NULL);
}

static void ours_against_ours(void **state)
{
    int fd = open_again();

    (void)state;
    assert_true(lock_take(fd, LOCK_CHECK, "img", NULL));
    expect(LOCK_CHECK, NULL);
    expect(LOCK_REPAIR, "\"write\"");
    close(fd);
    fd = open_again();
    assert_true(lock_take(fd, LOCK_REPAIR, "img", NULL));
    expect(LOCK_CHECK, "\"consistent read\"");
    expect(LOCK_REPAIR, "\"consistent read\"");
    close(fd);
    expect(LOCK_REPAIR, NULL);
}

static void against_qemu(void **state)
{
    static const struct {
        const char *holder;
        int bytes[6];
        const char *check, *repair;
    } rows[] = {
        {"qemu-img check, backing file", {100, 201, 203}, NULL, "\"write\""},
        {"qemu-img check -r, VM disk", {100, 101, 103, 201, 203}, "shared \"write\"", "\"write\""},
        {"qemu-img info", {201, 203}, NULL, "\"write\""},
        {"qemu-io -f raw, read-only; -U", {100}, NULL, "shared \"consistent read\""},
        {"qemu-io -f raw, read-write", {100, 101}, "shared \"write\"", "shared \"consistent read\""},
        {"VM disk of format raw", {100, 101, 201}, "shared \"write\"", "\"write\""},
    };

    (void)state;
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        int fd = open_again();

        for (const int *byte = rows[i].bytes; *byte; byte++)
            hold_byte(fd, F_RDLCK, *byte);
        expect(LOCK_CHECK, rows[i].check);
        expect(LOCK_REPAIR, rows[i].repair);
        close(fd);
    }
}

static void against_virtlockd(void **state)
{
    int fd = open_again();

    (void)state;
    hold_byte(fd, F_WRLCK, 0);
    expect(LOCK_CHECK, NULL);
    expect(LOCK_REPAIR, "libvirt's");
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone),
        cmocka_unit_test(ours_against_ours),
        cmocka_unit_test(against_qemu),
        cmocka_unit_test(against_virtlockd),
    };

    return cmocka_run_group_tests_name("front-locks", tests, setup, teardown);
}
