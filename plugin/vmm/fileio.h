/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fileio.h: whole positional reads and writes. */
#ifndef FILEIO_H
#define FILEIO_H

#include <stddef.h>
#include <stdint.h>

/* Reads len bytes; what lies behind the end of the file reads as zeros. 0 or -errno. */
int pread_zeros(int fd, void *buf, size_t len, uint64_t offset);
/* Writes len bytes. 0 or -errno; how much was written then is unknown. */
int pwrite_all(int fd, const void *buf, size_t len, uint64_t offset);

#endif
