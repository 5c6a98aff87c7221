/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* commit.c: the only writer of the image: journal, then epoch after epoch with a flush between, or all of it undone. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm.h"
#include "common.h"
#include "journal_format.h"
#include "test_hooks.h"
#include "undo.h"

#define SECTORS (OVERLAY_PAGE / VMM_SECTOR)
#define RUN_MAX (1u << 20)

struct writer {
    struct child *c;
    uint8_t *run;      /* RUN_MAX bytes of neighbouring sectors */
    uint64_t offset;
    uint32_t len;
    char place[64];    /* of what could not be written */
};

static int flush_run(struct writer *w)
{
    const struct overlay *ov = &w->c->overlay;
    uint64_t len = w->len;

    if (len == 0)
        return 0;
    /* A file whose last sector is partial stays as long as it is. */
    if (w->offset + len > ov->size)
        len = ov->size - w->offset;
    int err = pwrite_all(w->c->cfg->image_fd, w->run, len, w->offset);
    if (err)
        snprintf(w->place, sizeof(w->place), "%" PRIu64 " bytes at offset %" PRIu64, len, w->offset);
    w->c->stats.bytes_written += len;
    w->len = 0;
    if (!err)
        hook_written();
    return err;
}

static int add_sector(struct writer *w, uint64_t offset, const uint8_t *sector)
{
    int err = 0;

    if (hook_sector_is_lost())
        return 0;
    if (w->len == RUN_MAX || (w->len > 0 && w->offset + w->len != offset))
        err = flush_run(w);
    if (w->len == 0)
        w->offset = offset;
    memcpy(w->run + w->len, sector, VMM_SECTOR);
    w->len += VMM_SECTOR;
    return err;
}

static int write_epochs(struct writer *w)
{
    struct overlay *ov = &w->c->overlay;
    uint8_t page[OVERLAY_PAGE];

    for (uint64_t i = 0; i < ov->count; i++) {
        const struct overlay_version *v = &ov->versions[i];
        int err = overlay_page(ov, v, page);
        for (uint32_t s = 0; s < SECTORS && !err; s++)
            if (v->dirty >> s & 1)
                err = add_sector(w, v->page * OVERLAY_PAGE + s * VMM_SECTOR, page + s * VMM_SECTOR);
        if (!err && (i + 1 == ov->count || ov->versions[i + 1].epoch != v->epoch)) {
            err = flush_run(w);
            if (!err)
                hook_epoch_written();
            err = err ? err : sync_whole(w->c->cfg->image_fd, true);
        }
        if (err)
            return err;
    }
    return 0;
}

/* place: what could not be written, where that is known; of at least 64 bytes. */
static int write_image(struct child *c, char *place)
{
    struct writer w = {.c = c, .run = malloc(RUN_MAX)};

    if (!w.run)
        return -ENOMEM;
    int err = 0;
    if (c->overlay.size > c->cfg->image_size && ftruncate(c->cfg->image_fd, (off_t)c->overlay.size) < 0)
        err = -errno;
    err = err ? err : write_epochs(&w);
    memcpy(place, w.place, sizeof(w.place));
    free(w.run);
    return err;
}

static void tell(struct child *c, uint32_t state, int error, uint64_t journal)
{
    struct vmm_commit m = {.state = state, .error = -error, .bytes_changed = state == 1 ? c->planned : c->stats.bytes_written,
                           .bytes_journal = journal};

    child_send(c, VMM_MSG_COMMIT, &m, sizeof(m));
}

/* The image changed under us, or never was what the front measured: the plan is for another image. */
static int same_size(const struct child *c)
{
    off_t end = lseek(c->cfg->image_fd, 0, SEEK_END);

    if (end < 0)
        return -errno;
    return (uint64_t)end == c->cfg->image_size ? 0 : -ESTALE;
}

enum vr_status commit_run(struct child *c)
{
    uint64_t bytes = 0;
    char place[64] = "";
    int journal = c->cfg->journal_fd;

    overlay_sort(&c->overlay);
    c->planned = c->overlay.written;
    c->stats.peak_overlay = c->overlay.count * OVERLAY_PAGE;
    int err = same_size(c);
    if (err)
        child_fail(c, VMM_FAIL_READ, err, "the image changed its size during the run");
    err = journal_write(journal, c->cfg, &c->overlay, &bytes);
    if (err && c->cfg->journal_max && bytes > c->cfg->journal_max)
        child_fail(c, VMM_FAIL_JOURNAL, 0, "it would take more than undo-max-bytes leaves for it beside those that must stay");
    /* A sync that gives way to the wish to stop is no failure of the journal. */
    if (err == -EINTR)
        child_check_stop(c);
    if (err)
        child_fail(c, VMM_FAIL_JOURNAL, err, "");
    child_ask_to_commit(c);
    /* From here on an abort has to wait: half a commit is worse than a whole one. */
    atomic_store(&c->committing, true);
    tell(c, 0, 0, bytes);
    err = write_image(c, place);
    if (err) {
        int undone = vmm_undo_rollback(c->cfg->image_fd, journal, false);
        tell(c, undone ? 3 : 2, err, bytes);
        /* What became of the image is the front's to say: where we could not roll back, it tries again. */
        child_fail(c, VMM_FAIL_WRITE, err, place);
    }
    /* Without its trailer the sectors alone say whether the commit was cut: the repair stands. */
    err = journal_finish(journal, bytes, c->cfg->image_fd, c->overlay.size);
    overlay_drop(&c->overlay);
    tell(c, 1, err, bytes);
    atomic_store(&c->committing, false);
    return VR_OK;
}
