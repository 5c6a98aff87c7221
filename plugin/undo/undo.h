/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * undo.h: undo journals: reading one and rolling an image back, below the repairer and without it; and where they lie.
 *
 * read.c and rollback.c are plain C, no GLib: the VMM child uses them when a commit fails, the front for --mode=undo and
 * after a crash. Both descriptors stay the caller's. The caller holds the image's locks. The other files are the front's.
 */
#ifndef UNDO_H
#define UNDO_H

#include <stdbool.h>
#include <sys/types.h>

#include "journal_format.h"

struct stat;
/* GLib's own, without its headers: the VMM has no GLib. */
typedef struct _GError GError; typedef struct _GPtrArray GPtrArray;

/* ---- read.c: what a journal says, beside the image ---------------------------------------------------- */

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

/* What follows is for rollback.c, which goes through the same records. */
#define UNDO_PAYLOAD(sectors) ((size_t)(sectors) * (VMM_SECTOR + sizeof(uint32_t)))

struct undo_record {
    struct vmm_journal_record head;
    uint8_t payload[UNDO_PAYLOAD(VMM_RECORD_SECTORS)];
};
/* What a visit to a record does with it; not 0 ends the walk. */
typedef int undo_visit_fn(void *arg, const struct undo_record *r);
/* Journals of version 1 know no identity. */
size_t undo_header_size(const struct vmm_journal_header *h);
/* *valid: it is a sound header. 0, or -errno. */
int undo_read_header(int fd, struct vmm_journal_header *h, bool *valid);
/* Visits every record in order, from u->begin. *whole: the end mark is there and agrees; u gets counts and u->end. */
int undo_walk(int fd, struct vmm_undo *u, bool *whole, undo_visit_fn *visit, void *arg);
/* Of a file or device. 0, or -errno. */
int undo_image_size(int fd, uint64_t *size, struct stat *st);

/* ---- rollback.c: the old bytes come back ---------------------------------------------------------------- */

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

/* ---- the image, as far as its journals know it ------------------------------------------------------------ */

struct undo_image {
    const char *path;     /* as the kernel names it */
    const char *identity; /* what a reboot leaves the same; names the journal (undo_name.c) */
    uint64_t size;
    bool is_device;
    dev_t dev; ino_t ino; /* which file it is, so that no journal replaces it; ino 0 = not known */
};

/* ---- file.c: where the journal lies ------------------------------------------------------------ */

struct undofile {
    char *path; /* the journal */
    int fd;     /* locked */
    uint64_t room; /* bytes it may have; 0 = any number */
};

/* A journal that is there, locked; write: to change, move or remove it. -1 and errno: EBUSY where another run has it,
 * EINVAL where it is no regular file, EPERM where it is not ours alone to write. */
int undofile_open(const char *path, bool write);
/* Whether it is a journal, or an empty file. */
bool undofile_is_journal(int fd);
/* What such an errno means. */
const char *undofile_strerror(int err);

/* Default place for this image: made 0700 if missing when `create`. Free with g_free. */
char *undofile_default_path(const struct undo_image *img, bool create, GError **error);
/* Puts an older journal of the same image aside and creates an empty one. */
bool undofile_create(struct undofile *uf, const char *path, const struct undo_image *img, GError **error);
/* The repair stands: the older journal becomes `<path>.N`. Closes. */
void undofile_keep(struct undofile *uf);
/* Nothing was committed: removes the journal and puts the older one back. Closes. */
void undofile_discard(struct undofile *uf);
void undofile_close(struct undofile *uf);
/* Removes a journal that nobody uses, unless it is one of something that was interrupted. */
bool undofile_evict(const char *path);
/* Removes a journal of which nothing is needed any more, if fd is still the one of that name, and puts the older one back. */
void undofile_remove(const char *path, int fd);
/* An unlinked file for the guest's writes, beside the journal; -1 and errno on failure. */
int overlay_open(const char *journal_path);

/* ---- dir.c: the directory of journals ------------------------------------------------------------- */

struct journal {
    char *path;
    struct vmm_journal_info info;
};

/* In what way a journal is an image's: not at all, by its name, by what a reboot leaves the same. */
enum kin { KIN_NONE, KIN_PATH, KIN_IDENTITY };

/* /var/lib/vol-repair/undo of root, or the user's own. Caller frees. */
char *undodir_path(void);
/* Whether nobody but us, or root, can write to it. */
bool undodir_is_safe(const struct stat *st);
/* Whether the directory is safe or not there; of the default one those above it too that we make. */
bool undodir_is_trusted(const char *dir);
/* The journals of a directory whose names begin so, newest first; none where it is not safe. Nothing is locked. */
GPtrArray *undodir_list(const char *dir, const char *begin);
/* identity and name as a journal's header has them. */
enum kin undodir_kin(const char *identity, const char *image_name, const struct undo_image *img);
/* Path of the newest journal of this image in the default directory; where there is none, the path it would have. */
char *undodir_find(const struct undo_image *img, GError **error);
/* Whether it was made for this image. */
bool undodir_is_of(const struct journal *j, const struct undo_image *img);
/* Whether it is worth comparing with this image: a commit or an undo of an image of its size may have been cut. */
bool undodir_may_be_cut(const struct journal *j, const struct undo_image *img);

/* ---- limits.c: a bound for the journals ------------------------------------------------------------ */

/* What the directory of undo journals may hold. Journals of what was interrupted are never removed for it. */
struct undo_limits {
    uint64_t count; /* journals of one image, 1 at least */
    uint64_t total; /* journals in all */
    uint64_t bytes; /* in all */
    uint64_t days;  /* since the last change of a journal; 0 = for ever */
};

/*
 * Before a repair whose journal goes to path: *room is how many bytes it may have, beside those journals that must stay; 0 = any
 * number. False where there is no room at all.
 */
bool undolimits_room(const struct undo_limits *limits, const struct undo_image *img, const char *path, uint64_t *room, GError **error);
/* After it: removes what is too old or too much. */
void undolimits_apply(const struct undo_limits *limits, const struct undo_image *img, const char *path);

#endif
