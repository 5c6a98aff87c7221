/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fileio.h: whole positional reads and writes, and syncs. */
#ifndef FILEIO_H
#define FILEIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Reads len bytes; what lies behind the end of the file reads as zeros. 0 or -errno. */
int pread_zeros(int fd, void *buf, size_t len, uint64_t offset);
/* fsync(), or fdatasync(), again where a signal came between, as on FUSE and NFS it may. 0 or -errno. */
int sync_whole(int fd, bool data_only);
struct stat;
/* fstat() as a system call that takes a number and no path: the one that the sandbox lets through. 0 or -errno. */
int file_stat(int fd, struct stat *st);
/* Writes len bytes. 0 or -errno; how much was written then is unknown. */
int pwrite_all(int fd, const void *buf, size_t len, uint64_t offset);

#endif
