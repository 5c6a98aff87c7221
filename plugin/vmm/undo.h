/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * undo.h: reading an undo journal and rolling an image back, below the repairer and without it.
 *
 * Plain C, no GLib: the VMM child uses it when a commit fails, the front for --mode=undo and after a crash.
 * Both descriptors stay the caller's. The caller holds the image's locks.
 */
#ifndef UNDO_H
#define UNDO_H

#include <stdbool.h>
#include <stdint.h>

enum vmm_undo_state {
    VMM_UNDO_EMPTY = 1, /* cut while it was written, or not a journal: the run that wrote it changed nothing */
    VMM_UNDO_FOREIGN,   /* no sector of the image is what this journal knows: another image's */
    VMM_UNDO_CHANGED,   /* the image has changed since that repair */
    VMM_UNDO_ORIGINAL,  /* the image is as it was before that repair: nothing to undo */
    VMM_UNDO_READY,     /* can be rolled back */
    VMM_UNDO_SPENT,     /* was rolled back, and the image has changed since */
};

/* How far the writer of a journal came, by what stands in the journal alone. */
enum vmm_journal_stage {
    VMM_JOURNAL_VOID = 1, /* no journal, or cut while it was written: its run did not touch the image */
    VMM_JOURNAL_OPEN,     /* a commit that goes on, or was cut, or lacks its trailer alone */
    VMM_JOURNAL_DONE,     /* a whole commit */
    VMM_JOURNAL_UNDOING,  /* an undo that goes on, or was cut */
    VMM_JOURNAL_SPENT,    /* a whole undo */
};

struct vmm_journal_info {
    enum vmm_journal_stage stage;
    bool headed;         /* has a sound header; else what follows is empty */
    uint64_t size_before, size_after; /* of the image */
    char image_name[256];
    char identity[160];  /* "" in journals of version 1 */
    uint64_t bytes;      /* of the journal: also without a header */
    int64_t changed_ns;  /* its time of last modification, nanoseconds since the epoch: the same */
};

struct vmm_undo {
    enum vmm_undo_state state;
    bool whole;            /* durable as far as a commit needs it; false: the image was not touched */
    bool finished;         /* it has its trailer: the commit was completed */
    bool undoing;          /* and an undo began since */
    bool spent;            /* or was whole */
    bool complete;         /* every sector is what the commit left, and so is the length */
    bool marked;           /* the header is what stands there only while a commit goes on: QEMU refuses it */
    uint64_t records;
    uint64_t bytes;        /* of the image that the journal holds */
    uint64_t size_before, size_after; /* of the image */
    uint64_t begin;        /* where the first record begins in the journal, bytes */
    uint64_t end;          /* where the end mark ends */
    int64_t mtime_seconds; /* of the image after the commit, where finished */
    uint64_t mtime_nanoseconds;
    uint32_t mode;         /* enum vr_mode of the repair */
    char image_name[256];
    char identity[160];    /* "" in journals of version 1 */
};

/* Whether descriptor holds the beginning of a journal. */
bool vmm_undo_is_journal(int journal_fd);
/* Reads the beginning and the end of the journal, no image. 0, or -errno. */
int vmm_undo_peek(int journal_fd, struct vmm_journal_info *info);
/* Reads the journal, compares it with the image, changes nothing. 0, or -errno where either cannot be read. */
int vmm_undo_probe(int image_fd, int journal_fd, struct vmm_undo *u);
/* Of what was probed: a commit, or an undo, that ended halfway. A commit that lacks its trailer alone is not one. */
bool vmm_undo_is_cut(const struct vmm_undo *u);
/*
 * Probes; where the state is READY or ORIGINAL, writes all old bytes back and restores the old length, durably. (What
 * reads as the old bytes may be so in the page cache alone.) Then the journal is spent, unless it is another image's, of
 * which this one is a copy. 0, or -errno; after a failure it still holds everything and says that an undo has begun, and the
 * call can be repeated. The journal is open for writing.
 */
int vmm_undo_apply(int image_fd, int journal_fd, bool spend, struct vmm_undo *u);
/*
 * The same for the writer of the journal, which knows the image: no comparison, so that a torn sector is no obstacle.
 * again: another attempt may have failed, so that what reads as old bytes need not be on the disk: all are written.
 */
int vmm_undo_rollback(int image_fd, int journal_fd, bool again);

#endif
