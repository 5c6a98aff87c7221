/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* test_job.c: what becomes of image and journal where the child is gone before its words were heard: as the journal says. */
#include <fcntl.h>
#include <unistd.h>

#include "vmm.h"
#include "fake_child.h"
#include "common.h"
#include "unit.h"

#define SIZE 65536u

static char dir[] = "/tmp/front-job-XXXXXX";
static char *image, *journal;

/* ---- children: each writes as the VMM does, and says what no VMM would ------------------------------------------- */

enum how_far { JOURNAL_BEGUN, JOURNAL_WRITTEN, IMAGE_HALF, IMAGE_WRITTEN, FINISHED };

/* Sets the first and the last sector of the image. */
static void commit(const struct vmm_config *cfg, enum how_far how_far)
{
    struct overlay ov;
    uint64_t bytes;

    overlay_init(&ov, cfg->overlay_fd, cfg->image_fd, cfg->image_size, 1 << 20);
    if (overlay_write(&ov, VR_EPOCH_STRUCTURE, "new", 3, 0) || overlay_write(&ov, VR_EPOCH_CLEAN, "new", 3, SIZE - 512))
        _exit(71);
    overlay_sort(&ov);
    if (journal_write(cfg->journal_fd, cfg, &ov, &bytes) ||
        (how_far == JOURNAL_BEGUN && ftruncate(cfg->journal_fd, (off_t)bytes / 2) < 0) ||
        (how_far >= IMAGE_HALF && pwrite_all(cfg->image_fd, "new", 3, 0)) ||
        (how_far >= IMAGE_WRITTEN && pwrite_all(cfg->image_fd, "new", 3, SIZE - 512)) ||
        (how_far == FINISHED && journal_finish(cfg->journal_fd, bytes, cfg->image_fd, cfg->image_size)))
        _exit(72);
}

/* A record for which the front ends the child, so that it never hears of the commit behind it. */
static int lie(const struct vmm_config *cfg, enum how_far how_far)
{
    const struct vr_record garbage = {.code = 0x7fffffff};
    const struct vmm_commit begins = {.state = 0};

    commit(cfg, how_far);
    fake_send(cfg, VMM_MSG_RECORDS, &garbage, sizeof(garbage));
    if (write(cfg->msg_fd, &begins, sizeof(begins)) > 0)
        pause();
    return 0;
}

static int lie_journal_begun(const struct vmm_config *cfg)
{
    return lie(cfg, JOURNAL_BEGUN);
}

static int lie_journal_written(const struct vmm_config *cfg)
{
    return lie(cfg, JOURNAL_WRITTEN);
}

static int lie_image_half(const struct vmm_config *cfg)
{
    return lie(cfg, IMAGE_HALF);
}

static int lie_image_written(const struct vmm_config *cfg)
{
    return lie(cfg, IMAGE_WRITTEN);
}

static int lie_finished(const struct vmm_config *cfg)
{
    return lie(cfg, FINISHED);
}

/* In good order, but the VMM could not roll back. */
static int fail_to_roll_back(const struct vmm_config *cfg)
{
    const struct vmm_commit begins = {.state = 0}, failed = {.state = 3, .error = 5};
    const struct vmm_fail fail = {.kind = VMM_FAIL_WRITE, .error = 5};

    fake_send(cfg, VMM_MSG_COMMIT, &begins, sizeof(begins));
    commit(cfg, IMAGE_HALF);
    fake_send(cfg, VMM_MSG_COMMIT, &failed, sizeof(failed));
    fake_send(cfg, VMM_MSG_FAIL, &fail, sizeof(fail));
    return 1;
}

/* ---- the front ------------------------------------------------------------------------------------------------ */

static void expect(int (*script)(const struct vmm_config *cfg), bool changed, const char *said)
{
    struct options opt = options_of(FRONT_ALL);
    struct progress progress;
    struct result res;
    struct image img = {.fd = -1};
    g_autoptr(GError) error = NULL;
    g_autofree char *old = g_malloc0(SIZE), *now = NULL;
    gsize size;

    assert_true(g_file_set_contents(image, old, SIZE, NULL));
    opt.path = opt.filename = image;
    opt.undo = journal;
    opt.format = (char *)"qcow2";
    opt.quiet = true;
    fake_script = script;
    result_init(&res, &opt);
    progress_init(&progress, &opt);
    if (!job_run(&res, &img, &progress, &error))
        result_fail(&res, error);
    assert_non_null(strstr(res.error, said));
    assert_true(g_file_get_contents(image, &now, &size, NULL));
    assert_int_equal(size, SIZE);
    assert_int_equal(memcmp(now, old, SIZE) != 0, changed);
    assert_int_equal(res.image_changed, changed);
    assert_int_equal(access(journal, F_OK) == 0, changed);
    image_close(&img);
    result_clear(&res);
    unlink(journal);
}

static void before_the_first_write(void **state)
{
    (void)state;
    expect(lie_journal_begun, false, "; the image was not changed");
    expect(lie_journal_written, false, "; the image was rolled back");
}

static void in_the_commit(void **state)
{
    (void)state;
    expect(lie_image_half, false, "; the image was rolled back");
    expect(lie_image_written, false, "; the image was rolled back");
    expect(fail_to_roll_back, false, "; the image was rolled back");
}

static void after_the_commit(void **state)
{
    (void)state;
    expect(lie_finished, true, "; the repair itself was written");
}

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    image = g_build_filename(dir, "disk.qcow2", NULL);
    journal = g_build_filename(dir, "undo", NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(image);
    rmdir(dir);
    g_free(image);
    g_free(journal);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(before_the_first_write),
        cmocka_unit_test(in_the_commit),
        cmocka_unit_test(after_the_commit),
    };

    return cmocka_run_group_tests_name("front-job", tests, setup, teardown);
}
