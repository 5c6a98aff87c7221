/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* undo_fixture.h: an image in memory, a repair of it, its journal, and the image after each write of the commit. */
#ifndef UNDO_FIXTURE_H
#define UNDO_FIXTURE_H

#include "undo.h"
#include "unit.h"

struct repair {
    uint64_t size_before, size_after;
    uint8_t *before;       /* room for size_after and a sector's rest, zeros behind size_before */
    uint8_t *journal;
    uint64_t journal_size; /* of an unfinished commit; room for a trailer behind it */
    uint64_t writes;       /* sectors, in the commit's order */
    uint64_t *offsets;
    uint8_t (*sectors)[VMM_SECTOR];
};

/* Random writes in all epochs, the header's sector in the first and in the last. */
void repair_make(struct repair *r, uint64_t seed, uint64_t size, uint64_t growth);
void repair_free(struct repair *r);
/* The image after that many sector writes; `grown`: the file has its new size. */
int repair_image(const struct repair *r, uint64_t writes, bool grown);
/* The journal as a file; finished: with the trailer for this image. */
int repair_journal(const struct repair *r, int finished_image_fd);
bool repair_is_original(const struct repair *r, int image_fd);

#endif
