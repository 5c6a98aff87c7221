/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * undo_name.h: which image a journal belongs to, over renames and reboots, and what its journals are called.
 *
 * Shared by the program and the extension, which let callers name journals: both must mean the same files.
 */
#ifndef UNDO_NAME_H
#define UNDO_NAME_H

#include <glib.h>
#include <sys/types.h>

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
