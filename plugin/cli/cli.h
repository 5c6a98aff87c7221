/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* cli.h: what the files of the program know of each other: options, image, locks, the VMM at work, recovery. */
#ifndef CLI_H
#define CLI_H

#include <glib.h>
#include <sys/stat.h>

#include "report.h"
#include "undo.h"

/* ---- options.c: the command line ---------------------------------------------------------------- */

/* On failure *opt is still to be given to options_clear(). */
bool options_parse(struct options *opt, int argc, char **argv, GError **error);
void options_clear(struct options *opt);
void options_print_help(void);

/* ---- notes.c: what the caller knows of the image ------------------------------------------------------ */

/* One value of --note. */
bool notes_take(GPtrArray *notes, const char *value, GError **error);

/* ---- image_opts.c: values of options ----------------------------------------------------------------- */

/* `secret,id=...`: whether qemu-img would take it. Nothing here needs an object: no key is ever used. */
bool object_parse(const char *text, GError **error);
/* `driver=qcow2,file.filename=a,,b`: fills format, path, read_only and force_share of opt. */
bool image_opts_parse(const char *text, struct options *opt, GError **error);
enum format_kind { FORMAT_UNKNOWN, FORMAT_NO_CHECKS, FORMAT_QCOW2 };
enum format_kind format_lookup(const char *name);

/* ---- image.c: the image file --------------------------------------------------------------------- */

struct image {
    int fd;
    bool is_device;
    uint64_t size;
    dev_t dev;
    ino_t ino;
    char *real_path; /* as the kernel names it */
    char *identity;  /* what a reboot leaves the same; names the journal (undo_name.c) */
};

/* Which file it is, for image_is_file(), before anything else and whether it can be opened or not. */
void image_identify(struct image *img, const struct options *opt);
/* Opens (or takes) and locks the identified image as the mode needs it. On failure nothing is left open. */
bool image_open(struct image *img, const struct options *opt, GError **error);
void image_close(struct image *img);
/* Kind, identity and size, once more where the size may have changed. */
bool image_measure(struct image *img, const struct options *opt, GError **error);
/* Whether this is the same file as the image: no report and no journal may replace it. */
bool image_is_file(const struct image *img, const char *path);
bool image_is_fd(const struct image *img, int fd);

/* What its journals are found by. */
static inline struct undo_image image_for_undo(const struct image *img)
{
    return (struct undo_image){.path = img->real_path, .identity = img->identity, .size = img->size, .is_device = img->is_device,
                               .dev = img->dev, .ino = img->ino};
}

/* ---- lock.c: QEMU's byte locks -------------------------------------------------------------------- */

enum lock_kind { LOCK_CHECK, LOCK_REPAIR };
bool lock_take(int fd, enum lock_kind kind, const char *shown, GError **error);

/* ---- in_use.c: users without locks ------------------------------------------------------------------- */

/*
 * Before a job, and before the first write of a repair. writers: of a device, only who may write to it counts; a file's writers
 * have locks. May wait a second.
 */
bool in_use_test(const struct image *img, bool writers, const char *shown, GError **error);

/* ---- user.c --------------------------------------------------------------------------------------- */

/* Fills uid and gid, where we are root. text: USER[:GROUP], names or numbers, or NULL. */
bool user_choose(const char *text, struct vmm_config *cfg, GError **error);

/* ---- accel.c: what the guest runs in ----------------------------------------------------------------- */

/* Fills accel and kvm_fd of cfg, opening /dev/kvm where the options want it. */
bool accel_open(struct result *res, struct vmm_config *cfg, GError **error);
/* KVM was left to us, and cannot be had, for this reason (taken): into the result, and told to a terminal. */
void accel_fell_back(struct result *res, char *reason);

/* ---- frames.c: the child's words, none of them believed -------------------------------------------- */

struct frames {
    struct result *res;
    bool repair;
    bool first; /* none was taken yet */
    uint32_t kept[VR_WALK_COUNT][VR_P_COUNT]; /* records stored so far */
    void (*progress)(void *opaque, enum vr_walk walk, enum vr_pass pass, double part);
    void (*commit)(void *opaque, bool ended);
    void (*ready)(void *opaque); /* the child waits for an answer */
    void *opaque;
};

/* One whole frame. False with *error: the child broke the protocol. */
bool frames_take(struct frames *fr, const struct vmm_msg *msg, const void *body, GError **error);

/* ---- progress.c: one percentage for the whole job --------------------------------------------------- */

struct progress {
    const struct options *opt;
    bool bar;             /* a line on standard error */
    unsigned percent;     /* never falls */
    gint64 last_us;
    const char *phase;
    bool broken;          /* the reader of the stream is gone */
};
void progress_init(struct progress *pr, const struct options *opt);
void progress_update(struct progress *pr, const char *phase, const char *pass, double part);
void progress_done(struct progress *pr);

/* ---- supervise.c: one run -------------------------------------------------------------------------------- */

/* Runs the guest over the image. What went wrong is in res; false only where nothing could be started. */
bool supervise_run(struct result *res, const struct image *img, struct undofile *uf, struct progress *pr, GError **error);
/* Blocks SIGINT, SIGTERM and SIGHUP. */
void signals_block(void);

/* ---- job.c: all between the command line and the report ------------------------------------------------ */

/* What went wrong is in res; false with *error where it does not come from the child. img is open afterwards. */
bool job_run(struct result *res, struct image *img, struct progress *pr, GError **error);

/* ---- recover.c: rolling back, in plain host code ------------------------------------------------------ */

/* --mode=undo; named: the journal, or NULL for the newest of this image. */
bool recover_undo(struct result *res, const struct image *img, const char *named, GError **error);
/*
 * A commit or an undo that was cut left a journal, named or in the default directory: says so in *in, of which repair is set.
 * repair: rolls it back first, where it is this image's; another's whose writes are in this image is an error.
 */
bool recover_interrupted(const struct image *img, const char *named, struct interrupted *in, GError **error);

/* ---- report_file.c: --report and --report-fd --------------------------------------------------------- */

bool report_check_target(const struct options *opt, const struct image *img, GError **error);
bool report_write(const struct result *res, const struct image *img, GError **error);

#endif
