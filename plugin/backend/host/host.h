/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * host.h: what the extension knows of the host that it runs on: libvirt's functions, pools, volumes and domains, the
 * caller, the configuration. Includes no other room.
 *
 * For all of the extension: the slots run in libvirt's RPC workers, several at a time; each streaming job has a relay
 * thread; one more thread refreshes pools. Everything here may be called from any of them, unless the
 * section says otherwise. "Reports" means: the thread's libvirt error is set with a whole sentence.
 */
#ifndef BACKEND_HOST_H
#define BACKEND_HOST_H

#include <glib.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/* ---- libvirt.c: libvirt's private functions, errors, and lines for the daemon's log ---- */

struct backend_table; /* entry.h */

/* Private libvirt functions; all that pass libvirt's objects take them as opaque pointers. Those of the
 * second group may be NULL. */
struct libvirt_symbols {
    struct backend_table *(*backend_for_type)(int type);
    int (*pool_type_from_string)(const char *type);
    void *(*pool_get_def)(void *pool);
    char *(*pool_def_format)(void *pooldef);
    char *(*vol_def_format)(void *pooldef, void *vol);
    int (*fd_stream_open)(virStreamPtr st, int fd);
    void (*report_error)(int domain, int code, const char *file, const char *func, size_t line, const char *fmt, ...)
        G_GNUC_PRINTF(6, 7);

    void (*object_lock)(void *object);
    void (*object_unlock)(void *object);
    void *(*identity_current)(void);
    void *(*identity_system)(void);
    int (*identity_set_current)(void *identity);
    int (*identity_uid)(void *identity, uid_t *uid);
    int (*identity_sasl)(void *identity, const char **name);
    int (*identity_x509)(void *identity, const char **name);
};
extern struct libvirt_symbols lv;

#define vr_error(code, ...) lv.report_error(VIR_FROM_STORAGE, code, __FILE__, __func__, __LINE__, __VA_ARGS__)

/* A line for the daemon's log, for what no client is there to hear. Clears the thread's libvirt error. */
void vr_log(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
/* This thread's last such line; "" = there was none. */
const char *vr_log_last(void);

/* ---- config.c: vol-repair.conf ---- */

#define UNDO_LIMITS 4
/* The last of the major version that this was run on: names and tables can be proved, what functions expect cannot. */
#define NEWEST_LIBVIRT 12999999ul

struct config {
    bool enabled;
    bool refresh_source_pool;
    unsigned long newest_libvirt; /* as virGetVersion; 0 = any */
    char *helper;
    char *accel;
    char *memory;
    char *user;        /* USER[:GROUP], or NULL */
    char *reports_dir; /* NULL: the default */
    unsigned timeout;  /* seconds */
    char *undo_limits[UNDO_LIMITS]; /* as in undo_limit_names; NULL: the program's own */
};
/* Names of the program's options without their dashes. In the file they are written with underscores. */
extern const char *const undo_limit_names[UNDO_LIMITS];
void config_free(struct config *cfg);
typedef struct config Config; /* for g_autoptr */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Config, config_free)

/* A missing file gives the defaults. On any other trouble: NULL and a whole sentence in *error. */
struct config *config_load(char **error);
bool config_memory_is_valid(const char *text);
/* Of a valid text; what no number holds is the largest there is. */
guint64 config_memory_bytes(const char *text);
bool config_accel_is_valid(const char *text);

/* <localstatedir>/lib/vol-repair/undo, or a session's own. Caller frees. */
char *config_undo_dir(void);
/* As configured, or <runstatedir>/vol-repair/reports, or a session's own. Caller frees. */
char *config_reports_dir(void);

/* ---- pool_types.c: the types of pool that are served ---- */

enum {
    POOL_DIR,
    POOL_FS,
    POOL_NETFS,
    POOL_FILE_TYPES, /* the types from here on hold devices */
    POOL_LOGICAL = POOL_FILE_TYPES,
    POOL_DISK,
    POOL_ISCSI,
    POOL_SCSI,
    POOL_MPATH,
    POOL_ZFS,
    POOL_TYPE_COUNT
};
extern const char *const pool_type_name[POOL_TYPE_COUNT];
/* POOL_TYPE_COUNT: it is none of those. */
size_t pool_type_find(const char *pool_type);
/* Volumes of such a pool are block devices. */
bool pool_type_holds_devices(const char *pool_type);

/* ---- volume.c: what libvirt knows of a pool and a volume ---- */

/* Texts are bytes as libvirt has them, not necessarily UTF-8. */
struct volume {
    char *pool;      /* name of its pool; NULL where that is not known */
    char *pool_type; /* "dir", "logical", ...; NULL with it */
    char *pool_path; /* its target directory; NULL with it */
    char *name;
    char *path;
    char *format; /* "" where libvirt has none */
    int mode;     /* requested permissions; -1 = not given */
    int owner, group;
};
void volume_free(struct volume *vol);
typedef struct volume Volume; /* for g_autoptr */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Volume, volume_free)

/*
 * pool, vol: as a slot receives them. locked: the driver calls the slot with the pool locked; its lock is not recursive.
 * Reports and returns NULL.
 */
struct volume *volume_from_defs(void *pool, void *vol, bool locked);
/* Its pool is the one that the XML describes; NULL: not known. */
void volume_set_pool(struct volume *vol, const char *pool_xml);
/* Of a volume's XML, which may be NULL; NULL: it lies upon nothing. Caller frees. */
char *volume_backing_path(const char *vol_xml);

/* ---- identity.c: who asks ---- */

/* "uid:1000", "sasl:NAME", "x509:DN", or "" where the caller has no identity. Caller frees. */
char *identity_caller(void);
/* root and the daemon's own user see everything, others what is theirs. */
bool identity_may_see(const char *caller, const char *owner);
/* He is root or the daemon's own user: what is shared among callers is not divided for him. */
bool identity_is_trusted(const char *caller);
/* Makes the calling (own) thread act for the daemon itself. */
void identity_become_system(void);

/* ---- access.c: may the caller do that ---- */

/* Asks libvirt, as the caller, in which pool the volume of this path is. What it does not tell stays unknown. */
void access_learn_pool(struct volume *vol);
/* Asks libvirt, as the caller. Reports and returns false. */
bool access_allows(const struct volume *vol, bool to_write);
/* In a slot: the call is such a question, and is answered; the slot must return -1. */
bool access_was_asked(void);

/* ---- domains.c: who has a block device ---- */

/*
 * *domain: the name of a running domain that has it (writers: and may write to it), or NULL; caller frees. False where not
 * every domain was looked at.
 */
bool domains_user_of(dev_t device, bool writers, char **domain);

/* ---- open_image.c: the volume's image ---- */

/* For reading only, or for reading and writing. Nobody else may have it, where it is a block device. Reports and returns -1. */
int open_image(const struct volume *vol, bool to_write, struct stat *st);
/* What two names of one file, or of one device, have in common. */
void open_identity(const struct stat *st, dev_t *dev, ino_t *ino);

/* ---- open_as_owner.c: files that root may not open ---- */

/*
 * open() without O_CREAT. Where root is denied a file it is tried as the file's owner; *owner: who that is, 0 = it was not
 * tried. -1 and errno.
 */
int owner_open(const char *path, int flags, uid_t *owner);

/* ---- notes.c: what libvirt knows of the image ---- */

#define NOTES_MAX 16

/* Values for the helper's --note. Caller unrefs. */
GPtrArray *notes_collect(const struct volume *vol, const struct stat *st);

#endif
