/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * common.h: a small library that knows nothing of the rest: files, checksums, numbers, JSON, errors, names of journals.
 *
 * Plain C types only: the VMM includes this and has no GLib. Strings that are returned are freed with g_free().
 */
#ifndef COMMON_H
#define COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- errors.c: the domain of errors --------------------------------------------------------------------- */

/*
 * Every function that takes a GError sets it when it returns false or NULL. The message is one whole sentence without
 * the program's name; it is printed once, by the program's main.c.
 */
#define VR_ERROR vr_error_quark()
uint32_t vr_error_quark(void); /* a GQuark */

enum vr_error_code {
    VR_ERROR_FAILED,     /* exit 1 */
    VR_ERROR_USAGE,      /* exit 1, and where help is to be found */
    VR_ERROR_IN_USE,     /* exit 1: another process has the image locked */
    VR_ERROR_NO_CHECKS,  /* exit 63: not an image that can be checked */
};

/* ---- fileio.c: whole positional reads and writes, and syncs ---------------------------------------------- */

/* Reads len bytes; what lies behind the end of the file reads as zeros. 0 or -errno. */
int pread_zeros(int fd, void *buf, size_t len, uint64_t offset);
/* fsync(), or fdatasync(), again where a signal came between, as on FUSE and NFS it may. 0 or -errno. */
int sync_whole(int fd, bool data_only);
struct stat;
/* fstat() as a system call that takes a number and no path: the one that the sandbox lets through. 0 or -errno. */
int file_stat(int fd, struct stat *st);
/* Writes len bytes. 0 or -errno; how much was written then is unknown. */
int pwrite_all(int fd, const void *buf, size_t len, uint64_t offset);

/* ---- crc32c.c: CRC32C (Castagnoli), by the processor's instruction where it has one ----------------------- */

/* Continue crc over len bytes; start with 0. */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t len);

/* ---- sizes.c: numbers and sizes ------------------------------------------------------------------------- */

/* `256M`: a number and one of b k M G T (powers of 1024), at most a pebibyte. */
bool size_parse(const char *text, uint64_t *bytes);
/* A whole decimal number in min..max. */
bool number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *value);

/* Replaces an allocated string by a copy of value. */
void string_set(char **field, const char *value);

/* ---- json.c: a writer of JSON --------------------------------------------------------------------------- */

struct json;
/* pretty: with qemu-img's white space, and a newline at the end. */
struct json *json_new(bool pretty);
/* The text. Every bracket has been closed. */
char *json_free(struct json *j);
void json_member(struct json *j, const char *name);
void json_begin(struct json *j, char bracket);
void json_end(struct json *j, char bracket);
/* Bytes that are no UTF-8 are replaced; numbers of a hostile guest are cut to 63 bits. */
void json_add_string(struct json *j, const char *name, const char *value);
void json_add_uint(struct json *j, const char *name, uint64_t value);
void json_add_bool(struct json *j, const char *name, bool value);
void json_begin_object(struct json *j, const char *name);
void json_begin_array(struct json *j, const char *name);

/* ---- undo_name.c: which image a journal belongs to, over renames and reboots, and what its journals are called ---- */

/* Shared by the program and the extension, which let callers name journals: both must mean the same files. */

#define UNDO_IDENTITY_MAX 160 /* bytes, with the NUL: as in a journal's header */

/*
 * What stays the same of the image that is open as fd: `file:` with its file system and inode, `dm:`, `part:` or `disk:` with
 * what a device says of itself, or, where there is no such thing, `path:` with real_path. Plain ASCII but for a path.
 */
char *undo_identity(int fd, const char *real_path);
/* Of a block device. sys, dev: "/sys" and "/dev", but in tests. NULL: it says nothing of itself. */
char *undo_device_identity(const char *sys, const char *dev, dev_t device);

/* `0123456789abcdef-`: what the names of all journals of an image begin with; no other image's do. */
char *undo_prefix(const char *identity);
/* `0123456789abcdef-disk.qcow2`: the same, and what a person knows the image by. */
char *undo_name(const char *identity, const char *real_path);
/* `disk.qcow2-0123456789abcdef`: what journals were called by earlier versions, after the path alone. */
char *undo_old_name(const char *real_path);
/* What a caller means by the name of a journal of this image; whatever it says, it is none of another image's. */
char *undo_file_name(int fd, const char *real_path, const char *name);

#endif
