/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* crc32c.h: CRC32C (Castagnoli), by the processor's instruction where it has one. */
#ifndef CRC32C_H
#define CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Continue crc over len bytes; start with 0. */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t len);

#endif
